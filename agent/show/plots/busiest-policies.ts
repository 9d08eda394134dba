/**
 * Which policies have a plot of their own: the busiest ones; the rest is summed. Memory is bounded: counters of at most
 * `MAX_TRACKED` policies are remembered, those of more are summed at once. Pure.
 */
import type { PolicyTraffic } from '../../flows/traffic.ts';
import { GAP } from './series.ts';

/** Policies with a plot of their own. */
export const SLOTS = 8;

/** The longest name of a policy that is remembered. */
export const MAX_NAME = 253;

/** Policies whose counters are remembered one by one. */
const MAX_TRACKED = 1024;

/** The time in which the weight of traffic halves, s. */
const HALF_LIFE = 900;
/** A connection weighs as much as this many octets. */
const CONNECTION_WEIGHT = 1000;
/** A policy takes the slot of another one when it is busier by this factor. */
const BUSIER = 1.5;

export type Kind = Pick<PolicyTraffic, 'policy' | 'treatment'>;

/** What a policy carries: octets and new connections a second, open connections. NaN: not known. */
export interface Carried {
  out: number;
  in: number;
  connections: number;
  open: number;
}

export interface Sampled {
  /** By slot; undefined: its policy was not in the sample. */
  slots: (Carried | undefined)[];
  /** The sum of all others; undefined: there is none. */
  others: Carried | undefined;
  /** Slots whose policy has lost them: what they have belongs to the others from now on. */
  lost: number[];
  /** When the sample before was read; undefined: too long ago, and there are no rates. */
  since: number | undefined;
}

const keyOf = ({ policy, treatment }: Kind): string => `${treatment} ${policy}`;

/** The columns of a row: counters at the last sample, weight, number of the last sample that it was in. */
const [OUT, IN, CONNECTIONS, WEIGHT, SEEN, COLUMNS] = [0, 1, 2, 3, 4, 5];

interface Reading extends Carried {
  kind: Kind;
  weight: number;
}

const plus = (a: Carried | undefined, b: Carried): Carried =>
  a === undefined
    ? { out: b.out, in: b.in, connections: b.connections, open: b.open }
    : {
        out: a.out + b.out,
        in: a.in + b.in,
        connections: a.connections + b.connections,
        open: a.open + b.open,
      };

export class BusiestPolicies {
  /** The policies with a slot. */
  readonly slots: (Kind | undefined)[] = Array.from({ length: SLOTS }, () => undefined);
  readonly #rows = new Map<string, number>();
  #table = new Float64Array(COLUMNS * 16);
  readonly #free: number[] = [];
  #samples = 0;
  #at: number | undefined;
  /** The counters of those without a row. */
  #untracked = { policies: 0, out: 0, in: 0, connections: 0 };

  /** How many policies of the last sample have no slot. */
  others = 0;

