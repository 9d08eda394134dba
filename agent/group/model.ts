/**
 * What the parts of a group share: its configuration, its view, flows, and the interface to the kernel. Pure.
 *
 * The families of a gateway are groups of their own: a member is an address, and nothing here mixes the two. What
 * the words promise is in docs/design/0009-group.md.
 */
import type { Address, Family } from '../../lib/prefix.ts';
import type { PortSlice } from './slices.ts';

/** What a member announces about itself. */
export type MemberState =
  /** It takes over the tables of the others; it allocates no ports yet. */
  | 'joining'
  /** It allocates from its slice and has every flow that the others have reported. */
  | 'live'
  /** It still forwards, holds no address, and reports every flow before it is down for OVN. */
  | 'draining'
  /** It forwards nothing more: the others carry its flows. */
  | 'left';

/** One family of `spec.group`, as this member has it. */
export interface GroupConfig {
  family: Family;
  /** Our own address among the members. */
  self: Address;
  /** All members, `self` included, no two with the same slice. */
  members: readonly Address[];
  /** Our address on the external interface, where the others send what comes for our slice. */
  external: Address;
  /** The shared addresses. */
  shared: readonly Address[];
  /** A link of this gateway is down: it can forward nothing, and answers for no address. */
  cutOff?: true;
}

/** TCP as conntrack has it (enum ctattr_protoinfo_tcp). */
export interface TcpInfo {
  /** enum tcp_conntrack. */
  state: number;
  /** Window scale of either direction, and IP_CT_TCP_FLAG_*. */
  originalScale: number;
  replyScale: number;
  originalFlags: number;
  replyFlags: number;
}

/** SCTP as conntrack has it (enum ctattr_protoinfo_sctp). */
export interface SctpInfo {
  /** enum sctp_conntrack. */
  state: number;
  /** Verification tags of either direction: packets with another one are invalid. */
  originalTag: number;
  replyTag: number;
}

/**
 * A flow that is translated to a shared address. Addresses have 4 or 16 octets. Ports as in conntrack's `Tuple`:
 * of ICMP the identifier, in both `sourcePort` and `destinationPort`.
 */
export interface GroupFlow {
  /** IP protocol number. */
  protocol: number;
  source: Uint8Array;
  sourcePort: number;
  destination: Uint8Array;
  destinationPort: number;
  /** The shared address, and the port that was allocated. */
  shared: Uint8Array;
  sharedPort: number;
  icmpType: number;
  icmpCode: number;
  /** The connection's mark. */
  mark: number;
  /** Seconds until the entry expires. */
  timeout: number;
  /** Of TCP, and of SCTP. */
  tcp?: TcpInfo;
  sctp?: SctpInfo;
}

/** What the kernel side reports. Of replicas it reports only `active`, `deleted` and `absent`. */
export type FlowEvent =
  /** A flow of our own was answered, or its state or mark has changed. */
  | { type: 'update'; flow: GroupFlow }
  /** A flow of our own has ended. */
  | { type: 'end'; flow: GroupFlow }
  /** The entry was deleted by another program, or that of a replica has expired. */
  | { type: 'deleted'; flow: GroupFlow }
  /** The replica has no entry: another flow has its place, or the kernel has refused it. */
  | { type: 'absent'; flow: GroupFlow }
  /** Packets of a replica were seen here; at most once in 20 s for each, and when one of them has completed its handshake. */
  | { type: 'active'; flow: GroupFlow }
  /** The kernel has dropped events that were not read in time. */
  | { type: 'overrun' }
  /** The table is read, at the start and whenever events were lost: `update` of every own flow that is there follows. */
  | { type: 'listing' }
  /**
   * It was read to its end: own flows that were not reported since `listing` have ended. `deleted`: another program has
   * deleted entries meanwhile, own flows and replicas.
   */
  | { type: 'listed'; deleted: boolean };

/** What the kernel side carries out. All of it is idempotent. */
export type FlowChange =
  /**
   * Insert the entry as a replica, or change the one that is there. It is kept alive until `remove` or `adopt`. `again`: it
   * was deleted by another program, and replaces a flow that packets have begun since. `ifFree`: it was `absent`, and
   * replaces nothing.
   */
  | { type: 'insert'; flow: GroupFlow; again?: true; ifFree?: true }
  /** Delete the replica. */
  | { type: 'remove'; flow: GroupFlow }
  /** The replica is a flow of our own from now on: let it expire, and report `update` and `end` of it. */
  | { type: 'adopt'; flow: GroupFlow }
  /** A flow of our own is a replica from now on. */
  | { type: 'release'; flow: GroupFlow }
  /** Insert the entry of a flow of our own again, which another program has deleted. */
  | { type: 'restore'; flow: GroupFlow }
  /**
   * Another member sees packets of this flow of our own: start its timeout again, and complete its handshake if it is under way
   * here; that is reported as `update`.
   */
  | { type: 'refresh'; flow: GroupFlow };

