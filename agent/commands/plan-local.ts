/** `veg-agent plan` without a daemon. */
import { EXIT, type Options } from '../options.ts';
import { type PlanDocument, planDocument } from '../show/plan-document.ts';
import { load } from './check.ts';
import { createReconciler, withKernel } from './with-kernel.ts';

/** What a reconcile would change; or the exit code, after the reason was printed. */
export async function planLocally(options: Options): Promise<PlanDocument | number> {
  const found = await load(options);
  if (found === undefined) return EXIT.policyInvalid;
  let document: PlanDocument | undefined;
  const code = await withKernel(options, async (kernels) => {
    document = planDocument(await createReconciler(kernels, options).observeSettled(found.policy));
    return EXIT.ok;
  });
  return document ?? code;
}
