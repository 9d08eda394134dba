/** What tests have to know about the machine that they run on. */
import { existsSync } from 'node:fs';

/**
 * How many times slower than usual it is: `VEG_TEST_SLOWNESS`, 1 unless set. Tests wait that much longer, and BFD intervals
 * that they set are that much longer. An emulated machine (kernels.ts) sets it.
 */
export const SLOWNESS = Number(process.env.VEG_TEST_SLOWNESS ?? 1);
if (!(SLOWNESS >= 1))
  throw new Error(`VEG_TEST_SLOWNESS=${process.env.VEG_TEST_SLOWNESS} is not a number of at least 1`);

/** An interval of BFD that tests set, milliseconds. */
export const BFD_INTERVAL = 100 * SLOWNESS;

/** Whether its kernel has IPv6: not with ipv6.disable=1. */
export const IPV6 = existsSync('/proc/net/if_inet6');
