/** The agent under test: its policy directory, its process, and what can be asked of it. */
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { stringify } from 'yaml';
import type { StatusDocument } from '../../agent/show/status.ts';
import { BFD_INTERVAL, PATIENCE } from './machine.ts';
import { type Daemon, type Namespace, NODE, type Output, ROOT, type Scope, until } from './netns.ts';

/** The built program, as users get it. */
export const AGENT = join(ROOT, 'dist/agent/main.js');
export const BFDD_CONTROL = join(ROOT, 'images/gateway/bfdd-control');

/** `VEG_IMAGE_ROOT`: the root of an image whose programs run instead. It has this machine's /proc, /run and /tmp (kernels-guest.sh). */
const IMAGE = process.env.VEG_IMAGE_ROOT;
const VEG_AGENT = IMAGE ? ['chroot', IMAGE, 'veg-agent'] : [NODE, AGENT];

/** A directory that changes as a mounted ConfigMap does: a new `..data` directory is swapped in. */
export class PolicyDirectory {
  readonly dir: string;
  #version = 0;

  constructor(scope: Scope) {
    this.dir = scope.directory('policy');
  }

  /** Replaces all files by these, at once. */
  write(files: Record<string, string | Buffer>): void {
    const fresh = `..${++this.#version}`;
    mkdirSync(join(this.dir, fresh));
    for (const [name, text] of Object.entries(files)) writeFileSync(join(this.dir, fresh, name), text);
    symlinkSync(fresh, join(this.dir, '..data_tmp'));
    renameSync(join(this.dir, '..data_tmp'), join(this.dir, '..data'));
    const there = readdirSync(this.dir).filter((name) => !name.startsWith('..'));
    for (const name of Object.keys(files)) {
      if (!there.includes(name)) symlinkSync(join('..data', name), join(this.dir, name));
    }
    for (const name of there) if (!(name in files)) rmSync(join(this.dir, name));
    for (const name of readdirSync(this.dir)) {
      if (/^\.\.\d/.test(name) && name !== fresh) rmSync(join(this.dir, name), { recursive: true });
    }
  }

  /** What is in it, one file after the other. */
  text(): string {
    const names = readdirSync(this.dir).filter((name) => !name.startsWith('..'));
    return names.map((name) => readFileSync(join(this.dir, name), 'utf8')).join('---\n');
  }

  /** Replaces all by the files of a directory below docs/examples. */
  copy(example: string): void {
    const from = join(ROOT, 'docs/examples', example);
    this.write(Object.fromEntries(readdirSync(from).map((name) => [name, readFileSync(join(from, name))])));
  }

  /** Replaces all by one `GatewayPolicy`. */
  set(spec: GatewaySpec = {}): void {
    this.write({ 'gateway.yaml': gatewayPolicy(spec) });
  }
}

/** The `spec` of a `GatewayPolicy`, as far as tests set it. */
export interface GatewaySpec {
  internal?: object;
  external?: object;
  bfd?: object;
  policies?: {
    name?: string;
    snat?: boolean;
    ipBlocks?: string[];
    egressIP?: object;
    bandwidth?: object;
  }[];
  group?: object;
  eips?: object[];
  dnats?: object[];
  bgp?: object | undefined;
  evpn?: object;
  uplink?: object;
  translationLog?: object;
  mssClamp?: boolean;
  fastPath?: boolean;
  bandwidth?: object;
}

/** The policies of docs and seeds: 10.17.0.0/16 is translated, 10.18.0.0/16 is forwarded unchanged. */
export const WEB = { name: 'web', snat: true, ipBlocks: ['10.17.0.0/16', 'fd00:10:17::/64'] };
export const DIRECT = { name: 'direct', snat: false, ipBlocks: ['10.18.0.0/16', 'fd00:10:18::/64'] };

/** BFD with the router's bfd@ port, 100 ms x 5 (on a slow machine longer). */
export const BFD = {
  enabled: true,
  peers: ['10.255.255.255', 'fd00:ffff::1'],
  minTX: BFD_INTERVAL,
  minRX: BFD_INTERVAL,
  multiplier: 5,
};

/** The text of a `GatewayPolicy` for the topology: without BFD, with `DIRECT` and `WEB` unless told otherwise. */
export function gatewayPolicy(spec: GatewaySpec = {}): string {
  return stringify({
    apiVersion: 'veg-agent.io/v1alpha1',
    kind: 'GatewayPolicy',
    metadata: { name: 'gateway1', namespace: 'default' },
    spec: {
      internal: { gateways: ['10.16.0.1', 'fd00:10:16::1'] },
      external: { gateways: ['172.17.0.1', 'fd00:172:17::1'] },
      policies: [DIRECT, WEB],
      ...spec,
    },
  });
}

export interface AgentOptions {
  policyDir: string;
  stateDir: string;
  /** More flags. */
  args?: string[];
  env?: Record<string, string | undefined>;
  /** A command that starts the agent with less than it needs, e.g. `setpriv …`. */
  wrapper?: string[];
}

export interface Reply {
  status: number;
  body: string;
}

/** A running agent. */
export class Agent {
  readonly daemon: Daemon;
  readonly #ns: Namespace;
  readonly #options: AgentOptions;

