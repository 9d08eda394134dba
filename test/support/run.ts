/**
 * The test runner. Each test file is a process of its own, several run at a time, and each is a line of output.
 *
 *     run.ts all|unit|live|image    a suite
 *     run.ts FILE…                  these files; `lab` among them is the lab
 *     run.ts --singly FILE…         each test of these files in a process of its own, the last one first
 *     run.ts --raise-floor unit     as unit, and raises test/coverage-floor.json to what was reached
 *
 * Prints everything but the passed assertions of a file that failed, at the end the names of what failed, and in the
 * last line "N passed, N failed". Exit code 0 only when something ran and nothing failed. run.sh installs what is
 * missing first.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { coverage, report as coverageReport, raise } from './coverage.ts';
import { SLOWNESS, slowdown } from './machine.ts';
import { readTap } from './tap-output.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
/** A test file fails by itself after this time, s. */
const TIMEOUT = 1800 * Math.min(SLOWNESS, 2);
/** It is sent SIGTERM when it has not ended this much later, and SIGKILL after as much again, s. */
const GRACE = 15;
/** Code compiled by V8, which every test file of the `tap` package would compile anew. */
const COMPILE_CACHE = join(ROOT, 'node_modules/.cache/veg-compile');

interface Task {
  name: string;
  argv: readonly string[];
  env?: Record<string, string>;
  /** It mostly waits, or else keeps a core busy. */
  waits: boolean;
  /** Nothing else runs beside it. */
  alone?: boolean;
  /** A task that has to succeed first. */
  after?: Task;
}

interface Ended {
  task: Task;
  good: boolean;
  output: string;
  seconds: number;
  /** CPU seconds, of its children too. */
  cpu: number;
}

// What runs -------------------------------------------------------------------------------------------------

const TEST_FILE = /\.test\.ts$/;
type Suite = 'unit' | 'live' | 'image' | 'kernels';

/**
 * Cores that are counted for a test that mostly waits. More on a slow machine, where five at a time keep each other waiting for
 * a processor, but three have to fit on two, or all of them take hours. On an emulated machine it has all cores.
 */
const waitingCores = (cores: number): number =>
  SLOWNESS > 1 ? cores : Math.min(0.65, Math.max(0.4, 0.3 * slowdown()));

/** Files that keep all cores busy. */
const ALONE = /^test\/live\/punctual\.test\.ts$/;
/** Files whose Open vSwitch has a core for itself, in real time. */
const REAL_TIME = /^test\/live\/group-ovn\.test\.ts$/;
/** Files that take longest begin first. */
const LONG =
  /^test\/(?:live\/(?:agent-bad-policy|egress|group(?:-\w+)?|image|nat-policies|order|ovn|processes)|images\/container(?:-\w+)?)\.test\.ts$/;

/** What loads the sources on an emulated machine (kernels.ts); undefined on any other. */
const EMULATED = process.env.VEG_TEST_SOURCES;
/** Files that need WebAssembly, which there is not with V8's interpreter alone, as on emulated machines. */
const WEB_ASSEMBLY = /^test\/(?:picture|support\/coverage)\.test\.ts$/;

const file = (name: string, suite: Suite, more: Partial<Task> = {}): Task => ({
  name,
  argv: [process.execPath, name],
  waits: suite !== 'unit' && !REAL_TIME.test(name),
  alone: ALONE.test(name),
  ...(EMULATED !== undefined && WEB_ASSEMBLY.test(name) && { env: { NODE_OPTIONS: EMULATED } }),
  ...more,
});

/** Folders of tests that need more than Node. What needs another kernel is no suite: kernels.ts runs it in a machine. */
const FOLDERS: Readonly<Record<string, Suite>> = { live: 'live', images: 'image', kernels: 'kernels' };

const suiteOf = (name: string): Suite => FOLDERS[name.split('/')[1]!] ?? 'unit';

/** All test files of a suite. */
function filesOf(suite: Suite): string[] {
  return globSync('test/**/*.test.ts', { cwd: ROOT })
    .filter((name) => suiteOf(name) === suite)
    .sort();
}

/** Commands begin first, then what keeps the cores busy, then what waits, the longest first. */
function rank({ name, waits, alone }: Task): number {
  if (!TEST_FILE.test(name)) return 0;
  if (!waits) return 1;
  return alone ? 4 : LONG.test(name) ? 2 : 3;
}

const command = (line: string): Task => ({ name: line, argv: line.split(' '), waits: false });

/** Where the unit tests' processes leave their coverage; made when that suite runs. */
let coverageDirectory: string | undefined;

function tasksOf(suite: Suite): Task[] {
  const files = filesOf(suite);
  // Types, style and coverage are the same on every machine, and take minutes on an emulated one.
  if (suite === 'unit' && EMULATED === undefined) {
    coverageDirectory = mkdtempSync(join(tmpdir(), `vegt${process.pid}-coverage`));
    const env = { NODE_V8_COVERAGE: coverageDirectory };
    return [
      command('tsc --noEmit'),
      command('tsc --noEmit -p agent/show/page/browser'),
      command('biome check --error-on-warnings .'),
      ...files.map((f) => file(f, suite, { env })),
    ];
  }
  if (suite !== 'image' || process.env.VEG_IMAGE) return files.map((f) => file(f, suite));
  const build = command('sh test/support/image.sh');
  const name = execFileSync('sh', ['test/support/image.sh', '--name'], { cwd: ROOT, encoding: 'utf8' });
  return [build, ...files.map((f) => file(f, suite, { after: build, env: { VEG_IMAGE: name.trim() } }))];
}

