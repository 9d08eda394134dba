/**
 * Numbers as a person reads them, for the terminal and for the page, which takes these functions as they are
 * (page/page.ts): each stands for itself. Pure.
 */

/** `0`, `7.5`, `412`, `1.24k`, `88.1M`; with a unit `412 B`, `1.24 kB`. Decimal prefixes. */
export function scaled(value: number, unit?: string): string {
  let rest = value;
  let prefix = '';
  for (const next of ['k', 'M', 'G', 'T', 'P']) {
    // What would be rounded to 1000 is 1.00 of the next.
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

/** An address with the port or identifier that there is: `10.0.0.1:80`, `[fd00::1]:80`, `fd00::1`. */
export function endpoint(address: string, port: number | undefined): string {
  if (port === undefined) return address;
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}
