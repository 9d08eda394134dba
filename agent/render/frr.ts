/**
 * FRR's configuration for a gateway, as one integrated file (`vtysh -f`). Pure.
 *
 * The file does not hold what is announced: FRR redistributes the kernel's routes that the agent has marked
 * (docs/design/0010-bgp.md). So it depends on `spec.bgp` and `spec.evpn` alone, and is written again when the neighbours
 * change. Every command is one of FRR 8.4 as well.
 */
import { FAMILIES, type Family, familyOf } from '../../lib/prefix.ts';
import { METRIC_ANNOUNCED, VRF } from '../../routing/numbers.ts';
import type { BgpNeighbour, BgpPolicy, EvpnPolicy, Policy } from '../policy/model.ts';
import { familyName } from '../policy/resolve.ts';
import { RenderError } from './gateway.ts';

export interface FrrOptions {
  /** The word after `password`; a placeholder where the file is not for the password. */
  passwordOf(neighbour: BgpNeighbour): string | undefined;
  /** Accept a default route from the neighbours; otherwise nothing is. */
  acceptDefault: boolean;
}

/** The prefix of every name in the file. */
const NAME = 'VEG';
/** How long a router keeps the routes while FRR restarts, s: a container is back sooner. */
const RESTART_TIME = 60;

/** Between two attempts to connect, s; FRR's own default is two minutes. */
const CONNECT_TIME = 5;

/** `ip` or `ipv6`, as FRR's commands begin. */
const keyword = (family: Family): string => (family === 4 ? 'ip' : 'ipv6');
const anyOf = (family: Family): string => (family === 4 ? '0.0.0.0/0' : '::/0');

/** The configuration. Throws `RenderError` for a policy without BGP. */
export function renderFrr(
  { name, bgp, evpn }: Pick<Policy, 'name' | 'bgp' | 'evpn'>,
  options: FrrOptions,
): string {
  if (bgp === undefined) throw new RenderError(`${name} has no spec.bgp: there is nothing to configure`);
  return `${[
    `! FRR of gateway ${name}, made by veg-agent render frr.`,
    '! What is announced is in the kernel: the agent changes it, not this file.',
    'frr defaults traditional',
    'log syslog informational',
    ...reachedByRoute(bgp),
    '!',
    ...(evpn
      ? [
          ...[`vrf ${VRF}`, ` vni ${evpn.vni}`, 'exit-vrf', '!'],
          ...vpnFilters(),
          '!',
          ...vpnRouter(bgp, options),
          ...vrfRouter(bgp, evpn),
        ]
      : [...filters(options), '!', ...router(bgp, options)]),
    'end',
  ].join('\n')}\n`;
}

/** A neighbour that is not on the link may be behind the default route. */
const reachedByRoute = ({ localASN, neighbours }: BgpPolicy): string[] =>
  neighbours.some(({ asn, ebgpMultihop }) => asn === localASN || ebgpMultihop > 1)
    ? FAMILIES.map((family) => `${keyword(family)} nht resolve-via-default`)
    : [];

const OWN_ROUTES = `bgp as-path access-list ${NAME}-OWN seq 5 permit ^$`;
/** The kernel's routes that the agent has marked. */
const ANNOUNCED_ROUTES = [
  `route-map ${NAME}-ANNOUNCED permit 10`,
  ` match metric ${METRIC_ANNOUNCED}`,
  ' set metric 0',
  'exit',
];

/** Nothing but marked routes of this gateway goes out; nothing, or a default route, comes in. */
const filters = ({ acceptDefault }: FrrOptions): string[] => [
  OWN_ROUTES,
  ...FAMILIES.flatMap((family) => [
    `${keyword(family)} prefix-list ${NAME}-DEFAULT seq 5 permit ${anyOf(family)}`,
    `${keyword(family)} prefix-list ${NAME}-NOT-DEFAULT seq 5 permit ${anyOf(family)} ge 1`,
  ]),
  ...ANNOUNCED_ROUTES,
  ...FAMILIES.flatMap((family) => [
    `route-map ${NAME}-OUT-${family} permit 10`,
    ` match as-path ${NAME}-OWN`,
    ` match ${keyword(family)} address prefix-list ${NAME}-NOT-DEFAULT`,
    'exit',
    ...(acceptDefault
      ? [
          `route-map ${NAME}-IN-${family} permit 10`,
          ` match ${keyword(family)} address prefix-list ${NAME}-DEFAULT`,
        ]
      : [`route-map ${NAME}-IN-${family} deny 10`]),
    'exit',
  ]),
];

