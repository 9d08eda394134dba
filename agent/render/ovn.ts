/**
 * OVN's side of a gateway, as Kube-OVN's controller makes it: a script of `ovn-nbctl` commands. Pure.
 *
 * It may be run again after every change. Sessions that stay are changed in place, and the policies in one
 * transaction, so that no packet meets OVN in between.
 */
import { type Address, FAMILIES, type Family, familyOf } from '../../lib/prefix.ts';
import { type Gateway, RenderError } from './gateway.ts';

/** Priorities of Kube-OVN's policies on a VPC's router. */
const REROUTE = 29_100;
const DROP = 29_090;

/** A word of a shell command. */
const word = (text: string): string =>
  /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
/** A string as OVSDB reads it. */
const atom = (text: string): string => JSON.stringify(text);

/** The script. `hash` gives the hexadecimal SHA-256 of a text. Throws `RenderError`. */
export function renderOvn(gateway: Gateway, hash: (text: string) => string): string {
  const key = `${gateway.namespace}/${gateway.name}`;
  const name = `VEG.${hash(key).slice(0, 12)}`;
  const { enabled } = gateway.policy.bfd;
  const condition = enabled ? ', as long as BFD says that they live' : '';
  const lines = [
    '#!/bin/sh',
    `# VpcEgressGateway ${key} in OVN: traffic of its sources goes to its gateways${condition}.`,
    '# Run it again after a change. NBCTL: how ovn-nbctl is called, such as `kubectl ko nbctl`.',
    'set -eu',
    `nbctl() { \${NBCTL:-ovn-nbctl} "$@"; }`,
    `gateway=${word(key)}`,
    `router=${word(gateway.vpc)}`,
    `port=${word(`bfd@${gateway.vpc}`)}`,
    '',
    '# The ids of the rows of a table that are of this gateway.',
    'rows() { nbctl --bare --columns=_uuid find "$1" external_ids:vpc-egress-gateway="\\"$gateway\\"" "$2"; }',
  ];
  if (enabled) lines.push('', ...sessionFunction(gateway));
  const hops: Address[] = [];
  for (const family of FAMILIES) {
    const nextHops = gateway.families.includes(family) ? nextHopsOf(gateway, family) : [];
    hops.push(...nextHops);
    lines.push('', ...familyCommands(gateway, family, `${name}.ipv${family}`, nextHops));
  }
  lines.push('', ...staleSessions(enabled ? hops : []));
  return `${lines.join('\n')}\n`;
}

/** The addresses of the gateways, which are where OVN sends packets to. */
function nextHopsOf(gateway: Gateway, family: Family): Address[] {
  return Array.from({ length: gateway.replicas }, (_, replica) => {
    const address = gateway.internalIPs[replica]?.find((candidate) => familyOf(candidate) === family);
    if (address !== undefined) return address;
    throw new RenderError(
      `spec.internalIPs must have an IPv${family} address for each of the ${gateway.replicas} replicas: they are OVN's next hops`,
    );
  });
}

/** OVN's minimum intervals are ours from the other end. */
function sessionFunction({ policy: { bfd } }: Gateway): string[] {
  return [
    '# Makes the session with an address, or changes it in place; prints its id.',
    'session() {',
    `  timers='min_tx=${bfd.minRX} min_rx=${bfd.minTX} detect_mult=${bfd.multiplier}'`,
    '  row=$(nbctl --bare --columns=_uuid find BFD logical_port="$port" dst_ip="\\"$1\\"")',
    '  if [ -n "$row" ]; then',
    '    nbctl set BFD "$row" $timers',
    '  else',
    '    row=$(nbctl create BFD logical_port="$port" dst_ip="\\"$1\\"" $timers \\',
    '      external_ids:vendor=veg-agent external_ids:vpc-egress-gateway="\\"$gateway\\"")',
    '  fi',
    '  echo "$row"',
    '}',
  ];
}

/** One transaction: the address set and the policies of a family, in place of those that were there. */
function familyCommands(gateway: Gateway, family: Family, set: string, nextHops: Address[]): string[] {
  const { enabled, peers } = gateway.policy.bfd;
  const used = gateway.families.includes(family);
  const watched = enabled && peers.some((peer) => familyOf(peer) === family) && nextHops.length > 0;
  const match = word(atom(`ip${family}.src == $${set}`));
  const ids = `external_ids:vendor=veg-agent external_ids:vpc-egress-gateway="\\"$gateway\\"" external_ids:af=${family}`;
  const steps = [[`-- --if-exists destroy Address_Set ${set}`]];
  if (used) {
    const addresses = word(JSON.stringify(gateway.sources[family]));
    steps.push([`-- create Address_Set name=${set} addresses=${addresses}`, `   ${ids}`]);
  }
  const policy = (id: string, priority: number, rest: string) =>
    steps.push([
      `-- --id=@${id} create Logical_Router_Policy priority=${priority} match=${match} ${rest}`,
      `   ${ids}`,
      `-- add Logical_Router "$router" policies @${id}`,
    ]);
  if (nextHops.length > 0) {
    const sessions = watched ? ' bfd_sessions="[$sessions]"' : '';
    policy('reroute', REROUTE, `action=reroute nexthops=${word(JSON.stringify(nextHops))}${sessions}`);
  }
  // Rather no traffic than traffic that leaves another way.
  if (used && enabled) policy('drop', DROP, 'action=drop');
  const collect = `for address in ${nextHops.map(word).join(' ')}; do`;
  return [
    `# IPv${family}`,
    ...(watched
      ? ["sessions=''", `${collect} sessions=$sessions\${sessions:+,}$(session "$address"); done`]
      : []),
    'set --',
    `for row in $(rows Logical_Router_Policy external_ids:af=${family}); do`,
    '  set -- "$@" -- remove Logical_Router "$router" policies "$row"',
    'done',
    ['nbctl "$@"', ...steps.flat().map((step) => `  ${step}`)].join(' \\\n'),
  ];
}

/** Takes away the sessions with other addresses than these. */
const staleSessions = (hops: Address[]): string[] => [
  '# Sessions with gateways that are no more.',
  'for row in $(rows BFD external_ids:vendor=veg-agent); do',
  '  case $(nbctl --bare --columns=dst_ip list BFD "$row") in',
  ...(hops.length > 0 ? [`    ${hops.map(word).join(' | ')}) ;;`] : []),
  '    *) nbctl destroy BFD "$row" ;;',
  '  esac',
  'done',
];
