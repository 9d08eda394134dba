/** How much of a time the translation log covers, to distinguish "none found" from "not recorded". Pure. */

export interface LogCoverage {
  /** The policy has a translation log. */
  enabled: boolean;
  /** Ended flows are kept since then, RFC 3339; null: they are not kept. */
  since: string | null;
  /** How much of the time asked for lies after `since`. `gaps` in it are apart. */
  covers: 'all' | 'part' | 'none';
}

/** @param since Unix milliseconds; undefined when ended flows are not kept */
export function logCoverage(
  enabled: boolean,
  since: number | undefined,
  asked: { from: number; to: number },
): LogCoverage {
  if (!enabled || since === undefined) return { enabled, since: null, covers: 'none' };
  const covers = asked.from >= since ? 'all' : asked.to >= since ? 'part' : 'none';
  return { enabled, since: new Date(since).toISOString(), covers };
}

/** What to know where nothing was found: since when there is a log, or that there is none. */
export function coverageText({ enabled, since, covers }: LogCoverage): string {
  if (!enabled)
    return 'there is no translation log (spec.translationLog.enabled), only port blocks were searched';
  if (since === null) return 'ended flows are not stored at the moment; see the log of the agent';
  return covers === 'none'
    ? `the translation log begins at ${since}, after the time asked for`
    : `the translation log begins at ${since}`;
}
