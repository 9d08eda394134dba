/**
 * Values over time, at three resolutions, in memory that never grows: each range is a ring of columns, and a column has
 * one value for each channel. NaN: not measured. Times are milliseconds of a monotonic clock. Pure.
 */

/** Seconds of a column, and columns. Each range ends now. */
export const RANGES = {
  '5m': { step: 5, points: 60 },
  '1h': { step: 20, points: 180 },
  '1d': { step: 300, points: 288 },
} as const;

export type Range = keyof typeof RANGES;

export const isRange = (text: string): text is Range => Object.hasOwn(RANGES, text);

/** Between two samples, ms. */
export const SAMPLE_PERIOD = 5000;

/** A longer time between two samples is a gap: nothing is known of it, ms. */
export const GAP = 3 * SAMPLE_PERIOD;

/** How the samples of a column become its value. */
export type Combine = 'mean' | 'worst';

const modulo = (n: number, size: number): number => ((n % size) + size) % size;

/** One range. */
export class Ring {
  readonly points: number;
  /** Column after column; that of index `i` (time / step) is at `i` modulo `points`. */
  readonly values: Float32Array;
  /** Samples of each channel in the newest column. */
  readonly counts: Uint16Array;
  /** The index of the newest column; undefined: there is none. */
  last: number | undefined;
  readonly #stepMs: number;
  readonly #combine: readonly Combine[];

  constructor({ step, points }: { step: number; points: number }, combine: readonly Combine[]) {
    this.points = points;
    this.values = new Float32Array(points * combine.length).fill(Number.NaN);
    this.counts = new Uint16Array(combine.length);
    this.#stepMs = step * 1000;
    this.#combine = combine;
  }

  indexOf(time: number): number {
    return Math.floor(time / this.#stepMs);
  }

  /** Adds a value of a channel that is valid since `since`: the columns from there to `now` get it. */
  add(channel: number, value: number, since: number, now: number): void {
    const index = this.indexOf(now);
    this.#advance(index);
    if (Number.isNaN(value) || index !== this.last) return;
    const first = Math.max(this.indexOf(since) + 1, index - this.points + 1);
    for (let i = first; i < index; i++) {
      if (Number.isNaN(this.#get(channel, i))) this.#set(channel, i, value);
    }
    const count = this.counts[channel]!;
    const before = count === 0 ? Number.NaN : this.#get(channel, index);
    if (Number.isNaN(before)) this.#set(channel, index, value);
    else if (this.#combine[channel] === 'worst') this.#set(channel, index, Math.max(before, value));
    else this.#set(channel, index, before + (value - before) / (count + 1));
    this.counts[channel] = Math.min(count + 1, 0xffff);
  }

  /** The values until `now`, the oldest first, rounded; null: not measured. */
  read(channel: number, now: number): (number | null)[] {
    const end = this.indexOf(now);
    return Array.from({ length: this.points }, (_, i) => {
      const value = this.#get(channel, end - this.points + 1 + i);
      return Number.isNaN(value) ? null : Number(value.toPrecision(4));
    });
  }

  /** Adds the values of a channel to those of another one, and forgets them. */
  merge(from: number, to: number): void {
    const channels = this.#combine.length;
    for (let column = 0; column < this.values.length; column += channels) {
      const value = this.values[column + from]!;
      if (Number.isNaN(value)) continue;
      const sum = this.values[column + to]!;
      this.values[column + to] = value + (Number.isNaN(sum) ? 0 : sum);
      this.values[column + from] = Number.NaN;
    }
    this.counts[to] = Math.max(this.counts[to]!, this.counts[from]!);
    this.counts[from] = 0;
  }

  /** Takes the columns of a saved ring, the newest at `last`. */
  restore(values: Float32Array, savedLast: number, last: number, counts: Uint16Array): void {
    const channels = this.#combine.length;
    for (let age = 0; age < this.points; age++) {
      const from = modulo(savedLast - age, this.points) * channels;
      const to = modulo(last - age, this.points) * channels;
      this.values.set(values.subarray(from, from + channels), to);
    }
    this.counts.set(counts);
    this.last = last;
  }

  #place(channel: number, index: number): number {
    return modulo(index, this.points) * this.#combine.length + channel;
  }

  #get(channel: number, index: number): number {
    const { last } = this;
    if (last === undefined || index > last || index <= last - this.points) return Number.NaN;
    return this.values[this.#place(channel, index)]!;
  }

  #set(channel: number, index: number, value: number): void {
    this.values[this.#place(channel, index)] = value;
  }

  /** Makes a column the newest; those that were skipped have no values. */
  #advance(index: number): void {
    const last = this.last ?? Number.NEGATIVE_INFINITY;
    if (index <= last) return;
    for (let i = Math.max(last + 1, index - this.points + 1); i <= index; i++) {
      const column = modulo(i, this.points) * this.#combine.length;
      this.values.fill(Number.NaN, column, column + this.#combine.length);
    }
    this.counts.fill(0);
    this.last = index;
  }
}

/** All ranges of a number of channels. */
export class Series {
  readonly rings: Record<Range, Ring>;

  /** @param combine of each channel */
  constructor(combine: readonly Combine[]) {
    const ring = (range: Range) => new Ring(RANGES[range], combine);
    this.rings = { '5m': ring('5m'), '1h': ring('1h'), '1d': ring('1d') };
  }

  /** Adds a value of a channel. `since`: when the one before was added; undefined: there was none. */
  add(channel: number, value: number, since: number | undefined, now: number): void {
    const from = since === undefined || now - since > GAP ? now : since;
    for (const ring of Object.values(this.rings)) ring.add(channel, value, from, now);
  }

  /** Adds the values of a channel to those of another one, and forgets them. */
  merge(from: number, to: number): void {
    for (const ring of Object.values(this.rings)) ring.merge(from, to);
  }

  /** The memory of the values, octets. */
  get octets(): number {
    return Object.values(this.rings).reduce(
      (sum, { values, counts }) => sum + values.byteLength + counts.byteLength,
      0,
    );
  }
}
