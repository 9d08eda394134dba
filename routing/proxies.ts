/**
 * The shared addresses that this gateway answers ARP and Neighbor Discovery for, as proxy entries of the kernel: which to
 * add and which to remove. The kernel answers also while no process of ours runs, and a packet that belongs to no flow is
 * never answered with a reset, as one to an address of the pod is. Pure.
 */
import type { Address, Family } from '../lib/prefix.ts';
import { RTPROT_VEG_AGENT } from './numbers.ts';
import type { RoutingState } from './state.ts';

/** A proxy entry (`ip neigh show proxy`). */
export interface ProxyNeighbour {
  family: Family;
  address: Address;
  dev: string;
  /** Another member of the group may hold the address too: it is not defended against claims. */
  contested?: true;
}

/** A proxy entry in the kernel; `protocol` is NDA_PROTOCOL, 0 without one. */
export interface ObservedProxy extends ProxyNeighbour {
  protocol: number;
}

export interface ProxyStep {
  kind: 'addProxy' | 'delProxy';
  proxy: ProxyNeighbour;
}

const keyOf = ({ address, dev }: ProxyNeighbour): string => `${address} ${dev}`;

/** The steps to the desired entries. One without our protocol number is foreign: it satisfies the agent, and stays. */
export function diffProxies(
  { proxies = [] }: Pick<RoutingState, 'proxies'>,
  wanted: readonly ProxyNeighbour[],
): ProxyStep[] {
  const present = new Set(proxies.map(keyOf));
  const keep = new Set(wanted.map(keyOf));
  return [
    ...proxies
      .filter((proxy) => proxy.protocol === RTPROT_VEG_AGENT && !keep.has(keyOf(proxy)))
      .map(({ family, address, dev }): ProxyStep => ({ kind: 'delProxy', proxy: { family, address, dev } })),
    ...wanted
      .filter((proxy) => !present.has(keyOf(proxy)))
      .map((proxy): ProxyStep => ({ kind: 'addProxy', proxy })),
  ];
}
