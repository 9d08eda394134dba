/**
 * Whether a gateway is drained, judged by two counters. Pure.
 *
 * Drained promises: no new connections come any more, and as far as the router moves open ones, no packets either. A
 * router that moves everything at once stops the packets. One that keeps open connections in place stops only new
 * ones: then packets go on coming, and what counts is that no flow begins where flows usually began.
 * A peer that has received AdminDown does not prove that its router acts on it already (OVN may take five seconds), so
 * a counter has to be unchanged for long enough to be significant at its usual rate.
 */

/** The counters at one time. A counter that was reset (with its rule) starts a new count. */
export interface Sample {
  /** Milliseconds. */
  at: number;
  /** Packets forwarded so far, without those of the fast path. */
  packets: number;
  /** All packets that policies have carried so far, which are known some seconds late; undefined when not needed. */
  carried?: number | undefined;
  /** Flows from the VPC that began so far; undefined when not read. */
  flows: number | undefined;
}

/** The usual rates before the drain, per second; flows undefined when unknown. */
export interface Rates {
  packets: number;
  flows: number | undefined;
}

/** An unchanged counter is significant when this much would have been expected meanwhile… */
const EXPECTED = { packets: 20, flows: 10 } as const;
/** …but not before this time, ms. */
const SHORTEST = { packets: 300, flows: 1000 } as const;
/** The longest wait for the next packet of a slow stream, ms. */
const LONGEST_PACKETS = 2000;
/** Below this rate, per second, an unchanged counter is not significant. */
const LEAST_RATE = 1;
/** The share of the usual rate that still counts as none: stragglers, retransmissions. */
const STRAGGLERS = 0.05;
/** This many packets in the window never count. */
const FEW_PACKETS = 2;

/** How long packets, or new flows, have to be absent, ms; undefined: their absence means nothing. */
export function quietTimes(usual: Rates): { packets: number; flows: number | undefined } {
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
    packets: Math.max(rate(first.packets, last.packets), rate(first.carried ?? 0, last.carried ?? 0)),
    flows: first.flows === undefined || last.flows === undefined ? undefined : rate(first.flows, last.flows),
  };
}

/** Whether the samples, in the order of time and all taken since the peers know of the drain, show it drained. */
export function isDrained(samples: readonly Sample[], usual: Rates): boolean {
  const last = samples.at(-1);
  if (last === undefined) return false;
  const wanted = quietTimes(usual);
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
