/** Which kernel settings a gateway needs, and why. Pure; sysctl.ts sets them. */
import type { Family } from '../routing/prefix.ts';

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
 * @param counting whether flows are counted in this pod
 */
export function desiredSysctls(
  families: readonly Family[],
  internalInterface: string,
  counting: boolean,
): Sysctl[] {
  const settings: Sysctl[] = [];
  if (families.includes(4)) {
    settings.push(
      { path: 'net/ipv4/ip_forward', value: '1', required: 4 },
      { path: 'net/ipv4/conf/all/rp_filter', value: '0' },
      { path: `net/ipv4/conf/${internalInterface}/rp_filter`, value: '0' },
    );
  }
  if (families.includes(6)) {
    settings.push({ path: 'net/ipv6/conf/all/forwarding', value: '1', required: 6 });
  }
  if (counting) settings.push(...CONNTRACK);
  return settings;
}
