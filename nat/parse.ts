/** Reads what `iptables-save -c` (either backend) and `ipset save` print. */
import { type Family, type Prefix, prefix } from '../routing/prefix.ts';
import { DECISION_MASK, hex, isOwnedName } from './rules.ts';
import type { AddressSet, Tables } from './state.ts';

/** glibc's spelling of an IPv6 address that ends in dotted decimal, which RFC 5952 keeps for mapped ones only. */
const DOTTED = /(^| )(-[sd]) ([0-9a-f:]+\.[0-9.]+\/\d+)(?= |$)/g;

function canonicalRule(text: string, family: Family): string {
  if (family === 4 || !text.includes('.')) return text;
  return text.replace(DOTTED, (_, blank: string, option: string, block: string) => {
    return `${blank}${option} ${prefix(block)}`;
  });
}

/** The lines of the text; a quoted comment may hold line breaks, which do not end its line. */
function* logicalLines(text: string): Iterable<string> {
  let open = '';
  for (const line of text.split('\n')) {
    const whole = open === '' ? line : `${open}\n${line}`;
    const quotes = whole.includes('"') ? (whole.match(/\\.|"/gs) ?? []).filter((m) => m === '"').length : 0;
    open = quotes % 2 === 1 ? whole : '';
    if (open === '') yield whole;
  }
  if (open !== '') throw new SyntaxError(`a quote without its end: ${JSON.stringify(open)}`);
}

const CHAIN_LINE = /^:(\S+) (\S+)/;
const RULE_LINE = /^(?:\[(\d+):(\d+)\] )?-A (\S+) ?(.*)$/s;

/**
 * The tables in the output of iptables-save, with or without counters. Comments and notices (`# Warning:
 * iptables-legacy tables present`) are passed over. Throws `SyntaxError` for a line that belongs nowhere.
 */
export function parseTables(text: string, family: Family): Tables {
  const tables: Tables = new Map();
  let table: string | undefined;
  for (const line of logicalLines(text)) {
    if (line === '' || line.startsWith('#')) continue;
    if (line === 'COMMIT') {
      table = undefined;
      continue;
    }
    if (line.startsWith('*')) {
      table = line.slice(1);
      tables.set(table, new Map());
      continue;
    }
    const chains = table === undefined ? undefined : tables.get(table);
    const declared = CHAIN_LINE.exec(line);
    if (chains !== undefined && declared !== null) {
      chains.set(declared[1]!, { policy: declared[2]!, rules: [] });
      continue;
    }
    const rule = RULE_LINE.exec(line);
    const chain = rule === null ? undefined : chains?.get(rule[3]!);
    if (rule === null || chain === undefined) {
      throw new SyntaxError(`iptables-save printed a line that is not understood: ${JSON.stringify(line)}`);
    }
    const [, packets = '0', bytes = '0', , body = ''] = rule;
    chain.rules.push({ text: canonicalRule(body, family), packets: Number(packets), bytes: Number(bytes) });
  }
  return tables;
}

/** `create` options that say how a set is laid out in memory, and not what is in it. */
const LAYOUT = new Set(['hashsize', 'bucketsize', 'initval']);

function parseCreate(line: string): AddressSet {
  const [, name = '', type = '', ...options] = line.split(' ');
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
  return family === 6 && text.includes('.') ? prefix(whole) : (whole as Prefix);
}

const SKBMARK = new RegExp(`^skbmark (0x[0-9a-f]{1,8})/${hex(DECISION_MASK)}$`);

/** Our sets in the output of `ipset save`, by name; those of others are passed over. */
export function parseSets(text: string): Map<string, AddressSet> {
  const sets = new Map<string, AddressSet>();
  for (const line of logicalLines(text)) {
    if (line.startsWith('create ')) {
      const set = parseCreate(line);
      if (isOwnedName(set.name)) sets.set(set.name, set);
      continue;
    }
    if (!line.startsWith('add ')) continue;
    const start = line.indexOf(' ', 'add '.length) + 1;
    const set = sets.get(line.slice('add '.length, start - 1));
    if (set === undefined || set.type !== 'hash:net') continue;
    const end = line.indexOf(' ', start);
    const mark = end < 0 ? undefined : SKBMARK.exec(line.slice(end + 1))?.[1];
    if (end >= 0 && mark === undefined) set.plain = false;
    set.elements.set(
      parseElement(line.slice(start, end < 0 ? undefined : end), set.family),
      Number(mark ?? 0),
    );
  }
  return sets;
}
