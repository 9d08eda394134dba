/** Steps, routes and rules as the iproute2 command lines that would do the same. Pure. */

import { type Family, hostPrefix, iproute2Text } from '../lib/prefix.ts';
import { defaultMetric } from './desired.ts';
import type { RoutingStep } from './diff.ts';
import type { WantedLink } from './links.ts';
import {
  LINK_GROUP_VEG_AGENT,
  METRIC_VEG_AGENT,
  RTPROT_BOOT,
  RTPROT_VEG_AGENT,
  TABLE_DEFAULT,
  TABLE_LOCAL,
  TABLE_MAIN,
} from './numbers.ts';
import type { Device, Route, Rule } from './state.ts';

const TABLE_NAMES: Readonly<Record<number, string>> = {
  [TABLE_DEFAULT]: 'default',
  [TABLE_MAIN]: 'main',
  [TABLE_LOCAL]: 'local',
};

/** rtm_type (linux/rtnetlink.h); unicast is not printed. */
const ROUTE_TYPES = [
  'unspec',
  '',
  'local',
  'broadcast',
  'anycast',
  'multicast',
  'blackhole',
  'unreachable',
  'prohibit',
  'throw',
  'nat',
];

/** rtm_protocol as iproute2 names it without its tables. */
const PROTOCOL_NAMES: Readonly<Record<number, string>> = { 2: 'kernel', 4: 'static' };

const VERBS = {
  addRoute: 'route add',
  prependRoute: 'route prepend',
  replaceRoute: 'route replace',
  delRoute: 'route del',
  addRule: 'rule add',
  delRule: 'rule del',
  addAddress: 'addr add',
  delAddress: 'addr del',
  addProxy: 'neigh add proxy',
  delProxy: 'neigh del proxy',
  addLink: 'link add',
  setLink: 'link set',
  delLink: 'link del',
} as const;

const command = (family: Family): string => (family === 4 ? 'ip' : 'ip -6');
const words = (...parts: (string | undefined | false)[]): string => parts.filter(Boolean).join(' ');

/** A step as one line: `ip rule add priority 1003 from 10.16.0.12 iif lo lookup 1000`. */
export function renderStep(step: RoutingStep): string {
  const verb = VERBS[step.kind];
  if ('address' in step) {
    const { family, address, dev } = step.address;
    const unchosen = family === 4 ? 'scope link' : 'nodad noprefixroute preferred_lft 0';
    return words(
      command(family),
      verb,
      hostPrefix(address),
      `dev ${dev}`,
      step.kind === 'addAddress' && `metric ${METRIC_VEG_AGENT} ${unchosen}`,
    );
  }
  if ('proxy' in step) {
    const { family, address, dev } = step.proxy;
    return words(
      command(family),
      verb,
      address,
      `dev ${dev}`,
      step.kind === 'addProxy' && `proto ${RTPROT_VEG_AGENT}`,
    );
  }
  if ('link' in step) return words('ip', verb, renderLink(step.link));
  return 'rule' in step
    ? words(command(step.rule.family), verb, renderRule(step.rule))
    : words(command(step.route.family), verb, renderRoute(step.route));
}

/** A device as the arguments of `ip link`. */
const renderLink = ({ name, device, master, mtu, up }: WantedLink): string =>
  words(
    name,
    mtu !== undefined && `mtu ${mtu}`,
    device && `group ${LINK_GROUP_VEG_AGENT}`,
    master !== undefined && `master ${master}`,
    up && 'up',
    device && `type ${renderDevice(device)}`,
  );

function renderDevice(device: Device): string {
  if (device.kind === 'bridge') return device.kind;
  if (device.kind === 'vrf') return `vrf table ${device.table}`;
  const { vni, port, local, learning } = device;
  return words(
    `vxlan id ${vni} dstport ${port}`,
    local !== undefined && `local ${local}`,
    !learning && 'nolearning',
  );
}

/** A rule as the arguments of `ip rule`. What only a foreign rule holds is not spelled out. */
export function renderRule(rule: Rule): string {
  return words(
    `priority ${rule.priority}`,
    rule.from !== undefined && `from ${iproute2Text(rule.from)}`,
    rule.to !== undefined && `to ${iproute2Text(rule.to)}`,
    rule.iif !== undefined && `iif ${rule.iif}`,
    rule.mark !== undefined && `fwmark ${hex(rule.mark.value)}/${hex(rule.mark.mask)}`,
    rule.l3mdev === undefined ? `lookup ${TABLE_NAMES[rule.table] ?? rule.table}` : 'l3mdev',
    rule.l3mdev === 'unreachable' && 'unreachable',
    rule.protocol !== undefined && `protocol ${rule.protocol}`,
    rule.foreign && `# ${rule.qualifier ?? 'inverted or with a suppressor'}`,
  );
}

const hex = (value: number): string => `0x${value.toString(16)}`;

/** A route as the arguments of `ip route`. What only a foreign route holds is not spelled out. */
export function renderRoute(route: Route): string {
  return words(
    ROUTE_TYPES[route.type] ?? `type ${route.type}`,
    iproute2Text(route.destination),
    route.qualifier,
    route.gateway !== undefined && `via ${route.gateway}`,
    route.dev !== undefined && `dev ${route.dev}`,
    route.onlink && 'onlink',
    route.table !== TABLE_MAIN && `table ${TABLE_NAMES[route.table] ?? route.table}`,
    route.protocol !== RTPROT_BOOT && `proto ${PROTOCOL_NAMES[route.protocol] ?? route.protocol}`,
    route.metric !== defaultMetric(route.family) && `metric ${route.metric}`,
    route.foreign && '# several next hops, or encapsulated',
  );
}
