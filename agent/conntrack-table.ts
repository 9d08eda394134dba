/** What the kernel says about this namespace's connection tracking table: how full it is, and what it dropped. */
import { readFileSync } from 'node:fs';
import { insertFailures } from '../nat/conntrack/exhaustion.ts';

export interface ConntrackUse {
  entries: number;
  /** The most entries it takes; 0: no limit. */
  limit: number;
}

const DIRECTORY = '/proc/sys/net/netfilter';
const STATISTICS = '/proc/net/stat/nf_conntrack';

/** The table's use; undefined where the kernel does not tell. */
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
