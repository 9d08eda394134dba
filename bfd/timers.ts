/**
 * The arithmetic of RFC 5880's timers (6.8.2, 6.8.4, 6.8.7). All times and intervals are microseconds; a
 * deadline is a time on the monotonic clock, `NEVER` when there is none. Pure.
 */

/** No deadline. */
export const NEVER = Number.POSITIVE_INFINITY;

/** The shortest and the longest time between two packets, as a part of the transmit interval. */
const SHORTEST_PART = 0.75;
const LONGEST_PART = 0.9;
/** How late a timer of the event loop may fire, microseconds; the jitter leaves room for it. */
const TIMER_SLACK = 1200;

/**
 * When to send the packet after the one sent at `last` (6.8.7): the interval reduced by a random part of 10 to
 * 25 %. RFC 5880 allows 0 to 25 % and asks for 10 to 25 % with Detect Mult 1; keeping to that for every Detect
 * Mult leaves the last tenth of the interval as room for a late timer.
 */
export function nextTransmit(last: number, interval: number, random: () => number): number {
  const earliest = interval * SHORTEST_PART;
  const latest = Math.max(earliest, interval * LONGEST_PART - TIMER_SLACK);
  return last + earliest + (latest - earliest) * random();
}

/** The asynchronous Detection Time (6.8.4). */
export function detectionTime(remoteDetectMult: number, requiredMinRx: number, remoteMinTx: number): number {
  return remoteDetectMult * Math.max(requiredMinRx, remoteMinTx);
}

/** The Detection Time of our own Poll Sequences in Demand mode (6.8.4), and of the peer while it is not. */
export function demandDetectionTime(detectMult: number, desiredMinTx: number, remoteMinRx: number): number {
  return detectMult * Math.max(desiredMinTx, remoteMinRx);
}

/** The transmit interval (6.8.2), 0 when the peer wants no periodic packets. */
export function transmitInterval(desiredMinTx: number, remoteMinRx: number): number {
  return remoteMinRx === 0 ? 0 : Math.max(desiredMinTx, remoteMinRx);
}
