/**
 * Connections from outside to addresses of this gateway that lead to a host inside. Pure.
 *
 * The destination is translated in nat PREROUTING. In POSTROUTING the source is translated to the gateway's
 * internal address, so that replies come back here also when several gateways share the traffic, and when the
 * client itself is inside.
 */

import { type Address, addressBits, type Family } from '../lib/prefix.ts';
import type { PortRange } from './conntrack/records.ts';
import { notFromInside } from './rules.ts';

/** An external address that is one internal address of its family, in both directions. */
export interface Eip {
  externalIP: Address;
  internalIP: Address;
}

/** Ports of an external address that lead to as many of an internal one of its family. */
export interface Dnat {
  externalIP: Address;
  protocol: 'tcp' | 'udp' | 'sctp';
  externalPorts: PortRange;
  internalIP: Address;
  internalPorts: PortRange;
  /** The client's address stays what it is, unless the client is inside; else the source is translated. */
  preserveClientIP: boolean;
}

export const CHAIN_DNAT = 'VEG-DNAT';
export const CHAIN_INBOUND = 'VEG-INBOUND';
export const EXTERNAL_SET = { 4: 'VEG-EXTERNAL-4', 6: 'VEG-EXTERNAL-6' } as const;

const portRange = ({ first, last }: PortRange, separator: string): string =>
  first === last ? `${first}` : `${first}${separator}${last}`;

function destination({ internalIP, externalPorts, internalPorts }: Dnat, family: Family): string {
  const { first, last } = externalPorts;
  if (internalPorts.first === first) return internalIP;
  const host = family === 4 ? internalIP : `[${internalIP}]`;
  return `${host}:${portRange(internalPorts, '-')}${first === last ? '' : `/${first}`}`;
}

/** The chains of both directions; ports come before whole addresses. */
export function inboundChains(
  family: Family,
  eips: readonly Eip[],
  dnats: readonly Dnat[],
): { dnat: string[]; inbound: string[]; externals: Address[] } {
  const externals = [...new Set([...dnats, ...eips].map(({ externalIP }) => externalIP))];
  const host = (address: Address): string => `${address}/${addressBits(family)}`;
  const dnat = [
    ...dnats.map((rule) => {
      const { protocol, externalIP, externalPorts } = rule;
      const port = portRange(externalPorts, ':');
      return `-d ${host(externalIP)} -p ${protocol} -m ${protocol} --dport ${port} -j DNAT --to-destination ${destination(rule, family)}`;
    }),
    ...eips.map(
      ({ externalIP, internalIP }) => `-d ${host(externalIP)} -j DNAT --to-destination ${internalIP}`,
    ),
  ];
  const inbound = [
    ...dnats
      .filter(({ preserveClientIP }) => preserveClientIP)
      .map(({ protocol, externalIP, externalPorts }) => {
        const original = `--ctorigdst ${externalIP} --ctorigdstport ${portRange(externalPorts, ':')}`;
        return `-p ${protocol} ${notFromInside} -m conntrack ${original} -j ACCEPT`;
      }),
    ...externals.map((external) => `-m conntrack --ctorigdst ${external} -j MASQUERADE --random-fully`),
  ];
  return { dnat: [...new Set(dnat)], inbound: [...new Set(inbound)], externals };
}
