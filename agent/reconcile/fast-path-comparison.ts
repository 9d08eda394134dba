/**
 * Compares the kernel's fast path with the policy's. It is left out where the kernel has no flowtables or refuses it:
 * `notes` says so, and the rest goes on.
 */
import type { FastPathKernel } from '../../nat/fast-path/kernel.ts';
import { diffFastPath, type FastPathIntent, type FastPathStep } from '../../nat/fast-path/table.ts';

/** What a kernel answers that lacks a module. */
const UNSUPPORTED = /\((?:EAFNOSUPPORT|EINVAL|ENOENT|ENOTSUP|EOPNOTSUPP|EPROTONOSUPPORT)\)/;
const MODULES = 'nf_flow_table, nf_flow_table_inet and nft_flow_offload';

const note = (reason: string): string =>
  `the fast path is not in force, the rest is: nf_tables: ${reason}${UNSUPPORTED.test(reason) ? `; load ${MODULES} on the node, or run the gateway on a node whose kernel has them` : ''}`;

export class FastPathComparison {
  readonly #kernel: Pick<FastPathKernel, 'observe'>;
  /** What the kernel refused, and why. */
  #refused: { wanted: string; reason: string } | undefined;

  constructor(kernel: Pick<FastPathKernel, 'observe'>) {
    this.#kernel = kernel;
  }

  /** The kernel refused what was asked for. Returns the note. */
  refused(intent: FastPathIntent | undefined, reason: string): string {
    this.#refused = { wanted: JSON.stringify(intent), reason };
    return note(reason);
  }

  /** The steps, and why there are none where there should be. What was refused is asked for again when it is another. */
  async compare(intent: FastPathIntent | undefined): Promise<{ steps: FastPathStep[]; notes: string[] }> {
    if (this.#refused !== undefined) {
      if (this.#refused.wanted === JSON.stringify(intent)) {
        return { steps: [], notes: [note(this.#refused.reason)] };
      }
      this.#refused = undefined;
    }
    try {
      return { steps: diffFastPath(await this.#kernel.observe(), intent), notes: [] };
    } catch (error) {
      // Without nf_tables there is nothing to remove either.
      return { steps: [], notes: intent === undefined ? [] : [note((error as Error).message)] };
    }
  }
}
