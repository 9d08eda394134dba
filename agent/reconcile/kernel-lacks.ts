/**
 * What the kernel lacks for the policy at hand, by what it has refused: which modules, which part of the policy goes without,
 * and what to do. Nothing is probed: a kernel that has all of it is asked nothing. Pure.
 */
import { COUNTER_TABLE } from '../../nat/counters/table.ts';
import { FAST_PATH_TABLE } from '../../nat/fast-path/table.ts';
import { CHAIN_GROUP_ICMP, CHAIN_LIMIT, CHAIN_MSS } from '../../nat/rules.ts';
import { BRIDGE, CHAIN_NOTRACK, MAX_FORWARD_RULES, VRF, VXLAN } from '../../routing/numbers.ts';
import type { FailedKind, Failure } from './failures.ts';

/** A line of the log. */
export interface Lack {
  /** The modules. */
  lacks: string;
  /** The part of the policy that is not in force. */
  without: string;
  action: string;
}

type Need = [modules: string, without: string];

const POLICY = 'the newest policy as a whole';
const TRANSLATION: Need = [
  'nf_nat, xt_MASQUERADE, xt_mark, xt_conntrack, with nft_compat (nf_tables) or iptable_nat, iptable_mangle and iptable_raw (legacy; ip6table_… for IPv6)',
  POLICY,
];
const BANDWIDTH = 'bandwidth; the rest is in force';

/** What an object needs, by its name, then by its kind. */
const BY_NAME: Readonly<Record<string, Need>> = {
  [CHAIN_MSS]: ['xt_TCPMSS', 'mssClamp; the rest is in force'],
  [CHAIN_LIMIT]: ['xt_connlimit', 'limits.connectionsPerSource; the rest is in force'],
  [CHAIN_NOTRACK]: ['xt_CT, xt_addrtype', 'BFD past connection tracking; the rest is in force'],
  [CHAIN_GROUP_ICMP]: ['xt_u32', 'ICMP errors for other members of the group; the rest is in force'],
  [COUNTER_TABLE.name]: ['nf_tables, nft_ct', 'counters of policies; the rest is in force'],
  [FAST_PATH_TABLE]: [
    'nf_flow_table, nf_flow_table_inet, nft_flow_offload',
    'fastPath; the rest is in force',
  ],
  [VRF]: ['vrf', `evpn, and so ${POLICY}`],
  [BRIDGE]: ['bridge', `evpn, and so ${POLICY}`],
  [VXLAN]: ['vxlan', `evpn, and so ${POLICY}`],
};
const BY_KIND: Partial<Record<FailedKind, Need>> = {
  chain: TRANSLATION,
  table: TRANSLATION,
  listing: TRANSLATION,
  set: [
    'ip_set, ip_set_hash_net, xt_set',
    `more than ${MAX_FORWARD_RULES} forwarded blocks or policies with sets, and so ${POLICY}`,
  ],
  port_blocks: ['nf_tables, nft_nat, nft_chain_nat', `portBlockSize or shared addresses, and so ${POLICY}`],
  qdisc: ['sch_htb', BANDWIDTH],
  class: ['sch_htb', BANDWIDTH],
  classifier: ['nf_tables', BANDWIDTH],
};

/** What the refusals come to, each once. */
export function kernelLacks(failures: readonly Pick<Failure, 'object' | 'name' | 'reason'>[]): Lack[] {
  const found = new Map<string, Lack>();
  for (const { object, name, reason } of failures) {
    const need = BY_NAME[name] ?? BY_KIND[object];
    if (reason !== 'unsupported' || need === undefined) continue;
    const [lacks, without] = need;
    const action =
      'load the modules on the node (modprobe), or run the gateway on a node whose kernel has them';
    found.set(`${lacks} ${without}`, { lacks, without, action });
  }
  return [...found.values()];
}
