/**
 * What the page and `status --watch` plot: traffic by policy, open connections, lateness of BFD packets, round trips to
 * the external gateways, over the last five minutes, hour and day, and marks for what happened.
 *
 * All memory is allocated at the start or bounded by a constant: with any number of policies it is less than 1 MiB
 * (docs/page.md). `now` is milliseconds since the machine started: a wall clock that is set moves nothing. Pure.
 */
import type { EngineReport } from '../../../bfd/intent.ts';
import { FAMILIES, type Family } from '../../../lib/prefix.ts';
import type { PolicyTraffic } from '../../flows/traffic.ts';
import { BusiestPolicies, type Carried, type Kind, SLOTS } from './busiest-policies.ts';
import { type Facts, type Mark, Marks, marksBetween } from './marks.ts';
import { type Combine, RANGES, type Range, Series } from './series.ts';

/** The channels of a policy. */
const CARRIED = ['out', 'in', 'connections', 'open'] as const;
/** The place of the sum of all policies without a slot. */
const OTHERS = SLOTS;
const ENTRIES = (SLOTS + 1) * CARRIED.length;
const LATENESS = { mean: ENTRIES + 1, worst: ENTRIES + 2 };
const ROUND_TRIP: Record<Family, { mean: number; worst: number }> = {
  4: { mean: ENTRIES + 3, worst: ENTRIES + 4 },
  6: { mean: ENTRIES + 5, worst: ENTRIES + 6 },
};
const CHANNELS = ENTRIES + 7;

const WORST: ReadonlySet<number> = new Set([LATENESS.worst, ROUND_TRIP[4].worst, ROUND_TRIP[6].worst]);

/** How the samples of each channel are combined. */
export const COMBINED: readonly Combine[] = Array.from({ length: CHANNELS }, (_, channel) =>
  WORST.has(channel) ? 'worst' : 'mean',
);

/** What is sampled. */
export interface Reading {
  /**
   * The counters by policy, when they were read, by the clock of `now`, and whether their `open` is known; undefined:
   * nothing is counted.
   */
  traffic: { policies: readonly PolicyTraffic[]; at: number; open: boolean } | undefined;
  /** Entries in the conntrack table. */
  entries: number | undefined;
  /** Of the last report of the BFD process. */
  lateness: EngineReport['lateness'] | undefined;
}

/** Values by time, the oldest first; null: not measured. */
export type Values = (number | null)[];

/** Octets and new connections a second, open connections. */
export type CarriedValues = Record<(typeof CARRIED)[number], Values>;

/** The answer to `GET /v1/history`. */
export interface HistoryDocument {
  schemaVersion: 'v1';
  range: Range;
  /** Seconds of a value. */
  step: number;
  /** When the last value ends, Unix milliseconds. */
  end: number;
  /** The busiest first. */
  policies: (Kind & CarriedValues)[];
  /** The sum of the policies that are not among them; null: there is none. */
  others: CarriedValues | null;
  /** Entries in the conntrack table. */
  connections: Values;
  /** Delay of sent BFD packets, seconds: the mean, and what none exceeded. */
  lateness: { mean: Values; worst: Values };
  /** From a probe to the answer of the external gateway, seconds. */
  roundTrips: { family: Family; mean: Values; worst: Values }[];
  /** The oldest first; `at` in Unix milliseconds. */
  marks: Mark[];
}

/** Measurements since the last sample, in seconds. */
interface Collected {
  count: number;
  sum: number;
  worst: number;
}

const nothing = (): Collected => ({ count: 0, sum: 0, worst: 0 });

/** The lateness of the packets between two reports. */
function latenessBetween(
  before: EngineReport['lateness'] | undefined,
  now: EngineReport['lateness'],
): Collected {
  const count = now.count - (before?.count ?? 0);
  if (before === undefined || count <= 0) return nothing();
  const sum = Math.max(0, now.sum - before.sum);
  // The buckets are cumulative: the first that has all of them is the bound of the latest.
  const index = now.bounds.findIndex((_, i) => (now.buckets[i] ?? 0) - (before.buckets[i] ?? 0) >= count);
  return { count, sum, worst: Math.min(now.bounds[index] ?? Number.POSITIVE_INFINITY, sum) };
}

const isKnown = (value: number | null): boolean => value !== null;

const isMeasured = ({ out, open }: CarriedValues): boolean => out.some(isKnown) || open.some(isKnown);

/** The total of a list of values, to rank policies. */
const total = (values: Values): number => values.reduce<number>((sum, value) => sum + (value ?? 0), 0);