function router(bgp: BgpPolicy, options: FrrOptions): string[] {
  const { neighbours } = bgp;
  return [
    ...sessions(bgp, options),
    ...FAMILIES.flatMap((family) =>
      addressFamily(
        family,
        neighbours.filter(({ address }) => familyOf(address) === family),
      ),
    ),
    'exit',
  ];
}

/** Nothing but routes of this gateway goes out; what comes in has one of the route targets, or is not used. */
const vpnFilters = (): string[] => [
  OWN_ROUTES,
  ...ANNOUNCED_ROUTES,
  ...[`route-map ${NAME}-OUT-EVPN permit 10`, ` match as-path ${NAME}-OWN`, 'exit'],
  ...[`route-map ${NAME}-IN-EVPN permit 10`, 'exit'],
];

/** The sessions carry routes of EVPN only, of both families. */
const vpnRouter = (bgp: BgpPolicy, options: FrrOptions): string[] => [
  ...sessions(bgp, options),
  ' address-family l2vpn evpn',
  ...bgp.neighbours.flatMap(({ address }) =>
    ['activate', `route-map ${NAME}-IN-EVPN in`, `route-map ${NAME}-OUT-EVPN out`].map(
      (command) => `  neighbor ${address} ${command}`,
    ),
  ),
  '  advertise-all-vni',
  ' exit-address-family',
  'exit',
];

/**
 * The routes of the VRF, as EVPN type-5 routes (RFC 9136). FRR makes a route distinguisher of the router's own address, so that a
 * router keeps those of several gateways beside each other.
 */
const vrfRouter = ({ localASN }: BgpPolicy, { routeTargets }: EvpnPolicy): string[] => [
  `router bgp ${localASN} vrf ${VRF}`,
  ' no bgp default ipv4-unicast',
  ...FAMILIES.flatMap((family) => [
    ` address-family ${familyName(family).toLowerCase()} unicast`,
    `  redistribute kernel route-map ${NAME}-ANNOUNCED`,
    ' exit-address-family',
  ]),
  ' address-family l2vpn evpn',
  ...FAMILIES.map((family) => `  advertise ${familyName(family).toLowerCase()} unicast`),
  ...routeTargets.flatMap((target) =>
    ['import', 'export'].map((direction) => `  route-target ${direction} ${target}`),
  ),
  ' exit-address-family',
  'exit',
];

function sessions(bgp: BgpPolicy, options: FrrOptions): string[] {
  const { localASN, routerID, neighbours } = bgp;
  const restarts = neighbours.some(({ gracefulRestart }) => gracefulRestart);
  return [
    `router bgp ${localASN}`,
    ...(routerID === undefined ? [] : [` bgp router-id ${routerID}`]),
    ' bgp log-neighbor-changes',
    ' no bgp default ipv4-unicast',
    // The kernel forwards while FRR is away.
    ...(restarts
      ? [` bgp graceful-restart restart-time ${RESTART_TIME}`, ' bgp graceful-restart preserve-fw-state']
      : []),
    ...neighbours.flatMap((neighbour) => session(neighbour, bgp, options)),
  ];
}

function session(neighbour: BgpNeighbour, { localASN }: BgpPolicy, { passwordOf }: FrrOptions): string[] {
  const { address, asn, holdTime, keepaliveTime, ebgpMultihop, bfd, gracefulRestart } = neighbour;
  const { connectTime = CONNECT_TIME } = neighbour;
  const password = passwordOf(neighbour);
  return [
    `remote-as ${asn}`,
    ...(password === undefined ? [] : [`password ${password}`]),
    `timers ${keepaliveTime} ${holdTime}`,
    `timers connect ${connectTime}`,
    ...(ebgpMultihop > 1 && asn !== localASN ? [`ebgp-multihop ${ebgpMultihop}`] : []),
    ...(bfd ? ['bfd'] : []),
    ...(gracefulRestart ? ['graceful-restart'] : []),
  ].map((command) => ` neighbor ${address} ${command}`);
}

/** A session carries its own family: the next hop is the address that it is from. */
function addressFamily(family: Family, neighbours: readonly BgpNeighbour[]): string[] {
  if (neighbours.length === 0) return [];
  return [
    ` address-family ${familyName(family).toLowerCase()} unicast`,
    `  redistribute kernel route-map ${NAME}-ANNOUNCED`,
    ...neighbours.flatMap(({ address }) =>
      [
        'activate',
        'next-hop-self',
        `route-map ${NAME}-IN-${family} in`,
        `route-map ${NAME}-OUT-${family} out`,
      ].map((command) => `  neighbor ${address} ${command}`),
    ),
    ' exit-address-family',
  ];
}
