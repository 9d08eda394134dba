/** Gathers what the plan needs to know about the pod: the kernel's links and addresses, Multus' annotation. */
import { readFile } from 'node:fs/promises';
import type { RoutingState } from '../routing/state.ts';
import { type Facts, type NetworkStatus, parseNetworkStatus } from './interfaces.ts';

/**
 * The facts. A network-status file that is not there is no surprise (Multus is optional); one that cannot be
 * read or understood is noted and left aside.
 */
export async function readFacts(
  observed: Pick<RoutingState, 'links' | 'addresses'>,
  networkStatusPath: string,
): Promise<Facts> {
  const { links, addresses } = observed;
  let networks: NetworkStatus[] = [];
  const notes: string[] = [];
  const ignored = (why: string) =>
    notes.push(`network-status file ${networkStatusPath} is left aside: ${why}`);
  try {
    const result = parseNetworkStatus(await readFile(networkStatusPath, 'utf8'));
    if ('networks' in result) networks = result.networks;
    else ignored(result.problem);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') ignored((error as Error).message);
  }
  const names = [process.env.POD_NAME, process.env.NODE_NAME].filter((name) => !!name) as string[];
  return { links, addresses, networks, names, notes };
}
