/** Removes everything that the agent owns in this network namespace. */
import { FAMILIES } from '../../lib/prefix.ts';
import { type CounterStep, diffCounters } from '../../nat/counters/diff.ts';
import type { CounterKernel } from '../../nat/counters/kernel.ts';
import { desiredNat } from '../../nat/desired.ts';
import { diffNat } from '../../nat/diff.ts';
import type { NatError } from '../../nat/errors.ts';
import { diffFastPath, type FastPathStep } from '../../nat/fast-path/table.ts';
import type { NatState } from '../../nat/state.ts';
import { OUR_TABLES } from '../../nat/xtables.ts';
import { diffAddresses } from '../../routing/addresses.ts';
import { desiredRouting } from '../../routing/desired.ts';
import { diffRouting } from '../../routing/diff.ts';
import { diffLinks } from '../../routing/links.ts';
import { diffProxies } from '../../routing/proxies.ts';
import { desiredShaping } from '../../shaping/desired.ts';
import { diffShaping } from '../../shaping/diff.ts';
import { NO_SHAPING } from '../plan/bandwidth.ts';
import { guardsAddresses } from '../pod/desired-sysctls.ts';
import type { SysctlStep } from '../pod/sysctl.ts';
import type { Changes } from './changes.ts';
import type { Kernels } from './observation.ts';

export interface Cleanup {
  changes: Changes;
  /** The tables that could not be read: something of the agent's may be in them. */
  unreadable: NatError[];
}

/** What there is to remove. `previousNat`: the translation that was last applied, if known. */
export async function planCleanup(kernels: Kernels, previousNat?: NatState): Promise<Cleanup> {
  const observed = await kernels.routing.observe();
  const translation = await kernels.nat.observe({ families: [] });
  const nothing = desiredShaping(NO_SHAPING);
  const nameOf = (ifindex: number) => observed.links.find(({ index }) => index === ifindex)?.name;
  return {
    changes: {
      neighbours: kernels.neighbours.permanent().map((entry) => ({
        ...entry,
        line: `ip neigh del ${entry.address} dev ${nameOf(entry.ifindex)}`,
      })),
      sysctl: await kernels.sysctls.planCleanup(),
      routing: [
        ...diffAddresses(observed, []),
        ...diffProxies(observed, []),
        ...diffRouting(observed, desiredRouting([])),
        ...diffLinks(observed.links, undefined, 4),
      ],
      shaping: diffShaping(kernels.shaping.observe(nothing), nothing),
      counters: await planCounters(kernels),
      fastPath: await planFastPath(kernels),
      nat: diffNat(translation, desiredNat([]), previousNat),
    },
    unreadable: FAMILIES.flatMap((family) => [
      ...(translation.failed[family] ? [translation.failed[family]] : []),
      ...OUR_TABLES.flatMap((table) => translation.unreadable[family].get(table) ?? []),
    ]),
  };
}

/** The tables of counters; a kernel without nf_tables has none. */
async function planCounters({ counters }: Kernels): Promise<CounterStep[]> {
  const observed = await counters
    .observe()
    .catch(() => ({}) as Awaited<ReturnType<CounterKernel['observe']>>);
  return FAMILIES.flatMap((family) => diffCounters(family, observed[family], undefined));
}

/** The table of the fast path, likewise. */
const planFastPath = ({ fastPath }: Kernels): Promise<FastPathStep[]> =>
  fastPath.observe().then(
    (observed) => diffFastPath(observed, undefined),
    () => [],
  );

/**
 * Removes it: first the fast path, then forwarding stops, before routes go, and routes go before the translation. Throws the
 * first step that was refused, or why a table could not be read.
 */
export async function cleanUp(kernels: Kernels, { changes, unreadable }: Cleanup): Promise<void> {
  kernels.fastPath.apply(changes.fastPath);
  const guards = ({ path }: SysctlStep) => guardsAddresses(path);
  await kernels.sysctls.apply(changes.sysctl.filter((step) => !guards(step)));
  kernels.neighbours.remove(changes.neighbours ?? []);
  const [refused] = await kernels.routing.apply(changes.routing);
  if (refused !== undefined) throw refused;
  await kernels.sysctls.apply(changes.sysctl.filter(guards));
  const [unshaped] = await kernels.shaping.apply(changes.shaping);
  if (unshaped !== undefined) throw unshaped;
  await kernels.counters.apply(changes.counters);
  await kernels.nat.apply(changes.nat);
  if (unreadable[0] !== undefined) throw unreadable[0];
}
