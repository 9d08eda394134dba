/**
 * Connections that got no port. The kernel counts them in one number only: a new flow for which NAT finds no free
 * port keeps one that is taken, and its first packet is dropped when the flow is to enter the table
 * (`insert_failed` in /proc/net/stat/nf_conntrack). That is exact, but shows neither whose packet it was nor that
 * ports were the reason: two packets that take the same port at the same time end likewise. So the drops count for
 * the range of ports that is fullest towards one destination, and for none where no range is near its end. Pure.
 */
import { protocolName } from './flow.ts';
import { Groups } from './groups.ts';
import type { Flow } from './table.ts';
import { isIcmp } from './wire.ts';

/** Ports of one external address and protocol, as taken towards one destination. */
export interface PortRangeUse {
  address: Uint8Array;
  /** IP protocol number. */
  protocol: number;
  destination: Uint8Array;
  destinationPort: number;
  /** Whose ports they are, where a source has ports for itself. */
  source?: Uint8Array;
  used: number;
  /** Ports in the range. */
  of: number;
}

/**
 * As long as less of a range is taken the kernel, which tries up to 248 ports from random places on, finds one. A
 * full range would be the rule; the rest allows for flows that ended between the drop and the look.
 */
const NEAR_THE_END = 0.5;

/** How many ports NAT chooses from, by the port of the source (nf_nat_l4proto_unique_tuple). */
function rangeSize({ protocol, sourcePort }: Flow): number {
  if (isIcmp(protocol)) return 65_536;
  if (sourcePort < 512) return 511;
  if (sourcePort < 1024) return 1023 - 600 + 1;
  return 65_536 - 1024;
}

/**
 * The range that is fullest towards one destination; undefined when none is near its end.
 * @param blockSize the ports that the flow's source has for itself; 0 when it shares all
 * @param sliceSize the ports of the flow's address that this gateway has for itself; 0 when it has all
 */
export function exhaustedRange(
  flows: Iterable<Flow>,
  blockSize: (flow: Flow) => number,
  sliceSize: (flow: Flow) => number,
): PortRangeUse | undefined {
  const ranges = new Groups();
  const used: number[] = [];
  let fullest: PortRangeUse | undefined;
  let fullestRange = -1;
  for (const flow of flows) {
    const { protocol, snat, translatedSource: address, translatedDestination: destination } = flow;
    if (flow.verdict !== 'translated' || !snat || protocolName(protocol) === 'other') continue;
    const destinationPort = isIcmp(protocol) ? 0 : flow.translatedDestinationPort;
    const block = blockSize(flow);
    const of = block || sliceSize(flow) || rangeSize(flow);
    const numbers = Buffer.of(protocol, destinationPort >> 8, destinationPort, of >> 16, of >> 8, of);
    const source = block > 0 ? [flow.source] : [];
    const range = ranges.numberOf(Buffer.concat([numbers, address, destination, ...source]));
    const taken = (used[range] ?? 0) + 1;
    used[range] = taken;
    if (taken / of < Math.max(NEAR_THE_END, fullest === undefined ? 0 : fullest.used / fullest.of)) continue;
    if (fullest === undefined || range !== fullestRange) {
      fullest = {
        ...{ address: Uint8Array.from(address), protocol, used: taken, of },
        ...{ destination: Uint8Array.from(destination), destinationPort },
        ...(block > 0 && { source: Uint8Array.from(flow.source) }),
      };
      fullestRange = range;
    }
    fullest.used = taken;
  }
  return fullest;
}

/**
 * A number in the text of /proc/net/stat/nf_conntrack, the sum over processors of counters of 32 bits; undefined where it has
 * none.
 */
export function statistic(text: string, name: string): number | undefined {
  const [head = '', ...lines] = text.trim().split('\n');
  const at = head.trim().split(/\s+/).indexOf(name);
  if (at < 0) return undefined;
  return lines.reduce((sum, line) => sum + Number.parseInt(line.trim().split(/\s+/)[at] ?? '0', 16), 0);
}

/** `insert_failed`: first packets of flows that could not enter the table. */
export const insertFailures = (text: string): number | undefined => statistic(text, 'insert_failed');
