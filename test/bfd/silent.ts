/** Loggers for tests: one that says nothing, and one that remembers. */
import type { Log } from '../../lib/log.ts';

const nothing = () => {};
export const silentLog: Log = { error: nothing, warn: nothing, info: nothing, debug: nothing };

export interface Line {
  level: keyof Log;
  fields: Record<string, unknown>;
  message: string;
}

/** A logger whose lines can be looked at. */
export function rememberingLog(): Log & { lines: Line[] } {
  const lines: Line[] = [];
  const at = (level: keyof Log) => (fields: object, message: string) => {
    lines.push({ level, fields: { ...fields }, message });
  };
  return { lines, error: at('error'), warn: at('warn'), info: at('info'), debug: at('debug') };
}
