/**
 * The registry of numbers and names that the agent puts into a network namespace, each with its reason.
 * Nothing else in the source spells one of them out. `docs/ownership.md` shows the same list to operators. Pure.
 */

/**
 * `ip rule` priorities, the ones that Kube-OVN's gateway pods have always used. They lie behind `local` (0)
 * and far before `main` (32766), so that they decide for every packet that is not for the pod itself.
 */
export const RULE_PRIORITY = {
  /** Packets from the VPC: the default table, which is empty and falls through to main. */
  fromInternal: 1001,
  /** Packets (replies) from outside: back into the VPC. */
  fromExternal: 1002,
  /** The pod's own packets from its internal address (BFD among them): into the VPC. */
  ownInternal: 1003,
  /** The pod's own packets from its external address: outside. */
  ownExternal: 1004,
} as const;

/**
 * Priorities of a pod whose primary network is neither side (Kube-OVN as a secondary CNI). A rule of these is ours only
 * with our protocol number: upstream has none there, and others may.
 */
export const PRIMARY_RULE_PRIORITY = {
  /** The pod's own packets from its primary address (answers to the kubelet and Prometheus): where they came from. */
  ownPrimary: 1005,
  /** The pod's own packets to the API server and the name servers: through the primary network. */
  services: 1006,
} as const;

/** Packets for another member of the group, by the mark of its slice: a table that leads to that member. */
export const GROUP_RULE_PRIORITY = 1000;

/** The routing table that leads into the VPC. Kube-OVN's number. */
export const TABLE_INTERNAL = 1000;

/** The routing table of the pod's primary network, in pods where rule 1005 is. Routes of our protocol in it are ours. */
export const TABLE_PRIMARY = 1001;

/**
 * In EVPN mode (docs/bgp.md#evpn) the internal interface is in a VRF, and these rules take the place of those above. The
 * kernel adds one like the first at priority 1000 with the first VRF of a namespace, which others may remove.
 */
export const VPN_RULE_PRIORITY = {
  /** Packets of the VRF: its own table. */
  inside: 1001,
  /** What that table has no route for: nowhere, instead of outside by the main table. */
  nowhere: 1002,
} as const;

/** The routing table of the VRF. Kube-OVN's number. */
export const TABLE_VPN = 2000;

/** The devices of EVPN mode. Kube-OVN's names. */
export const VRF = 'vrf-vpn';
export const BRIDGE = 'br-vpn';
export const VXLAN = 'vxlan-vpn';

/** The UDP port of VXLAN (RFC 7348). */
export const VXLAN_PORT = 4789;

/** The group (IFLA_GROUP, `ip link show group 178`) of the devices that the agent makes: those are the agent's to remove. */
export const LINK_GROUP_VEG_AGENT = 178;

/** The tables that lead to members of the group, by the number of their slices (0 to 15). */
export const GROUP_TABLES: readonly number[] = Array.from({ length: 16 }, (_, slot) => 1010 + slot);

/**
 * The netlink port of the socket that deletes flows which contradict the policy: their events carry it, so that a group
 * knows them from those that another program has deleted. Above all process ids, and below what the kernel gives.
 */
export const FLOW_CLEANER_PORT = 0x7665_6761;

/** The kernel's tables (linux/rtnetlink.h, enum rt_class_t). */
export const TABLE_DEFAULT = 253;
export const TABLE_MAIN = 254;
export const TABLE_LOCAL = 255;

/** The tables that hold routes of the agent, besides those of a group and of a VRF. */
export const TABLES: readonly number[] = [TABLE_MAIN, TABLE_INTERNAL, TABLE_PRIMARY];

/** Whether a table may hold routes of the agent. */
export const isOurTable = (table: number): boolean =>
  TABLES.includes(table) || GROUP_TABLES.includes(table) || table === TABLE_VPN;

/**
 * The protocol of routes that the agent adds to the main table and to table 1001, and of rules 1005 and 1006: what
 * carries it there is the agent's to remove.
 * 178 is unassigned in linux/rtnetlink.h and in iproute2's rt_protos (kernel, boot, static; 8–18 and 42
 * routing daemons; 84 OVN; 99 openr; 186–192 FRR).
 */
export const RTPROT_VEG_AGENT = 178;

/**
 * The metric of the routes of the main table that FRR announces: its route map matches this number, and nothing else that
 * tells routes of the kernel apart exists in every version. Below the metric of an IPv6 route that names none, so that ours
 * is the one that FRR looks at.
 */
export const METRIC_ANNOUNCED = 178;

/**
 * The metric (IFA_RT_PRIORITY) of addresses that the agent adds: a /32 or /128 that carries it is the agent's to
 * remove. The number of its routes; unlike IFA_PROTO (5.18) every kernel since 4.18 keeps it.
 */
export const METRIC_VEG_AGENT = 178;

/** Kernel route protocols (linux/rtnetlink.h). Table 1000 is all ours and has `boot`, as upstream's. */
export const RTPROT_KERNEL = 2;
export const RTPROT_BOOT = 3;

/** The mark and mask that upstream puts on packets from the VPC. */
export const MARK = 0x4000;
export const MARK_MASK = 0x4000;

/** The mark of packets for another member's slice, and its mask; the number of the slice is in bits 16 to 19. */
export const GROUP_MARK = 0x0020_0000;
export const GROUP_MARK_MASK = 0x002f_0000;
export const groupMark = (slot: number): number => GROUP_MARK | (slot << 16);

/** The nat chain that translates. Upstream's name. */
export const CHAIN_MASQUERADE = 'VEG-MASQUERADE';

/** The raw chain that keeps BFD out of connection tracking. */
export const CHAIN_NOTRACK = 'VEG-NOTRACK';

/** Every chain and set with this prefix is the agent's. */
export const OWNED_NAME_PREFIX = 'VEG-';

/** The set of sources and destinations that are forwarded unchanged, by family. */
export const FORWARD_SET = { 4: 'VEG-FORWARD-4', 6: 'VEG-FORWARD-6' } as const;

/** The set of external addresses that are on no interface, by family. */
export const NOWHERE_SET = { 4: 'VEG-NOWHERE-4', 6: 'VEG-NOWHERE-6' } as const;

/** Up to this number of forwarded blocks are RETURN rules, as upstream's are; more are a set. */
export const MAX_FORWARD_RULES = 32;

/**
 * The major number of the root qdiscs that limit bandwidth, 178: as `tc` prints it. A root qdisc with it is the agent's,
 * and so are the classes and qdiscs below.
 */
export const BANDWIDTH_HANDLE = 0x178;

/** BFD control packets: single hop (RFC 5881 4) and multihop (RFC 5883 5). */
export const BFD_PORTS = [3784, 4784] as const;