/** Each test of a file by itself, the last one first; of a test with subtests each of these. */
async function singly(name: string): Promise<Task[]> {
  const suite = suiteOf(name);
  const only = (path: string[]): Record<string, string> => ({
    TAP_GREP: path.map((part) => `/^${part.replace(/[/\\^$*+?.()|[\]{}]/g, '\\$&')}$/`).join('\n'),
    TAP_FILTER_QUIETLY: '1',
  });
  /** The names of the tests below a test: what is left out when none has the name that is asked for. */
  const below = async (path: string[]): Promise<string[]> => {
    const env = { TAP_GREP: [only(path).TAP_GREP, '/^$/'].filter(Boolean).join('\n') };
    const { output } = await start(file(name, suite, { env }));
    return readTap(output)
      .filtered.map((full) => full.split(' > '))
      .flatMap((parts) => parts.slice(path.length, path.length + 1));
  };
  const tasks: Task[] = [];
  for (const top of (await below([])).reverse()) {
    const subtests = await below([top]);
    const paths = subtests.length > 0 ? subtests.reverse().map((sub) => [top, sub]) : [[top]];
    for (const path of paths)
      tasks.push(file(name, suite, { name: `${name}: ${path.join(' > ')}`, env: only(path) }));
  }
  return tasks;
}

// Running it ------------------------------------------------------------------------------------------------

const running = new Set<ChildProcess>();
let counted = 0;

/** CPU seconds of the child that has just ended: what all that have ended used, less what is counted already. */
function cpuOfLast(): number {
  const fields = readFileSync('/proc/self/stat', 'utf8').split(') ')[1]!.split(' ');
  const all = (Number(fields[13]) + Number(fields[14])) / 100;
  const own = all - counted;
  counted = all;
  return own;
}

function start(task: Task): Promise<Ended> {
  const [program, ...args] = task.argv;
  const began = performance.now();
  const child = spawn(program!, args, {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TAP_TIMEOUT: `${TIMEOUT}`, NODE_COMPILE_CACHE: COMPILE_CACHE, ...task.env },
  });
  running.add(child);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text;
    });
  }
  const timers = (['SIGTERM', 'SIGKILL'] as const).map((signal, i) =>
    setTimeout(() => child.kill(signal), (TIMEOUT + (i + 1) * GRACE) * 1000),
  );
  return new Promise((resolve) => {
    const end = (how: string | undefined) => {
      for (const timer of timers) clearTimeout(timer);
      running.delete(child);
      if (how !== undefined) output += `\n${how}\n`;
      const seconds = (performance.now() - began) / 1000;
      resolve({ task, good: how === undefined, output, seconds, cpu: cpuOfLast() });
    };
    child.on('error', ({ message }) => end(message));
    child.on('exit', (code, signal) => {
      const how = code === 0 ? undefined : signal ? `killed by ${signal}` : `exit code ${code}`;
      // What a test left running may hold its output open for ever.
      const late = setTimeout(end, 1000, how);
      child.on('close', () => {
        clearTimeout(late);
        end(how);
      });
    });
  });
}

const totals = { passed: 0, failed: 0, skipped: 0 };
const failures: string[] = [];

