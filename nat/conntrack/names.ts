/**
 * Numbers for the names of policies: a flow has room for 16 bits. A name that nothing needs any more gives its number
 * back, so that however many policies come and go, over restarts too, there is one for the next. Pure.
 */

/** The policy of flows that no rule names. */
export const DEFAULT_POLICY = 'default';
/** What is counted of policies whose names were forgotten, and of those beyond what can be numbered. No policy is called so. */
export const OTHERS = '(others)';
/** Its number. */
export const OTHERS_NUMBER = 0xffff;
/** The most names with a number at a time: the counters of each take memory. */
export const MAX_NAMES = 4096;
/** The number of unused names that are remembered, those used last. */
export const KEPT_NAMES = 1000;

export class PolicyNames {
  /** By number; 0 is no policy. Undefined where a number is free. */
  readonly #names: (string | undefined)[] = [''];
  readonly #numbers = new Map<string, number>([['', 0]]);
  readonly #free: number[] = [];
  /** When each number was last asked for, in steps. */
  readonly #used: number[] = [0];
  #step = 0;

  /** How many names there are. */
  get size(): number {
    return this.#numbers.size - 1;
  }

  nameOf(number: number): string {
    return this.#names[number] ?? OTHERS;
  }

  /** The number of a name. When all are taken it is that of `OTHERS`. */
  numberOf(name: string): number {
    if (name === OTHERS) return OTHERS_NUMBER;
    let number = this.#numbers.get(name);
    if (number === undefined) {
      number = this.#free.pop() ?? this.#names.length;
      if (number >= MAX_NAMES) return OTHERS_NUMBER;
      this.#names[number] = name;
      this.#numbers.set(name, number);
    }
    this.#used[number] = ++this.#step;
    return number;
  }

  /**
   * Forgets the names that nothing needs, but for the last `KEPT_NAMES`. Returns their numbers.
   * @param isNeeded whether a number has to stay
   */
  forget(isNeeded: (number: number, name: string) => boolean): Set<number> {
    const spare = [...this.#numbers]
      .filter(([name, number]) => number !== 0 && !isNeeded(number, name))
      .sort(([, a], [, b]) => this.#used[b]! - this.#used[a]!)
      .slice(KEPT_NAMES);
    for (const [name, number] of spare) {
      this.#numbers.delete(name);
      this.#names[number] = undefined;
      this.#free.push(number);
    }
    return new Set(spare.map(([, number]) => number));
  }

  /** The names by number, for `load`. */
  save(): (string | null)[] {
    return this.#names.map((name) => name ?? null);
  }

  /** Restores what `save` returned. For a new instance. */
  load(names: readonly (string | null)[]): void {
    for (const [number, name] of names.slice(0, MAX_NAMES).entries()) {
      if (number === 0) continue;
      this.#names[number] = name ?? undefined;
      this.#used[number] = 0;
      if (name === null) this.#free.push(number);
      else this.#numbers.set(name, number);
    }
  }
}
