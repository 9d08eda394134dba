/** The virtual addresses that the gateway holds on its external interface: which to add and which to withdraw. Pure. */

import type { Address, Family } from '../lib/prefix.ts';
import { ownsAddress } from './ownership.ts';
import type { RoutingState } from './state.ts';

/** An address that is on an interface while the policy has it, as a host address (/32, /128). */
export interface VirtualAddress {
  family: Family;
  address: Address;
  dev: string;
}

export interface AddressStep {
  kind: 'addAddress' | 'delAddress';
  address: VirtualAddress;
}

/** The steps to the desired addresses. One that another program has added is used, and stays. */
export function diffAddresses(
  { links, addresses }: Pick<RoutingState, 'links' | 'addresses'>,
  wanted: readonly VirtualAddress[],
): AddressStep[] {
  const names = new Map(links.map(({ index, name }) => [index, name]));
  const key = ({ address, dev }: Pick<VirtualAddress, 'address' | 'dev'>) => `${address} ${dev}`;
  const there = addresses.map((found) => ({
    owned: ownsAddress(found),
    value: { family: found.family, address: found.address, dev: names.get(found.ifindex) ?? '' },
  }));
  const present = new Set(there.map(({ value }) => key(value)));
  const desired = new Set(wanted.map(key));
  return [
    ...there
      .filter(({ owned, value }) => owned && !desired.has(key(value)))
      .map(({ value }): AddressStep => ({ kind: 'delAddress', address: value })),
    ...wanted
      .filter((address) => !present.has(key(address)))
      .map((address): AddressStep => ({ kind: 'addAddress', address })),
  ];
}
