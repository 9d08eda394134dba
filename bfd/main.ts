#!/usr/bin/env node
/**
 * `veg-bfdd`: installs the signal handlers and raises the priority, so that a restart on a busy machine is over before
 * the peers time out, then loads the daemon.
 */
import '../lib/signals.ts';

const { raisePriority } = await import('../lib/priority.ts');
raisePriority();
await import('./daemon.ts');
