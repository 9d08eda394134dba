/**
 * The question of `veg-agent translations` and `GET /v1/translations`, and the answer as JSON and as a table.
 * Pure.
 */

import { type Address, addressBytes, mappedIPv4, parseAddress } from '../../lib/prefix.ts';
import type { FlowView } from '../../nat/conntrack/flow.ts';
import type { Endpoint, Lookup } from '../../nat/conntrack/lookup.ts';
import { type FlowRecord, flowRecord, seconds } from '../../nat/conntrack/records.ts';
import { PROTOCOL } from '../../nat/conntrack/wire.ts';
import { coverageText, type LogCoverage } from './log-coverage.ts';
import { LOOKUP_OPTIONS } from './lookup-options.ts';
import type { ComputedTranslation } from './port-history.ts';

const DEFAULT_LIMIT = 1000;
const MAX_LIMIT = 2000;

/** An invalid query. The message names the parameter and its valid values. */
export class LookupError extends Error {}

const refuse = (flag: string, expected: string, text: string): never => {
  throw new LookupError(`${flag} must be ${expected}, is ${JSON.stringify(text)}`);
};

/** `10.0.0.1`, `10.0.0.1:80`, `fd00::1`, `[fd00::1]:80`; undefined for anything else, an IPv4-mapped address too. */
export function parseEndpoint(text: string): Endpoint | undefined {
  const bare = parseAddress(text);
  if (bare !== undefined) return mappedIPv4(bare) === undefined ? { address: addressBytes(bare) } : undefined;
  const [, inBrackets, plain, digits] = /^(?:\[(.+:.*)\]|([0-9.]+)):(\d{1,5})$/.exec(text) ?? [];
  const address = parseAddress(inBrackets ?? plain ?? '');
  const port = Number(digits);
  if (address === undefined || port > 65_535 || mappedIPv4(address) !== undefined) return undefined;
  return { address: addressBytes(address), port };
}

const TIME = /^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)$/;

/**
 * An RFC 3339 time with its zone, as the span that it names: a whole second without a fraction, else as long as
 * its last digit, at least a millisecond. Unix ms, both ends included; undefined for anything else.
 */
export function parseTime(text: string): { from: number; to: number } | undefined {
  const match = TIME.exec(text.toUpperCase());
  if (match === null) return undefined;
  const [, day = '', clock = '', fraction = '', zone = ''] = match;
  const midnight = Date.parse(`${day}T00:00:00Z`);
  const second = Date.parse(`${day}T${clock}${zone}`);
  // Date.parse takes 30 February for 2 March.
  if (Number.isNaN(second) || new Date(midnight).toISOString().slice(0, 10) !== day) return undefined;
  const from = second + Number(fraction.padEnd(3, '0').slice(0, 3));
  return { from, to: from + 10 ** Math.max(0, 3 - fraction.length) - 1 };
}

const NUMBERS: Record<string, number[]> = {
  ...Object.fromEntries(Object.entries(PROTOCOL).map(([name, number]) => [name, [number]])),
  icmp: [PROTOCOL.icmp, PROTOCOL.icmpv6],
};

/** The numbers of a protocol; undefined for a name that is not known. */
function parseProtocol(text: string): number[] | undefined {
  const name = text.toLowerCase();
  if (/^\d{1,3}$/.test(name) && Number(name) < 256) return [Number(name)];
  return NUMBERS[name];
}

/** The form of an endpoint. */
function endpointForm(flag: string, text: string): string {
  const [, inBrackets, port = ''] = /^\[(.+)\](:\d+)$/.exec(text) ?? [];
  const mapped = mappedIPv4(parseAddress(inBrackets ?? text) ?? ('' as Address));
  if (mapped !== undefined) return `an IPv4 address as such (${mapped}${port})`;
  return flag === 'internal' ? 'an IP address' : 'IP or IP:PORT, an IPv6 address with a port in brackets';
}

/** Understands a question. Throws `LookupError`. */
export function parseLookup(params: Partial<Record<string, string>>): Lookup {
  const lookup: Lookup = { from: 0, to: Number.MAX_SAFE_INTEGER, limit: DEFAULT_LIMIT };
  for (const [flag, text = ''] of Object.entries(params)) {
    switch (flag) {
      case 'internal':
      case 'external':
      case 'dest':
        lookup[flag] = parseEndpoint(text) ?? refuse(flag, endpointForm(flag, text), text);
        break;
      case 'proto':
        lookup.protocols = parseProtocol(text) ?? refuse(flag, LOOKUP_OPTIONS.proto.help, text);
        break;
      case 'at':
      case 'since':
      case 'until': {
        const span = parseTime(text) ?? refuse(flag, 'a time such as 2026-11-21T14:03:00Z', text);
        if (flag !== 'until') lookup.from = span.from;
        if (flag !== 'since') lookup.to = span.to;
        break;
      }
      case 'limit':
        lookup.limit = /^[1-9]\d*$/.test(text) ? Number(text) : refuse(flag, 'a number above 0', text);
        if (lookup.limit > MAX_LIMIT) refuse(flag, `at most ${MAX_LIMIT}`, text);
        break;
      default:
        throw new LookupError(`${flag} is none of ${Object.keys(LOOKUP_OPTIONS).join(', ')}`);
    }
  }
  if (params.at !== undefined && (params.since !== undefined || params.until !== undefined)) {
    throw new LookupError('at goes without since and until');
  }
  if (lookup.from > lookup.to) throw new LookupError('until lies before since');
  return lookup;
}

