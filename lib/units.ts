/**
 * Numbers as a person reads and writes them. Pure. `scaled`, `duration` and `endpoint` are self-contained, because the
 * page includes their source (page/page.ts).
 */

/** `0`, `7.5`, `412`, `1.24k`, `88.1M`; with a unit `412 B`, `1.24 kB`. Decimal prefixes. */
export function scaled(value: number, unit?: string): string {
  let rest = value;
  let prefix = '';
  for (const next of ['k', 'M', 'G', 'T', 'P']) {
    // 999.5 would be rounded to 1000: use the next prefix.
    if (rest < 999.5) break;
    rest /= 1000;
    prefix = next;
  }
  const small = prefix === '' ? Number(rest.toFixed(rest < 10 ? 1 : 0)).toString() : rest.toPrecision(3);
  return unit === undefined ? small + prefix : `${small} ${prefix}${unit}`;
}

/** `42s`, `3m10s`, `2h5m`, `4d1h`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${whole % 60}s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)}h${Math.floor((whole % 3600) / 60)}m`;
  return `${Math.floor(whole / 86_400)}d${Math.floor((whole % 86_400) / 3600)}h`;
}

/** An address with its port or identifier, if there is one: `10.0.0.1:80`, `[fd00::1]:80`, `fd00::1`. */
export function endpoint(address: string, port: number | undefined): string {
  if (port === undefined) return address;
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

const DURATION = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/;
const MILLISECONDS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** A duration as `200ms`, `1.5s`, `5m` or `1h`, in milliseconds; undefined for anything else. */
export function parseDuration(text: string): number | undefined {
  const match = DURATION.exec(text);
  if (match === null) return undefined;
  return Number(match[1]) * MILLISECONDS[match[2] as keyof typeof MILLISECONDS];
}

const GO_DURATION = /^(?:\d+(?:\.\d+)?(?:ms|s|m|h))+$/;
const GO_PART = /(\d+(?:\.\d+)?)(ms|s|m|h)/g;

/** A duration as Go prints it, `90s` or `1m30s`, in milliseconds; undefined for anything else. */
export function parseGoDuration(text: string): number | undefined {
  if (!GO_DURATION.test(text)) return undefined;
  return [...text.matchAll(GO_PART)].reduce(
    (sum, [, number, unit]) => sum + Number(number) * MILLISECONDS[unit as keyof typeof MILLISECONDS],
    0,
  );
}
