/** Containers as a kubelet starts, probes and ends them: podman and runc, in a network namespace of the test. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Namespace, NODE, type Output, ROOT, run, type Scope } from '../support/netns.ts';

const IMAGE = process.env.VEG_IMAGE ?? 'localhost/veg-agent';
/** What podman asks for by default is more than some machines grant. */
const ULIMITS = ['--ulimit', 'nofile=1024:1024', '--ulimit', 'nproc=1024:1024'];

export interface ContainerSpec {
  /** Default: the gateway's. */
  image?: string;
  command: readonly string[];
  env?: Record<string, string>;
  /** `privileged` root, or user 65534 with exactly these capabilities in its bounding set. */
  security: 'privileged' | { capabilities: readonly string[] };
  /** Host path by path in the container. */
  volumes?: Record<string, string>;
  /** MiB. */
  memory?: number;
  /** Thousandths of a core. */
  cpu?: number;
  readOnly?: boolean;
}

/** The capabilities of Kube-OVN's containers. */
export const CAPABILITIES = {
  bfd: ['NET_ADMIN', 'NET_BIND_SERVICE', 'NET_RAW'],
  gateway: ['NET_ADMIN', 'NET_RAW'],
  observer: ['NET_ADMIN'],
} as const;

/** podman with a hook that makes capabilities as Kubernetes has them. */
class Podman {
  readonly #args: string[];

  constructor(scope: Scope) {
    const hooks = scope.directory('hooks');
    const hook = { path: NODE, args: ['node', join(ROOT, 'test/images/no-ambient.ts')] };
    const definition = { version: '1.0.0', hook, when: { always: true }, stages: ['precreate'] };
    writeFileSync(join(hooks, 'no-ambient.json'), JSON.stringify(definition));
    this.#args = ['--cgroup-manager', 'cgroupfs', '--runtime', 'runc', '--hooks-dir', hooks];
  }

  /** Runs a command to its end; both of its outputs. Throws when it fails. */
  run(...args: string[]): string {
    const { code, stdout, stderr } = run('podman', [...this.#args, ...args]);
    if (code !== 0) throw new Error(`podman ${args.join(' ')}: ${stderr}`);
    return stdout + stderr;
  }
}

export class Container {
  readonly #podman: Podman;
  readonly #ns: Namespace;
  readonly #spec: ContainerSpec;
  #id!: string;
  #cgroup!: string;

  private constructor(podman: Podman, ns: Namespace, spec: ContainerSpec) {
    this.#podman = podman;
    this.#ns = ns;
    this.#spec = spec;
    this.#start();
  }

  /** Starts a container. The caller removes it. */
  static start(scope: Scope, ns: Namespace, spec: ContainerSpec): Container {
    return new Container(new Podman(scope), ns, spec);
  }

  #start(): void {
    const {
      image = IMAGE,
      command,
      env = {},
      security,
      volumes = {},
      memory,
      cpu,
      readOnly = false,
    } = this.#spec;
    const user =
      security === 'privileged'
        ? ['--privileged', '--user', '0']
        : ['--user', '65534', '--cap-drop', 'ALL', '--cap-add', security.capabilities.join(',')];
    this.#id = this.#podman
      .run(
        ...['create', '--network', `ns:/run/netns/${this.#ns.name}`, ...ULIMITS, ...user],
        ...Object.entries(env).flatMap(([name, value]) => ['--env', `${name}=${value}`]),
        ...Object.entries(volumes).flatMap(([path, source]) => ['--volume', `${source}:${path}`]),
        ...(memory === undefined ? [] : ['--memory', `${memory}m`, '--memory-swap', `${memory}m`]),
        ...(cpu === undefined ? [] : ['--cpu-quota', `${cpu * 100}`]),
        ...(readOnly ? ['--read-only', '--read-only-tmpfs=false'] : []),
        ...[image, ...command],
      )
      .trim();
    this.#podman.run('start', this.#id);
    this.#cgroup = this.#state('CgroupPath');
  }

  #state(field: string): string {
    return this.#podman.run('inspect', '--format', `{{.State.${field}}}`, this.#id).trim();
  }

