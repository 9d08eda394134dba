/**
 * What each policy's connections have carried, from the readings of the kernel's counters. Never goes back: what a table
 * that is gone has counted stays, as of its last reading. Pure.
 *
 * Packets of the fast path (docs/design/0013) pass the kernel's counters by; the translation log has them, since
 * connection tracking counts them. So there are two sums of the same, and neither is ever too high: the totals at one
 * reading with what the kernel's counters grew by until the next, and the log's sums with a constant. The higher one is
 * the total. The constant is the difference between the totals at a reading and the log's sums when it read the table
 * after that: what passed in between can only make it too small.
 */
import type { Family } from '../../lib/prefix.ts';
import { KEPT_NAMES, OTHERS } from '../conntrack/names.ts';
import { type PolicyVolume, sumVolumes, type Treatment, type Volume } from '../conntrack/totals.ts';
import { POLICY_NUMBER_MASK, type PolicyLabel } from '../policy-marks.ts';
import type { MarkCounts, Reading } from './kernel.ts';
import { type CounterIntent, marksOf, OWN_POLICY, UNCOUNTED_MARK } from './table.ts';

/** Packets and octets of `begins`, `original` and `reply` in turn. */
type Counts = [number, number, number, number, number, number];

interface Sum extends PolicyVolume {
  treatment: Treatment;
}

/** Above the bits of a mark: counters of the base chain. */
const IN_BASE = 0x0100_0000;
/** The largest key of `SavedTotals`. */
export const MAX_KEY = 2 * IN_BASE - 1;

/** What a restart needs. */
export interface SavedTotals {
  labels: (PolicyLabel & { mark: number })[];
  /** `key`: the mark, with `IN_BASE` if it is what the base chain has counted. */
  tables: { family: Family; handle: number; counts: [key: number, counts: Counts][] }[];
  sums: Sum[];
  /** By how much the totals are above those of the log, or below; absent: it was not followed. */
  log?: Sum[];
}

/** The totals of the log as of a reading of the table of connections. `began`: when that began, ms of a monotonic clock. */
export interface LogTotals {
  began: number;
  volumes: Record<Treatment, readonly PolicyVolume[]>;
}

/** Readings that are remembered until the log has read the table after them. */
const KEPT_READINGS = 4;

/** The numbers of a volume, combined one by one. */
const combine = (a: Volume, b: Volume, by: (a: number, b: number) => number): Volume => ({
  connections: by(a.connections, b.connections),
  packets: { out: by(a.packets.out, b.packets.out), in: by(a.packets.in, b.packets.in) },
  bytes: { out: by(a.bytes.out, b.bytes.out), in: by(a.bytes.in, b.bytes.in) },
});
const plus = (a: number, b: number): number => a + b;
const minus = (a: number, b: number): number => a - b;

const countsOf = ({ begins, original, reply }: MarkCounts): Counts => [...begins, ...original, ...reply];
const treatmentOf = ({ forwarded }: PolicyLabel): Treatment => (forwarded ? 'forward' : 'snat');
const keyOf = ({ family, treatment, policy }: Pick<Sum, 'family' | 'treatment' | 'policy'>): string =>
  `${family} ${treatment} ${policy}`;

export class CounterTotals {
  readonly #labels = new Map<number, PolicyLabel>();
  /** The last reading of each family's table. */
  readonly #last = new Map<Family, { handle: number; counts: Map<number, Counts> }>();
  readonly #sums = new Map<string, Sum>();
  /** By how much the totals are above those of the log, by key. */
  #log: Map<string, Sum> | undefined;
  /** The totals after the last readings, newest first; only while the log is followed. */
  #readings: { at: number; sums: Map<string, Volume> }[] = [];
  /** What the policy in force counts, by key. */
  #inForce = new Set<string>();

  /**
   * Follows the policy in force. What it may count is there from now on, with 0.
   * @param leftAlone the families of which it is not known what is in force: their totals stay
   */
  configure(intents: readonly CounterIntent[], leftAlone: readonly Family[] = []): void {
    this.#inForce = new Set();
    for (const intent of intents) {
      const { family, all } = intent;
      const use = (treatment: Treatment, policy: string): void => {
        this.#inForce.add(keyOf(this.#sumOf(family, treatment, policy)));
      };
      for (const [mark, label] of marksOf(intent)) {
        this.#labels.set(mark, label);
        if (label.policy !== OWN_POLICY) use(treatmentOf(label), label.policy);
      }
      for (const { name, snat } of all) use(snat ? 'snat' : 'forward', name);
    }
    this.#forget(leftAlone);
  }

  /** The log is known to agree with the totals, so that it can be followed. */
  get followsLog(): boolean {
    return this.#log !== undefined;
  }

