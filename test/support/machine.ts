/** What tests have to know about the machine that they run on. */
import { existsSync } from 'node:fs';

/**
 * How many times slower than usual it is: `VEG_TEST_SLOWNESS`, 1 unless set. Tests wait that much longer, and BFD intervals
 * that they set are that much longer. An emulated machine (kernels.ts) sets it.
 */
export const SLOWNESS = Number(process.env.VEG_TEST_SLOWNESS ?? 1);
if (!(SLOWNESS >= 1))
  throw new Error(`VEG_TEST_SLOWNESS=${process.env.VEG_TEST_SLOWNESS} is not a number of at least 1`);

/**
 * The longest that a test waits for what has to come, milliseconds: long enough for the slowest machine, so that only what
 * never comes fails. No promise about the time that something takes.
 */
export const PATIENCE = 120_000 * SLOWNESS;

/** An interval of BFD that tests set, milliseconds. */
export const BFD_INTERVAL = 100 * SLOWNESS;

/** What `work` takes on the machines on which the tests are written, milliseconds. */
const USUAL = 1.1;

function work(): number {
  const began = performance.now();
  for (let i = 0, x = 1; i < 1_000_000; i++) x = (Math.imul(x, 1_664_525) + 1_013_904_223) | 0;
  return performance.now() - began;
}

/**
 * How many times longer than usual a piece of work takes now: 1 or more. It is the fastest of several, each short enough to
 * run without a break, so that what runs beside it counts little, and what another virtual machine takes counts.
 */
export const slowdown = (): number => Math.max(1, Math.min(...Array.from({ length: 20 }, work)) / USUAL);

/** Whether its kernel has IPv6: not with ipv6.disable=1. */
export const IPV6 = existsSync('/proc/net/if_inet6');