  /** Starts `veg-agent run`. */
  constructor(ns: Namespace, options: AgentOptions) {
    this.#ns = ns;
    this.#options = options;
    const [file, ...args] = [
      ...(options.wrapper ?? []),
      ...VEG_AGENT,
      ...['run', '--policy-dir', options.policyDir, '--state-dir', options.stateDir],
      ...(options.args ?? []),
    ];
    this.daemon = ns.spawn(file!, args, { name: 'agent', ...(options.env && { env: options.env }) });
  }

  /** Asks the control socket. Rejects when nobody answers. */
  ask(method: 'GET' | 'POST', path: string, body = ''): Promise<Reply> {
    const socketPath = join(this.#options.stateDir, 'control.sock');
    return new Promise((resolve, reject) => {
      const call = request({ socketPath, method, path, agent: false, timeout: PATIENCE }, (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (part) => {
          text += part;
        });
        response.on('end', () => resolve({ status: response.statusCode!, body: text }));
      });
      call.on('timeout', () => call.destroy(new Error(`no answer in ${PATIENCE} ms`)));
      call.on('error', reject);
      call.end(body);
    });
  }

  async status(): Promise<StatusDocument> {
    return JSON.parse((await this.ask('GET', '/v1/status')).body) as StatusDocument;
  }

  /** Waits until the status is as asked for, and returns it. Fails at once when the process ended. */
  async statusUntil(what: string, accept: (status: StatusDocument) => boolean): Promise<StatusDocument> {
    let last: StatusDocument | undefined;
    try {
      return await until(
        async () => {
          if (this.daemon.exitCode !== undefined) return 'ended' as const;
          last = await this.status();
          return accept(last) && last;
        },
        { what },
      ).then((status) => {
        if (status === 'ended') throw new Error(`the agent ended with ${this.daemon.exitCode}: ${what}`);
        return status;
      });
    } catch (error) {
      const group = last?.group?.length ? `\ngroup: ${JSON.stringify(last.group)}` : '';
      const log = this.daemon.log().slice(-4000);
      const seen = `${JSON.stringify(last?.reasons)}${group}\n${mainThreads(this.daemon.pid)}\n${log}`;
      throw new Error(`${(error as Error).message}\nreasons: ${seen}`);
    }
  }

  /** Waits until the policy is in the kernel. */
  synced(): Promise<StatusDocument> {
    return this.statusUntil('policy in the kernel', (s) => s.policy.valid && s.kernel.inSync);
  }

  /** One metric's value by its exact name and labels, as printed; undefined when it is not there. */
  metric(series: string): number | undefined {
    const text = this.http('/metrics').body;
    const line = text.split('\n').find((candidate) => candidate.startsWith(`${series} `));
    return line === undefined ? undefined : Number(line.slice(series.length + 1));
  }

  /** Asks the HTTP port on loopback. Status 0 when nobody answers. */
  http(path: string): Reply {
    const args = ['-s', '-m', `${PATIENCE / 1000}`, '-w', '\n%{http_code}', `http://127.0.0.1:10669${path}`];
    const { stdout } = this.#ns.run('curl', args);
    const cut = stdout.lastIndexOf('\n');
    return { status: Number(stdout.slice(cut + 1)), body: stdout.slice(0, cut) };
  }

  /** Runs another command of veg-agent with the same directories. */
  cli(...args: string[]): Output {
    return cli(this.#ns, this.#options, ...args);
  }

  bfddControl(...words: string[]): Output {
    const [file = '', ...args] = IMAGE ? ['chroot', IMAGE, 'bfdd-control'] : [BFDD_CONTROL];
    return this.#ns.run(file, [...args, ...words], { env: { VEG_AGENT_STATE_DIR: this.#options.stateDir } });
  }

  stop(signal?: NodeJS.Signals): Promise<number> {
    return this.daemon.stop(signal);
  }
}

/**
 * What the main threads of a process and its children have had of the processors, for a test that waited in vain: one that waited
 * long for a processor was not given one, one that sleeps in a system call is blocked there.
 */
function mainThreads(pid: number): string {
  const read = (file: string) => {
    try {
      return readFileSync(`/proc/${file}`, 'utf8');
    } catch {
      return '';
    }
  };
  const children = read(`${pid}/task/${pid}/children`).trim().split(' ').filter(Boolean).map(Number);
  const seconds = (ns = '0') => (Number(ns) / 1e9).toFixed(1);
  return [pid, ...children]
    .map((one) => {
      const [ran, waited] = read(`${one}/schedstat`).split(' ');
      const state = /\) (\S)/.exec(read(`${one}/stat`))?.[1] ?? 'gone';
      const times = `ran ${seconds(ran)} s, waited ${seconds(waited)} s for a processor`;
      return `process ${one}: ${times}, now ${state} ${read(`${one}/wchan`)}`;
    })
    .join('\n');
}

/** Runs one command of veg-agent to its end. */
export function cli(ns: Namespace, options: AgentOptions, ...args: string[]): Output {
  const [file, ...words] = [
    ...(options.wrapper ?? []),
    ...[...VEG_AGENT, ...args, '--policy-dir', options.policyDir, '--state-dir', options.stateDir],
  ];
  return ns.run(file!, words, options.env ? { env: options.env } : {});
}
