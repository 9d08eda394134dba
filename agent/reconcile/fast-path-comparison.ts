/**
 * Compares the kernel's fast path with the policy's. It is left out where the kernel has no flowtables: `notes` says so,
 * and the rest goes on.
 *
 * **Renewal.** Linux 7.3 takes the mark of a connection in a flowtable (IPS_OFFLOAD) from one whose route was out of date when that one
 * is in the flowtable again, by its new route. Connection tracking then no longer keeps its entry, which expires a day
 * later under a connection that goes on, and ends it. A table that is made anew marks all of its connections, and gives each a day. So
 * it is made anew before that, by any full reconcile.
 */
import type { FastPathKernel } from '../../nat/fast-path/kernel.ts';
import {
  diffFastPath,
  FAST_PATH_TABLE,
  type FastPathIntent,
  type FastPathStep,
  type ObservedFastPath,
} from '../../nat/fast-path/table.ts';
import { type ApplyFailure, isLack, tableFailure } from './kernel-errors.ts';

const MODULES = 'nf_flow_table, nf_flow_table_inet and nft_flow_offload';
const NOT_IN_FORCE = 'the fast path is not in force, the rest is';
const FORMER_IN_FORCE = 'the former fast path is still in force, the rest is as the policy says';

/** How old a table gets, ms: an entry that is not kept lives a day. */
export const RENEWAL_PERIOD = 6 * 3600 * 1000;

const note = (error: Error): string =>
  `${NOT_IN_FORCE}: nf_tables: ${error.message}${isLack(error) ? `; load ${MODULES} on the node, or run the gateway on a node whose kernel has them` : ''}`;

export class FastPathComparison {
  readonly #kernel: Pick<FastPathKernel, 'observe'>;
  /** What the kernel refused since `retry`; with a note where it lacks something. */
  #refused: { wanted: string; note?: string } | undefined;
  /** The table was there when it was last read. */
  #there = false;
  readonly #now: () => number;
  /** When the table was made, or first seen. */
  #since = Number.NEGATIVE_INFINITY;
  #isDue = false;

  /** `now`: a monotonic clock, ms. */
  constructor(kernel: Pick<FastPathKernel, 'observe'>, now: () => number) {
    this.#kernel = kernel;
    this.#now = now;
  }

  /** A comparison that knows what this kernel lacks. */
  fork(): FastPathComparison {
    const fork = new FastPathComparison(this.#kernel, this.#now);
    if (this.#refused?.note !== undefined) fork.#refused = this.#refused;
    fork.#there = this.#there;
    return fork;
  }

  /** The table is in the kernel, as of the last comparison. */
  get isThere(): boolean {
    return this.#there;
  }

  /**
   * The kernel refused a step: it is not asked again until `retry`. Returns the note where it lacks something that a new table
   * needs, and a failure otherwise, since that may pass.
   */
  refused(
    intent: FastPathIntent | undefined,
    step: FastPathStep,
    error: NodeJS.ErrnoException,
  ): { note: string } | ApplyFailure {
    const wanted = JSON.stringify(intent);
    // A kernel that has one lacks nothing.
    if (step.type === 'put-fast-path' && !step.replace && isLack(error)) {
      this.#refused = { wanted, note: note(error) };
      return { note: note(error) };
    }
    this.#refused = { wanted };
    const message = `${this.#there ? FORMER_IN_FORCE : NOT_IN_FORCE}: nf_tables: ${error.message}`;
    return tableFailure({ name: FAST_PATH_TABLE }, error, message);
  }

  /** What was refused is asked for again, and an old table is made anew. Returns whether there is any of it. */
  retry(): boolean {
    const any = this.#refused !== undefined;
    this.#refused = undefined;
    this.#isDue = this.#there && this.#now() - this.#since >= RENEWAL_PERIOD;
    return any || this.#isDue;
  }

  /**
   * The steps, and why there are none where there should be. `inForce`: the table is in the kernel after them; if it cannot
   * be read, as it was.
   */
  async compare(
    intent: FastPathIntent | undefined,
  ): Promise<{ steps: FastPathStep[]; notes: string[]; inForce: boolean }> {
    let observed: ObservedFastPath | undefined;
    try {
      observed = await this.#kernel.observe();
    } catch (error) {
      // Without nf_tables there is nothing to remove either.
      if (isLack(error as Error)) this.#there = false;
      const notes = intent === undefined ? [] : [note(error as Error)];
      return { steps: [], notes, inForce: this.#there };
    }
    if (observed !== undefined && !this.#there) this.#since = this.#now();
    this.#there = observed !== undefined;
    const steps = diffFastPath(observed, intent);
    if (this.#isDue && this.#there && intent !== undefined && steps.length === 0)
      steps.push({ type: 'put-fast-path', intent, replace: true });
    this.#isDue = false;
    if (steps.length > 0 && this.#refused !== undefined && this.#refused.wanted === JSON.stringify(intent)) {
      const { note } = this.#refused;
      return { steps: [], notes: note === undefined ? [] : [note], inForce: this.#there };
    }
    if (steps.length > 0) this.#since = this.#now();
    return { steps, notes: [], inForce: intent !== undefined };
  }
}
