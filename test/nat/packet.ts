/**
 * What happens to the first packet of a connection: walks it through mangle and nat as the kernel does, over the
 * rules and sets of a state. Knows the matches and targets that nat/ writes, and throws for any other.
 */

import {
  type Address,
  addressNumber,
  contains,
  type Family,
  familyOf,
  type Prefix,
} from '../../lib/prefix.ts';
import { type Gate, gateChains } from '../../nat/gate.ts';
import { blockOf } from '../../nat/port-blocks.ts';
import { DECISION_MASK, PORT_BLOCKS_MARK } from '../../nat/rules.ts';
import type { Chain, NatState, Table } from '../../nat/state.ts';

export interface Packet {
  /** Interfaces; empty: the packet is made here. */
  in: string;
  out: string;
  src: Address;
  dst: Address;
  proto: 'tcp' | 'udp' | 'sctp' | 'icmp';
  dport: number;
  state: 'NEW' | 'ESTABLISHED' | 'RELATED' | 'INVALID' | 'UNTRACKED';
}

export interface Outcome {
  /** `masquerade`, `unchanged`, `snat A`, `snat A:first-last` or `drop`. */
  source: string;
  /** The destination after translation: an address, or `address:port`. */
  destination: string;
}

export interface Walk {
  packet: Packet;
  mark: number;
  /** The destination before translation, when there was one. */
  original?: { dst: Address; dport: number };
  translation?: string;
}

const number = (text: string): number => Number(text);
const inRange = (text: string, value: number): boolean => {
  const [first, last = first] = text.split(':').map(Number);
  return value >= first! && value <= last!;
};

/** The entry of a set that holds an address: the longest prefix. */
export function lookUp(state: NatState, name: string, address: Address): Prefix | undefined {
  let best: Prefix | undefined;
  const set = state.sets.get(name);
  if (set === undefined) throw new Error(`no set ${name}`);
  for (const element of set.elements.keys()) {
    const longer = best === undefined || number(element.split('/')[1]!) > number(best.split('/')[1]!);
    if (longer && contains(element, address)) best = element;
  }
  return best;
}

/** The verdict of a rule: what it does if it matches, undefined if it does not. */
function applyRule(state: NatState, text: string, walk: Walk): string[] | undefined {
  const words = text.split(' ');
  const { packet } = walk;
  const next = (): string => words.shift()!;
  while (words.length > 0) {
    let word = next();
    const not = word === '!';
    if (not) word = next();
    if (word === '-j' || word === '-g') return [word, ...words];
    let matched: boolean;
    if (word === '-m') {
      const module = next();
      const inverted = words[0] === '!';
      if (inverted) next();
      if (module === 'set') {
        next();
        const name = next();
        matched = lookUp(state, name, next() === 'src' ? packet.src : packet.dst) !== undefined;
      } else if (module === 'mark') {
        next();
        const [value, mask = '0xffffffff'] = next().split('/');
        matched = (walk.mark & number(mask)) >>> 0 === number(value!);
      } else if (module === 'conntrack') {
        matched = true;
        while (words[0]?.startsWith('--ct')) {
          const option = next();
          const value = next();
          if (option === '--ctstate') {
            const isIn = (state: string) =>
              state === packet.state ||
              (state === 'DNAT' && walk.original !== undefined && packet.state !== 'INVALID');
            matched &&= value!.split(',').some(isIn);
          } else if (option === '--ctorigdst') matched &&= walk.original?.dst === value;
          else matched &&= walk.original !== undefined && inRange(value, walk.original.dport);
        }
      } else if (module === 'cluster') {
        next();
        const mask = number(next());
        next();
        const total = number(next());
        next();
        next();
        matched = ((mask >>> Number(addressNumber(packet.src) % BigInt(total))) & 1) === 1;
      } else if (/^(?:tcp|udp|sctp)$/.test(module)) {
        const option = next();
        matched = option === '--dport' ? inRange(next(), packet.dport) : next() !== '' && next() !== '';
      } else throw new Error(`match not understood: ${text}`);
      if (matched === inverted) return undefined;
      continue;
    }
    const value = next();
    if (word === '-i') matched = packet.in === value;
    else if (word === '-o') matched = packet.out === value;
    else if (word === '-p') matched = packet.proto === value;
    else if (word === '-s') matched = contains(value as Prefix, packet.src);
    else if (word === '-d') matched = contains(value as Prefix, packet.dst);
    else throw new Error(`rule not understood: ${text}`);
    if (matched === not) return undefined;
  }
  throw new Error(`no target: ${text}`);
}

type Verdict = 'accept' | 'drop' | 'return';