export class Recorder {
  readonly series = new Series(COMBINED);
  readonly policies = new BusiestPolicies();
  readonly marks = new Marks();
  #sampledAt: number | undefined;
  #trafficAt: number | undefined;
  #lateness: EngineReport['lateness'] | undefined;
  readonly #roundTrips: Record<Family, Collected> = { 4: nothing(), 6: nothing() };
  #facts: Facts | undefined;

  /** Adds a sample. */
  sample({ traffic, entries, lateness }: Reading, now: number): void {
    if (traffic !== undefined && traffic.at !== this.#trafficAt) this.#addTraffic(traffic, now);
    this.#trafficAt = traffic?.at;
    const add = (channel: number, value: number) => this.series.add(channel, value, this.#sampledAt, now);
    add(ENTRIES, entries ?? Number.NaN);
    if (lateness !== undefined) addCollected(add, LATENESS, latenessBetween(this.#lateness, lateness));
    this.#lateness = lateness;
    for (const family of FAMILIES) {
      addCollected(add, ROUND_TRIP[family], this.#roundTrips[family]);
      this.#roundTrips[family] = nothing();
    }
    this.#sampledAt = now;
  }

  /** An external gateway has answered a probe after so many milliseconds. */
  roundTrip(family: Family, ms: number): void {
    const collected = this.#roundTrips[family];
    const seconds = ms / 1000;
    collected.count++;
    collected.sum += seconds;
    collected.worst = Math.max(collected.worst, seconds);
  }

  /** Compares with what was known before, and marks what happened. */
  observe(facts: Facts, now: number): void {
    const before = this.#facts;
    this.#facts = facts;
    if (before === undefined) this.marks.add({ kind: 'start', text: 'agent started', count: 1 }, now);
    else for (const mark of marksBetween(before, facts)) this.marks.add(mark, now);
  }

  /** What is known of a range. `wall`: Unix milliseconds at `now`. */
  document(range: Range, now: number, wall: number): HistoryDocument {
    const { step, points } = RANGES[range];
    const ring = this.series.rings[range];
    const read = (channel: number): Values => ring.read(channel, now);
    const carried = (place: number): CarriedValues => {
      const [out, inward, connections, open] = CARRIED.map((_, i) => read(place * CARRIED.length + i));
      return { out: out!, in: inward!, connections: connections!, open: open! };
    };
    const both = ({ mean, worst }: { mean: number; worst: number }) => ({
      mean: read(mean),
      worst: read(worst),
    });
    const offset = wall - now;
    const end = (ring.indexOf(now) + 1) * step * 1000;
    const others = carried(OTHERS);
    const policies = this.policies.slots.flatMap((kind, slot) =>
      kind === undefined ? [] : [{ ...kind, ...carried(slot) }],
    );
    return {
      schemaVersion: 'v1',
      range,
      step,
      end: Math.round(end + offset),
      policies: policies
        .filter(isMeasured)
        .sort((a, b) => total(b.out) + total(b.in) - total(a.out) - total(a.in)),
      others: isMeasured(others) ? others : null,
      connections: read(ENTRIES),
      lateness: both(LATENESS),
      roundTrips: FAMILIES.map((family) => ({ family, ...both(ROUND_TRIP[family]) })).filter(({ mean }) =>
        mean.some(isKnown),
      ),
      marks: this.marks.all
        .filter(({ at }) => at > end - points * step * 1000)
        .map((mark) => ({ ...mark, at: Math.round(mark.at + offset) })),
    };
  }

  #addTraffic({ policies, at, open }: NonNullable<Reading['traffic']>, now: number): void {
    const { slots, others, lost, since } = this.policies.sample(policies, at);
    for (const slot of lost) {
      for (const i of CARRIED.keys()) {
        this.series.merge(slot * CARRIED.length + i, OTHERS * CARRIED.length + i);
      }
    }
    const add = (place: number, carried: Carried | undefined) => {
      if (carried === undefined) return;
      for (const [i, name] of CARRIED.entries()) {
        const value = name === 'open' && !open ? Number.NaN : carried[name];
        this.series.add(place * CARRIED.length + i, value, since, now);
      }
    };
    for (const [slot, carried] of slots.entries()) add(slot, carried);
    add(OTHERS, others);
  }
}

function addCollected(
  add: (channel: number, value: number) => void,
  { mean, worst }: { mean: number; worst: number },
  collected: Collected,
): void {
  if (collected.count === 0) return;
  add(mean, collected.sum / collected.count);
  add(worst, collected.worst);
}
