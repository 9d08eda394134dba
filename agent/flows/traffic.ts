/** What each policy's flows carry: totals, and how much a second between the last two readings. Pure. */
import { type PolicyVolume, sumVolumes, type Treatment, type Volume } from '../../nat/conntrack/totals.ts';

/** Totals by policy and family. */
export type Volumes = Record<Treatment, readonly PolicyVolume[]>;

/** The flows of a policy that are treated alike. */
interface Kind {
  /** `default` for what no rule names; empty for the gateway's own connections. */
  policy: string;
  treatment: Treatment;
}

/** Those that live. */
export interface OpenFlows extends Kind {
  flows: number;
}

export interface PolicyTraffic extends Volume, Kind {
  /** Flows that live; 0 without a translation log, which alone knows them. */
  open: number;
  /** A second; absent before the second reading. */
  rates?: Volume;
}

const keyOf = ({ policy, treatment }: Kind): string => `${treatment} ${policy}`;

const byKind = <T extends Kind>(list: readonly T[]): Map<string, T> =>
  new Map(list.map((one) => [keyOf(one), one]));

function trafficOf(volumes: Volumes, open: readonly OpenFlows[]): PolicyTraffic[] {
  const living = byKind(open);
  return (['snat', 'forward'] as const).flatMap((treatment) => {
    const policies = Map.groupBy(volumes[treatment], ({ policy }) => policy);
    return [...policies].map(([policy, families]) => {
      const kind = { policy, treatment };
      const flows = living.get(keyOf(kind))?.flows ?? 0;
      return { ...kind, ...sumVolumes(families), open: flows };
    });
  });
}

/** By how much a volume has grown, a second. */
function growth(now: Volume, then: Volume, seconds: number): Volume {
  const rate = (a: number, b: number) => Math.max(0, a - b) / seconds;
  const { packets, bytes } = now;
  return {
    connections: rate(now.connections, then.connections),
    packets: { out: rate(packets.out, then.packets.out), in: rate(packets.in, then.packets.in) },
    bytes: { out: rate(bytes.out, then.bytes.out), in: rate(bytes.in, then.bytes.in) },
  };
}

/** Follows the totals and knows how fast they grow. */
export class TrafficMeter {
  #last: { traffic: PolicyTraffic[]; at: number } | undefined;

  /** Takes a reading. `at`: milliseconds of a monotonic clock. */
  update(volumes: Volumes, open: readonly OpenFlows[], at: number): void {
    const before = this.#last;
    const traffic = trafficOf(volumes, open);
    if (before !== undefined && at > before.at) {
      const earlier = byKind(before.traffic);
      for (const now of traffic) {
        // Flows of a policy that had none until now are its first.
        const then = earlier.get(keyOf(now)) ?? sumVolumes([]);
        now.rates = growth(now, then, (at - before.at) / 1000);
      }
    }
    this.#last = { traffic, at };
  }

  /** Nothing is known: nobody counts. */
  clear(): void {
    this.#last = undefined;
  }

  /** When the last reading was taken, by the clock of `update`; undefined without one. */
  get readAt(): number | undefined {
    return this.#last?.at;
  }

  /** The last reading; undefined without one. */
  get traffic(): readonly PolicyTraffic[] | undefined {
    return this.#last?.traffic;
  }
}
