/** Containers as a kubelet starts, probes and ends them: podman and runc, in a network namespace of the test. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Namespace, NODE, type Output, ROOT, run, type Scope } from '../support/netns.ts';

const IMAGE = process.env.VEG_IMAGE ?? 'localhost/veg-agent';
/** What podman asks for by default is more than some machines grant. */
const ULIMITS = ['--ulimit', 'nofile=1024:1024', '--ulimit', 'nproc=1024:1024'];

export interface ContainerSpec {
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
    const { code, stdout, stderr } = run('podman', [...this.#args, ...args], { timeoutMs: 120_000 });
    if (code !== 0) throw new Error(`podman ${args.join(' ')}: ${stderr}`);
    return stdout + stderr;
  }
}

export class Container {
  readonly #podman: Podman;
  readonly #id: string;
  readonly #cgroup: string;

  private constructor(podman: Podman, id: string) {
    this.#podman = podman;
    this.#id = id;
    this.#cgroup = this.#state('CgroupPath');
  }

  /** Starts a container. The caller removes it. */
  static start(scope: Scope, ns: Namespace, spec: ContainerSpec): Container {
    const podman = new Podman(scope);
    const { command, env = {}, security, volumes = {}, memory, cpu, readOnly = false } = spec;
    const user =
      security === 'privileged'
        ? ['--privileged', '--user', '0']
        : ['--user', '65534', '--cap-drop', 'ALL', '--cap-add', security.capabilities.join(',')];
    const id = podman
      .run(
        ...['create', '--network', `ns:/run/netns/${ns.name}`, ...ULIMITS, ...user],
        ...Object.entries(env).flatMap(([name, value]) => ['--env', `${name}=${value}`]),
        ...Object.entries(volumes).flatMap(([path, source]) => ['--volume', `${source}:${path}`]),
        ...(memory === undefined ? [] : ['--memory', `${memory}m`, '--memory-swap', `${memory}m`]),
        ...(cpu === undefined ? [] : ['--cpu-quota', `${cpu * 100}`]),
        ...(readOnly ? ['--read-only', '--read-only-tmpfs=false'] : []),
        ...[IMAGE, ...command],
      )
      .trim();
    podman.run('start', id);
    return new Container(podman, id);
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

  signal(name: NodeJS.Signals): void {
    this.#podman.run('kill', '--signal', name, this.#id);
  }

  /** Starts it again after it has ended, as a kubelet does: with what is in its volumes. */
  restart(): void {
    this.#podman.run('start', this.#id);
  }

  remove(): void {
    this.#podman.run('rm', '--force', '--time', '0', this.#id);
  }

  #memory(v1: string, v2: string): number {
    const file = join('/sys/fs/cgroup/memory', this.#cgroup, v1);
    const text = readFileSync(existsSync(file) ? file : join('/sys/fs/cgroup', this.#cgroup, v2), 'utf8');
    return Number(text);
  }

  /** Memory that is charged to it now, page cache included, and anonymous memory alone, MiB. */
  get memory(): { charged: number; anonymous: number; peak: number } {
    const stat = join('/sys/fs/cgroup/memory', this.#cgroup, 'memory.stat');
    const v1 = existsSync(stat);
    const text = readFileSync(v1 ? stat : join('/sys/fs/cgroup', this.#cgroup, 'memory.stat'), 'utf8');
    const anonymous = Number((v1 ? /^rss (\d+)$/m : /^anon (\d+)$/m).exec(text)?.[1]);
    const mib = (octets: number) => Math.round(octets / 1024 / 102.4) / 10;
    return {
      charged: mib(this.#memory('memory.usage_in_bytes', 'memory.current')),
      anonymous: mib(anonymous),
      peak: mib(this.#memory('memory.max_usage_in_bytes', 'memory.peak')),
    };
  }
}
