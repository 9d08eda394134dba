/** BFD peers for the router's side: FRR's bfdd alone, and our own veg-bfdd. */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Daemon, must, type Namespace, NODE, ROOT, run, type Scope, until } from './netns.ts';

export interface PeerOptions {
  /** Pairs of own address and the gateway's address. */
  sessions: { local: string; remote: string }[];
  /** Milliseconds; default 100. */
  minTX?: number;
  minRX?: number;
  /** Default 5. */
  multiplier?: number;
}

/** A session as the peer sees it. */
export interface PeerSession {
  remote: string;
  up: boolean;
  /** The state in the peer's own words. */
  state: string;
  /** The diagnostic that the gateway gave last, in the peer's words. */
  remoteDiagnostic: string;
  /** Packets received from the gateway. */
  received: number;
  /** How often the session went down. */
  downs: number;
}

export interface BfdPeer {
  readonly daemon: Daemon;
  sessions(): PeerSession[];
}

interface FrrPeer {
  peer: string;
  status: string;
  'remote-diagnostic': string;
}
interface FrrCounters {
  peer: string;
  'control-packet-input': number;
  'session-down': number;
}

/** Starts FRR's bfdd, and nothing else of FRR, with a directory of its own. */
export async function startFrr(scope: Scope, ns: Namespace, options: PeerOptions): Promise<BfdPeer> {
  const { sessions, minTX = 100, minRX = 100, multiplier = 5 } = options;
  const dir = scope.directory('frr');
  chmodSync(dir, 0o755);
  const peers = sessions.map(
    ({ local, remote }) => ` peer ${remote} local-address ${local}
  detect-multiplier ${multiplier}
  receive-interval ${minRX}
  transmit-interval ${minTX}
 exit`,
  );
  writeFileSync(join(dir, 'bfdd.conf'), `bfd\n${peers.join('\n')}\nexit\n`);
  writeFileSync(join(dir, 'vtysh.conf'), '');
  must('chown', ['-R', 'frr:frr', dir]);
  const args = ['-i', join(dir, 'bfdd.pid'), '-z', join(dir, 'zserv.api'), '--vty_socket', dir];
  const daemon = ns.spawn(
    '/usr/lib/frr/bfdd',
    [...args, '--bfdctl', join(dir, 'bfdd.sock'), '-f', join(dir, 'bfdd.conf'), '-A', '127.0.0.1', '-P', '0'],
    { name: 'frr-bfdd' },
  );
  const show = <T>(command: string): T => {
    const { stdout, stderr } = run('vtysh', ['--vty_socket', dir, '-d', 'bfdd', '-c', command]);
    if (!stdout.trim().startsWith('[')) throw new Error(`vtysh: ${stdout}${stderr}${daemon.log()}`);
    return JSON.parse(stdout) as T;
  };
  const frr: BfdPeer = {
    daemon,
    sessions() {
      const counters = show<FrrCounters[]>('show bfd peers counters json');
      return show<FrrPeer[]>('show bfd peers json').map((peer) => {
        const counter = counters.find((candidate) => candidate.peer === peer.peer)!;
        return {
          remote: peer.peer,
          up: peer.status === 'up',
          state: peer.status,
          remoteDiagnostic: peer['remote-diagnostic'],
          received: counter['control-packet-input'],
          downs: counter['session-down'],
        };
      });
    },
  };
  await until(() => frr.sessions().length === sessions.length, { what: 'FRR bfdd answers' });
  return frr;
}
