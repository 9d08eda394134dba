/**
 * Answers lookups from the live flows and from the store. One at a time, because each holds thousands of flows; other
 * work goes on between the parts of the store.
 */
import { setImmediate as turn } from 'node:timers/promises';
import { type FlowView, viewFlow } from '../../nat/conntrack/flow.ts';
import { type Lookup, matches } from '../../nat/conntrack/lookup.ts';
import type { Flow, FlowTable } from '../../nat/conntrack/table.ts';
import type { EndedFlows } from './ended-flows.ts';
import type { Found } from './translations-messages.ts';

/** The newest live flows of a lookup, a few more than its limit where several began at the same time. */
export function liveMatches(
  table: FlowTable,
  lookup: Lookup,
  now: number,
  policyName: (flow: Flow) => string,
): FlowView[] {
  // Making a view costs more than matching: only the newest get one.
  const starts: number[] = [];
  for (const flow of table) if (matches(flow, lookup, now)) starts.push(flow.start);
  const oldest =
    Float64Array.from(starts)
      .sort()
      .at(-lookup.limit - 1) ?? Number.NEGATIVE_INFINITY;
  const views: FlowView[] = [];
  for (const flow of table) {
    if (flow.start >= oldest && matches(flow, lookup, now)) views.push(viewFlow(flow, policyName(flow)));
  }
  return views;
}

export interface LookupParts {
  table: FlowTable;
  ended: Pick<EndedFlows, 'find' | 'gaps' | 'since'>;
  policyName: (flow: Flow) => string;
  /** Applies the events that are queued in the kernel. */
  drain: () => void;
  /** Unix time in ms. */
  now: () => number;
}

export class FlowLookup {
  readonly #parts: LookupParts;
  #last: Promise<unknown> = Promise.resolve();

  constructor(parts: LookupParts) {
    this.#parts = parts;
  }

  find(lookup: Lookup): Promise<Found> {
    const found = this.#last.then(() => this.#find(lookup));
    // One that fails does not hold up the next.
    this.#last = found.catch(() => {});
    return found;
  }

  async #find(lookup: Lookup): Promise<Found> {
    const { table, ended, policyName, drain, now } = this.#parts;
    const { limit } = lookup;
    drain();
    const flows = liveMatches(table, lookup, now(), policyName);
    const gaps = ended.gaps(lookup);
    for (const part of ended.find({ ...lookup, limit: limit + 1 })) {
      flows.push(...part);
      await turn();
    }
    flows.sort((a, b) => b.start - a.start);
    return { flows: flows.slice(0, limit), more: flows.length > limit, gaps, since: ended.since };
  }
}
