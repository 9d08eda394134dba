/** What processes cost: processor time and memory, read from /proc and cgroups. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { until } from '../support/netns.ts';

const TICKS_PER_SECOND = 100; // USER_HZ

const read = (path: string): string | undefined => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined; // ended meanwhile
  }
};

const threads = (pid: number): string[] => {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
};

/** A process and everything that descends from it. */
export function tree(pid: number): number[] {
  const children = threads(pid).flatMap((tid) =>
    (read(`/proc/${pid}/task/${tid}/children`) ?? '').split(' ').filter((word) => word.trim() !== ''),
  );
  return [pid, ...children.flatMap((child) => tree(Number(child)))];
}

/** Processor time of one process, in seconds: of its threads to the nanosecond, of its ended children to a tick. */
export function ownCpu(pid: number): number {
  const running = threads(pid)
    .map((tid) => Number((read(`/proc/${pid}/task/${tid}/schedstat`) ?? '0').split(' ')[0]) / 1e9)
    .reduce((all, one) => all + one, 0);
  const stat = read(`/proc/${pid}/stat`) ?? '';
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return running + (Number(fields[13] ?? 0) + Number(fields[14] ?? 0)) / TICKS_PER_SECOND;
}

/** Processor time of a process and everything that descends from it, in seconds. */
export const treeCpu = (pid: number): number =>
  tree(pid)
    .map(ownCpu)
    .reduce((all, one) => all + one, 0);

export interface Memory {
  /** MiB: resident, of it anonymous, and proportional (shared pages divided among who shares them). */
  resident: number;
  anonymous: number;
  proportional: number;
}

/** Memory of processes together, MiB. */
export function memory(pids: readonly number[]): Memory {
  const total = { resident: 0, anonymous: 0, proportional: 0 };
  for (const pid of pids) {
    const text = read(`/proc/${pid}/smaps_rollup`) ?? '';
    const mib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0) / 1024;
    total.resident += mib('Rss');
    total.anonymous += mib('Anonymous');
    total.proportional += mib('Pss');
  }
  return total;
}

const V2 = existsSync('/sys/fs/cgroup/cgroup.controllers');

/** A control group of its own that counts what its processes are charged for: memory, and the kernel's for them. */
export class MemoryGroup {
  readonly #path: string;

  /** Throws where this process may not make groups. */
  constructor(name: string) {
    const root = V2 ? '/sys/fs/cgroup' : '/sys/fs/cgroup/memory';
    if (V2) writeFileSync(join(root, 'cgroup.subtree_control'), '+memory');
    this.#path = join(root, name);
    mkdirSync(this.#path);
  }

  /** Puts a process into the group, best as soon as it was started: what it was charged before stays elsewhere. */
  add(pid: number): void {
    writeFileSync(join(this.#path, 'cgroup.procs'), `${pid}`);
  }

  /** What the group is charged now, MiB: with the page cache that its processes have brought in. */
  charged(): number {
    const file = V2 ? 'memory.current' : 'memory.usage_in_bytes';
    return Number(readFileSync(join(this.#path, file), 'utf8')) / 2 ** 20;
  }

  /** The same without page cache that could be dropped at once: what the kubelet calls the working set, MiB. */
  workingSet(): number {
    const stat = readFileSync(join(this.#path, 'memory.stat'), 'utf8');
    const inactive = /^(?:total_)?inactive_file (\d+)/m.exec(stat)?.[1] ?? '0';
    return this.charged() - Number(inactive) / 2 ** 20;
  }

  /** Removes it, as soon as its processes have ended. */
  async remove(): Promise<void> {
    await until(() => rmdirSync(this.#path) === undefined, { what: `the end of the group ${this.#path}` });
  }
}
