/**
 * The tracker's state on disk, so that an agent which starts again goes on counting where the last one was: a
 * line of JSON, then the flows as the table holds them. Written to a new file that takes the old one's place;
 * one that cannot be replaced is removed, because counters that go on from an old state would go back.
 */
import { closeSync, openSync, readFileSync, renameSync, rmSync, writevSync } from 'node:fs';
import { FLOW_SIZE } from './table.ts';
import type { TrackerState } from './tracker.ts';

/** Changes when the layout of a flow or of the line does. */
const VERSION = 1;

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
export function writeCheckpoint<Extra>(file: string, checkpoint: Checkpoint<Extra>, flows: Buffer[]): void {
  const header: Header<Extra> = { version: VERSION, flowSize: FLOW_SIZE, ...checkpoint };
  const parts = [Buffer.from(`${JSON.stringify(header)}\n`), ...flows];
  try {
    const fd = openSync(`${file}.new`, 'w', 0o600);
    try {
      const written = writevSync(fd, parts);
      if (written < parts.reduce((sum, { length }) => sum + length, 0)) throw new Error('the disk is full');
    } finally {
      closeSync(fd);
    }
    renameSync(`${file}.new`, file);
  } catch (error) {
    rmSync(file, { force: true });
    rmSync(`${file}.new`, { force: true });
    throw error;
  }
}

/** The checkpoint, and the flows for the table's `load`; undefined when there is none that can be used. */
export function readCheckpoint<Extra>(file: string): (Checkpoint<Extra> & { flows: Buffer }) | undefined {
  let content: Buffer;
  try {
    content = readFileSync(file);
  } catch {
    return undefined;
  }
  const end = content.indexOf('\n');
  try {
    const { version, flowSize, tracker, extra } = JSON.parse(
      content.toString('utf8', 0, end),
    ) as Header<Extra>;
    if (version !== VERSION || flowSize !== FLOW_SIZE) return undefined;
    return { tracker, extra, flows: content.subarray(end + 1) };
  } catch {
    return undefined;
  }
}
