/**
 * The counters of policies (policy-counters.ts) in the state directory: a line that says the version, then rows, a list of
 * JSON each, which are written and read one by one. A name is written once; other rows have its index.
 *
 * Whatever is written can be read by an agent process with as much memory; more than that is not written.
 */
import v8 from 'node:v8';
import { readState, replaceState } from '../../lib/files.ts';
import { parseJson } from '../../lib/json.ts';
import { MAX_KEY, type SavedTotals } from '../../nat/counters/totals.ts';

type Sum = SavedTotals['sums'][number];

/** Changes when the layout of the file does. */
const VERSION = 2;
const HEAD = `{"version":${VERSION}}\n`;
/** The octets of a part that is written at once. */
const PART = 64 << 10;
/** The values of the longest row, brackets included. */
const MAX_VALUES = 12;
/** Above all that is counted: the kernel's counters have 64 bits. */
const MAX_COUNT = 2 ** 80;

/** What a row takes of the heap when it is read, octets; the rows may take half of it. */
const ROW_HEAP = 200;
/** The most rows in any heap: 95 000 policies in both families, each with connections from outside and a fast path. */
const MAX_ROWS = 1 << 20;
/** The octets of a row, and of all names more than that. */
const ROW = 100;
const NAMES = 8 << 20;

/**
 * The most rows, and octets. The agent's smallest heap (24 MiB) has room for 5000 policies, which are more than the
 * documents of a gateway may hold there (docs/policy.md).
 */
function limits(): { rows: number; octets: number } {
  const heap = v8.getHeapStatistics().heap_size_limit;
  const rows = Math.min(MAX_ROWS, Math.floor(heap / 2 / ROW_HEAP));
  return { rows, octets: NAMES + ROW * rows };
}

/** What the file holds; undefined without one. Throws when the agent cannot have written it. */
export function readPolicyCounters(file: string): SavedTotals | undefined {
  const max = limits();
  const content = readState(file, max.octets);
  if (content === undefined) return undefined;
  const damaged = new Error(`${file} is damaged`);
  const version = /^\{"version":(\d+)[,}]/.exec(content.toString('latin1', 0, 32))?.[1];
  if (version !== undefined && Number(version) !== VERSION) return undefined;
  if (content.toString('latin1', 0, HEAD.length) !== HEAD) throw damaged;
  const builder = new Builder();
  let rows = 0;
  for (let at = HEAD.length; at < content.length; ) {
    const end = content.indexOf('\n', at);
    if (++rows > max.rows) throw new Error(`${file} has more than ${max.rows} rows`);
    if (end < 0 || !builder.add(rowIn(content.subarray(at, end)))) throw damaged;
    at = end + 1;
  }
  if (!builder.isComplete) throw damaged;
  return builder.saved;
}

/** Replaces the file. Throws when that fails. */
export function writePolicyCounters(file: string, saved: SavedTotals): void {
  replaceState(file, partsOf(saved));
}

/** The text in parts, each of some rows. */
function* partsOf(saved: SavedTotals): Generator<string> {
  const max = limits();
  let [part, rows, octets] = [HEAD, 0, 0];
  const counted = (): string => {
    octets += Buffer.byteLength(part);
    if (rows > max.rows || octets > max.octets) {
      throw new Error(`more than ${max.rows} rows or ${max.octets} octets`);
    }
    return part;
  };
  for (const row of rowsOf(saved)) {
    rows++;
    part += `${row}\n`;
    if (part.length < PART) continue;
    yield counted();
    part = '';
  }
  yield counted();
}

function* rowsOf({ labels, tables, sums, log }: SavedTotals): Generator<string> {
  const indexes = new Map<string, number>();
  for (const list of [labels, sums, log ?? []]) {
    for (const { policy } of list) {
      if (indexes.has(policy)) continue;
      indexes.set(policy, indexes.size);
      yield `["name",${JSON.stringify(policy)}]`;
    }
  }
  for (const { mark, policy, inbound, forwarded } of labels) {
    yield `["label",${mark},${indexes.get(policy)},${inbound},${forwarded}]`;
  }
  for (const { family, handle, counts } of tables) {
    yield `["table",${family},${handle}]`;
    for (const [key, values] of counts) yield `["counters",${key},${values}]`;
  }
  const sumRow = (kind: string, { family, treatment, policy, connections, packets, bytes }: Sum): string =>
    `["${kind}",${family},"${treatment}",${indexes.get(policy)},${connections},${packets.out},${packets.in},${bytes.out},${bytes.in}]`;
  for (const sum of sums) yield sumRow('sum', sum);
  if (log !== undefined) yield '["log"]';
  for (const sum of log ?? []) yield sumRow('offset', sum);
  yield '["end"]';
}

