/**
 * The one internal policy model. Every kind of document is translated into it (one file a system), and
 * everything behind it (plan, status) knows nothing of where it came from. Pure.
 */

import type { AuthTypeName } from '../../bfd/intent.ts';
import type { Address, Prefix } from '../../lib/prefix.ts';
import type { LogRules } from '../../nat/conntrack/records.ts';
import type { DefaultAction } from '../../nat/egress.ts';
import type { Dnat, Eip } from '../../nat/inbound.ts';
import type { CredentialFiles } from '../group/credentials.ts';
import type { Path } from './parse.ts';
import type { Cuts } from './sieve.ts';

/** One side of the gateway. */
export interface Side {
  /** The interface by name; absent: found from the facts of the pod. */
  interface?: string;
  /** The next hop on that side, at most one a family. A family without one is not programmed. */
  gateways: Address[];
  /** The Ethernet addresses that the external gateways may answer from, in lower case; absent: any. */
  gatewayMacs?: string[];
}

export interface BfdPolicy {
  enabled: boolean;
  /** Peer addresses, either family; empty when BFD is disabled. */
  peers: Address[];
  /** Desired Min TX Interval, milliseconds, 1..3600000. */
  minTX: number;
  /** Required Min RX Interval, milliseconds, 1..3600000. */
  minRX: number;
  /** Detect Mult, 1..255. */
  multiplier: number;
  mode: 'passive' | 'active';
  /** The smallest TTL or Hop Limit accepted, 1..255. */
  minTTL: number;
  adoptDiscriminator: boolean;
  /** Packets of a peer behind the internal gateway are taken from every Ethernet address. */
  anySource: boolean;
  auth?: { type: AuthTypeName; keyID: number; keyFile: string };
}

/** A limit of what passes. Absent directions have none. */
export interface Bandwidth {
  /** Towards the outside, and towards the VPC: bits of IP packets per second. */
  egress?: number;
  ingress?: number;
  /** Bits that may pass at once after a pause; absent: what the rate needs. */
  burst?: number;
  /** Each address inside has the limit by itself. */
  perSource?: boolean;
}

/** What happens to packets of some sources. */
export interface EgressRule {
  /** The name in metrics and messages, unique in the policy. */
  name: string;
  /** True: the source is translated. False: the block is forwarded unchanged in both directions. */
  snat: boolean;
  /** Sources; empty means any. A rule that forwards any source spells that out, as `0.0.0.0/0` and `::/0`. */
  ipBlocks: Prefix[];
  /** Destinations; absent: any. */
  destinationCIDRs?: Prefix[];
  /** Destinations to which the rule does not apply; absent: none. */
  excludedCIDRs?: Prefix[];
  /** Of two rules that match the lower one decides, then the order; absent: 1000. */
  priority?: number;
  /** The addresses that sources get; absent: that of the external interface. */
  egressIP?: EgressIP;
  /** Ports for each source in a deterministic block of its own; absent: no blocks. */
  portBlockSize?: number;
  bandwidth?: Bandwidth;
}

/** Addresses that translated sources get. */
export interface EgressIP {
  /** At least one, of either family. */
  addresses: Address[];
  announce: Announce;
  /** The pod or node that holds them; absent: this one; empty: none at present. */
  owner?: string;
  /** They are the group's: its members translate to them at the same time, and one of them answers for each. */
  shared?: true;
}

/**
 * How the network learns of egress addresses. `arp`: the gateway holds them on its external link (ARP, NDP). `bgp`: it
 * announces them to its BGP neighbours. True: both where they apply. False: the network routes them here by itself.
 */
export type Announce = 'arp' | 'bgp' | boolean;

/** What may be announced to BGP neighbours. */
export const ANNOUNCED = ['egressIPs', 'eips', 'dnats', 'forwarded'] as const;
export type Announced = (typeof ANNOUNCED)[number];

/** What the routers outside learn by BGP, and from which sessions (docs/design/0010-bgp.md). FRR runs them. */
export interface BgpPolicy {
  /** 1..4294967295. */
  localASN: number;
  /** IPv4; absent: FRR finds one. */
  routerID?: Address;
  /** At least one. */
  neighbours: BgpNeighbour[];
  announce: Announced[];
  /** Not ready without an established session. */
  required: boolean;
}

export interface BgpNeighbour {
  address: Address;
  /** 1..4294967295. */
  asn: number;
  /** RFC 2385. A file of one line, or the password itself (Kube-OVN's `BgpConf`). */
  password?: { file: string } | { text: string };
  /** Seconds, 0 or 3..65535. */
  holdTime: number;
  /** Seconds, at most a third of the hold time. */
  keepaliveTime: number;
  /** Seconds between attempts to connect, 1..65535; absent: 5. */
  connectTime?: number;
  /** Hops to the neighbour, 1..255. */
  ebgpMultihop: number;
  bfd: boolean;
  gracefulRestart: boolean;
}

/**
 * EVPN mode, as Kube-OVN has it: what comes from the VPC reaches other sites through a VXLAN tunnel, untranslated, by the
 * routes that FRR exchanges with the neighbours (docs/bgp.md#evpn).
 */
