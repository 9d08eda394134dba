/** BFD daemons to compare: each with one address and many peers, started in a namespace with the same timers. */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BFDD_CONTROL } from '../support/agent.ts';
import { type Daemon, must, type Namespace, NODE, ROOT, type Scope, until } from '../support/netns.ts';
import { startFrr } from '../support/peers.ts';

export interface Timers {
  /** Milliseconds, both ways. */
  interval: number;
  multiplier: number;
}

type Start = (
  scope: Scope,
  ns: Namespace,
  local: string,
  remotes: string[],
  timers: Timers,
) => Daemon | Promise<Daemon>;

const MAIN = join(ROOT, 'dist/bfd/main.js');

const vegBfdd =
  (flags: string[] = []) =>
  (scope: Scope, ns: Namespace, locals: string[], remotes: string[], { interval, multiplier }: Timers) => {
    const stateDir = scope.directory('veg-bfdd');
    const timers = ['--min-tx', `${interval}`, '--min-rx', `${interval}`, '--multiplier', `${multiplier}`];
    const addresses = ['--local', locals.join(','), '--peer', remotes.join(',')];
    const args = [MAIN, '--state-dir', stateDir, ...addresses, ...timers, ...flags];
    return { daemon: ns.spawn(NODE, args, { name: 'veg-bfdd' }), stateDir };
  };

async function bird(
  scope: Scope,
  ns: Namespace,
  local: string,
  remotes: string[],
  t: Timers,
): Promise<Daemon> {
  const dir = scope.directory('bird');
  const [config, control] = [join(dir, 'bird.conf'), join(dir, 'bird.ctl')];
  const neighbors = remotes.map((remote) => `  neighbor ${remote} dev "eth0" local ${local};`);
  writeFileSync(
    config,
    `router id 10.99.0.1;
protocol device {}
protocol bfd {
  interface "eth0" { interval ${t.interval} ms; idle tx interval 1 s; multiplier ${t.multiplier}; };
${neighbors.join('\n')}
}
`,
  );
  chmodSync(dir, 0o755);
  const daemon = ns.spawn('bird', ['-f', '-c', config, '-s', control], { name: 'bird' });
  await until(() => must('birdc', ['-s', control, 'show', 'status']), { what: 'BIRD answers' });
  return daemon;
}

/** OpenBFDD from a directory with its programs. A peer is let in with `allow`, and begins. */
const openbfdd =
  (directory: string): Start =>
  async (_scope, ns, local, remotes, { interval, multiplier }) => {
    const args = ['--nofork', `--listen=${local}`, '--control=127.0.0.1:957'];
    const daemon = ns.spawn(join(directory, 'bfdd-beacon'), args, { name: 'openbfdd' });
    const control = (...words: string[]) => {
      const { code, stdout, stderr } = ns.run(join(directory, 'bfdd-control'), [
        '--control=127.0.0.1:957',
        ...words,
      ]);
      if (code !== 0) throw new Error(`bfdd-control ${words.join(' ')}: ${stdout}${stderr}`);
    };
    await until(() => control('status') === undefined, { what: 'OpenBFDD answers' });
    for (const item of ['mintx', 'minrx']) control('session', 'new', 'set', item, `${interval}`, 'ms');
    control('session', 'new', 'set', 'multi', `${multiplier}`);
    for (const remote of remotes) control('allow', remote);
    return daemon;
  };

/** The daemons by name; OpenBFDD when `VEG_BENCH_OPENBFDD` names the directory of its programs. */
export function daemons(): Record<string, Start> {
  const directory = process.env.VEG_BENCH_OPENBFDD;
  return {
    'veg-bfdd': (scope, ns, local, remotes, timers) => vegBfdd()(scope, ns, [local], remotes, timers).daemon,
    FRR: async (scope, ns, local, remotes, { interval, multiplier }) => {
      const sessions = remotes.map((remote) => ({ local, remote }));
      const frr = await startFrr(scope, ns, { sessions, minTX: interval, minRX: interval, multiplier });
      return frr.daemon;
    },
    BIRD: bird,
    ...(directory === undefined ? {} : { OpenBFDD: openbfdd(directory) }),
  };
}

/** The other side: veg-bfdd in the active role, with many addresses and one peer. */
export class Counterpart {
  readonly daemon: Daemon;
  readonly #stateDir: string;

  constructor(scope: Scope, ns: Namespace, locals: string[], remote: string, timers: Timers) {
    const { daemon, stateDir } = vegBfdd(['--active'])(scope, ns, locals, [remote], timers);
    this.daemon = daemon;
    this.#stateDir = stateDir;
  }

  /** The number of its sessions that are Up. */
  up(): number {
    const status = must(BFDD_CONTROL, ['status'], { env: { VEG_AGENT_STATE_DIR: this.#stateDir } });
    return status.split('state=Up').length - 1;
  }
}
