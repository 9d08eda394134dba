/**
 * The store of ended flows as the thread uses it: opened again after a failure, committed twice a second, and every
 * failure counted and logged once. What was added and not committed when it fails is lost, and counted as lost.
 */
import { statfsSync } from 'node:fs';
import { join } from 'node:path';
import * as stateFiles from '../../lib/files.ts';
import { LogOnChange } from '../../lib/log-on-change.ts';
import type { FlowView } from '../../nat/conntrack/flow.ts';
import type { Lookup } from '../../nat/conntrack/lookup.ts';
import { type StoreOptions, TranslationStore } from '../../nat/conntrack/store.ts';
import type { Flow } from '../../nat/conntrack/table.ts';
import type { Gap } from '../../nat/conntrack/tracker.ts';
import type { FlowEnd } from './record-queue.ts';
import type { Found, LogLevel } from './translations-messages.ts';

/** How often ended flows go to the disk, ms. */
const COMMIT_PERIOD = 500;
/** How long ended flows can be looked up, ms. */
const MAX_AGE = 7 * 24 * 3600 * 1000;
/** A store that cannot be opened is opened again after that time, ms. */
const RETRY = 10_000;
/** The size: a tenth of the file system, at most that many octets, and less where files are memory. */
const SHARE = 0.1;
const MAX_BYTES = 256 << 20;
const MAX_BYTES_TMPFS = 8 << 20;
const TMPFS_MAGIC = 0x01021994;

export interface EndedFlowsParts {
  directory: string;
  /** Milliseconds of a monotonic clock. */
  clock: () => number;
  /** The time by which flows grow old (retention-clock.ts). */
  now: () => number;
  log: (level: LogLevel, message: string, fields: object) => void;
  /** That many ended flows cannot be looked up. */
  onLost: (flows: number) => void;
  /** Default: a `TranslationStore`. */
  open?: (options: StoreOptions) => TranslationStore;
}

export class EndedFlows {
  readonly #parts: EndedFlowsParts;
  #store: TranslationStore | undefined;
  #openAt = Number.NEGATIVE_INFINITY;
  #commitAt = Number.NEGATIVE_INFINITY;
  readonly #failures = new LogOnChange();

  /** Opens the store. Never throws: a store that cannot be opened is opened again by `tick`. */
  constructor(parts: EndedFlowsParts) {
    this.#parts = parts;
    this.#open();
  }

  /** Adds a flow that has ended. */
  add(flow: Flow, policy: string, { at, estimated }: FlowEnd): void {
    const added = this.#try((store) => {
      store.add(flow, policy, at, estimated);
      return true;
    });
    if (!added) this.#parts.onLost(1);
  }

  /** Since when flows are stored, Unix ms; undefined while they are not. */
  get since(): number | undefined {
    return this.#store?.since;
  }

  addGap(gap: Gap): void {
    this.#try((store) => store.addGap(gap));
  }

  /** When events were lost in the time of a lookup; none when the store does not work. */
  gaps(lookup: Lookup): Found['gaps'] {
    return this.#try((store) => store.gaps(lookup)) ?? [];
  }

  /** The flows of a lookup in parts, the newest first; it ends where the store fails. */
  *find(lookup: Lookup): Generator<FlowView[]> {
    const parts = this.#store?.findInParts(lookup);
    if (parts === undefined) return;
    for (;;) {
      const part = this.#try(() => parts.next());
      if (part === undefined || part.done) return;
      yield part.value;
    }
  }

  /** Commits, or opens the store again, when that is due. */
  tick(): void {
    if (this.#parts.clock() >= this.#commitAt) this.commit();
  }

  commit(): void {
    const now = this.#parts.clock();
    this.#commitAt = now + COMMIT_PERIOD;
    if (this.#store === undefined && now >= this.#openAt) this.#open();
    const committed = this.#try((store) => store.commit());
    if (committed === undefined || committed === 0 || !this.#failures.ended()) return;
    this.#parts.log('info', 'storing ended flows again', {});
  }

  close(): void {
    this.#store?.close();
  }

  #open(): void {
    const { directory, now, clock, log, open = (options) => new TranslationStore(options) } = this.#parts;
    this.#openAt = clock() + RETRY;
    try {
      this.#store = open({
        ...{ directory, maxBytes: maxBytes(join(directory, '..')), maxAge: MAX_AGE, now, files: stateFiles },
        onAnew: (reason) => log('warn', 'cannot read the stored flows, starting a new store', { reason }),
      });
    } catch (error) {
      this.#logFailure(error as Error);
    }
  }

  /** Undefined when there is no store, or it fails. */
  #try<T>(work: (store: TranslationStore) => T): T | undefined {
    if (this.#store === undefined) return undefined;
    const { pending } = this.#store;
    try {
      return work(this.#store);
    } catch (error) {
      this.#parts.onLost(pending);
      this.#logFailure(error as Error);
      return undefined;
    }
  }

  #logFailure({ message: reason }: Error): void {
    if (!this.#failures.isNew(reason)) return;
    this.#parts.log('error', 'cannot store ended flows for lookups, retrying', { reason });
  }
}

/** How large the store may be on the file system of a directory, octets. */
function maxBytes(directory: string): number {
  const { type, blocks, bsize } = statfsSync(directory);
  return Math.min(type === TMPFS_MAGIC ? MAX_BYTES_TMPFS : MAX_BYTES, SHARE * blocks * bsize);
}
