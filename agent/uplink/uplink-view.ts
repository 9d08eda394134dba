/** The uplink as `status`, `/readyz` and the metrics show it. Pure. */
import type { Address, Family } from '../../lib/prefix.ts';
import { downReason, type FamilyHealth, type Path } from './health.ts';
import type { Neighbour } from './neighbours.ts';
import type { Method } from './probe.ts';
import type { Watched } from './watched.ts';

export interface UplinkView {
  families: {
    family: Family;
    gateway: Address;
    state: FamilyHealth['state'];
    /** Why it is down; null unless it is. */
    reason: string | null;
    /** How long it has been in its state, seconds. */
    seconds: number;
  }[];
  /**
   * `mac`: where it answers from, where that is asked for. `kernel`: the state of the kernel's own neighbour detection,
   * which is too slow to act on; null: nothing now.
   */
  probes: {
    address: Address;
    method: Method;
    state: Path['state'];
    mac: string | null;
    kernel: 'reachable' | 'failed' | null;
  }[];
  notes: string[];
}

export const familyView = ({ family, gateway, health }: Watched, now: number): UplinkView['families'][0] => ({
  family,
  gateway,
  state: health.state,
  reason: downReason(health, now) ?? null,
  seconds: Math.floor((now - health.since) / 1000),
});

/** `kernel`: the kernel's neighbour entries on the link. */
export function probeViews(
  { probes, hop }: Watched,
  kernel: ReadonlyMap<Address, Neighbour['state']>,
): UplinkView['probes'] {
  const shown = probes.filter(({ aside, path }) => !aside || path.state === 'answers');
  return shown.map(({ address, method, path: { state } }) => {
    const found = kernel.get(address);
    return {
      address,
      method,
      state,
      mac: (method === 'neighbour' && state === 'answers' && hop.mac) || null,
      kernel: found === 'failed' || found === 'reachable' ? found : null,
    };
  });
}

/** The probes that cannot be sent. */
export const probeNotes = (families: readonly Watched[]): string[] =>
  families.flatMap(({ probes }) =>
    probes
      .filter(({ problem }) => problem !== undefined)
      .map(
        ({ address, problem }) => `${address} cannot be probed, so its failure will not be seen: ${problem}`,
      ),
  );
