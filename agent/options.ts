/**
 * The settings of the daemon: a flag, else its environment variable, else the default. Pure.
 */

import type { LogFormat, LogLevel } from '../lib/log.ts';
import { parseDuration } from '../lib/units.ts';

/** The exit codes of the commands (docs/commands.md). */
export const EXIT = {
  ok: 0,
  failed: 1,
  usage: 2,
  policyInvalid: 3,
  changesPending: 4,
  notReady: 5,
  noneFound: 6,
} as const;

const LOG_LEVELS: readonly LogLevel[] = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'];

/** Text of a flag as commander gives it; absent when it was not on the command line. */
export type Flags = Partial<Record<OptionName, string>>;

/** One flag: its value's name in the help, what it does, and the text of its default. */
interface OptionSpec {
  value: string;
  help: string;
  fallback?: string;
}

/** Every command takes these. */
export const GLOBAL_OPTIONS = {
  'policy-dir': { value: 'DIR', help: 'the mounted policy', fallback: '/etc/veg-agent/policy' },
  'state-dir': {
    value: 'DIR',
    help: 'control socket, checkpoints, the last good policy (a tmpfs)',
    fallback: '/run/veg-agent',
  },
  'log-level': { value: 'LEVEL', help: LOG_LEVELS.join('|'), fallback: 'info' },
  'log-format': { value: 'FORMAT', help: 'json|pretty (default: pretty on a terminal)' },
} as const satisfies Record<string, OptionSpec>;

/** Options of reconciling: `run`, `apply`, `plan` and `cleanup` take these. */
export const KERNEL_OPTIONS = {
  'network-status': {
    value: 'FILE',
    help: "Multus' network-status annotation",
    fallback: '/etc/podinfo/network-status',
  },
  'internal-interface': { value: 'NAME', help: 'the interface in the VPC (default: found, else eth0)' },
  'external-interface': { value: 'NAME', help: 'the interface outside (default: found, else net1)' },
} as const satisfies Record<string, OptionSpec>;

/** Only the daemon takes these. */
export const RUN_OPTIONS = {
  listen: {
    value: 'ADDR:PORT,…',
    help: "HTTP for metrics and probes (default: port 10669 on loopback and the pod's addresses, but those outside)",
  },
  resync: { value: 'TIME', help: 'the longest time between two reconciles', fallback: '30s' },
  'drain-timeout': { value: 'TIME', help: 'the longest wait for traffic to move away', fallback: '5s' },
  'on-exit': { value: 'keep|remove', help: 'the kernel state after the daemon ended', fallback: 'keep' },
  'frr-dir': { value: 'DIR', help: "FRR's sockets, for the sessions in status", fallback: '/run/frr' },
  'translation-log': { value: 'FILE', help: 'translation records go there, rotated (default: stdout)' },
} as const satisfies Record<string, OptionSpec>;

export type OptionName = keyof typeof GLOBAL_OPTIONS | keyof typeof KERNEL_OPTIONS | keyof typeof RUN_OPTIONS;

/**
 * The flags of the command line `run --FLAG VALUE …`; undefined for any other: reading those takes a library, which takes an
 * interpreter half as long to load as the engine of BFD.
 */
export function plainRunFlags([command, ...words]: readonly string[]): Flags | undefined {
  if (command !== 'run' || words.length % 2 === 1) return undefined;
  const flags: Flags = {};
  for (let i = 0; i < words.length; i += 2) {
    const [word, value] = [words[i]!, words[i + 1]!];
    const name = word.slice('--'.length);
    const known = [GLOBAL_OPTIONS, KERNEL_OPTIONS, RUN_OPTIONS].some((table) => Object.hasOwn(table, name));
    if (!word.startsWith('--') || !known || value.startsWith('-')) return undefined;
    flags[name as OptionName] = value;
  }
  return flags;
}

/** `ADDR:PORT` to listen on. */
export interface ListenAddress {
  host: string;
  port: number;
}

/** All settings, resolved. */
export interface Options {
  policyDir: string;
  stateDir: string;
  logLevel: LogLevel;
  logFormat: LogFormat;
  networkStatus: string;
  internalInterface?: string;
  externalInterface?: string;
  /** Absent: the default port on loopback and the pod's own addresses, but those of the external interface. */
  listen?: ListenAddress[];
  /** Milliseconds. */
  resync: number;
  /** Milliseconds. */
  drainTimeout: number;
  onExit: 'keep' | 'remove';
  frrDir: string;
  /** Absent: translation records go to stdout. */
  translationLog?: string;
}

/** An invalid flag or variable. The message names it and what it may be. */
export class UsageError extends Error {}

/** The longest wait, ms; timers take no more than 24 days. */
const LONGEST_WAIT = 24 * 3_600_000;

/** What `parseTimeout` takes. */
export const TIMEOUT = 'seconds (20) or a time (20s), more than 0 and at most 24h';

/** Parses how long to wait, seconds (`20`) or a time (`20s`), to milliseconds; undefined for anything else. */
export function parseTimeout(text: string): number | undefined {
  const time = /^\d+(?:\.\d+)?$/.test(text) ? Number(text) * 1000 : parseDuration(text);
  return time !== undefined && time > 0 && time <= LONGEST_WAIT ? time : undefined;
}

