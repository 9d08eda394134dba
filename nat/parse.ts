/**
 * Reads what `iptables-save -c` (either backend), `ipset save` and `nft -j` print. The first two escape no names: a
 * foreign chain, set or interface may have any form, and is skipped. Pure.
 */
import { flatText } from '../lib/flat-text.ts';
import { type Family, type Prefix, prefix } from '../lib/prefix.ts';
import { DECISION_MASK, hex, isOwnedName, ruleWords } from './rules.ts';
import type { AddressSet, Chain, Tables } from './state.ts';

/** glibc's spelling of an IPv6 address that ends in dotted decimal, which RFC 5952 keeps for mapped ones only. */
const DOTTED = /(^| )(-[sd]) ([0-9a-f:]+\.[0-9.]+\/\d+)(?= |$)/g;

function canonicalRule(text: string, family: Family): string {
  if (family === 4 || !text.includes('.')) return text;
  return text.replace(DOTTED, (_, blank: string, option: string, block: string) => {
    return `${blank}${option} ${prefix(block)}`;
  });
}

const CHAIN_LINE = /^:(.+) (\S+) \[\d+:\d+\]$/;
const RULE_LINE = /^(?:\[(\d+):(\d+)\] )?-A (\S+) ?(.*)$/s;
/** Far more than a comment (255) or the name of a set (31) takes, octets. */
const LONGEST_BREAK = 1024;

/** The rule whose listing begins with a line, and how many lines it takes. */
function ruleAt(lines: readonly string[], first: number): { text: string; count: number } {
  const line = lines[first]!;
  let text = line;
  for (let count = 1; ; count++) {
    if (!/["]|-set /.test(text) || !ruleWords(text).open) return { text, count };
    const next = lines[first + count];
    // What never ends was no comment.
    if (next === undefined || text.length > line.length + LONGEST_BREAK) return { text: line, count: 1 };
    text += `\n${next}`;
  }
}

/**
 * The tables in the output of iptables-save, with or without counters. What is no chain and no rule of a chain
 * (comments, notices, the rest of a name with a line break) is passed over: it is none of ours.
 */
export function parseTables(text: string, family: Family): Tables {
  const tables: Tables = new Map();
  const lines = text.split('\n');
  let chains = new Map<string, Chain>();
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i]!;
    if (line.startsWith('*')) {
      chains = new Map();
      tables.set(line.slice(1), chains);
      continue;
    }
    const declared = CHAIN_LINE.exec(line);
    if (declared !== null) {
      chains.set(declared[1]!, { policy: declared[2]!, rules: [] });
      continue;
    }
    if (!RULE_LINE.test(line)) continue;
    const { text: whole, count } = ruleAt(lines, i);
    i += count - 1;
    const [, packets = '0', bytes = '0', name = '', body = ''] = RULE_LINE.exec(whole)!;
    const rule = { text: canonicalRule(body, family), packets: Number(packets), bytes: Number(bytes) };
    chains.get(name)?.rules.push(rule);
  }
  return tables;
}

/** `create` options for the memory layout of a set, not for its content. */
const LAYOUT = new Set(['hashsize', 'bucketsize', 'initval']);

/** The types of sets, as ipset names them. */
const TYPE = '(?:bitmap|hash|list):[a-z,]+';
const CREATE = new RegExp(`^create (.+?) (${TYPE})( .*)?$`, 's');
/** Options of a set; the name of a foreign set may resemble anything. */
const OPTIONS = new RegExp(`^(?!.* ${TYPE}(?: |$)) (?:family|hashsize|range|size) `);

/** The set that a `create` line makes, when it is ours. */
function ownSet([, name = '', type = '', tail = '']: readonly (string | undefined)[]):
  | AddressSet
  | undefined {
  if (!isOwnedName(name) || !OPTIONS.test(tail)) return undefined;
  const options = tail.trim().split(' ');
  const set: AddressSet = {
    name,
    type,
    family: 4,
    maxelem: 0,
    marked: false,
    elements: new Map(),
    plain: true,
  };
  for (let i = 0; i < options.length; i++) {
    const option = options[i]!;
    if (option === 'family') set.family = options[++i] === 'inet6' ? 6 : 4;
    else if (option === 'maxelem') set.maxelem = Number(options[++i]);
    else if (option === 'skbinfo') set.marked = true;
    else if (LAYOUT.has(option)) i++;
    else {
      set.plain = false;
      break;
    }
  }
  return set;
}

/** A set's element as a prefix. ipset prints canonical addresses, hosts without a length. */
function parseElement(text: string, family: Family): Prefix {
  const whole = text.includes('/') ? text : `${text}/${family === 4 ? 32 : 128}`;
  // The full parser costs seconds for 100 000 blocks, and differs only for glibc's dotted IPv6.
  return family === 6 && text.includes('.') ? prefix(whole) : flatText(whole as Prefix);
}

const SKBMARK = new RegExp(`^skbmark (0x[0-9a-f]{1,8})/${hex(DECISION_MASK)}$`);

function addElement(set: AddressSet, text: string): void {
  const end = text.indexOf(' ');
  const mark = end < 0 ? undefined : SKBMARK.exec(text.slice(end + 1))?.[1];
  if (end >= 0 && mark === undefined) set.plain = false;
  set.elements.set(parseElement(end < 0 ? text : text.slice(0, end), set.family), Number(mark ?? 0));
}

/**
 * Our sets in the output of `ipset save`, by name; foreign ones are ignored, whatever their names contain
 * and comments, line breaks too. Each set is printed whole: how it is made, then its elements.
 */
export function parseSets(text: string): Map<string, AddressSet> {
  const sets = new Map<string, AddressSet>();
  const lines = text.split('\n');
  /** How the elements of the set at hand begin, and the set if it is ours. */
  let lead = '';
  let own: AddressSet | undefined;
  for (let i = 0; i < lines.length; i++) {
    let line = lines[i]!;
    if (lead !== '' && line.startsWith(lead)) {
      const comment = line.indexOf(' comment "', lead.length);
      if (comment >= 0) {
        const from = comment + ' comment "'.length;
        while (!line.includes('"', from) && i + 1 < lines.length) line += `\n${lines[++i]}`;
      }
      if (own?.type === 'hash:net') addElement(own, line.slice(lead.length));
      continue;
    }
    if (!line.startsWith('create ')) continue;
    let created = CREATE.exec(line);
    while (created === null && i + 1 < lines.length && line.length < LONGEST_BREAK) {
      line += `\n${lines[++i]}`;
      created = CREATE.exec(line);
    }
    if (created === null) continue;
    lead = `add ${created[1]} `;
    own = ownSet(created);
    if (own !== undefined) sets.set(own.name, own);
  }
  return sets;
}

/** A chain as `nft` lists it. */
export interface NftChain {
  /** How many it has. */
  rules: number;
  /** The chains that they lead to. */
  targets: string[];
}

/** Reads what `nft -j list chain` prints; undefined when it is not that. */
export function parseNftChain(text: string): NftChain | undefined {
  try {
    const { nftables } = JSON.parse(text) as { nftables: { rule?: { expr: unknown[] } }[] };
    const rules = nftables.flatMap(({ rule }) => (rule === undefined ? [] : [rule]));
    const targets = rules.flatMap(({ expr }) =>
      (expr as { jump?: { target: string }; goto?: { target: string } }[]).flatMap(
        ({ jump, goto }) => (jump ?? goto)?.target ?? [],
      ),
    );
    return { rules: rules.length, targets };
  } catch {
    return undefined;
  }
}