  get running(): boolean {
    return this.#state('Running') === 'true';
  }

  /** The id of its first process, as this machine sees it. */
  get pid(): number {
    return Number(this.#state('Pid'));
  }

  /** Waits for its end. */
  async ended(): Promise<{ code: number; log: string }> {
    while (this.running) await sleep(50);
    return { code: Number(this.#state('ExitCode')), log: this.log() };
  }

  /** What it has printed. */
  log(): string {
    return this.#podman.run('logs', this.#id);
  }

  /** A command inside, as `kubectl exec` and exec probes have it run. `ms`: how long it took. */
  exec(...argv: string[]): Output & { ms: number } {
    const began = performance.now();
    const output = run('runc', ['exec', this.#id, ...argv]);
    return { ...output, ms: performance.now() - began };
  }

  /** The same, and the most anonymous memory that there was in the container while it ran, MiB. */
  async execMeasured(...argv: string[]): Promise<Output & { anonymous: number }> {
    const child = spawn('runc', ['exec', this.#id, ...argv], { stdio: ['ignore', 'pipe', 'pipe'] });
    let anonymous = 0;
    const timer = setInterval(() => {
      anonymous = Math.max(anonymous, this.memory.anonymous);
    }, 5);
    const [stdout, stderr, [code]] = await Promise.all([
      text(child.stdout),
      text(child.stderr),
      once(child, 'close') as Promise<[number]>,
    ]);
    clearInterval(timer);
    return { code, stdout, stderr, anonymous };
  }

  signal(name: NodeJS.Signals): void {
    this.#podman.run('kill', '--signal', name, this.#id);
  }

  /** Ends it and starts another in its place, as a kubelet does: of the old one only its volumes are left. */
  restart(): void {
    this.remove();
    this.#start();
  }

  remove(): void {
    this.#podman.run('rm', '--force', '--time', '0', this.#id);
  }

  /** A file of its memory cgroup. */
  #read(v1: string, v2: string): string {
    const file = join('/sys/fs/cgroup/memory', this.#cgroup, v1);
    return readFileSync(existsSync(file) ? file : join('/sys/fs/cgroup', this.#cgroup, v2), 'utf8');
  }

  /** MiB that are charged to it now, page cache included; of it anonymous memory; and the most there was. */
  get memory(): { charged: number; anonymous: number; peak: number } {
    const mib = (octets: string | undefined) => Math.round(Number(octets) / 1024 / 102.4) / 10;
    return {
      charged: mib(this.#read('memory.usage_in_bytes', 'memory.current')),
      anonymous: mib(/^(?:rss|anon) (\d+)$/m.exec(this.#read('memory.stat', 'memory.stat'))?.[1]),
      peak: mib(this.#read('memory.max_usage_in_bytes', 'memory.peak')),
    };
  }

  /** How many of its processes the kernel has killed because they needed more. */
  get outOfMemoryKills(): number {
    return Number(/^oom_kill (\d+)$/m.exec(this.#read('memory.oom_control', 'memory.events'))?.[1]);
  }

  /** CPU time that it has had, ms. */
  get cpuTime(): number {
    const v1 = join('/sys/fs/cgroup/cpuacct', this.#cgroup, 'cpuacct.usage');
    if (existsSync(v1)) return Number(readFileSync(v1, 'utf8')) / 1e6;
    const text = readFileSync(join('/sys/fs/cgroup', this.#cgroup, 'cpu.stat'), 'utf8');
    return Number(/^usage_usec (\d+)$/m.exec(text)?.[1]) / 1000;
  }

  /** When its first process began, Unix ms. */
  get startedAt(): number {
    const [, fields = ''] = readFileSync(`/proc/${this.pid}/stat`, 'utf8').split(') ');
    const ticks = Number(fields.split(' ')[19]);
    const [uptime = ''] = readFileSync('/proc/uptime', 'utf8').split(' ');
    return Date.now() - (Number(uptime) - ticks / 100) * 1000;
  }
}
