/**
 * An OCI hook (stage `precreate`: configuration in, configuration out) that makes podman start a container as the
 * kubelet has one started: a user other than root gets the bounding set and no ambient capabilities, so that file
 * capabilities are what counts.
 */
import { readFileSync, writeSync } from 'node:fs';

const config = JSON.parse(readFileSync(0, 'utf8'));
Object.assign(config.process.capabilities, { ambient: [], inheritable: [] });
writeSync(1, JSON.stringify(config));
