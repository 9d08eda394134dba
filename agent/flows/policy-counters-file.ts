/** The counters of policies (policy-counters.ts) in the state directory. */
import { readState, replaceState } from '../../lib/files.ts';
import { parseJson } from '../../lib/json.ts';
import { MAX_KEY, type SavedTotals } from '../../nat/counters/totals.ts';

/** Changes when the layout of the file does. */
const VERSION = 1;
/** The largest file, octets, and the most values in it: 4096 policies in both families. */
const MAX_OCTETS = 8 << 20;
const MAX_VALUES = 1 << 20;

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const isFamily = (value: unknown): boolean => value === 4 || value === 6;
const isMark = (value: unknown): boolean => isCount(value) && value <= 0xff_ffff;
const isKey = (value: unknown): boolean => isCount(value) && value <= MAX_KEY;
const isList = (value: unknown, is: (one: never) => boolean): boolean =>
  Array.isArray(value) && value.every((one) => typeof one === 'object' && one !== null && is(one as never));
const areCounts = (value: unknown, length: number): boolean =>
  Array.isArray(value) && value.length === length && value.every(isCount);
type Is = (value: unknown) => boolean;
const isVolume = (value: { out?: unknown; in?: unknown } | undefined, is: Is): boolean =>
  is(value?.out) && is(value?.in);

const isLabel = (one: SavedTotals['labels'][number]): boolean =>
  isMark(one.mark) &&
  typeof one.policy === 'string' &&
  typeof one.inbound === 'boolean' &&
  typeof one.forwarded === 'boolean';
const isTable = (one: SavedTotals['tables'][number]): boolean =>
  isFamily(one.family) &&
  isCount(one.handle) &&
  isList(one.counts, (pair: unknown) => Array.isArray(pair) && isKey(pair[0]) && areCounts(pair[1], 6));
const isSum = (one: SavedTotals['sums'][number], is: Is = isCount): boolean =>
  isFamily(one.family) &&
  typeof one.policy === 'string' &&
  (one.treatment === 'snat' || one.treatment === 'forward') &&
  is(one.connections) &&
  isVolume(one.packets, is) &&
  isVolume(one.bytes, is);
const isDifference = (one: SavedTotals['sums'][number]): boolean => isSum(one, Number.isSafeInteger);

/** What the file holds; undefined without one. Throws when the agent cannot have written it. */
export function readPolicyCounters(file: string): SavedTotals | undefined {
  const content = readState(file, MAX_OCTETS);
  if (content === undefined) return undefined;
  const damaged = new Error(`${file} is damaged`);
  let saved: ({ version?: unknown } & Partial<SavedTotals>) | null;
  try {
    saved = parseJson(content, MAX_VALUES) as typeof saved;
  } catch {
    throw damaged;
  }
  if (Number.isInteger(saved?.version) && saved?.version !== VERSION) return undefined;
  const { labels, tables, sums, log } = saved ?? {};
  if (!isList(labels, isLabel) || !isList(tables, isTable) || !isList(sums, isSum)) throw damaged;
  if (log !== undefined && !isList(log, isDifference)) throw damaged;
  return { labels: labels!, tables: tables!, sums: sums!, ...(log && { log }) };
}

/** Replaces the file. Throws when that fails. */
export function writePolicyCounters(file: string, saved: SavedTotals): void {
  replaceState(file, [JSON.stringify({ version: VERSION, ...saved })]);
}
