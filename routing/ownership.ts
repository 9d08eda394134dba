/** What in the kernel's routing is the agent's to change and remove. See docs/ownership.md. Pure. */

import { addressBits } from '../lib/prefix.ts';
import {
  BRIDGE,
  GROUP_RULE_PRIORITY,
  isOurTable,
  LINK_GROUP_VEG_AGENT,
  METRIC_ANNOUNCED,
  METRIC_VEG_AGENT,
  PRIMARY_RULE_PRIORITY,
  RTPROT_VEG_AGENT,
  RULE_PRIORITY,
  TABLE_INTERNAL,
  TABLE_MAIN,
  TABLE_VPN,
  VRF,
  VXLAN,
} from './numbers.ts';
import type { InterfaceAddress, Link, Route, Rule } from './state.ts';

const OWN_PRIORITIES: ReadonlySet<number> = new Set(Object.values(RULE_PRIORITY));
const PROTOCOL_PRIORITIES: ReadonlySet<number> = new Set([
  GROUP_RULE_PRIORITY,
  ...Object.values(PRIMARY_RULE_PRIORITY),
]);

/** Table 1000 wholly, and what carries the agent's protocol number in the other tables. */
export const ownsRoute = (route: Pick<Route, 'table' | 'protocol'>): boolean =>
  route.table === TABLE_INTERNAL || (isOurTable(route.table) && route.protocol === RTPROT_VEG_AGENT);

/** The routes that FRR announces (docs/design/0010-bgp.md). */
export const isAnnouncement = ({
  table,
  protocol,
  metric,
}: Pick<Route, 'table' | 'protocol' | 'metric'>): boolean =>
  metric === METRIC_ANNOUNCED &&
  protocol === RTPROT_VEG_AGENT &&
  (table === TABLE_MAIN || table === TABLE_VPN);

/** Whether the agent's rules of a priority carry its protocol number. */
export const hasProtocol = (priority: number): boolean => PROTOCOL_PRIORITIES.has(priority);

/** Every rule at one of the four priorities, and at 1000, 1005 and 1006 those that carry the agent's protocol number. */
export const ownsRule = ({ priority, protocol }: Pick<Rule, 'priority' | 'protocol'>): boolean =>
  OWN_PRIORITIES.has(priority) || (hasProtocol(priority) && protocol === RTPROT_VEG_AGENT);

/** A host address with the agent's metric. */
export const ownsAddress = ({
  family,
  prefixLength,
  metric,
}: Pick<InterfaceAddress, 'family' | 'prefixLength' | 'metric'>): boolean =>
  metric === METRIC_VEG_AGENT && prefixLength === addressBits(family);

/** A device of EVPN mode that the agent has made. */
export const ownsLink = ({ name, group }: Pick<Link, 'name' | 'group'>): boolean =>
  group === LINK_GROUP_VEG_AGENT && [VRF, BRIDGE, VXLAN].includes(name);

/** The VRF of EVPN mode, whoever has made it. */
export const isVrf = ({ device }: Pick<Link, 'device'>): boolean =>
  device?.kind === 'vrf' && device.table === TABLE_VPN;
