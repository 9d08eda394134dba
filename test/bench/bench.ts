/**
 * The benchmarks: `npm run bench [-- PART…] [--list] [--quick] [--out DIR] [--before REF]`, as root. Each part runs in a process of its own and
 * writes docs/bench/PART.json and PART.svg and its section of docs/benchmarks.md; one that fails says so and does not
 * keep the others from running. With --before the parts that can (startup, idle) measure that commit in turn. Exit code 0: all went well; 1: a part failed; 2: usage.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { NODE, ROOT } from '../support/netns.ts';
import { BEFORE_VARIABLE, buildBefore } from './before.ts';
import { BUDGET } from './context.ts';
import { machine, watchNoise } from './machine.ts';
import { type Findings, insert, picture, type Result, section } from './report.ts';

const PARTS: Record<string, string> = {
  reconcile: 'A policy change, from the file to the kernel',
  connections: 'New and established connections through the gateway',
  bfd: 'BFD beside FRR and BIRD, on a quiet machine',
  'bfd-busy': 'BFD beside FRR and BIRD, while both cores are busy',
  failover: 'Failover behind OVN at 100 ms × 5',
  'failover-slow': 'Failover behind OVN at 1000 ms × 3',
  group: 'Gateways of a group, and conntrackd',
  'group-load': 'A group under many new flows',
  translations: 'The translation log beside conntrack -E',
  startup: 'Start and memory',
  idle: 'One session and nothing to do',
  bandwidth: 'Bandwidth limits',
  reaction: 'How soon it reacts',
  growth: 'What grows with what',
};

/** A part that has not ended so long after its time is killed, ms. */
const GRACE = 15_000;

const say = (text: string): void => void process.stderr.write(`${text}\n`);

function refuse(message: string): never {
  say(`bench: ${message}\nusage: npm run bench -- [PART…] [--list] [--quick] [--out DIR] [--before REF]`);
  process.exit(2);
}

function parse() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        list: { type: 'boolean', default: false },
        quick: { type: 'boolean', default: false },
        out: { type: 'string' },
        before: { type: 'string' },
      },
    });
  } catch (error) {
    return refuse((error as Error).message);
  }
}

/** Runs a part to its end. Returns what it found; throws when it failed. */
async function run(name: string, quick: boolean, directory: string): Promise<Findings> {
  const file = join(directory, name);
  const args = [join(ROOT, 'test/bench/part.ts'), name, file, ...(quick ? ['--quick'] : [])];
  const child = spawn(NODE, args, { stdio: ['ignore', 'inherit', 'inherit'] });
  const late = setTimeout(() => child.kill('SIGTERM'), BUDGET + GRACE);
  const dead = setTimeout(() => child.kill('SIGKILL'), BUDGET + 2 * GRACE);
  const stop = () => child.kill('SIGTERM');
  process.once('SIGINT', stop).once('SIGTERM', stop);
  const [code, signal] = (await once(child, 'exit')) as [number | null, string | null];
  process.off('SIGINT', stop).off('SIGTERM', stop);
  clearTimeout(late);
  clearTimeout(dead);
  if (code !== 0) throw new Error(signal === null ? `exit code ${code}` : `ended by ${signal}`);
  return JSON.parse(readFileSync(file, 'utf8')) as Findings;
}

const { values, positionals } = parse();
if (values.list) {
  for (const [name, title] of Object.entries(PARTS)) process.stdout.write(`${name.padEnd(14)} ${title}\n`);
  process.exit(0);
}
for (const name of positionals) if (!(name in PARTS)) refuse(`unknown part: ${name}; see --list`);
const chosen = positionals.length > 0 ? positionals : Object.keys(PARTS);

const work = mkdtempSync(join(tmpdir(), 'veg-bench-'));
process.on('exit', () => rmSync(work, { recursive: true, force: true }));
// A quick run must not stand where figures stand.
const out = resolve(
  values.out ?? (values.quick ? mkdtempSync(join(tmpdir(), 'veg-quick-bench-')) : join(ROOT, 'docs')),
);
mkdirSync(join(out, 'bench'), { recursive: true });
const page = join(out, 'benchmarks.md');
if (!existsSync(page)) copyFileSync(join(ROOT, 'docs/benchmarks.md'), page);

if (values.before !== undefined) {
  say(`bench: building ${values.before}`);
  const directory = join(work, 'before');
  mkdirSync(directory);
  process.env[BEFORE_VARIABLE] = JSON.stringify(buildBefore(values.before, directory));
}

const facts = machine();
const failed: string[] = [];
let stopped = false;
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.on(signal, () => {
    stopped = true;
  });
for (const [i, name] of chosen.entries()) {
  say(`bench: ${name} (${i + 1} of ${chosen.length}): ${PARTS[name]}`);
  const at = new Date().toISOString();
  const began = performance.now();
  const noise = watchNoise();
  try {
    const findings = await run(name, values.quick, work);
    const seconds = (performance.now() - began) / 1000;
    const result: Result = {
      ...{ part: name, title: PARTS[name]!, at, seconds, quick: values.quick },
      ...{ machine: facts, noise: noise(), ...findings },
    };
    writeFileSync(join(out, 'bench', `${name}.json`), `${JSON.stringify(result, undefined, 1)}\n`);
    const plots = await picture(result);
    if (plots !== undefined) writeFileSync(join(out, 'bench', `${name}.svg`), plots);
    writeFileSync(page, insert(readFileSync(page, 'utf8'), name, section(result)));
    say(`bench: ${name}: done in ${Math.round(seconds)} s`);
  } catch (error) {
    noise();
    failed.push(name);
    say(`bench: ${name} FAILED: ${(error as Error).message}`);
  }
  if (stopped) break;
}
say(
  `bench: ${chosen.length - failed.length} of ${chosen.length} parts written to ${out}${failed.length > 0 ? `; failed: ${failed.join(', ')}` : ''}`,
);
process.exit(failed.length > 0 || stopped ? 1 : 0);
