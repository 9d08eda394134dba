/** The clocks of the BFD engine. */
import type { Moment } from '../lib/moment.ts';

const ORIGIN = Number(process.hrtime.bigint() / 1000n) - performance.now() * 1000;

/** CLOCK_MONOTONIC in microseconds: it outlives the process, so that saved times can be compared after a restart. */
export const monotonicMicroseconds = (): number => performance.now() * 1000 + ORIGIN;

/** The present moment by both clocks. */
export const currentMoment = (): Moment => ({ wall: Date.now(), monotonic: performance.now() });
