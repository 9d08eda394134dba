/** What a part of the benchmarks is given. */
import { Scope } from '../support/netns.ts';
import { BEFORE_VARIABLE, type Before } from './before.ts';
import type { Findings } from './report.ts';

/** A part has so long, ms; the runner ends it a little later. */
export const BUDGET = 285_000;
const QUICK_BUDGET = 90_000;

export interface Context {
  /** Only as much as shows that it works. */
  quick: boolean;
  /** An earlier commit to measure in turn. */
  before?: Before;
  /** Tells on stderr how far it is. */
  say(text: string): void;
  /** Milliseconds that are left to it. */
  left(): number;
  /** The full number, or the quick one. */
  pick<T>(full: T, quick: T): T;
  /**
   * Calls for round 0, 1, 2, …: at most `most` rounds, at least one, and none that would not end, as long as the
   * longest before it, with `reserveMs` to spare. Returns the number of rounds.
   */
  rounds(most: number, reserveMs: number, act: (round: number) => Promise<void>): Promise<number>;
}

export type Part = (context: Context) => Promise<Findings>;

/** Gives a function namespaces and processes of its own, and shows what they said when it fails. */
export async function inScope<T>(act: (scope: Scope) => Promise<T>): Promise<T> {
  const scope = new Scope();
  try {
    return await act(scope);
  } catch (error) {
    process.stderr.write(`${scope.logs()}\n`);
    throw error;
  } finally {
    scope.dispose();
  }
}

export function contextOf(name: string, quick: boolean): Context {
  const began = performance.now();
  const left = () => began + (quick ? QUICK_BUDGET : BUDGET) - performance.now();
  const before = process.env[BEFORE_VARIABLE];
  return {
    ...{ quick, left, ...(before && { before: JSON.parse(before) as Before }) },
    say: (text) =>
      process.stderr.write(`${name} ${Math.round((performance.now() - began) / 1000)} s: ${text}\n`),
    pick: (full, short) => (quick ? short : full),
    async rounds(most, reserveMs, act) {
      let longest = 0;
      for (let round = 0; round < most; round++) {
        if (round > 0 && left() < reserveMs + longest) return round;
        const started = performance.now();
        await act(round);
        longest = Math.max(longest, performance.now() - started);
      }
      return most;
    },
  };
}
