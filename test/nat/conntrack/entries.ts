/** Conntrack entries for tests, from text. */

import { address, addressBytes, familyOf } from '../../../lib/prefix.ts';
import type { ConntrackEntry, Counters } from '../../../nat/conntrack/wire.ts';

export interface EntrySpec {
  /** `10.17.0.9 1000 1.1.1.1 443`: source and destination before translation. */
  flow: string;
  /** `172.17.0.11 2000`: the source as the outside sees it; absent: the same. */
  snat?: string;
  /** `10.17.0.9 80`: where the destination leads; absent: the same. */
  dnat?: string;
  protocol?: number;
  id?: number;
  zone?: number;
  /** originalPackets, originalBytes, replyPackets, replyBytes. */
  counters?: [number, number, number, number];
  startTime?: number;
  stopTime?: number;
  eventTime?: number;
  status?: number;
  mark?: number;
}

const octets = (text: string): Uint8Array => addressBytes(address(text));

function endpoint(text: string): { address: Uint8Array; port: number } {
  const [host = '', port = '0'] = text.split(' ');
  return { address: octets(host), port: Number(port) };
}

export const counters = ([a, b, c, d]: [number, number, number, number]): Counters => ({
  originalPackets: a,
  originalBytes: b,
  replyPackets: c,
  replyBytes: d,
});

/** An entry as the decoder would give it. An ICMP entry says its identifier as both ports. */
export function entry(spec: EntrySpec): ConntrackEntry {
  const { protocol = 6, id = 1, zone = 0, status = 0, mark, startTime, stopTime, eventTime } = spec;
  const [host = '', sourcePort = '0', peer = '', destinationPort = '0'] = spec.flow.split(' ');
  const seen =
    spec.snat === undefined ? { address: octets(host), port: Number(sourcePort) } : endpoint(spec.snat);
  const led =
    spec.dnat === undefined ? { address: octets(peer), port: Number(destinationPort) } : endpoint(spec.dnat);
  const icmp = protocol === 1 || protocol === 58 ? { icmpType: protocol === 1 ? 8 : 128, icmpCode: 0 } : {};
  return {
    family: familyOf(address(host)),
    ...{ protocol, id, zone, status },
    original: {
      ...{ source: octets(host), sourcePort: Number(sourcePort) },
      ...{ destination: octets(peer), destinationPort: Number(destinationPort) },
      ...icmp,
    },
    reply: {
      ...{ source: led.address, sourcePort: 'icmpType' in icmp ? seen.port : led.port },
      ...{ destination: seen.address, destinationPort: seen.port },
      ...icmp,
    },
    ...(mark !== undefined && { mark }),
    ...(spec.counters && { counters: counters(spec.counters) }),
    ...(startTime !== undefined && { startTime }),
    ...(stopTime !== undefined && { stopTime }),
    ...(eventTime !== undefined && { eventTime }),
  };
}
