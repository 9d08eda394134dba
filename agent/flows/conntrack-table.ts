/** This namespace's connection tracking table: how full it is, and what the kernel dropped. */
import { readFileSync } from 'node:fs';
import { insertFailures, statistic } from '../../nat/conntrack/exhaustion.ts';

export interface ConntrackUse {
  entries: number;
  /** The most entries it holds; 0: no limit. */
  limit: number;
}

/** Flows that began while the table was full: counters of the kernel, each a sum over processors of 32 bits. */
export interface ConntrackPressure {
  /** First packets that were dropped because the table was full. */
  refused: number;
  /** Unanswered flows that were evicted. */
  evicted: number;
}

const DIRECTORY = '/proc/sys/net/netfilter';
const STATISTICS = '/proc/net/stat/nf_conntrack';

/** The table's use; undefined where the kernel does not export it. */
export function readConntrackUse(directory = DIRECTORY): ConntrackUse | undefined {
  const read = (name: string) => Number(readFileSync(`${directory}/nf_conntrack_${name}`, 'utf8'));
  try {
    return { entries: read('count'), limit: read('max') };
  } catch {
    return undefined;
  }
}

/** First packets of new flows that were dropped because they could not enter the table; undefined likewise. */
export function readInsertFailures(file = STATISTICS): number | undefined {
  try {
    return insertFailures(readFileSync(file, 'utf8'));
  } catch {
    return undefined;
  }
}

/** What a full table has cost so far; undefined where the kernel does not export it. */
export function readConntrackPressure(file = STATISTICS): ConntrackPressure | undefined {
  try {
    const text = readFileSync(file, 'utf8');
    const [refused, evicted] = [statistic(text, 'drop'), statistic(text, 'early_drop')];
    return refused === undefined || evicted === undefined ? undefined : { refused, evicted };
  } catch {
    return undefined;
  }
}
