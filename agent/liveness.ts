/** `/livez`: whether the agent process can do its work. Pure. */
import { WATCHDOG } from './watchdog.ts';

/** Without a report from the BFD process for this long, the agent process cannot do its work, ms. */
const BFD_TIMEOUT = 10_000;

/**
 * Why the gateway is not watched; undefined while it is.
 * @param neglected for how long a policy has been in force without being observed, ms
 * @param lastError why the last reconcile failed
 */
export function unwatchedReason(neglected: number, lastError: string | undefined): string | undefined {
  if (neglected <= WATCHDOG.unwatched) return undefined;
  const seconds = Math.round(neglected / 1000);
  return `kernel and uplink were not observed for ${seconds} s: ${lastError ?? 'the first observation has not ended'}`;
}

/** Why the process is not alive. `bfdSilence`: since the last report of the BFD process, ms. */
export const notLiveReasons = (bfdSilence: number, unwatched: string | undefined): string[] => [
  ...(bfdSilence > BFD_TIMEOUT ? ['no report from the BFD process'] : []),
  ...(unwatched === undefined ? [] : [unwatched]),
];