/** conntrack, as the exchange needs it; it runs in the exchange's thread. */
export interface FlowKernel {
  /**
   * Starts reporting: `listing`, every own flow that is there, `listed`. Replicas that a former process has left are
   * neither reported nor deleted before `settle`.
   */
  start(report: (events: readonly FlowEvent[]) => void): void;
  /**
   * What becomes of replicas that a former process has left and that were not inserted again: those with a port in one
   * of these slices have ended, and are deleted; all others are own flows from now on, and are reported.
   */
  settle(slots: readonly number[]): void;
  /** Other shared addresses: own flows of those that are not among them any more have ended. */
  configure(shared: readonly Address[]): void;
  /**
   * Carries out changes, in order, before it returns. Returns how many the kernel refused, by reason; a refused `ifFree`
   * was counted before.
   */
  apply(changes: readonly FlowChange[]): Record<string, number>;
  close(): void;
}

/** What is known of another member. */
export interface PeerView {
  member: Address;
  slice: PortSlice;
  /** BFD with it is Up. */
  path: boolean;
  /** The exchange with it is established. */
  exchange: boolean;
  /** Its last announcement; absent: none since it was unreachable. */
  state?: MemberState;
  /** Its address on the external side. */
  external?: Address;
  /** The value of `veg_group_member_state`. */
  reachability: 'unreachable' | 'joining' | 'live';
  /** Replicas that are held for it. */
  replicas: number;
  /** Its table was taken over, and the last comparison found no difference. */
  inSync: boolean;
}

/** Who answers for a shared address. */
export interface HolderView {
  address: Address;
  /** Absent: no known member. */
  holder?: Address;
}

/**
 * The state of one family's group, as `status` shows it and as the kernel is to be: a member's desired state
 * follows from this and `GroupConfig` alone.
 */
export interface GroupView {
  family: Family;
  self: Address;
  state: MemberState;
  /** Our own slice: the only one that SNAT may allocate from, and only while `state` is live or draining. */
  slice: PortSlice;
  peers: readonly PeerView[];
  holders: readonly HolderView[];
  /** Shared addresses to answer ARP and NDP for. */
  held: readonly Address[];
  /** Slices whose packets go on to another member, statelessly; those of all others are taken here. */
  forward: readonly { slice: PortSlice; via: Address }[];
  /** May OVN send traffic: the tables of the others were taken over. */
  ready: boolean;
  /** Own flows, and replicas of all others. */
  flows: number;
  replicas: number;
  /** What keeps this member from connections with others, until it is remedied here. */
  problem?: string;
}

/** The part of a view that the plan follows from: it changes only when the kernel has to. */
export type GroupFacts = Pick<GroupView, 'self' | 'state' | 'slice' | 'forward' | 'held' | 'ready'> & {
  /** The members whose flows are not all here yet. */
  takingOverFrom: Address[];
  /** The members that BFD reaches and the exchange does not, while this one is not ready. */
  notConnectedWith: Address[];
};

/** What the plan needs of a view. */
export function groupFacts({ self, state, slice, forward, held, ready, peers }: GroupView): GroupFacts {
  const those = (isMeant: (peer: PeerView) => boolean): Address[] =>
    ready ? [] : peers.filter(isMeant).map(({ member }) => member);
  return {
    ...{ self, state, slice, forward, held, ready },
    takingOverFrom: those(({ exchange, inSync }) => exchange && !inSync),
    notConnectedWith: those(({ path, exchange }) => path && !exchange),
  };
}

/** What the exchange reports to the agent. */
export type GroupReport =
  | { type: 'view'; view: GroupView }
  /** Announce the address (gratuitous ARP, unsolicited NA) although it was held before: another member held it too. */
  | { type: 'announce'; family: Family; address: Address }
  /** The drain's handover is over; `complete`: every connected member has every flow. */
  | { type: 'handed-over'; family: Family; complete: boolean };
