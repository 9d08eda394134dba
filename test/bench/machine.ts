/** The machine that a part ran on, and how quiet it was. */
import { readFileSync } from 'node:fs';
import os from 'node:os';
import { ROOT, run } from '../support/netns.ts';
import type { Machine, Noise } from './report.ts';
import { summary } from './stats.ts';

/** How to ask each program for its version; the first number with a dot is it. */
const PROGRAMS: Record<string, [file: string, ...args: string[]]> = {
  iptables: ['iptables', '-V'],
  ipset: ['ipset', '--version'],
  FRR: ['/usr/lib/frr/bfdd', '--version'],
  BIRD: ['bird', '--version'],
  OVN: ['ovn-northd', '--version'],
  'conntrack-tools': ['conntrack', '--version'],
};

export function machine(): Machine {
  const { version } = JSON.parse(readFileSync(`${ROOT}/package.json`, 'utf8')) as { version: string };
  const commit = run('git', ['-C', ROOT, 'rev-parse', '--short', 'HEAD']);
  const versions: Record<string, string> = {
    'veg-agent': commit.code === 0 ? `${version} (${commit.stdout.trim()})` : version,
    Node: process.versions.node,
  };
  for (const [name, [file, ...args]] of Object.entries(PROGRAMS)) {
    const { stdout, stderr } = run(file, args);
    versions[name] = /\d+\.\d[\w.]*/.exec(stdout + stderr)?.[0] ?? 'absent';
  }
  const release = /^PRETTY_NAME="?([^"\n]*)/m.exec(readFileSync('/etc/os-release', 'utf8'));
  return {
    cpu: os.cpus()[0]?.model ?? 'unknown',
    cores: os.cpus().length,
    memoryMiB: Math.round(os.totalmem() / 2 ** 20),
    kernel: os.release(),
    system: release?.[1] ?? os.platform(),
    versions,
  };
}

/** Ticks of all cores: in all, and stolen by the hypervisor (proc(5)). */
function ticks(): { all: number; stolen: number } {
  const [, ...fields] = readFileSync('/proc/stat', 'utf8').split('\n', 1)[0]!.split(/\s+/);
  const numbers = fields.map(Number).slice(0, 8);
  return { all: numbers.reduce((a, b) => a + b, 0), stolen: numbers[7] ?? 0 };
}

const SLEEP_MS = 5;

/** Watches the machine until it is asked. The process must be idle otherwise. */
export function watchNoise(): () => Noise {
  const before = ticks();
  const loadBefore = os.loadavg()[0]!;
  const late: number[] = [];
  let due = performance.now() + SLEEP_MS;
  let timer = setTimeout(wake, SLEEP_MS);
  function wake(): void {
    const now = performance.now();
    late.push(Math.max(0, now - due));
    due = now + SLEEP_MS;
    timer = setTimeout(wake, SLEEP_MS);
  }
  return () => {
    clearTimeout(timer);
    const after = ticks();
    const stealPercent = (100 * (after.stolen - before.stolen)) / Math.max(1, after.all - before.all);
    return { stealPercent, sleeperLateMs: summary(late), loadBefore };
  };
}
