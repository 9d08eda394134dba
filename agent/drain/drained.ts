/**
 * Whether traffic has moved away from a draining gateway, judged by two counters. Pure.
 *
 * A router that moves everything at once stops the packets. One that keeps open connections where they are stops
 * only new ones: then packets go on coming, and what counts is that flows used to begin here and no longer do.
 * A peer that has heard AdminDown is no proof that its router acts on it already (OVN may take five seconds), so
 * silence has to last long enough to mean something at the rate that was usual here.
 */

/** What was counted at one time. Counters that were set back (a rule made anew) start a new count. */
export interface Sample {
  /** Milliseconds. */
  at: number;
  /** Packets forwarded so far. */
  packets: number;
  /** Flows from the VPC that began so far; undefined when that was not read. */
  flows: number | undefined;
}

/** What was usual before the drain, per second; flows undefined when nobody knows. */
export interface Rates {
  packets: number;
  flows: number | undefined;
}

/** Silence of a counter is believed when so many counts would have been expected… */
const EXPECTED = { packets: 20, flows: 10 } as const;
/** …but not before so long, ms. */
const SHORTEST = { packets: 300, flows: 1000 } as const;
/** Packets: no longer than this is waited for the next of a slow stream, ms. */
const LONGEST_PACKETS = 2000;
/** Below this many a second there is nothing that silence could be told from. */
const LEAST_RATE = 1;
/** The share of the usual rate that still is silence: stragglers, retransmissions. */
const STRAGGLERS = 0.05;
/** Packets in the window that never count. */
const FEW_PACKETS = 2;

/** How long packets, or new flows, have to be silent, ms; undefined: their silence means nothing. */
export function silences(usual: Rates): { packets: number; flows: number | undefined } {
  const { packets, flows } = usual;
  return {
    packets:
      packets < LEAST_RATE
        ? SHORTEST.packets
        : Math.min(LONGEST_PACKETS, Math.max(SHORTEST.packets, (EXPECTED.packets / packets) * 1000)),
    flows:
      flows === undefined || flows < LEAST_RATE
        ? undefined
        : Math.max(SHORTEST.flows, (EXPECTED.flows / flows) * 1000),
  };
}

/** The rates between two samples. */
export function ratesBetween(first: Sample, last: Sample): Rates {
  const seconds = (last.at - first.at) / 1000;
  const rate = (from: number, to: number) => (seconds > 0 ? Math.max(0, to - from) / seconds : 0);
  return {
    packets: rate(first.packets, last.packets),
    flows: first.flows === undefined || last.flows === undefined ? undefined : rate(first.flows, last.flows),
  };
}

/**
 * True when the samples, in the order of time and all taken since the peers know of the drain, show that traffic
 * has moved.
 */
export function hasMoved(samples: readonly Sample[], usual: Rates): boolean {
  const last = samples.at(-1);
  if (last === undefined) return false;
  const wanted = silences(usual);
  const before = (window: number, counted: (sample: Sample) => boolean) =>
    samples.findLast((sample) => counted(sample) && last.at - sample.at >= window);

  const packetsFrom = before(wanted.packets, () => true);
  if (packetsFrom !== undefined) {
    const { packets } = ratesBetween(packetsFrom, last);
    const seconds = (last.at - packetsFrom.at) / 1000;
    if (packets * seconds <= FEW_PACKETS || packets <= usual.packets * STRAGGLERS) return true;
  }
  if (wanted.flows === undefined || usual.flows === undefined || last.flows === undefined) return false;
  const flowsFrom = before(wanted.flows, ({ flows }) => flows !== undefined);
  if (flowsFrom === undefined) return false;
  return ratesBetween(flowsFrom, last).flows! <= usual.flows * STRAGGLERS;
}
