/** What in the kernel's routing is the agent's to change and remove. docs/ownership.md says why. Pure. */

import { addressBits } from '../lib/prefix.ts';
import { METRIC_VEG_AGENT, RTPROT_VEG_AGENT, RULE_PRIORITY, TABLE_INTERNAL, TABLE_MAIN } from './numbers.ts';
import type { InterfaceAddress, Route, Rule } from './state.ts';

const OWN_PRIORITIES: ReadonlySet<number> = new Set(Object.values(RULE_PRIORITY));

/** Table 1000 wholly, and what carries the agent's protocol number in the main table. */
export const ownsRoute = (route: Pick<Route, 'table' | 'protocol'>): boolean =>
  route.table === TABLE_INTERNAL || (route.table === TABLE_MAIN && route.protocol === RTPROT_VEG_AGENT);

/** Whatever stands at one of the four priorities. */
export const ownsRule = (rule: Pick<Rule, 'priority'>): boolean => OWN_PRIORITIES.has(rule.priority);

/** A host address with the agent's metric. */
export const ownsAddress = ({
  family,
  prefixLength,
  metric,
}: Pick<InterfaceAddress, 'family' | 'prefixLength' | 'metric'>): boolean =>
  metric === METRIC_VEG_AGENT && prefixLength === addressBits(family);
