/**
 * Network namespaces and processes for tests and the lab: everything that is made here is removed when the
 * process ends, however it ends, and what a killed run left behind is removed by the next one.
 *
 * Names carry the pid of their maker (`vegt1234-gateway`), so runs do not meet and leftovers are known.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { constants } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { IPV6, PATIENCE, SLOWNESS } from './machine.ts';

/** The checkout. */
export const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** The Node that this process runs, for what is started in namespaces. */
export const NODE = process.execPath;

/**
 * Runs the command that follows ahead of the rest of a machine that may be busy, in real time where that is
 * permitted: what is measured is the network, not how the ends share the machine with others. On a slow machine it would
 * leave nothing for the others.
 */
export const URGENTLY =
  SLOWNESS > 1
    ? []
    : ['sh', '-c', 'chrt -r 1 true 2>/dev/null && exec chrt -r 1 "$@"; exec nice -n -15 "$@"', 'sh'];

export interface Output {
  stdout: string;
  stderr: string;
  /** The exit code; 128 + 9 and the like after a signal. */
  code: number;
}

export interface RunOptions {
  input?: string;
  /** Added to this process's environment; undefined takes a variable away. */
  env?: Record<string, string | undefined>;
  timeoutMs?: number;
}

/** What is tested starts without the runner's cache of compiled code, as users start it. */
const environment = (extra: RunOptions['env']): NodeJS.ProcessEnv => ({
  ...process.env,
  NODE_COMPILE_CACHE: undefined,
  LC_ALL: 'C',
  ...extra,
});

/** Runs a command to its end. Never throws for a non-zero exit. */
export function run(file: string, args: string[], options: RunOptions = {}): Output {
  const r = spawnSync(file, args, {
    encoding: 'utf8',
    timeout: options.timeoutMs ?? PATIENCE,
    maxBuffer: 64 << 20,
    env: environment(options.env),
    ...(options.input === undefined ? {} : { input: options.input }),
  });
  if (r.error && r.status === null && !r.signal) return { stdout: '', stderr: r.error.message, code: -1 };
  return { stdout: r.stdout, stderr: r.stderr, code: r.status ?? 128 + constants.signals[r.signal!] };
}

/** Runs a command and returns its stdout; throws with its stderr when it fails. */
export function must(file: string, args: string[], options: RunOptions = {}): string {
  const r = run(file, args, options);
  if (r.code !== 0) throw new Error(`${file} ${args.join(' ')}: exit ${r.code}: ${r.stderr.trim()}`);
  return r.stdout;
}

/** How often something is looked for, milliseconds, unless looking takes long. */
const POLL_PERIOD = 20;

export interface UntilOptions {
  /** What is waited for, for the message. */
  what: string;
  /** When the test is about what does not come, how long to wait for it. Default: PATIENCE. */
  timeoutMs?: number;
  everyMs?: number;
}

/**
 * Polls until the function returns something other than undefined, false or null, and returns it.
 * Throws after the timeout, with the last exception if there was one.
 */
