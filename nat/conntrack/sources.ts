/** Which addresses inside have the most of the flows that live. Pure. */
import { Groups } from './groups.ts';
import type { Flow } from './table.ts';

/** The flows of one address inside that live. Packets and octets are those of these flows. */
export interface SourceUse {
  /** 4 or 16 octets. */
  address: Uint8Array;
  flows: number;
  /** Away from the VPC and towards it, octets. */
  out: number;
  in: number;
}

/** Whether a flow is one of this gateway's, from or to a source. */
const isCounted = ({ verdict }: Flow): boolean => verdict !== 'local' && verdict !== 'replica';

/** The end of a flow that is inside. */
const insideOf = (flow: Flow): Buffer => (flow.inbound ? flow.translatedDestination : flow.source);

/**
 * The addresses that have carried most octets, and those with most flows: at most `most` of each, the first first;
 * and how many addresses there are. Goes through the flows twice.
 */
export function topSources(flows: Iterable<Flow>, most: number): { sources: SourceUse[]; total: number } {
  const addresses = new Groups();
  const counts: number[] = [];
  const out: number[] = [];
  const inward: number[] = [];
  for (const flow of flows) {
    if (!isCounted(flow)) continue;
    const { inbound } = flow;
    const number = addresses.numberOf(insideOf(flow));
    counts[number] = (counts[number] ?? 0) + 1;
    out[number] = (out[number] ?? 0) + flow.counter(inbound ? 3 : 1);
    inward[number] = (inward[number] ?? 0) + flow.counter(inbound ? 1 : 3);
  }
  const total = addresses.size;
  const byOctets = greatest(total, most, (number) => out[number]! + inward[number]!);
  const byFlows = greatest(total, most, (number) => counts[number]!);
  const uses = new Map<number, SourceUse>();
  for (const number of [...byOctets, ...byFlows]) {
    const use = { flows: counts[number]!, out: out[number]!, in: inward[number]! };
    uses.set(number, { address: new Uint8Array(), ...use });
  }
  for (const flow of flows) {
    if (!isCounted(flow)) continue;
    const use = uses.get(addresses.numberOf(insideOf(flow)));
    if (use?.address.length === 0) use.address = Uint8Array.from(insideOf(flow));
  }
  return { sources: [...uses.values()], total };
}

/** The numbers from 0 up to `length` with the greatest values, the greatest first. */
const greatest = (length: number, most: number, value: (number: number) => number): number[] =>
  Array.from({ length }, (_, number) => number)
    .sort((a, b) => value(b) - value(a))
    .slice(0, most);
