/** The sysctls that a gateway needs, and why. Pure; sysctl.ts sets them. */
import type { Family } from '../../lib/prefix.ts';

/** A sysctl by its path below /proc/sys: an interface name may hold dots, which dotted names confuse. */
export interface Sysctl {
  path: string;
  value: string;
  /** The family that forwards nothing without it; absent: the gateway may work without. */
  required?: Family;
  /** What happens without it, unless its name is enough. */
  otherwise?: string;
}

const SLOW_ANSWERS = 'answers for addresses that are not its own come up to 0.8 s late';

const EVENTS = 'net/netfilter/nf_conntrack_events';

/** What the translation log needs of conntrack. */
const CONNTRACK: readonly Sysctl[] = [
  ['acct', 'flows have no packet and byte counts'],
  ['timestamp', 'flows have no exact start times'],
  ['events', 'the end of flows that began before the log is seen late'],
].map(([name, otherwise]) => ({
  path: `net/netfilter/nf_conntrack_${name}`,
  value: '1',
  otherwise: otherwise!,
}));

/**
 * The sysctls. The kernel takes the larger of `all` and the interface's own rp_filter, so both must be 0: the filter
 * would look up the way back to sources in the VPC in the main table, which leads outside.
 * The kernel's own ICMP errors (fragmentation needed, time exceeded) get the address of the interface that the packet
 * came in by, and rule 1003 sends them back into the VPC, to any source.
 * @param counting whether flows are counted in this pod
 * @param groups the families in which this gateway is a member of a group: the holder sends on what is for another member by the interface that it came in by, and learns of
 * its connections by the events of conntrack
 * @param proxied the families in which it answers ARP and NDP for addresses that are not its own: at once
 */
export function desiredSysctls(
  families: readonly Family[],
  { internal, external }: { internal: string; external: string },
  counting: boolean,
  groups: readonly Family[] = [],
  proxied: readonly Family[] = groups,
): Sysctl[] {
  const settings: Sysctl[] = [];
  if (families.includes(4)) {
    settings.push(
      { path: 'net/ipv4/ip_forward', value: '1', required: 4 },
      { path: 'net/ipv4/conf/all/rp_filter', value: '0' },
      { path: `net/ipv4/conf/${internal}/rp_filter`, value: '0' },
      {
        path: 'net/ipv4/icmp_errors_use_inbound_ifaddr',
        value: '1',
        otherwise:
          'sources that no policy names get no ICMP error for packets that are too big or cannot be delivered',
      },
    );
  }
  if (families.includes(6)) {
    settings.push(
      { path: 'net/ipv6/conf/all/forwarding', value: '1', required: 6 },
      ...[internal, external].map((name) => ({
        path: `net/ipv6/conf/${name}/use_oif_addrs_only`,
        value: '1',
        otherwise: 'packets may leave with an address of another interface while this one has none',
      })),
    );
  }
  if (groups.includes(4)) {
    settings.push(
      ...['all', external].map((name) => ({
        path: `net/ipv4/conf/${name}/send_redirects`,
        value: '0',
        otherwise: 'the gateway redirects hosts outside to other members of the group',
      })),
    );
  }
  if (proxied.includes(4)) {
    settings.push({ path: `net/ipv4/neigh/${external}/proxy_delay`, value: '0', otherwise: SLOW_ANSWERS });
  }
  if (proxied.includes(6)) {
    settings.push(
      {
        // With that of the interface alone the kernel answers no solicitation that is sent to the address itself (ip6_forward).
        path: 'net/ipv6/conf/all/proxy_ndp',
        value: '1',
        otherwise: 'the IPv6 addresses that this gateway answers for get no answer',
      },
      { path: `net/ipv6/neigh/${external}/proxy_delay`, value: '0', otherwise: SLOW_ANSWERS },
    );
  }
  if (counting) settings.push(...CONNTRACK.filter(({ path }) => path !== EVENTS || groups.length === 0));
  if (groups.length > 0) {
    const otherwise = 'the group does not learn of new connections';
    settings.push({ path: EVENTS, value: '1', otherwise });
  }
  return settings;
}

/**
 * The sysctls of EVPN mode, in which the internal interface is in a VRF.
 * @param families those in EVPN mode
 * @param hasVrf whether the VRF is there: before, a kernel without VRFs has none of its sysctls
 */
export function vpnSysctls(families: readonly Family[], internal: string, hasVrf: boolean): Sysctl[] {
  const settings: Sysctl[] = [];
  if (families.includes(6)) {
    settings.push({
      path: `net/ipv6/conf/${internal}/${KEEP_ADDRESSES}`,
      value: '1',
      otherwise: 'the interface loses its IPv6 addresses when it enters or leaves the VRF',
    });
  }
  if (!hasVrf || families.length === 0) return settings;
  const otherwise = 'metrics and probes do not answer on the internal address';
  return [
    ...settings,
    // It is of IPv6 too.
    { path: 'net/ipv4/tcp_l3mdev_accept', value: '1', otherwise },
    ...families.map((family) => ({
      ...{ path: `net/ipv${family}/ip_nonlocal_bind`, value: '1', otherwise },
    })),
  ];
}

const KEEP_ADDRESSES = 'keep_addr_on_down';

/** Whether a sysctl has to be as wanted before an interface changes its VRF, and as long as it is in one. */
export const guardsAddresses = (path: string): boolean => path.endsWith(`/${KEEP_ADDRESSES}`);

/**
 * The values that the agent sets: `sysctl.json` may name no others, or `cleanup` would let everyone who can write that
 * file set what only root may set.
 */
const OWN: readonly { path: RegExp; ours: string; before?: RegExp }[] = [
  { path: /^net\/ipv4\/ip_forward$/, ours: '1' },
  { path: /^net\/ipv4\/icmp_errors_use_inbound_ifaddr$/, ours: '1' },
  { path: /^net\/ipv6\/conf\/(?!\.\.?\/)[^/\s\0]{1,15}\/use_oif_addrs_only$/, ours: '1' },
  { path: /^net\/ipv4\/conf\/(?!\.\.?\/)[^/\s\0]{1,15}\/rp_filter$/, ours: '0' },
  { path: /^net\/ipv4\/conf\/(?!\.\.?\/)[^/\s\0]{1,15}\/send_redirects$/, ours: '0' },
  { path: /^net\/ipv6\/conf\/(?!\.\.?\/)[^/\s\0]{1,15}\/proxy_ndp$/, ours: '1' },
  { path: /^net\/ipv[46]\/neigh\/(?!\.\.?\/)[^/\s\0]{1,15}\/proxy_delay$/, ours: '0', before: /^\d{1,6}$/ },
  { path: /^net\/ipv6\/conf\/all\/forwarding$/, ours: '1' },
  { path: /^net\/ipv4\/tcp_l3mdev_accept$/, ours: '1' },
  { path: /^net\/ipv[46]\/ip_nonlocal_bind$/, ours: '1' },
  { path: /^net\/ipv6\/conf\/(?!\.\.?\/)[^/\s\0]{1,15}\/keep_addr_on_down$/, ours: '1', before: /^-1$|^0$/ },
  { path: /^net\/netfilter\/nf_conntrack_(acct|timestamp|events)$/, ours: '1' },
];

/** Whether the agent can have made this change. */
export const isOwnChange = (path: string, before: string, ours: string): boolean =>
  before !== ours &&
  OWN.some((own) => own.path.test(path) && own.ours === ours && (own.before ?? /^[012]$/).test(before));
