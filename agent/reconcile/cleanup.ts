/** Removes everything that the agent owns in this network namespace. */
import { FAMILIES } from '../../lib/prefix.ts';
import { desiredNat } from '../../nat/desired.ts';
import { diffNat } from '../../nat/diff.ts';
import type { NatError } from '../../nat/errors.ts';
import type { NatState } from '../../nat/state.ts';
import { OUR_TABLES } from '../../nat/xtables.ts';
import { diffAddresses } from '../../routing/addresses.ts';
import { desiredRouting } from '../../routing/desired.ts';
import { diffRouting } from '../../routing/diff.ts';
import { diffProxies } from '../../routing/proxies.ts';
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
      ],
      nat: diffNat(translation, desiredNat([]), previousNat),
    },
    unreadable: FAMILIES.flatMap((family) => [
      ...(translation.failed[family] ? [translation.failed[family]] : []),
      ...OUR_TABLES.flatMap((table) => translation.unreadable[family].get(table) ?? []),
    ]),
  };
}

/**
 * Removes it: forwarding stops before routes go, and routes before the translation. Throws the first step that was
 * refused, or why a table could not be read.
 */
export async function cleanUp(kernels: Kernels, { changes, unreadable }: Cleanup): Promise<void> {
  await kernels.sysctls.apply(changes.sysctl);
  kernels.neighbours.remove(changes.neighbours ?? []);
  const [refused] = await kernels.routing.apply(changes.routing);
  if (refused !== undefined) throw refused;
  await kernels.nat.apply(changes.nat);
  if (unreadable[0] !== undefined) throw unreadable[0];
}
