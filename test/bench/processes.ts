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

/** Processor time of the threads of a process with this name, in seconds. */
export const threadCpu = (pid: number, name: string): number =>
  threads(pid)
    .filter((tid) => read(`/proc/${pid}/task/${tid}/comm`)?.trim() === name)
    .map((tid) => Number((read(`/proc/${pid}/task/${tid}/schedstat`) ?? '0').split(' ')[0]) / 1e9)
    .reduce((all, one) => all + one, 0);

const V2 = existsSync('/sys/fs/cgroup/cgroup.controllers');
/** The period of a processor limit, as container runtimes set it, µs. */
const PERIOD = 100_000;

export interface Limits {
  /** MiB. */
  memory?: number;
  /** Thousandths of a core. */
  cpu?: number;
}

/** A control group of its own: limits its processes, and counts the memory that they and the kernel for them take. */
export class ControlGroup {
  /** One with version 2; of version 1 one for each controller, memory first. */
  readonly #paths: string[];

  /** Throws where this process may not make groups. */
  constructor(name: string, { memory, cpu }: Limits = {}) {
    const root = '/sys/fs/cgroup';
    const controllers = ['memory', ...(cpu === undefined ? [] : ['cpu'])];
    if (V2) writeFileSync(join(root, 'cgroup.subtree_control'), controllers.map((c) => `+${c}`).join(' '));
    this.#paths = V2 ? [join(root, name)] : controllers.map((controller) => join(root, controller, name));
    for (const path of this.#paths) mkdirSync(path);
    const set = (file: [v1: string, v2: string], value: string) =>
      writeFileSync(
        join(V2 || file[0].startsWith('memory') ? this.#paths[0]! : this.#paths[1]!, file[V2 ? 1 : 0]),
        value,
      );
    if (memory !== undefined) set(['memory.limit_in_bytes', 'memory.max'], `${memory * 2 ** 20}`);
    if (cpu === undefined) return;
    const quota = (cpu * PERIOD) / 1000;
    if (V2) set(['', 'cpu.max'], `${quota} ${PERIOD}`);
    else {
      set(['cpu.cfs_period_us', ''], `${PERIOD}`);
      set(['cpu.cfs_quota_us', ''], `${quota}`);
    }
  }

  /** Puts a process into the group, best as soon as it was started: what it was charged before stays elsewhere. */
  add(pid: number): void {
    for (const path of this.#paths) writeFileSync(join(path, 'cgroup.procs'), `${pid}`);
  }

  /** What the group is charged now, MiB: with the page cache that its processes have brought in. */
  charged(): number {
    return Number(this.#read('memory.usage_in_bytes', 'memory.current')) / 2 ** 20;
  }

  /** The most there was, MiB. */
  peak(): number {
    return Number(this.#read('memory.max_usage_in_bytes', 'memory.peak')) / 2 ** 20;
  }

  /** The same without page cache that could be dropped at once: what the kubelet calls the working set, MiB. */
  workingSet(): number {
    const inactive = /^(?:total_)?inactive_file (\d+)/m.exec(this.#read('memory.stat', 'memory.stat'))?.[1];
    return this.charged() - Number(inactive ?? '0') / 2 ** 20;
  }

  /** Processes that the kernel killed because there was no memory left. */
  outOfMemoryKills(): number {
    return Number(/^oom_kill (\d+)$/m.exec(this.#read('memory.oom_control', 'memory.events'))?.[1] ?? '0');
  }

  #read(v1: string, v2: string): string {
    return readFileSync(join(this.#paths[0]!, V2 ? v2 : v1), 'utf8');
  }

  /** Removes it, as soon as its processes have ended. */
  async remove(): Promise<void> {
    for (const path of this.#paths) {
      await until(() => rmdirSync(path) === undefined, { what: `the end of the group ${path}` });
    }
  }
}