function walkChain(state: NatState, table: Table, chain: Chain | undefined, walk: Walk, depth = 0): Verdict {
  if (chain === undefined || depth > 20) throw new Error('no such chain, or a loop');
  for (const { text } of chain.rules) {
    const [kind, target = '', ...options] = applyRule(state, text, walk) ?? [];
    if (kind === undefined) continue;
    if (target === 'ACCEPT') return 'accept';
    if (target === 'DROP') return 'drop';
    if (target === 'RETURN') return 'return';
    if (target === 'MARK') {
      const [value, mask] = options[1]!.split('/').map(Number);
      walk.mark = (((walk.mark & ~mask!) >>> 0) ^ value!) >>> 0;
    } else if (target === 'SET') {
      const element = lookUp(state, options[1]!, options[2] === 'src' ? walk.packet.src : walk.packet.dst);
      if (element !== undefined) {
        walk.mark = ((walk.mark & 0x4000) | state.sets.get(options[1]!)!.elements.get(element)!) >>> 0;
      }
    } else if (target === 'MASQUERADE') {
      walk.translation = 'masquerade';
      return 'accept';
    } else if (target === 'SNAT') {
      walk.translation = `snat ${options[1]}`;
      return 'accept';
    } else if (target === 'DNAT') {
      const [to = '', offset] = options[1]!.split('/');
      const parsed = /^\[?([^\]]*?)\]?(?::(\d+)(?:-\d+)?)?$/.exec(to)!;
      const v6bare = to.includes(':') && !to.startsWith('[') && familyOf(walk.packet.dst) === 6;
      walk.original = { dst: walk.packet.dst, dport: walk.packet.dport };
      const port = v6bare || parsed[2] === undefined ? undefined : Number(parsed[2]);
      walk.packet = {
        ...walk.packet,
        dst: (v6bare ? to : parsed[1]) as Address,
        dport:
          port === undefined
            ? walk.packet.dport
            : port + (offset === undefined ? 0 : walk.packet.dport - Number(offset)),
      };
      return 'accept';
    } else if (target !== 'TCPMSS') {
      const verdict = walkChain(state, table, table.get(target), walk, depth + 1);
      if (verdict !== 'return') return verdict;
      if (kind === '-g') return 'return';
    }
  }
  return 'return';
}

/** Whether a condition of nf_tables holds, in the words of nat/expressions.ts. */
function holds(text: string, { packet, original }: Walk): boolean {
  const [, field = '', not, value = ''] =
    /^(iifname|oifname|ct state|ct status|ip6? [sd]addr) (?:& dnat )?(!= )?(\S+)$/.exec(text) ?? [];
  const is = (matched: boolean): boolean => matched === (not === undefined);
  if (text === 'meta iif 0') return packet.in === '';
  if (field === 'iifname') return is(value === `"${packet.in}"`);
  if (field === 'oifname') return is(value === `"${packet.out}"`);
  if (field === 'ct state') return is(value === packet.state.toLowerCase());
  // What belongs to no connection has no status, and no comparison with it holds.
  if (field === 'ct status') return original !== undefined && packet.state === 'NEW';
  if (field.endsWith('saddr')) return contains(value as Prefix, packet.src);
  if (field.endsWith('daddr')) return contains(value as Prefix, packet.dst);
  throw new Error(`condition not understood: ${text}`);
}

/** Whether a gate lets a packet pass. */
export function passesGate(gate: Gate, walk: Walk): boolean {
  const chains = gateChains(gate);
  let chain = 'postrouting';
  for (let at = 0; at < chains.get(chain)!.length; at++) {
    const parts = chains
      .get(chain)!
      [at]!.map(({ text }) => text)
      .filter((text) => text !== 'counter');
    const verdict = parts.pop()!;
    if (!parts.every((text) => holds(text, walk))) continue;
    if (verdict === 'accept' || verdict === 'drop') return verdict === 'accept';
    chain = verdict.replace('goto ', '');
    at = -1;
  }
  return true;
}

/** Sends the first packet of a connection through. */
export function send(state: NatState, family: Family, packet: Packet): Outcome {
  const walk: Walk = { packet, mark: 0 };
  const hook = (table: string, chain: string): boolean => {
    const chains = state.tables[family].get(table);
    const found = chains?.get(chain);
    return found === undefined || walkChain(state, chains!, found, walk) !== 'drop';
  };
  const tracked = packet.state === 'NEW';
  if (tracked) hook('nat', 'PREROUTING');
  const gate = state.gates?.[family]?.source?.gate;
  const forwarded = packet.in === '' || hook('mangle', 'FORWARD');
  const passed = forwarded && (gate === undefined || passesGate(gate, walk));
  if (passed && tracked) hook('nat', 'POSTROUTING');
  if (walk.translation === undefined && (walk.mark & PORT_BLOCKS_MARK) >>> 0 === PORT_BLOCKS_MARK) {
    const [ports, mark] = [state.ports?.[family], (walk.mark & DECISION_MASK) >>> 0];
    const blocks = ports?.policies.get(mark)?.blocks;
    const block = ports?.slices.get(mark) ?? (blocks && blockOf(blocks, packet.src));
    walk.translation = block ? `snat ${block.address}:${block.first}-${block.last}` : 'drop';
  }
  const { dst, dport } = walk.packet;
  return {
    source: passed ? (walk.translation ?? 'unchanged') : 'drop',
    destination: dport === packet.dport ? dst : `${dst}:${dport}`,
  };
}