  /** Takes a reading of the counters. `at`: when they were read, ms of a monotonic clock. */
  sample(traffic: readonly PolicyTraffic[], at: number): Sampled {
    const span = this.#at === undefined ? Number.POSITIVE_INFINITY : at - this.#at;
    const seconds = span > 0 && span <= GAP ? span / 1000 : undefined;
    const since = seconds === undefined ? undefined : this.#at;
    this.#at = at;
    this.#samples++;
    const readings = new Map<string, Reading>();
    const rest: PolicyTraffic[] = [];
    for (const one of traffic) {
      const key = keyOf(one);
      const row = one.policy.length > MAX_NAME ? undefined : this.#rowOf(key);
      if (row === undefined) rest.push(one);
      else readings.set(key, this.#read(one, row, seconds));
    }
    const untracked = this.#readUntracked(rest, seconds);
    this.#freeRows();
    const lost = this.#assign(readings);
    const slots = this.slots.map((kind) => kind && readings.get(keyOf(kind)));
    const own = new Set(slots);
    let others = untracked;
    for (const reading of readings.values()) if (!own.has(reading)) others = plus(others, reading);
    this.others = traffic.length - slots.filter((one) => one !== undefined).length;
    return { slots, others, lost, since };
  }

  /** The row of a policy; undefined: there are too many. */
  #rowOf(key: string): number | undefined {
    const known = this.#rows.get(key);
    if (known !== undefined) return known;
    if (this.#rows.size === MAX_TRACKED) return undefined;
    const row = this.#free.pop() ?? this.#rows.size;
    if ((row + 1) * COLUMNS > this.#table.length) {
      const larger = new Float64Array(2 * this.#table.length);
      larger.set(this.#table);
      this.#table = larger;
    }
    this.#table.fill(0, row * COLUMNS, (row + 1) * COLUMNS);
    this.#rows.set(key, row);
    return row;
  }

  #read(kind: PolicyTraffic, row: number, seconds: number | undefined): Reading {
    const { bytes, connections, open } = kind;
    const table = this.#table;
    const base = row * COLUMNS;
    // A policy that was not in the sample before has begun to count since.
    const known = table[base + SEEN] === this.#samples - 1;
    const rate = (column: number, count: number): number =>
      seconds === undefined ? Number.NaN : Math.max(0, count - (known ? table[base + column]! : 0)) / seconds;
    const carried = {
      out: rate(OUT, bytes.out),
      in: rate(IN, bytes.in),
      connections: rate(CONNECTIONS, connections),
      open,
    };
    if (seconds !== undefined) {
      const kept = 2 ** (-seconds / HALF_LIFE);
      const now = carried.out + carried.in + carried.connections * CONNECTION_WEIGHT;
      table[base + WEIGHT] = table[base + WEIGHT]! * kept + now * (1 - kept);
    }
    table[base + OUT] = bytes.out;
    table[base + IN] = bytes.in;
    table[base + CONNECTIONS] = connections;
    table[base + SEEN] = this.#samples;
    return { ...carried, kind, weight: table[base + WEIGHT]! };
  }

  #readUntracked(rest: readonly PolicyTraffic[], seconds: number | undefined): Carried | undefined {
    const before = this.#untracked;
    const sum = { policies: rest.length, out: 0, in: 0, connections: 0 };
    let open = 0;
    for (const one of rest) {
      sum.out += one.bytes.out;
      sum.in += one.bytes.in;
      sum.connections += one.connections;
      open += one.open;
    }
    this.#untracked = sum;
    if (rest.length === 0) return undefined;
    const comparable = seconds !== undefined && before.policies === sum.policies;
    const rate = (now: number, then: number): number =>
      comparable ? Math.max(0, now - then) / seconds : Number.NaN;
    return {
      out: rate(sum.out, before.out),
      in: rate(sum.in, before.in),
      connections: rate(sum.connections, before.connections),
      open,
    };
  }

  /** Frees the rows of policies that are gone. */
  #freeRows(): void {
    for (const [key, row] of this.#rows) {
      if (this.#table[row * COLUMNS + SEEN] === this.#samples) continue;
      this.#rows.delete(key);
      this.#free.push(row);
    }
  }

  /** Gives slots to the busiest. Returns the slots that have changed hands. */
  #assign(readings: ReadonlyMap<string, Reading>): number[] {
    const lost: number[] = [];
    const held = new Set(this.slots.map((kind) => kind && keyOf(kind)));
    const waiting = [...readings.entries()]
      .filter(([key]) => !held.has(key))
      .sort(([, a], [, b]) => b.weight - a.weight)
      .slice(0, SLOTS);
    for (const [, { kind, weight }] of waiting) {
      const { policy, treatment } = kind;
      const free = this.slots.indexOf(undefined);
      if (free !== -1) {
        this.slots[free] = { policy, treatment };
        continue;
      }
      const weights = this.slots.map((slot) => readings.get(keyOf(slot!))?.weight ?? 0);
      const least = weights.indexOf(Math.min(...weights));
      if (weight <= weights[least]! * BUSIER) break;
      this.slots[least] = { policy, treatment };
      lost.push(least);
    }
    return lost;
  }
}
