/**
 * Compares the kernel's counters of policies with what is to be counted. They are left out where the kernel has no
 * nf_tables or refuses them: `notes` says so, and the rest goes on.
 */
import { FAMILIES, type Family } from '../../lib/prefix.ts';
import { type CounterStep, diffCounters } from '../../nat/counters/diff.ts';
import type { CounterKernel } from '../../nat/counters/kernel.ts';
import type { CounterIntent } from '../../nat/counters/table.ts';

type Observed = Awaited<ReturnType<CounterKernel['observe']>>;

/** What a kernel answers that lacks a module; EINVAL without nf_tables (nfnetlink_rcv_msg of nfnetlink.c). */
const UNSUPPORTED = /\((?:EAFNOSUPPORT|EINVAL|ENOENT|ENOTSUP|EOPNOTSUPP|EPROTONOSUPPORT)\)/;

const note = (reason: string): string =>
  `traffic of policies is not counted (veg_snat_*, veg_forward_*): nf_tables: ${reason}${UNSUPPORTED.test(reason) ? '; load nf_tables and nft_ct on the node' : ''}`;

export class CounterComparison {
  readonly #kernel: Pick<CounterKernel, 'observe'>;
  /** What was compared without a difference. */
  #settled: { observed: Observed; intents: readonly CounterIntent[]; leftAlone: string } | undefined;
  /** What the kernel refused, and why. */
  #refused: { intents: readonly CounterIntent[]; reason: string } | undefined;

  constructor(kernel: Pick<CounterKernel, 'observe'>) {
    this.#kernel = kernel;
  }

  /** The kernel refused what these intents ask for. Returns the note. */
  refused(intents: readonly CounterIntent[], reason: string): string {
    this.#refused = { intents, reason };
    return note(reason);
  }

  /** The steps, and why there are none where there should be. `leftAlone`: families that are not changed. */
  async compare(
    intents: readonly CounterIntent[],
    leftAlone: ReadonlySet<Family>,
  ): Promise<{ steps: CounterStep[]; notes: string[] }> {
    if (this.#refused !== undefined) {
      if (this.#refused.intents === intents) return { steps: [], notes: [note(this.#refused.reason)] };
      this.#refused = undefined;
    }
    let observed: Observed;
    try {
      observed = await this.#kernel.observe();
    } catch (error) {
      return { steps: [], notes: [note((error as Error).message)] };
    }
    // Both stay the same objects as long as nothing changes: what follows takes as long as the policy is.
    const now = { observed, intents, leftAlone: [...leftAlone].join() };
    const last = this.#settled;
    if (last?.observed === observed && last.intents === intents && last.leftAlone === now.leftAlone) {
      return { steps: [], notes: [] };
    }
    const steps = FAMILIES.flatMap((family) =>
      leftAlone.has(family)
        ? []
        : diffCounters(
            family,
            observed[family],
            intents.find((intent) => intent.family === family),
          ),
    );
    this.#settled = steps.length === 0 ? now : undefined;
    return { steps, notes: [] };
  }
}
