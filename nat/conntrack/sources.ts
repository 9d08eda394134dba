/** Which addresses inside have the most of the flows that live. Pure. */
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

/**
 * The addresses that have carried most octets, and those with most flows: at most `most` of each, the first first;
 * and how many addresses there are.
 */
export function topSources(flows: Iterable<Flow>, most: number): { sources: SourceUse[]; total: number } {
  const all = new Map<number | string, SourceUse>();
  for (const flow of flows) {
    if (flow.verdict === 'local') continue;
    const { inbound } = flow;
    const address = inbound ? flow.translatedDestination : flow.source;
    const key = address.length === 4 ? address.readUInt32BE(0) : address.toString('latin1');
    let use = all.get(key);
    if (use === undefined) {
      use = { address: Uint8Array.from(address), flows: 0, out: 0, in: 0 };
      all.set(key, use);
    }
    use.flows++;
    use.out += flow.counter(inbound ? 3 : 1);
    use.in += flow.counter(inbound ? 1 : 3);
  }
  const uses = [...all.values()];
  const byOctets = uses.toSorted((a, b) => b.out + b.in - (a.out + a.in)).slice(0, most);
  const byFlows = uses.toSorted((a, b) => b.flows - a.flows).slice(0, most);
  return { sources: [...new Set([...byOctets, ...byFlows])], total: uses.length };
}
