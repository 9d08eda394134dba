/** Which kernel settings a gateway needs, and why. Pure; sysctl.ts sets them. */
import type { Family } from '../../lib/prefix.ts';

/** A setting, by its path below /proc/sys: an interface name may hold dots, which dotted names confuse. */
export interface Sysctl {
  path: string;
  value: string;
  /** The family that forwards nothing without it; absent: it may work all the same. */
  required?: Family;
  /** What is the matter without it, where that is not clear from its name. */
  otherwise?: string;
}

/** What the translation log needs of conntrack. */
const CONNTRACK: readonly Sysctl[] = [
  ['acct', 'flows have no packet and byte counts'],
  ['timestamp', 'flows have no exact start times'],
  ['events', 'the end of flows that began while nobody listened is seen late'],
].map(([name, otherwise]) => ({
  path: `net/netfilter/nf_conntrack_${name}`,
  value: '1',
  otherwise: otherwise!,
}));

/**
 * The settings. The kernel takes the larger of `all` and the interface's own rp_filter, so both must be 0:
 * packets from the VPC have sources whose way back the filter looks for in the main table, outside.
 * The kernel's own ICMP errors (fragmentation needed, time exceeded) get the address of the interface that the
 * packet came in by, which rule 1003 sends back into the VPC, whoever its sender is.
 * @param counting whether flows are counted in this pod
 */
export function desiredSysctls(
  families: readonly Family[],
  { internal, external }: { internal: string; external: string },
  counting: boolean,
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
        otherwise: 'sources that no policy names hear nothing of packets that are too big or go nowhere',
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
  if (counting) settings.push(...CONNTRACK);
  return settings;
}

/**
 * What the settings can have been before, and what the agent makes of them: `sysctl.json` may name no others, or
 * `cleanup` would set for whoever can write that file what only root may set.
 */
const OWN: readonly { path: RegExp; ours: string }[] = [
  { path: /^net\/ipv4\/ip_forward$/, ours: '1' },
  { path: /^net\/ipv4\/icmp_errors_use_inbound_ifaddr$/, ours: '1' },
  { path: /^net\/ipv6\/conf\/(?!\.\.?\/)[^/\s\0]{1,15}\/use_oif_addrs_only$/, ours: '1' },
  { path: /^net\/ipv4\/conf\/(?!\.\.?\/)[^/\s\0]{1,15}\/rp_filter$/, ours: '0' },
  { path: /^net\/ipv6\/conf\/all\/forwarding$/, ours: '1' },
  { path: /^net\/netfilter\/nf_conntrack_(acct|timestamp|events)$/, ours: '1' },
];

/** Whether the agent can have found a setting so, and have set it so. */
export const isOwnChange = (path: string, before: string, ours: string): boolean =>
  /^[012]$/.test(before) && before !== ours && OWN.some((own) => own.path.test(path) && own.ours === ours);
