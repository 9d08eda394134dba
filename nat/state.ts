/** What the kernel's packet filter looks like, as plain values. Read by `kernel.ts`, compared by `diff.ts`. Pure. */
import type { Family, Prefix } from '../lib/prefix.ts';
import type { GateTable } from './gate.ts';
import type { PortBlock, PortBlocks } from './port-blocks.ts';

/** One rule of a chain. */
export interface Rule {
  /** The rule as `iptables -S` prints it, without `-A CHAIN`: equal rules have equal text. */
  text: string;
  /** Counters; 0 in a desired state. */
  packets: number;
  bytes: number;
}

export interface Chain {
  /** A built-in chain's policy (`ACCEPT`, `DROP`), `-` for a user-defined chain. */
  policy: string;
  rules: Rule[];
}

/** The chains of a table by name. */
export type Table = Map<string, Chain>;

/** The tables of a family by name: raw, mangle, nat, filter, security. A table without chains may be absent. */
export type Tables = Map<string, Table>;

/** An ipset. */
export interface AddressSet {
  name: string;
  family: Family;
  /** `hash:net` for ours. */
  type: string;
  /** The most elements it can hold. */
  maxelem: number;
  /** Whether its elements carry marks (ipset's `skbinfo`), for rules that look a packet's mark up in it. */
  marked: boolean;
  /** Each element with its mark; 0 in a set without marks. */
  elements: Map<Prefix, number>;
  /** True when it has nothing else: no timeouts, no `nomatch`, no other extensions. */
  plain: boolean;
}

/** The port blocks of a family (nftables.ts). */
export interface PortTable {
  /** Whether chain, rules and map are as they must be; if not, nothing else is known. */
  intact: boolean;
  /** Whether it has the map of slices, and the rules for it. Desired: whether it needs them. */
  hasSlices: boolean;
  /** By mark: how many sources have a block, and a sum over all of them. Desired: also what they are. */
  policies: Map<number, { elements: number; digest: number; blocks?: PortBlocks }>;
  /** By mark: the ports that all sources of the mark have in common. */
  slices: Map<number, PortBlock>;
}

export interface NatState {
  /**
   * Observed: every table, everybody's rules. Desired: our chains whole, and of a built-in chain the rules that
   * are ours, in their order.
   */
  tables: { 4: Tables; 6: Tables };
  /** The agent's sets (`VEG-*`) by name, without foreign sets. */
  sets: Map<string, AddressSet>;
  /** Port blocks, in a family that has any. */
  ports?: { 4?: PortTable; 6?: PortTable };
  /** The nf_tables table that drops what belongs to no connection, in a family that has it instead of the chain VEG-NEW. */
  gates?: { 4?: GateTable; 6?: GateTable };
}

/** A state with nothing in it. */
export const emptyState = (): NatState => ({ tables: { 4: new Map(), 6: new Map() }, sets: new Map() });