export async function until<T>(
  poll: () => T | Promise<T>,
  { what, timeoutMs = PATIENCE, everyMs }: UntilOptions,
): Promise<Exclude<T, undefined | false | null>> {
  const end = performance.now() + timeoutMs;
  let last: unknown;
  for (;;) {
    const began = performance.now();
    try {
      const value = await poll();
      if (value !== undefined && value !== false && value !== null) {
        return value as Exclude<T, undefined | false | null>;
      }
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (performance.now() > end) {
      throw new Error(`not within ${timeoutMs} ms: ${what}${last ? ` (${(last as Error).message})` : ''}`);
    }
    // A slow machine shall spend most of its time on what is waited for.
    const took = performance.now() - began;
    const share = SLOWNESS > 1 ? 4 : everyMs === undefined ? 2 : 0;
    await sleep(Math.max((everyMs ?? POLL_PERIOD) * SLOWNESS, share * took));
  }
}

/** Lines of a log that say why a gateway did what it did. */
const NOTABLE = /"level":"(warn|error|fatal)"|state changed|uplink|changing the kernel|watched again/;

/** The end of a log, and before it the last of the notable lines that came earlier. */
function digestOfLog(log: string): string {
  const end = log.slice(-3000);
  const before = log.slice(0, -3000).split('\n');
  const notable = before.filter((line) => NOTABLE.test(line)).map((line) => line.slice(0, 400));
  return [...notable.slice(-40), end].join('\n');
}

/** A process that goes on running, its output in a file. It does not keep its parent from ending. */
export class Daemon {
  readonly pid: number;
  readonly logFile: string;
  /** The exit code once it has ended; 128 + 9 and the like after a signal. */
  exitCode: number | undefined;
  readonly #child: ChildProcess;

  constructor(child: ChildProcess, logFile: string) {
    if (child.pid === undefined) throw new Error(`cannot start ${child.spawnfile}`);
    this.#child = child;
    this.pid = child.pid;
    this.logFile = logFile;
    child.once('exit', (code, signal) => {
      this.exitCode = code ?? 128 + constants.signals[signal!];
    });
    child.unref();
  }

  /** Everything it has printed so far, stdout and stderr. */
  log(): string {
    return readFileSync(this.logFile, 'utf8');
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }

  /** Waits for its end and returns the exit code. */
  async ended(): Promise<number> {
    await until(() => this.exitCode !== undefined, { what: `end of process ${this.pid}` });
    return this.exitCode!;
  }

  /** Sends a signal and waits for the end. Returns the exit code. */
  async stop(name: NodeJS.Signals = 'SIGTERM'): Promise<number> {
    this.signal(name);
    return this.ended();
  }
}

export interface SpawnOptions {
  /** The name of its log file in the scope's directory. */
  name: string;
  env?: RunOptions['env'];
}

/**
 * The command line that runs a command in a namespace. The test runner makes every Node that is started load its own
 * code first, which takes time, memory and a part in how it ends: what is tested runs without, as users run it.
 */
function inside(name: string, command: string[], env: RunOptions['env'] = {}): string[] {
  // In an emulated machine our own sources need some help (stripped.mjs).
  const sources = command.some((word) => word.endsWith('.ts')) ? process.env.VEG_TEST_SOURCES : undefined;
  const wanted = env.NODE_OPTIONS ?? sources;
  const options = wanted === undefined ? ['-u', 'NODE_OPTIONS'] : [`NODE_OPTIONS=${wanted}`];
  return ['netns', 'exec', name, 'env', ...options, ...command];
}

/** One network namespace. */
export class Namespace {
  readonly name: string;
  readonly #scope: Scope;

  constructor(scope: Scope, name: string) {
    this.#scope = scope;
    this.name = name;
  }

  /** Runs a command inside. Never throws for a non-zero exit. */
  run(file: string, args: string[] = [], options: RunOptions = {}): Output {
    return run('ip', inside(this.name, [file, ...args], options.env), options);
  }

  /** Runs a command line inside (words by blanks, no quoting); its stdout. Throws when it fails. */
  sh(line: string): string {
    const [file = '', ...args] = line.trim().split(/\s+/);
    return must('ip', inside(this.name, [file, ...args]));
  }

  /** Feeds lines to `ip -batch` inside. Rules need to be told their family, the rest knows by itself. */
  ip(lines: string, family?: 4 | 6): void {
    const input = `${lines.trim()}\n`;
    must('ip', [...(family ? [`-${family}`] : []), '-n', this.name, '-batch', '-'], { input });
  }

  /** Runs a script of nft inside. Not by standard input: nft 0.9.8 opens it anew as a file, and it is a socket. */
  nft(script: string): void {
    must('ip', inside(this.name, ['nft', script]));
  }

  sysctl(settings: Record<string, number>): void {
    must('ip', [
      ...['netns', 'exec', this.name, 'sysctl', '-qw'],
      ...Object.entries(settings).map(([key, value]) => `${key}=${value}`),
    ]);
  }

  /** The processes that live inside. */
  pids(): number[] {
    return pidsOf(this.name);
  }

  /** Starts a command inside that goes on running, in a process group of its own. */
  spawn(file: string, args: string[], options: SpawnOptions): Daemon {
    return this.#scope.spawn('ip', inside(this.name, [file, ...args], options.env), options);
  }
}

/** True while a process with that id lives (a zombie does not). */
export function alive(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

const pidsOf = (name: string): number[] =>
  run('ip', ['netns', 'pids', name]).stdout.split('\n').filter(Boolean).map(Number);

/** Ends what runs in a namespace and removes it. */
function removeNamespace(name: string): void {
  for (const pid of pidsOf(name)) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // ended meanwhile
    }
  }
  run('ip', ['netns', 'del', name]);
}

const namespacesNow = (): string[] => {
  try {
    return readdirSync('/run/netns');
  } catch {
    return [];
  }
};

/** Unmounts what a test has mounted below a directory, the innermost first. */
function unmountBelow(directory: string): void {
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n');
  const points = mounts.map((line) => line.split(' ')[1] ?? '');
  for (const point of points.filter((path) => path.startsWith(`${directory}/`)).reverse()) {
    run('umount', ['--lazy', point]);
  }
}

