/**
 * The tracker's state on disk, so that an agent which starts again goes on counting where the last one was: a
 * line of JSON, then the flows as the table holds them. Written to a new file that takes the old one's place;
 * one that cannot be replaced is removed, because counters that go on from an old state would go back.
 *
 * Whoever may write to the directory may have written it. Every field is held against the values that it can have
 * (the flows by `FlowTable.load`), and the line is parsed only where the thread's heap has room for what may come of it.
 */
import { FLOW_SIZE, LAST_DATE, VERDICTS } from './table.ts';
import type { Total, TrackerState } from './tracker.ts';

/** Changes when the layout of a flow or of the line does. */
const VERSION = 1;
/** The file and its line at most, octets. */
const MAX_SIZE = 16 << 20;
const MAX_LINE = 4 << 20;
/** Values in the line, at most. */
const MAX_VALUES = 1 << 18;

/** What is needed of lib/files.ts and lib/json.ts. */
export interface StateFiles {
  parseJson(octets: Uint8Array, maxValues: number): unknown;
  readState(path: string, maxBytes: number): Buffer | undefined;
  checkState(path: string, maxBytes: number): boolean;
  replaceState(path: string, content: readonly (string | Uint8Array)[]): void;
  makeOwnDirectory(path: string): void;
  clear(path: string): void;
}

export interface Checkpoint<Extra> {
  tracker: TrackerState;
  /** What else the caller keeps. */
  extra: Extra;
}

interface Header<Extra> extends Checkpoint<Extra> {
  version: number;
  flowSize: number;
}

/** Replaces the checkpoint. Throws when that cannot be done; then there is none. */
export function writeCheckpoint<Extra>(
  file: string,
  checkpoint: Checkpoint<Extra>,
  flows: Buffer[],
  files: Pick<StateFiles, 'replaceState' | 'clear'>,
): void {
  const header: Header<Extra> = { version: VERSION, flowSize: FLOW_SIZE, ...checkpoint };
  try {
    files.replaceState(file, [`${JSON.stringify(header)}\n`, ...flows]);
  } catch (error) {
    files.clear(file);
    throw error;
  }
}

/**
 * The checkpoint, and the flows for the table's `load`; undefined when there is none, or one of another version. What
 * the caller keeps is for the caller to check. Throws when it is not what it should be.
 */
export function readCheckpoint(
  file: string,
  files: Pick<StateFiles, 'readState' | 'parseJson'>,
): (Checkpoint<unknown> & { flows: Buffer }) | undefined {
  const content = files.readState(file, MAX_SIZE);
  if (content === undefined) return undefined;
  const end = content.indexOf('\n');
  const damaged = new Error(`${file} is damaged`);
  if (end > MAX_LINE) throw damaged;
  let header: Partial<Header<unknown>> | null;
  try {
    header = files.parseJson(content.subarray(0, end), MAX_VALUES) as Header<unknown>;
  } catch {
    throw damaged;
  }
  const { version, flowSize, tracker, extra } = header ?? {};
  if (Number.isInteger(version) && (version !== VERSION || flowSize !== FLOW_SIZE)) return undefined;
  if (version !== VERSION || !isTrackerState(tracker)) throw damaged;
  return { tracker, extra, flows: content.subarray(end + 1) };
}

function isList<T>(value: T[], check: (one: T) => boolean): boolean {
  return Array.isArray(value) && value.every((one) => check(one));
}

const areDifferent = (values: readonly string[]): boolean => new Set(values).size === values.length;

const isNumber = (value: unknown, most = Number.MAX_SAFE_INTEGER): boolean =>
  typeof value === 'number' && value >= 0 && value <= most;

function isTrackerState(value: unknown): value is TrackerState {
  const { at, policies, totals } = (value ?? {}) as TrackerState;
  return (
    isNumber(at, LAST_DATE) &&
    isList(policies, (name) => name === null || typeof name === 'string') &&
    policies[0] === '' &&
    areDifferent(policies.filter((name) => name !== null)) &&
    isList(totals, isTotal)
  );
}

function isTotal(total: Total | null): boolean {
  const { verdict, policy, family, protocol, snat, dnat, inbound, started, ended, counters } = total ?? {};
  return (
    VERDICTS.includes(verdict!) &&
    typeof policy === 'string' &&
    (family === 4 || family === 6) &&
    Number.isInteger(protocol) &&
    protocol! >= 0 &&
    protocol! <= 0xff &&
    [snat, dnat, inbound].every((flag) => typeof flag === 'boolean') &&
    [started, ended].every((count) => isNumber(count)) &&
    isList<number>(counters!, (count) => isNumber(count)) &&
    counters!.length === 4
  );
}
