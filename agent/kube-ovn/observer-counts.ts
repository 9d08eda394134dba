/**
 * The counters of Kube-OVN's observer about itself, persisted in its directory: they continue when its container
 * restarts in the same pod. In another pod they start at 0.
 */
import { readFileSync, readlinkSync } from 'node:fs';
import { readState, replaceState } from '../../lib/files.ts';
import { parseJson } from '../../lib/json.ts';

/** Octets, and values. */
const MAX_SIZE = 4096;
const MAX_VALUES = 100;

/** This boot and this network namespace: the pod. */
const thisPod = (): string =>
  `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${readlinkSync('/proc/self/ns/net')}`;

export class ObserverCounts<Name extends string> {
  readonly #file: string;
  readonly #pod: string;
  readonly #counts = new Map<Name, number>();

  /** Continues from what the file has of these names in this pod, if it is valid. */
  constructor(file: string, names: readonly Name[], pod = thisPod()) {
    this.#file = file;
    this.#pod = pod;
    let saved: { pod?: unknown; counts?: Record<string, unknown> } = {};
    try {
      const content = readState(file, MAX_SIZE);
      if (content !== undefined) saved = { ...(parseJson(content, MAX_VALUES) as object) };
    } catch {
      // They start at 0.
    }
    if (saved.pod !== pod) return;
    for (const name of names) {
      const count = saved.counts?.[name];
      if (Number.isSafeInteger(count) && (count as number) > 0) this.#counts.set(name, count as number);
    }
  }

  /** Counts one. */
  add(name: Name): void {
    this.#counts.set(name, this.of(name) + 1);
    try {
      const counts = Object.fromEntries(this.#counts);
      replaceState(this.#file, [JSON.stringify({ pod: this.#pod, counts })]);
    } catch {
      // The next start continues from the count before.
    }
  }

  /** The count; 0: none yet. */
  of(name: Name): number {
    return this.#counts.get(name) ?? 0;
  }
}