  /**
   * Adds what a reading has more than the one before. Returns whether it has. `at`: when it was complete, ms of the clock of
   * `LogTotals`. `follows`: the log is followed; `log`: its totals, known before the reading began.
   */
  add(readings: readonly Reading[], at = 0, follows = false, log?: LogTotals): boolean {
    let changed = this.#addReadings(readings);
    if (log !== undefined && this.#raise(log)) changed = true;
    if (follows) {
      const sums = new Map([...this.#sums].map(([key, sum]) => [key, combine(sum, sum, Math.max)]));
      this.#readings = [{ at, sums }, ...this.#readings].slice(0, KEPT_READINGS);
    } else this.#readings = [];
    return changed;
  }

  /** Raises the totals to what the log says. Returns whether that is to be saved. */
  #raise({ began, volumes }: LogTotals): boolean {
    const reading = this.#readings.find(({ at }) => at <= began)?.sums;
    if (reading === undefined && this.#log === undefined) return false;
    let changed = this.#log === undefined;
    this.#log ??= new Map();
    const logged = new Map(
      (['snat', 'forward'] as const).flatMap((treatment) =>
        volumes[treatment].map((volume) => [keyOf({ ...volume, treatment }), volume as Volume] as const),
      ),
    );
    const none = sumVolumes([]);
    for (const [key, sum] of this.#sums) {
      if (sum.policy === OTHERS) continue;
      const volume = logged.get(key) ?? none;
      const known = this.#log.get(key);
      const offset = reading && combine(reading.get(key) ?? none, volume, minus);
      const best = known && offset ? combine(known, offset, Math.max) : (known ?? offset);
      if (best === undefined) continue;
      this.#log.set(key, { ...sum, ...best });
      const raised = combine(sum, combine(best, volume, plus), Math.max);
      changed ||= raised.packets.out > sum.packets.out || raised.packets.in > sum.packets.in;
      Object.assign(sum, raised);
    }
    return changed;
  }

  #addReadings(readings: readonly Reading[]): boolean {
    let changed = false;
    for (const { family, handle, counts } of readings) {
      const last = this.#last.get(family);
      const before = last?.handle === handle ? last.counts : new Map<number, Counts>();
      const now = new Map<number, Counts>();
      for (const one of counts) {
        const values = countsOf(one);
        const key = one.mark + (one.inBase ? IN_BASE : 0);
        now.set(key, values);
        if (one.mark !== UNCOUNTED_MARK && this.#addMark(family, one.mark, values, before.get(key)))
          changed = true;
      }
      changed ||= last?.handle !== handle;
      this.#last.set(family, { handle, counts: now });
    }
    return changed;
  }

  /** The names of the policies in force and of those of the past, by the number in the mark. */
  get marked(): Map<number, string> {
    const named = [...this.#labels].filter(([, { policy }]) => policy !== OWN_POLICY);
    return new Map(named.map(([mark, { policy }]) => [mark & POLICY_NUMBER_MASK, policy]));
  }

  /** The totals, by policy and family. */
  volumes(treatment: Treatment): PolicyVolume[] {
    return [...this.#sums.values()].flatMap(({ treatment: own, ...volume }) =>
      own === treatment ? [volume] : [],
    );
  }

  /** All of them. */
  get all(): Record<Treatment, PolicyVolume[]> {
    return { snat: this.volumes('snat'), forward: this.volumes('forward') };
  }

  save(): SavedTotals {
    return {
      labels: [...this.#labels].map(([mark, label]) => ({ mark, ...label })),
      tables: [...this.#last].map(([family, { handle, counts }]) => ({
        family,
        handle,
        counts: [...counts],
      })),
      sums: [...this.#sums.values()],
      ...(this.#log && { log: [...this.#log.values()] }),
    };
  }

  /** Goes on from what `save` returned. For a new instance. */
  load({ labels, tables, sums, log }: SavedTotals): void {
    for (const { mark, ...label } of labels) this.#labels.set(mark, label);
    for (const { family, handle, counts } of tables)
      this.#last.set(family, { handle, counts: new Map(counts) });
    for (const sum of sums) this.#sums.set(keyOf(sum), sum);
    if (log !== undefined) this.#log = new Map(log.map((sum) => [keyOf(sum), sum]));
  }

  #addMark(family: Family, mark: number, values: Counts, before: Counts | undefined): boolean {
    // A counter that went back has begun again.
    const delta = values.map((value, i) => {
      const known = before?.[i] ?? 0;
      return value < known ? value : value - known;
    }) as Counts;
    if (delta.every((value) => value === 0)) return false;
    const label = this.#labels.get(mark) ?? { policy: OTHERS, inbound: false, forwarded: false };
    const sum = this.#sumOf(family, treatmentOf(label), label.policy);
    const [begun, begunBytes, packets, bytes, answers, answerBytes] = delta;
    const [there, back] = label.inbound ? (['in', 'out'] as const) : (['out', 'in'] as const);
    sum.connections += begun;
    sum.packets[there] += begun + packets;
    sum.bytes[there] += begunBytes + bytes;
    sum.packets[back] += answers;
    sum.bytes[back] += answerBytes;
    return true;
  }

  #sumOf(family: Family, treatment: Treatment, policy: string): Sum {
    const key = keyOf({ family, treatment, policy });
    let sum = this.#sums.get(key);
    if (sum === undefined) {
      sum = { policy, family, treatment, ...sumVolumes([]) };
      this.#sums.set(key, sum);
    }
    return sum;
  }

  /** Adds the totals of all but the last policies of the past to those of `OTHERS`, so that sums stay the same. */
  #forget(leftAlone: readonly Family[]): void {
    const past = [...this.#sums].filter(
      ([key, { family, policy }]) =>
        !this.#inForce.has(key) && !leftAlone.includes(family) && policy !== OTHERS,
    );
    for (const [key, { family, treatment, ...volume }] of past.slice(
      0,
      Math.max(0, past.length - KEPT_NAMES),
    )) {
      this.#sums.delete(key);
      this.#log?.delete(key);
      const others = this.#sumOf(family, treatment, OTHERS);
      Object.assign(others, sumVolumes([others, volume] satisfies Volume[]));
    }
    const named = new Set([...this.#sums.values()].map(({ policy }) => policy));
    for (const [mark, { policy }] of this.#labels) {
      if (policy !== OWN_POLICY && !named.has(policy)) this.#labels.delete(mark);
    }
  }
}
