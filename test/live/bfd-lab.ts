/** Two namespaces with a veth between them, veg-bfdd in one, a peer in the other. */
import { chmodSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';
import type { EngineReport } from '../../bfd/intent.ts';
import { BFD_INTERVAL } from '../support/machine.ts';
import {
  type Daemon,
  must,
  type Namespace,
  NODE,
  ROOT,
  type Scope,
  URGENTLY,
  until,
  veth,
} from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';

/** Addresses of the gateway's and the peer's side. */
export const GATEWAY = { 4: '10.99.0.1', 6: 'fd99::1' } as const;
export const PEER = { 4: '10.99.0.2', 6: 'fd99::2' } as const;
export const PAIRS = [
  { local: PEER[4], remote: GATEWAY[4] },
  { local: PEER[6], remote: GATEWAY[6] },
];

export interface Lab {
  scope: Scope;
  gateway: Namespace;
  peer: Namespace;
}

export function lab(t: Test): Lab {
  const scope = scopeOf(t);
  const gateway = scope.namespace('gw');
  const peer = scope.namespace('peer');
  veth(gateway, 'eth0', peer, 'eth0');
  gateway.ip(`addr add ${GATEWAY[4]}/24 dev eth0\naddr add ${GATEWAY[6]}/64 dev eth0`);
  peer.ip(`addr add ${PEER[4]}/24 dev eth0\naddr add ${PEER[6]}/64 dev eth0`);
  return { scope, gateway, peer };
}

/** Built, as it is used: from source it starts too slowly for a restart that nobody must notice. */
const MAIN = join(ROOT, 'dist/bfd/main.js');

/** veg-bfdd as the gateway's daemon: 100 ms × 5 (on a slow machine longer), passive, both families, unless the flags say otherwise. */
export class VegBfdd {
  readonly stateDir: string;
  readonly #scope: Scope;
  readonly #ns: Namespace;
  readonly #flags: string[];
  daemon: Daemon;

  constructor(scope: Scope, ns: Namespace, flags: string[] = []) {
    this.#scope = scope;
    this.#ns = ns;
    const timers = ['--min-tx', `${BFD_INTERVAL}`, '--min-rx', `${BFD_INTERVAL}`, '--multiplier', '5'];
    const addresses = [
      ...['--local', GATEWAY[4], '--local', GATEWAY[6]],
      ...['--peer', PEER[4], '--peer', PEER[6]],
    ];
    this.stateDir = scope.directory('veg-bfdd');
    this.#flags = [...(flags.includes('--local') ? [] : addresses), ...timers, ...flags];
    this.daemon = this.start();
  }

  start(): Daemon {
    const args = [MAIN, '--state-dir', this.stateDir, ...this.#flags];
    this.daemon = this.#scope.spawn('ip', ['netns', 'exec', this.#ns.name, NODE, ...args], {
      name: 'veg-bfdd',
    });
    return this.daemon;
  }

  /** What bfdd-control would print. */
  control(words: string): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const options = { socketPath: join(this.stateDir, 'control.sock'), method: 'POST', path: '/v1/bfdd' };
    const call = request(options, async (response) => {
      let text = '';
      for await (const part of response) text += part;
      resolve(text.trimEnd());
    });
    call.on('error', reject);
    call.end(words);
    return promise;
  }

  /**
   * Ends the daemon by a signal and starts it again after a while, ms. Returns how many sessions it resumed.
   */
  async restart(signal: NodeJS.Signals, sessions: number, awayMs = 0): Promise<number> {
    const code = await this.daemon.stop(signal);
    if (signal !== 'SIGKILL' && code !== 0) throw new Error(`${signal}: exit code ${code}`);
    await sleep(awayMs);
    this.start();
    await until(() => this.daemon.log().split('listening for BFD').length > sessions, { what: 'it listens' });
    return this.daemon.log().split('"awayMs":').length - 1;
  }

  /** Packets that each session has sent and received. */
  async #counts(): Promise<{ packetsIn: number; packetsOut: number }[]> {
    const reports = () => this.daemon.log().match(/^\{.*"msg":"state".*$/gm) ?? [];
    const before = reports().length;
    this.daemon.signal('SIGUSR1');
    const line = await until(() => reports()[before], { what: 'the report of veg-bfdd' });
    return (JSON.parse(line) as { report: EngineReport }).report.sessions;
  }

  /** Waits until each session has sent and received so many more packets. */
  async exchange(packets: number): Promise<void> {
    const before = await this.#counts();
    await until(
      async () =>
        (await this.#counts()).every(
          (now, i) =>
            now.packetsIn >= (before[i]?.packetsIn ?? 0) + packets &&
            now.packetsOut >= (before[i]?.packetsOut ?? 0) + packets,
        ),
      { what: `${packets} packets of each session`, everyMs: 100 },
    );
  }

  async up(count: number): Promise<void> {
    await until(async () => (await this.control('status')).split('state=Up').length - 1 === count, {
      what: `${count} sessions Up`,
    });
  }
}

export type Bird = { daemon: Daemon; sessions(): string[]; configure(authentication: string): void };

/** Starts BIRD with nothing but BFD. `sessions()`: `address state` a session. */
export async function startBird(
  scope: Scope,
  ns: Namespace,
  pairs: { local: string; remote: string }[],
  authentication = '',
  device = 'eth0',
): Promise<Bird> {
  const dir = scope.directory('bird');
  const [config, control] = [join(dir, 'bird.conf'), join(dir, 'bird.ctl')];
  const write = (auth: string) => {
    const neighbors = pairs.map(
      ({ local, remote }) => `  neighbor ${remote} dev "${device}" local ${local};`,
    );
    const timers = 'interval 100 ms; idle tx interval 1 s; multiplier 10;';
    writeFileSync(
      config,
      `router id 10.99.0.2;
protocol device {}
protocol bfd {
  interface "${device}" { ${timers} ${auth} };
${neighbors.join('\n')}
}
`,
    );
  };
  write(authentication);
  chmodSync(dir, 0o755);
  const [file, ...args] = [...URGENTLY, 'bird', '-f', '-c', config, '-s', control];
  const daemon = ns.spawn(file!, args, { name: 'bird' });
  const birdc = (...words: string[]) => must('birdc', ['-s', control, ...words]);
  await until(() => birdc('show', 'status'), { what: 'BIRD answers' });
  return {
    daemon,
    sessions: () =>
      [...birdc('show', 'bfd', 'sessions').matchAll(/^(\S+)\s+\w+\s+(Up|Down|Init|AdminDown) /gm)]
        .map(([, address, state]) => `${address} ${state}`)
        .sort(),
    configure(auth) {
      write(auth);
      birdc('configure');
    },
  };
}
