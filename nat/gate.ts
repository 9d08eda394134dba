/**
 * The nf_tables table that drops what belongs to no connection and may not pass (docs/design/0012): what it looks like,
 * and the steps to it. Pure.
 *
 *     table ip VEG-GATE
 *       chain postrouting  filter, POSTROUTING, before NAT: all that is of no established connection → fresh
 *       chain fresh        what comes from the VPC passes unless it is invalid; what goes there → ingress
 *       chain invalid      passes if it is forwarded unchanged; drops
 *       chain ingress      passes if an EIP or a DNAT has given it its destination, or it is forwarded unchanged; → refused
 *       chain refused      drops
 *
 * It does what the chain VEG-NEW of mangle FORWARD does, for gateways where that only drops, at less cost. VEG-NEW is there
 * instead where it has to do more, and where the kernel refuses the table. In POSTROUTING, where a packet meets the hooks of
 * nat anyhow, and no other of FORWARD; packets that the pod has sent come this way too, and pass: they have come in by no
 * interface, or, as Neighbor Discovery, by the one that they leave by.
 *
 * Each step is one transaction. A block passes only while nat leaves it unchanged: the table closes before nat changes, and
 * opens behind it. `refused` stays, so that its counter does.
 */
import { NF_INET_POST_ROUTING, type NftMessage } from '../lib/nft-codec.ts';
import { contains, type Family, networkAddress, type Prefix, prefixLength } from '../lib/prefix.ts';
import {
  accept,
  counter,
  drop,
  goTo,
  hasAddress,
  hasDestination,
  isFrom,
  isNotEstablished,
  isNotInvalid,
  isNotRelated,
  isOwn,
  isTo,
} from './expressions.ts';
import {
  addRule,
  createChain,
  createTable,
  deleteChain,
  deleteTable,
  flushChain,
  type OwnRule,
  type OwnTable,
  ruleMark,
} from './own-table.ts';
import { CHAIN_NEW, interfaceName, inwardsRule, returnPair } from './rules.ts';
import type { Table } from './state.ts';

/** Before nat POSTROUTING, NF_IP_PRI_NAT_SRC (100): what is dropped here has got no port. */
const PRIORITY = 95;

export const GATE: OwnTable = {
  name: 'VEG-GATE',
  hooks: { postrouting: { hook: NF_INET_POST_ROUTING, priority: PRIORITY } },
};

/** The chain whose one rule counts what was not accepted from outside. */
export const REFUSED = 'refused';

/** What may pass in one family. */
export interface Gate {
  family: Family;
  internalInterface: string;
  /** Only what is open may come in from outside; else everything. */
  closed: boolean;
  /** Blocks that are forwarded unchanged in both directions. */
  open: readonly Prefix[];
}

/** A table, observed or desired: the comments of the rules of each chain. */
export interface GateTable {
  /** Whether it is hooked where it must be. */
  hooked: boolean;
  rules: ReadonlyMap<string, readonly string[]>;
  /** Desired: what it is made from, and the mangle table that does the same instead. */
  source?: { gate: Gate; instead: Table };
}

export type GateStep =
  /** `there`: the table as it is. */
  | { type: 'write-gate'; family: Family; gate: Gate; there: GateTable | undefined }
  | { type: 'delete-gate'; family: Family };

/** Drops, and counts. */
const DROP: OwnRule = [counter, drop];

/** The rules by chain; a chain comes behind those that it leads to. */
export function gateChains({ family, internalInterface, closed, open }: Gate): Map<string, OwnRule[]> {
  const internal = interfaceName(internalInterface);
  const chains = new Map<string, OwnRule[]>();
  const fresh: OwnRule[] = [];
  const passing = (side: 'saddr' | 'daddr'): OwnRule[] =>
    open.map((block) => [hasAddress(family, side, block), accept]);
  chains.set('invalid', [...passing('saddr'), DROP]);
  fresh.push([isFrom(internal, true), isNotInvalid, accept], [isFrom(internal, true), goTo('invalid')]);
  if (closed) {
    chains.set(REFUSED, [DROP]);
    chains.set('ingress', [[hasDestination, accept], ...passing('daddr'), [goTo(REFUSED)]]);
    fresh.push([isOwn, accept], [isTo(internal), isNotRelated, goTo('ingress')]);
  }
  return chains.set('fresh', fresh).set('postrouting', [[isNotEstablished, goTo('fresh')]]);
}

/** The table of a gate. */
export const gateTable = (gate: Gate): GateTable => ({
  hooked: true,
  rules: new Map([...gateChains(gate)].map(([name, rules]) => [name, rules.map(ruleMark)])),
});

const isSameChain = (a: readonly string[] | undefined, b: readonly string[]): boolean =>
  a !== undefined && a.length === b.length && a.every((one, i) => one === b[i]);

const isSame = (a: GateTable | undefined, b: GateTable): boolean =>
  a?.hooked === true &&
  a.rules.size === b.rules.size &&
  [...b.rules].every(([name, rules]) => isSameChain(a.rules.get(name), rules));