/** One translation of an answer. */
export interface TranslationRecord extends FlowRecord {
  /** Absent while it lives. */
  endTime?: string;
  endEstimated?: true;
  /** Seconds, until now while it lives. */
  duration: number;
  /** In a group: the member that it goes through; of a replica one that has it, because its own did not answer. */
  member?: Address;
}

/** Another member of the group, and whether its flows are in the answer. */
export interface MemberResult {
  member: Address;
  answered: boolean;
  /** Why it did not answer. */
  reason?: string;
  /** What its log covers. */
  log?: LogCoverage;
}

/** The answer to `GET /v1/translations`. */
export interface TranslationsDocument {
  schemaVersion: 'v1';
  /** The newest first. */
  translations: TranslationRecord[];
  /** There may be more than `limit`. */
  more: boolean;
  /** When in that time events were lost, and how many of which nothing is known. */
  gaps: { from: string; to: string; lost: number; member?: Address }[];
  /** Since when there is a log, and whether it covers the time asked for. */
  log: LogCoverage;
  /** Results from port blocks, with or without a record; absent when there are none. */
  computed?: ComputedTranslation[];
  /** The other members; absent without a group, or where it was not asked. */
  members?: MemberResult[];
}

const time = (ms: number): string => new Date(ms).toISOString();

/** The answer as a document. */
export function translationsDocument(
  found: { flows: FlowView[]; more: boolean; gaps: { from: number; to: number; lost: number }[] },
  log: LogCoverage,
  now: number,
  computed: ComputedTranslation[] = [],
): TranslationsDocument {
  return {
    schemaVersion: 'v1',
    translations: found.flows.map((view) => ({
      ...flowRecord(view),
      ...(view.end !== undefined && { endTime: time(view.end) }),
      ...(view.endEstimated && { endEstimated: view.endEstimated }),
      duration: seconds(view.start, view.end ?? now),
    })),
    more: found.more,
    gaps: found.gaps.map(({ from, to, lost }) => ({ from: time(from), to: time(to), lost })),
    log,
    ...(computed.length > 0 && { computed }),
  };
}

/** Rows as lines, in columns. */
function columns(rows: readonly string[][]): string[] {
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)));
  return rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i]!))
      .join('  ')
      .trimEnd(),
  );
}

/** The part of the answer that is computed from port blocks. */
function computedLines(computed: readonly ComputedTranslation[]): string[] {
  if (computed.length === 0) return [];
  const rows = computed.map(({ policy, sourceIP, externalIP, ports, since, until }) => [
    sourceIP,
    `${externalIP} ${ports.start}-${ports.end}`,
    policy,
    `since ${since}${until === undefined ? '' : ` until ${until}`}`,
  ]);
  return columns([['COMPUTED: PORTS OF', 'SEEN AS', 'POLICY', 'IN FORCE'], ...rows]);
}

/** The member that a flow goes through. */
const throughText = ({ member, verdict }: TranslationRecord): string =>
  verdict === 'replica' ? `replica at ${member}` : (member ?? '');

/** The members whose flows are not in the answer. */
const memberLines = (members: readonly MemberResult[]): string[] =>
  members.flatMap(({ member, answered, reason }) =>
    answered ? [] : [`the flows of ${member} are missing: ${reason}`],
  );

/** The answer for a person, a line a flow. */
export function translationsTable(document: TranslationsDocument): string {
  const { translations, more, gaps, log, computed = [], members } = document;
  const rows = translations.map((flow): string[] => {
    const { original, translated, counters } = flow;
    const port = (number?: number, id?: number) => ((number ?? id) === undefined ? '' : ` ${number ?? id}`);
    const from = `${original.sourceIP}${port(original.sourcePort, original.icmpID)}`;
    const seen = `${translated.sourceIP}${port(translated.sourcePort, translated.icmpID)}`;
    const to = `${original.destinationIP}${port(original.destinationPort)}`;
    const reached = `${translated.destinationIP}${port(translated.destinationPort)}`;
    return [
      flow.startTime,
      flow.endTime === undefined ? 'alive' : `${flow.duration} s${flow.endEstimated ? ' at most' : ''}`,
      flow.protocol === 'other' ? String(flow.protocolNumber) : flow.protocol,
      from,
      flow.verdict === 'forwarded' ? 'itself' : seen,
      to === reached ? to : `${to} → ${reached}`,
      flow.policy,
      ...(members === undefined ? [] : [throughText(flow)]),
      counters === undefined ? '' : `${counters.originalBytes} / ${counters.replyBytes}`,
    ];
  });
  const lines: string[] = [];
  if (rows.length > 0) {
    const table = [
      [
        'START',
        'LASTED',
        'PROTO',
        'FROM',
        'SEEN AS',
        'TO',
        'POLICY',
        ...(members === undefined ? [] : ['THROUGH']),
        'BYTES SENT / RECEIVED',
      ],
      ...rows,
    ];
    lines.push(...columns(table));
  } else if (computed.length === 0) {
    lines.push(`none found: ${coverageText(log)}`);
  }
  lines.push(...computedLines(computed));
  if (more) lines.push('there are more: narrow the question, or raise --limit');
  for (const { from, to, lost, member } of gaps) {
    const where = member === undefined ? '' : ` at ${member}`;
    lines.push(
      `between ${from} and ${to} ${lost === 0 ? 'events' : `${lost} events`} may be missing${where}`,
    );
  }
  lines.push(...memberLines(members ?? []));
  return `${lines.join('\n')}\n`;
}
