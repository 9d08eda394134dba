#!/usr/bin/env node
/**
 * `veg-bfdd`: takes signals, raises the priority, so that a restart on a busy machine is over before the peers miss a
 * packet, then loads the daemon.
 */
import '../lib/signals.ts';

const { raisePriority } = await import('../lib/priority.ts');
raisePriority();
await import('./daemon.ts');