export interface EvpnPolicy {
  /** The VXLAN network identifier, 1..16777215. */
  vni: number;
  /** `65000:1016`: which routes are imported and exported. Empty: the policy does not configure FRR. */
  routeTargets: string[];
}

/** The gateways that share addresses (docs/design/0009-group.md). */
export interface GroupPolicy {
  /** The internal addresses of all members, of either family. */
  members: Address[];
  /** TCP, on the internal address. */
  port: number;
  credentials: CredentialFiles;
  /** BFD between members: milliseconds, 1..60000, and Detect Mult, 1..255. */
  minTX: number;
  minRX: number;
  multiplier: number;
}

export interface Limits {
  /** Connections that each source inside may have at once; 0: any number. */
  connectionsPerSource: number;
}

/** Which destinations accept connections from outside: forwarded blocks, EIPs and DNATs, or everything inside. */
export type InboundAccess = 'forwarded' | 'any';

/** What belongs to a pod or node; absent: to every one that reads the policy. */
export interface Owned {
  /** An address that is used in several places belongs to the owner that one of them names. */
  owner?: string;
}

/** What must work outside for BFD to be Up. */
export interface UplinkPolicy {
  /** How the external gateways are probed. */
  probe: 'arp' | 'icmp' | 'none';
  /** Between two probes, milliseconds, 10..60000. */
  interval: number;
  /** So many lost probes in a row make the uplink down, 1..100. */
  failures: number;
  /** Further addresses to probe with ICMP; of those of a family one must answer. */
  targets: Address[];
  /** How long all must work after a failure before BFD comes back, milliseconds, 0..600000. */
  recovery: number;
}

/** What a policy without `uplink` asks for. */
export const DEFAULT_UPLINK: UplinkPolicy = {
  probe: 'arp',
  interval: 200,
  failures: 3,
  targets: [],
  recovery: 1000,
};

/** Where a thing in the policy was written, for messages. */
export interface Origin {
  file: string;
  kind: string;
  name: string;
}

/** A warning about a valid policy: something that the author might not have meant. */
export interface PolicyWarning {
  message: string;
  /** What it is about, until the policy is complete. */
  about?: About;
  /** Where that is written; of a policy that was loaded with places. */
  place?: FilePlace;
}

/** A field of a document. */
export interface About {
  /** Absent: that of the gateway. */
  document?: { place(path: Path): FilePlace };
  /** The name of one of the policies, which `path` begins at. */
  policy?: string;
  path: Path;
}

export interface Policy {
  /** `namespace/name` of the gateway. */
  name: string;
  origin: Origin;
  internal: Side;
  external: Side;
  bfd: BfdPolicy;
  /** In the order of the documents. */
  rules: EgressRule[];
  /** What happens to packets from the VPC that no rule matches; absent: masquerade. */
  defaultAction?: DefaultAction;
  eips?: (Eip & Owned)[];
  dnats?: (Dnat & Owned)[];
  /** The limits of external addresses, each for its connections in both directions of their beginning. */
  addressLimits?: { name: string; addresses: Address[]; bandwidth: Bandwidth }[];
  /** Of the whole gateway. */
  bandwidth?: Bandwidth;
  /** Absent: forwarded. */
  inbound?: InboundAccess;
  limits?: Limits;
  /** Clamp the MSS of TCP to the path MTU. */
  mssClamp?: boolean;
  /** Established connections pass a flowtable (docs/design/0013). With `translationLog`. */
  fastPath?: true;
  /** Absent: `DEFAULT_UPLINK`. */
  uplink?: UplinkPolicy;
  /** Absent: this gateway is no member of a group. */
  group?: GroupPolicy;
  /** Absent: nothing is announced by BGP. */
  bgp?: BgpPolicy;
  /** With `forwardOnly`. Absent: no EVPN. */
  evpn?: EvpnPolicy;
  /** Absent: nothing is recorded. */
  translationLog?: LogRules;
  /** Kube-OVN's modes BGP and EVPN: forwarding is on and BFD is answered; nothing is translated, and FRR routes. */
  forwardOnly?: boolean;
  warnings: PolicyWarning[];
}

/** A place in a policy file. */
export interface FilePlace {
  file: string;
  /** 1-based; 0 when the whole file is meant. */
  line: number;
  /** 1-based; 0 when the whole line is meant. */
  col: number;
}

/** One thing wrong with the policy files. Printed as `file:line:col: field.path: message`. */
export interface PolicyError extends FilePlace {
  /** `spec.policies[0].ipBlocks[1]`; empty for the whole document. */
  path: string;
  message: string;
}

/** One file of the policy directory, as read. */
export interface PolicyFile {
  /** The name to show: relative to the policy directory. */
  name: string;
  text: string;
  /** In octets, when the file was too large to be read; `text` is then empty. */
  size?: number;
  /** Why it was not read: `is a FIFO, not a regular file`. */
  problem?: string;
  /** It is in the directory, and its name is not one of those that are read; `text` is then empty. */
  ignored?: true;
  /** Where unused fields were skipped in `text` (sieve.ts); absent: the text is complete. */
  cuts?: Cuts;
}

export type PolicyResult = { ok: true; policy: Policy } | { ok: false; errors: PolicyError[] };