/** Removes every namespace and directory whose name begins so. */
export function removeAll(prefix: string): void {
  for (const name of namespacesNow()) if (name.startsWith(prefix)) removeNamespace(name);
  for (const name of readdirSync('/tmp')) {
    if (!name.startsWith(prefix)) continue;
    const directory = join('/tmp', name);
    unmountBelow(directory);
    rmSync(directory, { recursive: true, force: true });
  }
}

function removeLeftovers(): void {
  const names = new Set([...namespacesNow(), ...readdirSync('/tmp')].map((name) => /^vegt(\d+)-/.exec(name)));
  const dead = new Set([...names].filter((m) => m !== null && !alive(Number(m[1]))).map((m) => m![0]));
  for (const prefix of dead) removeAll(prefix);
}

/** Every scope of this process, disposed ones too. */
const scopes = new Set<Scope>();

function disposeAtExit(): void {
  process.on('exit', () => {
    for (const scope of scopes) scope.dispose();
  });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => process.exit(128 + constants.signals[signal]));
  }
}

/** Namespaces, processes and directories that belong together and go together. */
export class Scope {
  readonly prefix: string;
  /** A directory for logs, sockets and files, mode 0755. */
  readonly dir: string;
  readonly #daemons: Daemon[] = [];
  #kept = false;

  /** With a prefix of its own the scope has exactly that (the lab); else one of this process. */
  constructor(prefix?: string) {
    if (process.getuid?.() !== 0) throw new Error('network namespaces need root');
    if (prefix === undefined) removeLeftovers();
    this.prefix = prefix ?? `vegt${process.pid}-`;
    if (prefix === undefined) {
      this.dir = mkdtempSync(`/tmp/${this.prefix}`);
    } else {
      this.dir = `/tmp/${prefix}run`;
      mkdirSync(this.dir);
    }
    must('chmod', ['755', this.dir]);
    if (scopes.size === 0) disposeAtExit();
    scopes.add(this);
  }

  /** Makes a namespace with `lo` up and without duplicate address detection or router advertisements. */
  namespace(name: string): Namespace {
    const ns = new Namespace(this, this.prefix + name);
    must('ip', ['netns', 'add', ns.name]);
    ns.ip('link set lo up');
    ns.sysctl({
      'net.ipv4.conf.all.rp_filter': 0,
      'net.ipv4.conf.default.rp_filter': 0,
      ...(IPV6 && {
        'net.ipv6.conf.default.accept_dad': 0,
        'net.ipv6.conf.all.accept_dad': 0,
        'net.ipv6.conf.default.accept_ra': 0,
      }),
    });
    return ns;
  }

  /** A fresh directory below the scope's. */
  directory(name: string): string {
    return mkdtempSync(join(this.dir, `${name}-`));
  }

  /** Starts a process that goes on running; it is ended with the scope. */
  spawn(file: string, args: string[], { name, env }: SpawnOptions): Daemon {
    const logFile = join(this.directory(name), 'log');
    const fd = openSync(logFile, 'a');
    const child = spawn(file, args, { stdio: ['ignore', fd, fd], detached: true, env: environment(env) });
    closeSync(fd);
    const daemon = new Daemon(child, logFile);
    this.#daemons.push(daemon);
    return daemon;
  }

  /** What each daemon printed that matters, for a test that failed. */
  logs(): string {
    const name = (file: string) => basename(dirname(file)).replace(/-[^-]*$/, '');
    return this.#daemons
      .map((daemon) => `${name(daemon.logFile)} (${daemon.pid}):\n${digestOfLog(daemon.log())}`)
      .join('\n');
  }

  /** Leaves everything running when this process ends. */
  keep(): void {
    this.#kept = true;
  }

  /** Ends and removes everything. Also called at exit. */
  dispose(): void {
    if (this.#kept) return;
    this.#kept = true;
    for (const daemon of this.#daemons) if (daemon.exitCode === undefined) daemon.signal('SIGKILL');
    removeAll(this.prefix);
  }
}

/** A veth pair between two namespaces. */
export function veth(a: Namespace, aName: string, b: Namespace, bName: string, mtu = 1500): void {
  execFileSync('ip', [
    ...['-n', a.name, 'link', 'add', aName, 'mtu', `${mtu}`, 'type', 'veth'],
    ...['peer', 'name', bName, 'mtu', `${mtu}`, 'netns', b.name],
  ]);
  a.ip(`link set ${aName} up`);
  b.ip(`link set ${bName} up`);
}
