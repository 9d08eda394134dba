#!/usr/bin/env node
/**
 * `veg-bfdd`: raises the priority first, so that a restart on a busy machine is over before the peers miss a packet,
 * then loads the daemon.
 */
import { raisePriority } from './priority.ts';

raisePriority();
await import('./daemon.ts');
