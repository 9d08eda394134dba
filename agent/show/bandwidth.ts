/**
 * What each bandwidth limit has passed, dropped and delayed. The kernel's counters begin at 0 when a class is made anew,
 * and those of 32 bits after 2^32; these sums never go back in the life of this process. Pure: `clock` is milliseconds of
 * a monotonic clock.
 */
import { increase } from '../../lib/counter.ts';
import { BANDWIDTH_HANDLE } from '../../routing/numbers.ts';
import { CLASS_REST, CLASS_WHOLE, type DesiredDevice, desiredShaping } from '../../shaping/desired.ts';
import type { Direction, ShapingIntent, ShapingState } from '../../shaping/state.ts';
import { classId } from '../../shaping/tc-codec.ts';

/** What is counted of a limit in one direction. */
export interface BandwidthCounts {
  passedPackets: number;
  /** Octets of Ethernet frames. */
  passedBytes: number;
  droppedPackets: number;
  /** How often its packets had to wait. */
  delays: number;
}

/** A limit in one direction. */
export interface BandwidthRow extends BandwidthCounts {
  policy: string;
  direction: Direction;
  /** Bits per second; of each source with `perSource`. */
  limitBits: number;
  perSource: boolean;
  /** Whether the kernel has it. */
  active: boolean;
  /** Octets that wait now. */
  queueBytes: number;
}

type Counters = Pick<ShapingState, 'qdiscs' | 'classes'>;
const KINDS = ['passedPackets', 'passedBytes', 'droppedPackets', 'delays'] as const;
const NOTHING: BandwidthCounts = { passedPackets: 0, passedBytes: 0, droppedPackets: 0, delays: 0 };

/** A reading is used for this time, ms: the metrics of a scrape are of one. */
const FRESH = 200;

export class BandwidthUse {
  readonly #read: () => Counters;
  readonly #shaping: () => ShapingIntent | undefined;
  readonly #clock: () => number;
  /** By limit and direction: the sum, and what was last read of each class. */
  readonly #sums = new Map<string, { last: Map<number, BandwidthCounts>; sum: BandwidthCounts }>();
  #rows: BandwidthRow[] = [];
  #of: ShapingIntent | undefined;
  #readAt = Number.NEGATIVE_INFINITY;

  /** `read`: the kernel's counters; may throw. `shaping`: the limits in force; undefined before the first policy. */
  constructor(read: () => Counters, shaping: () => ShapingIntent | undefined, clock: () => number) {
    this.#read = read;
    this.#shaping = shaping;
    this.#clock = clock;
  }

  /** The limits in force; empty without one. On an error the last ones. */
  get rows(): readonly BandwidthRow[] {
    const shaping = this.#shaping();
    const now = this.#clock();
    if (shaping === this.#of && now - this.#readAt < FRESH) return this.#rows;
    try {
      this.#rows = shaping === undefined || shaping.limits.length === 0 ? [] : this.#readRows(shaping);
      [this.#of, this.#readAt] = [shaping, now];
    } catch {
      // The next reading has the difference.
    }
    return this.#rows;
  }

  #readRows(shaping: ShapingIntent): BandwidthRow[] {
    const counters = this.#read();
    return desiredShaping(shaping).devices.flatMap((device) => {
      const classes = counters.classes.get(device.device.name);
      const queues = new Map(
        counters.qdiscs.flatMap((one) =>
          one.dev === device.device.name ? [[one.parent, one] as const] : [],
        ),
      );
      return device.shaped.map(({ limit, rate, first, count }): BandwidthRow => {
        const { direction } = device.device;
        const key = `${direction} ${limit.name}`;
        const before = this.#sums.get(key);
        const last = new Map<number, BandwidthCounts>();
        const sum = { ...(before?.sum ?? NOTHING) };
        let queueBytes = 0;
        for (let minor = first; minor < first + count; minor++) {
          const counted = classes?.get(minor)?.stats;
          if (counted === undefined) continue;
          // The whole gateway has no queue of its own: what it drops has no other limit.
          const queue = classId(BANDWIDTH_HANDLE, minor === CLASS_WHOLE ? CLASS_REST : minor);
          const now = {
            ...{ passedPackets: counted.packets, passedBytes: counted.bytes, delays: counted.overlimits },
            droppedPackets: queues.get(queue)?.stats.drops ?? 0,
          };
          addSince(sum, now, before?.last.get(minor));
          last.set(minor, now);
          queueBytes += counted.backlog;
        }
        this.#sums.set(key, { last, sum });
        return {
          ...{ policy: limit.name, direction, limitBits: rate, perSource: limit.perSource },
          ...{ active: isActive(classes, device, first), queueBytes, ...sum },
        };
      });
    });
  }
}

/**
 * Adds what a class has counted since it was last read. Its octets, in 64 bits, show whether it was made anew; but not where
 * it has passed more than before already, nor whether its queue was.
 */
function addSince(sum: BandwidthCounts, now: BandwidthCounts, last = NOTHING): void {
  const isNew = now.passedBytes < last.passedBytes;
  for (const kind of KINDS) sum[kind] += isNew ? now[kind] : increase(now[kind], last[kind]);
}

const isActive = (
  classes: ReadonlyMap<number, unknown> | undefined,
  { ranges }: DesiredDevice,
  first: number,
): boolean => ranges.some((range) => range.first === first) && classes?.has(first) === true;
