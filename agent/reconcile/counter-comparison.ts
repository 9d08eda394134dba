/**
 * Compares the kernel's counters of policies with what is to be counted. They are left out where the kernel has no
 * nf_tables or lacks what the table needs: `notes` says so, and the rest goes on.
 */
import { FAMILIES, type Family } from '../../lib/prefix.ts';
import { type CounterStep, diffCounters } from '../../nat/counters/diff.ts';
import type { CounterKernel } from '../../nat/counters/kernel.ts';
import { COUNTER_TABLE, type CounterIntent } from '../../nat/counters/table.ts';
import { type ApplyFailure, isLack, tableFailure } from './kernel-errors.ts';

type Observed = Awaited<ReturnType<CounterKernel['observe']>>;

const COUNTED = 'traffic of policies is not counted';
const METRICS = '(veg_snat_*, veg_forward_*): nf_tables:';
const note = (error: Error): string =>
  `${COUNTED} ${METRICS} ${error.message}${isLack(error) ? '; load nf_tables and nft_ct on the node' : ''}`;

export class CounterComparison {
  readonly #kernel: Pick<CounterKernel, 'observe'>;
  /** What was compared without a difference. */
  #settled: { observed: Observed; intents: readonly CounterIntent[]; leftAlone: string } | undefined;
  /** What the kernel refused since `retry`; with a note where it lacks something. */
  readonly #refused = new Map<Family, { intents: readonly CounterIntent[]; note?: string }>();

  constructor(kernel: Pick<CounterKernel, 'observe'>) {
    this.#kernel = kernel;
  }

  /** A comparison that knows what this kernel lacks. */
  fork(): CounterComparison {
    const fork = new CounterComparison(this.#kernel);
    for (const [family, one] of this.#refused) if (one.note !== undefined) fork.#refused.set(family, one);
    return fork;
  }

  /**
   * The kernel refused a step to what these intents ask for: it is not asked again until `retry`. Returns the note where it
   * lacks something that a new table needs, and a failure otherwise, since that may pass.
   */
  refused(
    intents: readonly CounterIntent[],
    step: CounterStep,
    error: NodeJS.ErrnoException,
  ): { note: string } | ApplyFailure {
    const { family } = step;
    if (step.type === 'create-counters' && isLack(error)) {
      this.#refused.set(family, { intents, note: note(error) });
      return { note: note(error) };
    }
    this.#refused.set(family, { intents });
    const message = `${COUNTED} as the policy says ${METRICS} ${error.message}`;
    return tableFailure({ family, name: COUNTER_TABLE.name }, error, message);
  }

  /** What was refused is asked for again. Returns whether anything was. */
  retry(): boolean {
    const any = this.#refused.size > 0;
    this.#refused.clear();
    return any;
  }

  /** The steps, and why there are none where there should be. `leftAlone`: families that are not changed. */
  async compare(
    intents: readonly CounterIntent[],
    leftAlone: ReadonlySet<Family>,
  ): Promise<{ steps: CounterStep[]; notes: string[] }> {
    let observed: Observed;
    try {
      observed = await this.#kernel.observe();
    } catch (error) {
      return { steps: [], notes: [note(error as Error)] };
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
    const refusedTo = ({ family }: CounterStep) => {
      const refused = this.#refused.get(family);
      return refused?.intents === intents ? refused : undefined;
    };
    return {
      steps: steps.filter((step) => refusedTo(step) === undefined),
      notes: [...new Set(steps.flatMap((step) => refusedTo(step)?.note ?? []))],
    };
  }
}