/** What of a gate may pass while nat is like this: what it leaves unchanged. */
function tightened(gate: Gate, nat: Table | undefined): Gate {
  const rules = new Set(nat?.get('POSTROUTING')?.rules.map(({ text }) => text));
  const keepsAll = rules.has(inwardsRule(gate.internalInterface));
  return { ...gate, closed: gate.closed || !keepsAll, open: unchanged(gate.open, rules) };
}

/** What of these blocks a chain forwards unchanged. */
function unchanged(open: readonly Prefix[], rules: ReadonlySet<string>): Prefix[] {
  const forwarded = [...rules].flatMap((text) => {
    const block = /^-d (\S+) -j RETURN$/.exec(text)?.[1] as Prefix | undefined;
    return block !== undefined && returnPair(block).every((rule) => rules.has(rule)) ? [block] : [];
  });
  const both = open.flatMap((block) =>
    forwarded.flatMap((other) => {
      if (containsBlock(other, block)) return [block];
      return containsBlock(block, other) ? [other] : [];
    }),
  );
  return [...new Set(both)];
}

const containsBlock = (outer: Prefix, inner: Prefix): boolean =>
  prefixLength(outer) <= prefixLength(inner) && contains(outer, networkAddress(inner));

/** The step that makes a table out of what is there, if they differ. */
function write(there: GateTable | undefined, gate: Gate): GateStep[] {
  return isSame(there, gateTable(gate)) ? [] : [{ type: 'write-gate', family: gate.family, gate, there }];
}

/**
 * The steps from one gate to another: those that come before the rules of iptables, and those that come after.
 * @param nat the nat table as it is
 */
export function editGate(
  observed: GateTable | undefined,
  desired: GateTable | undefined,
  nat: Table | undefined,
  family: Family,
): { before: GateStep[]; after: GateStep[] } {
  if (desired?.source === undefined) {
    return { before: [], after: observed === undefined ? [] : [{ type: 'delete-gate', family }] };
  }
  if (isSame(observed, desired)) return { before: [], after: [] };
  const { gate } = desired.source;
  const tight = tightened(gate, nat);
  return { before: write(observed, tight), after: write(gateTable(tight), gate) };
}

/** Whether mangle has the chain VEG-NEW: then the gate takes over from it, when that is as the policy says. */
export const takesOver = (desired: GateTable | undefined, mangle: Table | undefined): boolean =>
  desired?.source !== undefined && (mangle?.get(CHAIN_NEW)?.rules.length ?? 0) > 0;

/** The step that takes over. */
export const takeOver = (observed: GateTable | undefined, { source }: GateTable): GateStep[] =>
  write(observed, source!.gate);

const rulesOf = (family: Family, [name, rules]: [string, OwnRule[]]): NftMessage[] =>
  rules.map((rule) => addRule(GATE, family, name, rule));

/** Makes the table. */
function newGate(gate: Gate): NftMessage[] {
  const { family } = gate;
  const chains = [...gateChains(gate)];
  return [
    createTable(GATE, family),
    ...chains.map(([name]) => createChain(GATE, family, name)),
    ...chains.flatMap((chain) => rulesOf(family, chain)),
  ];
}

/** The one transaction of a step. */
export function gateMessages(step: GateStep): NftMessage[] {
  const { family } = step;
  if (step.type === 'delete-gate') return [deleteTable(GATE, family)];
  const { gate, there } = step;
  if (there === undefined) return newGate(gate);
  if (!there.hooked) return [deleteTable(GATE, family), ...newGate(gate)];
  const chains = gateChains(gate);
  const names = [...chains.keys()];
  const wrong = names.filter((name) => !isSameChain(there.rules.get(name), chains.get(name)!.map(ruleMark)));
  const unknown = [...there.rules.keys()].filter((name) => !chains.has(name));
  const known = [...there.rules.keys()].filter((name) => wrong.includes(name));
  return [
    ...wrong.filter((name) => !there.rules.has(name)).map((name) => createChain(GATE, family, name)),
    ...[...known, ...unknown].map((name) => flushChain(GATE, family, name)),
    ...wrong.flatMap((name) => rulesOf(family, [name, chains.get(name)!])),
    ...unknown.map((name) => deleteChain(GATE, family, name)),
  ];
}

/** A step as a line, in nft's words but for the rules. */
export function gateLine(step: GateStep): string {
  const table = `${step.family === 4 ? 'ip' : 'ip6'} ${GATE.name}`;
  if (step.type === 'delete-gate') return `nft delete table ${table}`;
  const { gate, there } = step;
  const verb = there === undefined ? 'add' : there.hooked ? 'edit' : 'replace';
  const open = gate.closed ? `open for ${gate.open.join(', ') || 'no block'}` : 'open for all';
  return `nft ${verb} table ${table}: ${open}`;
}