/** Parses `127.0.0.1:10669` or `[::1]:10669` or `:10669` (every address); undefined for anything else. */
export function parseListen(text: string): ListenAddress | undefined {
  const match = /^(\[[0-9a-fA-F:.]+\]|[0-9.]*):(\d{1,5})$/.exec(text);
  const [, written = '', digits] = match ?? [];
  const port = Number(digits);
  if (match === null || port > 65_535) return undefined;
  if (written === '') return { host: '::', port };
  // A URL has IPv4 in the one form that is written here, and no IPv6 that is none.
  const host = URL.parse(`http://${written}`)?.hostname;
  if (host === undefined || !(written.startsWith('[') || host === written)) return undefined;
  return { host: host.replace(/[[\]]/g, ''), port };
}

// Linux: IFNAMSIZ 16 with the final NUL; no slash, no blank (net/core/dev.c dev_valid_name).
const INTERFACE_NAME = /^[^\s/:]{1,15}$/;

/** The environment variable of a flag. */
export const variableOf = (name: OptionName): string =>
  `VEG_AGENT_${name.toUpperCase().replaceAll('-', '_')}`;

/** The options that choose the policy and the interfaces. */
export const PLAN_OPTIONS = [
  'policy-dir',
  'network-status',
  'internal-interface',
  'external-interface',
] as const;

/** The given flags and variables that choose the policy and the interfaces, as the query of `GET /v1/plan`. */
export const planQuery = (flags: Flags, env: Record<string, string | undefined>): Record<string, string> =>
  Object.fromEntries(
    PLAN_OPTIONS.flatMap((name) => {
      const text = flags[name] ?? (env[variableOf(name)] || undefined);
      return text === undefined ? [] : [[name, text]];
    }),
  );

/** Whether a daemon with these options has the policy and interfaces that a command names. */
export function matchesDaemon(options: Options, named: URLSearchParams): boolean {
  const { policyDir, networkStatus, internalInterface, externalInterface } = options;
  const own: Record<(typeof PLAN_OPTIONS)[number], string | undefined> = {
    ...{ 'policy-dir': policyDir, 'network-status': networkStatus },
    ...{ 'internal-interface': internalInterface, 'external-interface': externalInterface },
  };
  return PLAN_OPTIONS.every((name) => !named.has(name) || named.get(name) === own[name]);
}

/** Resolves flags, environment and defaults. Throws `UsageError` for an invalid value. */
export function resolveOptions(
  flags: Flags,
  env: Record<string, string | undefined>,
  terminal: boolean,
): Options {
  const all: Record<OptionName, OptionSpec> = { ...GLOBAL_OPTIONS, ...KERNEL_OPTIONS, ...RUN_OPTIONS };
  function read<T>(
    name: OptionName,
    expected: string,
    parse: (text: string) => T | undefined,
  ): T | undefined {
    const fromEnv = env[variableOf(name)] || undefined;
    const text = flags[name] ?? fromEnv ?? all[name].fallback;
    if (text === undefined) return undefined;
    const value = parse(text);
    if (value !== undefined) return value;
    const source = flags[name] === undefined ? variableOf(name) : `--${name}`;
    throw new UsageError(`${source} must be ${expected}, is ${JSON.stringify(text)}`);
  }
  const text = (value: string) => value || undefined;
  const oneOf =
    <T extends string>(...values: readonly T[]) =>
    (value: string) =>
      values.find((candidate) => candidate === value);
  const interfaceName = (value: string) => (INTERFACE_NAME.test(value) ? value : undefined);
  const duration = 'a time such as 200ms, 30s or 5m';
  const internalInterface = read('internal-interface', 'the name of an interface', interfaceName);
  const externalInterface = read('external-interface', 'the name of an interface', interfaceName);
  const listen = read('listen', 'ADDR:PORT, [ADDR]:PORT or :PORT, joined by commas', (value) => {
    const list = value.split(',').map((item) => parseListen(item.trim()));
    return list.includes(undefined) ? undefined : (list as ListenAddress[]);
  });
  const translationLog = read('translation-log', 'a file', text);
  return {
    policyDir: read('policy-dir', 'a directory', text)!,
    stateDir: read('state-dir', 'a directory', text)!,
    logLevel: read('log-level', `one of ${LOG_LEVELS.join(', ')}`, oneOf(...LOG_LEVELS))!,
    logFormat:
      read('log-format', 'json or pretty', oneOf('json', 'pretty')) ?? (terminal ? 'pretty' : 'json'),
    networkStatus: read('network-status', 'a file', text)!,
    ...(internalInterface === undefined ? {} : { internalInterface }),
    ...(externalInterface === undefined ? {} : { externalInterface }),
    ...(listen === undefined ? {} : { listen }),
    resync: read('resync', `${duration}, at least 100ms`, (value) => {
      const period = parseDuration(value);
      return period !== undefined && period >= 100 ? period : undefined;
    })!,
    drainTimeout: read('drain-timeout', `${duration}, at most 24h`, (value) => {
      const time = parseDuration(value);
      return time !== undefined && time <= LONGEST_WAIT ? time : undefined;
    })!,
    onExit: read('on-exit', 'keep or remove', oneOf('keep', 'remove'))!,
    frrDir: read('frr-dir', 'a directory', text)!,
    ...(translationLog === undefined ? {} : { translationLog }),
  };
}