/** The elements of a row; undefined: it is none. */
function rowIn(line: Uint8Array): unknown[] | undefined {
  try {
    const row = parseJson(line, MAX_VALUES);
    return Array.isArray(row) ? row : undefined;
  } catch {
    return undefined;
  }
}

const isDifference = (value: unknown): value is number =>
  Number.isInteger(value) && Math.abs(value as number) <= MAX_COUNT;
const isCount = (value: unknown): value is number => isDifference(value) && value >= 0;
const isFamily = (value: unknown): value is 4 | 6 => value === 4 || value === 6;
const isBoolean = (value: unknown): value is boolean => typeof value === 'boolean';

/** The totals, row by row. */
class Builder {
  readonly saved: SavedTotals = { labels: [], tables: [], sums: [] };
  isComplete = false;
  readonly #names: string[] = [];

  /** Returns false for what is no row, or not here. */
  add(row: unknown[] | undefined): boolean {
    if (row === undefined || this.isComplete) return false;
    const [kind, ...values] = row;
    switch (kind) {
      case 'name':
        return values.length === 1 && typeof values[0] === 'string' && this.#names.push(values[0]) > 0;
      case 'label':
        return this.#addLabel(values);
      case 'table':
        return this.#addTable(values);
      case 'counters':
        return this.#addCounters(values);
      case 'sum':
        return addSum(this.saved.sums, this.#sumOf(values, isCount));
      case 'log':
        this.saved.log ??= [];
        return values.length === 0;
      case 'offset':
        return this.saved.log !== undefined && addSum(this.saved.log, this.#sumOf(values, isDifference));
      case 'end':
        this.isComplete = true;
        return values.length === 0;
      default:
        return false;
    }
  }

  #nameAt(index: unknown): string | undefined {
    return isCount(index) ? this.#names[index] : undefined;
  }

  #addLabel([mark, name, inbound, forwarded, ...more]: unknown[]): boolean {
    const policy = this.#nameAt(name);
    if (!isCount(mark) || mark > 0xff_ffff || policy === undefined || more.length > 0) return false;
    if (!isBoolean(inbound) || !isBoolean(forwarded)) return false;
    return this.saved.labels.push({ mark, policy, inbound, forwarded }) > 0;
  }

  #addTable([family, handle, ...more]: unknown[]): boolean {
    if (!isFamily(family) || !isCount(handle) || more.length > 0) return false;
    return this.saved.tables.push({ family, handle, counts: [] }) > 0;
  }

  #addCounters([key, ...values]: unknown[]): boolean {
    const table = this.saved.tables.at(-1);
    if (table === undefined || !isCount(key) || key > MAX_KEY) return false;
    if (values.length !== 6 || !values.every(isCount)) return false;
    return table.counts.push([key, values as (typeof table.counts)[number][1]]) > 0;
  }

  #sumOf([family, treatment, name, ...numbers]: unknown[], is: typeof isCount): Sum | undefined {
    const policy = this.#nameAt(name);
    if (!isFamily(family) || policy === undefined || numbers.length !== 5 || !numbers.every(is)) {
      return undefined;
    }
    if (treatment !== 'snat' && treatment !== 'forward') return undefined;
    const [connections, packetsOut, packetsIn, bytesOut, bytesIn] = numbers as number[];
    return {
      ...{ policy, family, treatment, connections: connections! },
      packets: { out: packetsOut!, in: packetsIn! },
      bytes: { out: bytesOut!, in: bytesIn! },
    };
  }
}

const addSum = (list: Sum[], sum: Sum | undefined): boolean => sum !== undefined && list.push(sum) > 0;
