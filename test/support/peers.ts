/** BFD peers for the router's side: FRR's bfdd alone, and our own veg-bfdd. */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BFDD_CONTROL } from './agent.ts';
import { frrCommand } from './bgp.ts';
import { BFD_INTERVAL } from './machine.ts';
import { type Daemon, must, type Namespace, NODE, ROOT, run, type Scope, URGENTLY, until } from './netns.ts';

export interface PeerOptions {
  /** Pairs of own address and the gateway's address. */
  sessions: { local: string; remote: string }[];
  /** Milliseconds; default 100, on a slow machine longer. */
  minTX?: number;
  minRX?: number;
  /** Default 5. */
  multiplier?: number;
  /** RFC 5883, FRR alone. */
  multihop?: boolean;
  /** The state directory of `veg-bfdd`; default: one of its own. */
  dir?: string;
}

/** A session as the peer sees it. */
export interface PeerSession {
  remote: string;
  /** The peer's own state. */
  state: 'Up' | 'Init' | 'Down' | 'AdminDown';
  /** The gateway gave AdminDown as its reason for being down. */
  drained: boolean;
}

export interface BfdPeer {
  readonly daemon: Daemon;
  sessions(): PeerSession[];
  /** What a person would type to see them, and what it prints. */
  show(): { command: string; text: string };
}

/** Waits until every session of the peer is Up. */
export const peerUp = (peer: BfdPeer): Promise<boolean> =>
  until(() => peer.sessions().every(({ state }) => state === 'Up'), {
    what: 'BFD Up at the peer',
  });

interface FrrPeer {
  peer: string;
  status: string;
  'remote-diagnostic': string;
}

const FRR_STATES: Record<string, PeerSession['state']> = {
  up: 'Up',
  init: 'Init',
  down: 'Down',
  shutdown: 'AdminDown',
};

const [BFDD, ...BFDD_WORDS] = frrCommand('/usr/lib/frr/bfdd');

/** Starts FRR's bfdd, and nothing else of FRR, with a directory of its own. */
export async function startFrr(scope: Scope, ns: Namespace, options: PeerOptions): Promise<BfdPeer> {
  const { sessions, minTX = BFD_INTERVAL, minRX = BFD_INTERVAL, multiplier = 5, multihop = false } = options;
  const dir = scope.directory('frr');
  chmodSync(dir, 0o755);
  const peers = sessions.map(
    ({ local, remote }) => ` peer ${remote}${multihop ? ' multihop' : ''} local-address ${local}
  detect-multiplier ${multiplier}
  receive-interval ${minRX}
  transmit-interval ${minTX}
 exit`,
  );
  writeFileSync(join(dir, 'bfdd.conf'), `bfd\n${peers.join('\n')}\nexit\n`);
  writeFileSync(join(dir, 'vtysh.conf'), '');
  must('chown', ['-R', 'frr:frr', dir]);
  const args = [
    ...BFDD_WORDS,
    ...['-i', join(dir, 'bfdd.pid'), '-z', join(dir, 'zserv.api'), '--vty_socket', dir],
    ...['-f', join(dir, 'bfdd.conf'), '-A', '127.0.0.1', '-P', '0'],
    // Newer ones, as Debian 13's 10.3, have no control socket.
    ...(run(BFDD, [...BFDD_WORDS, '--help']).stdout.includes('--bfdctl')
      ? ['--bfdctl', join(dir, 'bfdd.sock')]
      : []),
  ];
  const [file, ...urgently] = [...URGENTLY, BFDD];
  const daemon = ns.spawn(file!, [...urgently, ...args], { name: 'frr-bfdd' });
  const vtysh = (command: string) => run('vtysh', ['--vty_socket', dir, '-d', 'bfdd', '-c', command]);
  const frr: BfdPeer = {
    daemon,
    show: () => ({
      command: "vtysh -c 'show bfd peers brief'",
      text: vtysh('show bfd peers brief').stdout,
    }),
    sessions() {
      const { stdout, stderr } = vtysh('show bfd peers json');
      if (!stdout.trim().startsWith('[')) throw new Error(`vtysh: ${stdout}${stderr}${daemon.log()}`);
      return (JSON.parse(stdout) as FrrPeer[]).map((peer) => ({
        remote: peer.peer,
        state: FRR_STATES[peer.status]!,
        drained: peer['remote-diagnostic'] === 'administratively down',
      }));
    },
  };
  await until(() => frr.sessions().length === sessions.length, { what: 'FRR bfdd answers' });
  return frr;
}

/** Starts veg-bfdd, our own engine without an agent, as the active side. */
export async function startVegBfdd(scope: Scope, ns: Namespace, options: PeerOptions): Promise<BfdPeer> {
  const { sessions, minTX = BFD_INTERVAL, minRX = BFD_INTERVAL, multiplier = 5 } = options;
  const { dir = scope.directory('veg-bfdd') } = options;
  const daemon = ns.spawn(NODE, [join(ROOT, 'dist/bfd/main.js'), '--active', '--state-dir', dir], {
    name: 'veg-bfdd',
    env: {
      POD_IPS: sessions.map(({ local }) => local).join(','),
      BFD_PEER_IPS: sessions.map(({ remote }) => remote).join(','),
      BFD_MIN_TX: `${minTX}`,
      BFD_MIN_RX: `${minRX}`,
      BFD_MULTI: `${multiplier}`,
    },
  });
  const control = (...words: string[]) => must(BFDD_CONTROL, words, { env: { VEG_AGENT_STATE_DIR: dir } });
  const peer: BfdPeer = {
    daemon,
    show: () => ({
      command: 'bfdd-control status all level 2 compact',
      text: control('status', 'all', 'level', '2', 'compact'),
    }),
    sessions() {
      const text = control('status', 'all', 'level', '4');
      return [...text.matchAll(/remote=(\S+).*?LocalState=(\w+).*?RemoteState=(\w+)/gs)].map(
        ([, remote, state, remoteState]) => ({
          remote: remote!,
          state: state as PeerSession['state'],
          drained: remoteState === 'AdminDown',
        }),
      );
    },
  };
  await until(() => peer.sessions().length === sessions.length, { what: 'veg-bfdd answers' });
  return peer;
}
