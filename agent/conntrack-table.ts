/** How full this namespace's connection tracking table is. */
import { readFileSync } from 'node:fs';

export interface ConntrackUse {
  entries: number;
  /** The most entries it takes; 0: no limit. */
  limit: number;
}

const DIRECTORY = '/proc/sys/net/netfilter';

/** The table's use; undefined where the kernel does not tell. */
export function readConntrackUse(directory = DIRECTORY): ConntrackUse | undefined {
  const read = (name: string) => Number(readFileSync(`${directory}/nf_conntrack_${name}`, 'utf8'));
  try {
    return { entries: read('count'), limit: read('max') };
  } catch {
    return undefined;
  }
}