/** Prints a task that has ended, and counts it: a command as one test. */
function report({ task, good, output, seconds, cpu }: Ended): void {
  const tap = TEST_FILE.test(task.argv.at(-1)!) ? readTap(output) : undefined;
  const pass = tap?.pass ?? (good ? 1 : 0);
  // A file that was cut off or asserted nothing has failed.
  const fail = Math.max(tap?.fail ?? 0, good && pass > 0 ? 0 : 1);
  totals.passed += pass;
  totals.failed += fail;
  totals.skipped += (tap?.skip ?? 0) + (tap?.todo ?? 0);
  const count = tap ? `${pass + fail} assertions, ` : '';
  const line = `${task.name} (${count}${seconds.toFixed(1)} s, CPU ${cpu.toFixed(1)} s)`;
  if (fail === 0) {
    console.log(`ok      ${line}`);
    for (const [text] of tap?.detail.matchAll(/^ *# measured: .*/gm) ?? []) console.log(text.trim());
    return;
  }
  console.log(`FAILED  ${line}\n${tap?.detail ?? output}`);
  const names = tap?.failures.length
    ? tap.failures
    : [good ? 'no assertions' : output.trim().split('\n').at(-1)];
  failures.push(task.name, ...names.map((name) => `  ${name}`));
}

/** Runs tasks in their order, as many at a time as there are cores for. */
async function runAll(tasks: readonly Task[], cores: number): Promise<void> {
  const waiting = [...tasks];
  const good = new Map<Task, boolean>();
  const active = new Map<Task, Promise<Ended>>();
  let each = waitingCores(cores);
  const fits = ({ waits, alone, after }: Task): boolean => {
    if (active.size === 0) return !after || good.has(after);
    const busy = [...active.keys()];
    const wanted = [...busy, { waits }].reduce((sum, task) => sum + (task.waits ? each : 1), 0);
    return !alone && !busy.some((task) => task.alone) && (!after || good.has(after)) && wanted <= cores;
  };
  while (waiting.length > 0 || active.size > 0) {
    const next = waiting.findIndex(fits);
    if (next < 0) {
      const ended = await Promise.race(active.values());
      active.delete(ended.task);
      good.set(ended.task, ended.good);
      report(ended);
      // It takes 20 ms of a core.
      if (waiting[0]?.waits) each = waitingCores(cores);
      continue;
    }
    const [task] = waiting.splice(next, 1) as [Task];
    if (task.after && !good.get(task.after)) {
      report({ task, good: false, output: `not run: ${task.after.name} failed`, seconds: 0, cpu: 0 });
    } else active.set(task, start(task));
  }
}

/** Prints what the unit tests cover, and counts the floor as one test. */
function reportCoverage(directory: string, raiseFloor: boolean): void {
  const folders = coverage(directory);
  if (raiseFloor) raise(folders);
  const { table, below } = coverageReport(folders);
  console.log(table);
  if (below.length === 0) totals.passed++;
  totals.failed += below.length;
  if (below.length > 0) failures.push('coverage', ...below.map((line) => `  ${line}`));
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { singly: { type: 'boolean' }, 'raise-floor': { type: 'boolean', default: false } },
});
if (positionals.length === 0) {
  console.error('usage: run.ts all|unit|live|image, run.ts [--singly] FILE…');
  process.exit(2);
}
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    for (const child of running) child.kill(signal);
    process.exit(130);
  });
}

// What all network namespaces share --------------------------------------------------------------------------

/** Settings of the whole machine: with the kernel's own, one test takes from another what it needs. */
const SHARED_LIMITS = {
  // Packets that wait at a core. With 1000, up to 800 packets of a run were dropped.
  '/proc/sys/net/core/netdev_max_backlog': 100_000,
  // Neighbour entries. With 1024, nobody answered ARP for seconds while one test made as many, and gateways left Up.
  '/proc/sys/net/ipv4/neigh/default/gc_thresh3': 65_536,
  '/proc/sys/net/ipv6/neigh/default/gc_thresh3': 65_536,
} as const;

/** The sum of a column of hexadecimal numbers; 0 where this kernel has no such file. */
function total(file: string, column: number): number {
  if (!existsSync(file)) return 0;
  const rows = readFileSync(file, 'utf8')
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/));
  return rows.reduce((sum, row) => sum + (Number.parseInt(row[column] ?? '', 16) || 0), 0);
}

/** How often something did not find room, since the machine started (net/core/net-procfs.c, net/core/neighbour.c). */
const shortages = () => ({
  'packets were dropped because the queue was full': total('/proc/net/softnet_stat', 1),
  'ARP entries found no room': total('/proc/net/stat/arp_cache', 12),
  'Neighbor Discovery entries found no room': total('/proc/net/stat/ndisc_cache', 12),
});

/** Raises the limits until this process ends, and says then what found no room all the same. */
function raiseSharedLimits(): void {
  const former = Object.entries(SHARED_LIMITS)
    .filter(([file]) => existsSync(file))
    .map(([file, value]) => ({ file, value, before: readFileSync(file, 'utf8') }));
  const counts = shortages();
  for (const { file, value } of former) writeFileSync(file, `${value}`);
  process.on('exit', () => {
    for (const { file, before } of former) writeFileSync(file, before);
    for (const [what, count] of Object.entries(shortages())) {
      const more = count - counts[what as keyof typeof counts];
      if (more > 0) console.log(`${more} ${what}`);
    }
  });
}

const tasks: Task[] = [];
for (const word of positionals) {
  if (word === 'all') tasks.push(...(['unit', 'live', 'image'] as const).flatMap(tasksOf));
  else if (word === 'unit' || word === 'live' || word === 'image') tasks.push(...tasksOf(word));
  else if (word === 'lab')
    tasks.push(command(`${process.execPath} test/lab/main.ts run builtin 0 --no-color`));
  else if (values.singly) tasks.push(...(await singly(word)));
  else tasks.push(file(word, suiteOf(word)));
}
process.on('exit', () => {
  if (coverageDirectory !== undefined) rmSync(coverageDirectory, { recursive: true, force: true });
});
if (!values.singly) tasks.sort((a, b) => rank(a) - rank(b));
if (tasks.some(({ name }) => suiteOf(name) !== 'unit' && TEST_FILE.test(name))) raiseSharedLimits();
await runAll(tasks, availableParallelism());
if (coverageDirectory !== undefined) reportCoverage(coverageDirectory, values['raise-floor']);
if (failures.length > 0) console.log(`failed:\n${failures.join('\n')}`);
const { passed, failed, skipped } = totals;
console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
