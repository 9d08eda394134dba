/** Bandwidth limits as plain values: what they are to do, and what traffic control (tc) looks like. Pure. */
import type { Address, Family } from '../lib/prefix.ts';
import { BANDWIDTH_HANDLE } from '../routing/numbers.ts';

/** As seen from the VPC: `egress` leaves by the external interface, `ingress` by the internal one. */
export type Direction = 'egress' | 'ingress';
export const DIRECTIONS = ['egress', 'ingress'] as const;

/** A limit, of one or both directions. */
export interface Limit {
  /** Unique; the label `policy` of its metrics. */
  name: string;
  /** Bits per second of IP packets. */
  rate: Partial<Record<Direction, number>>;
  /** Bits that may pass at once after a pause; absent: what the rate needs. */
  burst?: number;
  /** Each address inside has the limit by itself. */
  perSource: boolean;
  /**
   * `rest`: what no other limit applies to; without `perSource` all others are parts of it. `mark`: the connections with
   * this policy number in their connection mark. `addresses`: the connections of these external addresses.
   */
  applies: 'rest' | { mark: number } | { addresses: Address[] };
}

/** An interface whose root qdisc delays one direction. */
export interface ShapedDevice {
  direction: Direction;
  name: string;
  /** The interface that the packets come from. */
  from: string;
  /** Octets. */
  mtu: number;
}

export interface ShapingIntent {
  devices: ShapedDevice[];
  families: Family[];
  /** The bits of the connection mark that hold the number of the policy. */
  markMask: number;
  limits: Limit[];
}

/** The queue of a class. fq_codel times are microseconds, limits of bfifo octets. */
export type Leaf =
  | { kind: 'fq_codel'; target: number; interval: number; flows: number }
  | { kind: 'bfifo'; limit: number };

/** Classes of HTB with consecutive minor numbers and the same parameters. */
export interface ClassRange {
  first: number;
  count: number;
  /** Minor number; 0: the qdisc itself. */
  parent: number;
  /** Octets of frames per second: what is guaranteed, and what it may reach. */
  rate: number;
  ceil: number;
  /** Octets at `rate` and `ceil`. */
  burst: number;
  /** Octets of a turn. */
  quantum: number;
  /** Absent: it has classes below it. The first that the kernel has is used. */
  leaves?: [Leaf, Leaf];
}

/** A class as the kernel has it. */
export interface ObservedClass {
  minor: number;
  parent: number;
  rate: number;
  ceil: number;
  /** PSCHED ticks of 64 ns. */
  buffer: number;
  cbuffer: number;
  quantum: number;
  stats: TcStats;
}

/** Counters of a class or qdisc: `bytes` has 64 bits, the others begin at 0 again after 2^32 (`packets` before Linux 5.5). */
export interface TcStats {
  bytes: number;
  packets: number;
  drops: number;
  /** How often it had to wait. */
  overlimits: number;
  /** Octets in the queue. */
  backlog: number;
}

/** A qdisc as the kernel has it. `parent`: TC_H_ROOT, or the class. */
export interface ObservedQdisc {
  dev: string;
  kind: string;
  /** 0: the kernel's default. */
  handle: number;
  parent: number;
  /** Of the kinds of `Leaf`. */
  leaf?: Leaf;
  stats: TcStats;
}

/** Whether a queue is the one for kernels without fq_codel, below a qdisc of the agent. */
export const isShortQueue = ({ kind, parent }: ObservedQdisc): boolean =>
  kind === 'bfifo' && parent >>> 16 === BANDWIDTH_HANDLE;

/** What the kernel has of the table VEG-BANDWIDTH: netlink payloads, to be compared with those that make it. */
export interface ObservedFilter {
  chains: Buffer[];
  rules: Buffer[];
  /** The elements of the maps, by map. */
  elements: Map<string, Buffer[]>;
}

export interface ShapingState {
  qdiscs: ObservedQdisc[];
  /** Of the root qdiscs that are ours, by interface. */
  classes: Map<string, Map<number, ObservedClass>>;
  /** Absent: there is no such table. */
  filter?: ObservedFilter;
}
