/** The history of port blocks (port-history.ts) in the state directory. */
import { join } from 'node:path';
import { readState, replaceState } from '../../lib/files.ts';
import { parseJson } from '../../lib/json.ts';
import { HISTORY_BOUNDS, type HistoryEntry, parseHistory } from './port-history.ts';

/** Changes when the layout of the file does. */
const VERSION = 1;

const fileIn = (stateDir: string): string => join(stateDir, 'port-blocks.json');

/** The entries of the file; none without one. Throws when the agent cannot have written it. */
export function readPortHistory(stateDir: string): HistoryEntry[] {
  const file = fileIn(stateDir);
  const content = readState(file, HISTORY_BOUNDS.octets);
  if (content === undefined) return [];
  const damaged = new Error(`${file} is damaged`);
  let value: { version?: unknown; entries?: unknown } | null;
  try {
    value = parseJson(content, HISTORY_BOUNDS.values) as typeof value;
  } catch {
    throw damaged;
  }
  if (Number.isInteger(value?.version) && value?.version !== VERSION) return [];
  const entries = parseHistory(value?.entries);
  if (entries === undefined) throw damaged;
  return entries;
}

/** Replaces the file. Throws when that fails. */
export function writePortHistory(stateDir: string, entries: readonly HistoryEntry[]): void {
  replaceState(fileIn(stateDir), [JSON.stringify({ version: VERSION, entries })]);
}
