/**
 * Connections from outside to addresses of this gateway that belong to somebody inside. Pure.
 *
 * The destination is translated in nat PREROUTING. In POSTROUTING the source is translated to the gateway's
 * internal address, so that replies come back here also when several gateways share the traffic, and when the
 * client itself is inside.
 */

import { type Address, addressBits, type Family } from '../lib/prefix.ts';
import { notFromInside } from './rules.ts';

/** An external address that is one internal address, both ways. */
export interface Eip {
  external: Address;
  internal: Address;
}

/** A port, or a range of ports, of an external address. */
export interface Dnat {
  external: Address;
  protocol: 'tcp' | 'udp' | 'sctp';
  /** First and last. */
  externalPorts: [number, number];
  internal: Address;
  /** The port that the first external port becomes. */
  internalPort: number;
  /** The client's address stays what it is, unless the client is inside. */
  preserveClientIP: boolean;
}

export const CHAIN_DNAT = 'VEG-DNAT';
export const CHAIN_INBOUND = 'VEG-INBOUND';
export const EXTERNAL_SET = { 4: 'VEG-EXTERNAL-4', 6: 'VEG-EXTERNAL-6' } as const;

const portRange = ([first, last]: [number, number], separator: string): string =>
  first === last ? `${first}` : `${first}${separator}${last}`;

function destination({ internal, externalPorts, internalPort }: Dnat, family: Family): string {
  const [first, last] = externalPorts;
  if (internalPort === first) return internal;
  const host = family === 4 ? internal : `[${internal}]`;
  const end = internalPort + last - first;
  return `${host}:${portRange([internalPort, end], '-')}${first === last ? '' : `/${first}`}`;
}

/** The chains of both directions; ports come before whole addresses. */
export function inboundChains(
  family: Family,
  eips: readonly Eip[],
  dnats: readonly Dnat[],
): { dnat: string[]; inbound: string[]; externals: Address[] } {
  const externals = [...new Set([...dnats, ...eips].map(({ external }) => external))];
  const host = (address: Address): string => `${address}/${addressBits(family)}`;
  const dnat = [
    ...dnats.map((rule) => {
      const { protocol, external, externalPorts } = rule;
      const port = portRange(externalPorts, ':');
      return `-d ${host(external)} -p ${protocol} -m ${protocol} --dport ${port} -j DNAT --to-destination ${destination(rule, family)}`;
    }),
    ...eips.map(({ external, internal }) => `-d ${host(external)} -j DNAT --to-destination ${internal}`),
  ];
  const inbound = [
    ...dnats
      .filter(({ preserveClientIP }) => preserveClientIP)
      .map(({ protocol, external, externalPorts }) => {
        const original = `--ctorigdst ${external} --ctorigdstport ${portRange(externalPorts, ':')}`;
        return `-p ${protocol} ${notFromInside} -m conntrack ${original} -j ACCEPT`;
      }),
    ...externals.map((external) => `-m conntrack --ctorigdst ${external} -j MASQUERADE --random-fully`),
  ];
  return { dnat: [...new Set(dnat)], inbound: [...new Set(inbound)], externals };
}
