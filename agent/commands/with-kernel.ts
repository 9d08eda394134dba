/** The kernel of this network namespace, for a command without a daemon. */
import { createKernels, type OpenKernels } from '../kernels.ts';
import { EXIT, type Options } from '../options.ts';
import { readLastPolicy } from '../policy/last-policy.ts';
import { lastGood } from '../policy/source.ts';
import { explain } from '../reconcile/kernel-errors.ts';
import { Reconciler } from '../reconcile/reconciler.ts';
import { complain } from './check.ts';

/** Runs work that returns an exit code; an error is printed, with exit code 1. */
export async function withKernel(
  options: Options,
  work: (kernels: OpenKernels) => Promise<number>,
): Promise<number> {
  let kernels: OpenKernels | undefined;
  try {
    kernels = createKernels(options);
    return await work(kernels);
  } catch (error) {
    complain(explain(error as Error));
    return EXIT.failed;
  } finally {
    kernels?.close();
  }
}

/** A reconciler that knows what the last daemon applied. */
export const createReconciler = (kernels: OpenKernels, options: Options): Reconciler =>
  new Reconciler(kernels, options, () => lastGood(readLastPolicy(options.stateDir, () => {})));
