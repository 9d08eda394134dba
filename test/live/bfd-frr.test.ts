/** FRR's bfdd as the peer: both families, live edits, restarts that it must not notice. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { must, until } from '../support/netns.ts';
import { type BfdPeer, peerUp, startFrr } from '../support/peers.ts';
import { lab, PAIRS, VegBfdd } from './bfd-lab.ts';

/** Runs commands in FRR's shell; the directory of its socket is in its command line. */
function vtysh(frr: BfdPeer, commands: string[]): string {
  const words = readFileSync(`/proc/${frr.daemon.pid}/cmdline`, 'utf8').split('\0');
  const directory = words[words.indexOf('--vty_socket') + 1]!;
  const args = commands.flatMap((command) => ['-c', command]);
  return must('vtysh', ['--vty_socket', directory, '-d', 'bfdd', ...args]);
}

/** How often FRR has seen a session go down, of all its sessions together. */
function downEvents(frr: BfdPeer): number {
  const counters = JSON.parse(vtysh(frr, ['show bfd peers counters json'])) as { 'session-down': number }[];
  return counters.reduce((sum, counter) => sum + counter['session-down'], 0);
}

async function both(t: Parameters<typeof lab>[0], flags: string[] = []) {
  const { scope, gateway, peer } = lab(t);
  const frr = await startFrr(scope, peer, { sessions: PAIRS });
  const veg = new VegBfdd(scope, gateway, flags);
  await peerUp(frr);
  await veg.up(2);
  await veg.exchange(1);
  return { scope, gateway, peer, frr, veg };
}

const states = (frr: BfdPeer) => frr.sessions().map(({ state }) => state);

t.test('FRR sees a drain, and comes Up again after a restart', async (t) => {
  const { frr, veg } = await both(t, ['--interface', 'eth0']);
  t.equal(await veg.daemon.stop(), 0);
  t.ok(frr.sessions().every(({ state, drained }) => state === 'Down' && drained));
  veg.start();
  await peerUp(frr);
});

t.test('6.8.3 intervals and multiplier edited live: FRR sees no session down', async (t) => {
  const { frr, veg } = await both(t);
  for (const set of ['mintx 300 ms', 'minrx 300 ms', 'multi 3', 'mintx 50 ms', 'minrx 50 ms', 'multi 10']) {
    await veg.control(`session all set ${set}`);
    await veg.exchange(10);
  }
  t.equal(downEvents(frr), 0);
  t.match(
    await veg.control('status all level 4'),
    /LocalDesiredMinTx=50,000 us\n LocalRequiredMinRx=50,000 us\n/,
  );
});

/** 100 ms × 30: a restart on a busy machine, too, is inside the Detection Time. */
const PATIENT = ['--multiplier', '30'];

for (const signal of ['SIGKILL', 'SIGUSR2'] as const) {
  t.test(`10 × ${signal} and restart inside the Detection Time: FRR sees no session down`, async (t) => {
    const { frr, veg } = await both(t, PATIENT);
    for (let i = 0; i < 10; i++) t.equal(await veg.restart(signal, 2), 2, 'both sessions go on');
    // FRR has accepted packets of the last one: it has gone on sending for longer than the Detection Time.
    await veg.exchange(40);
    t.equal(downEvents(frr), 0);
    t.strictSame(states(frr), ['Up', 'Up']);
  });
}

t.test('FRR restarted, both restarted, the gateway gone for long: Up again without help', async (t) => {
  const { scope, peer, frr, veg } = await both(t);
  await frr.daemon.stop('SIGKILL');
  const second = await startFrr(scope, peer, { sessions: PAIRS });
  await peerUp(second);
  await veg.up(2);
  await second.daemon.stop('SIGKILL');
  await veg.daemon.stop('SIGKILL');
  veg.start();
  const third = await startFrr(scope, peer, { sessions: PAIRS });
  await peerUp(third);
  await veg.daemon.stop('SIGKILL');
  await until(() => states(third).every((state) => state === 'Down'), { what: 'FRR has noticed' });
  veg.start();
  await peerUp(third);
});

t.test('the active role with a passive FRR over IPv4 and IPv6', async (t) => {
  const { scope, gateway, peer } = lab(t);
  const frr = await startFrr(scope, peer, { sessions: PAIRS });
  for (const { local, remote } of PAIRS) {
    vtysh(frr, ['configure terminal', 'bfd', `peer ${remote} local-address ${local}`, 'passive-mode']);
  }
  const veg = new VegBfdd(scope, gateway, ['--active']);
  await peerUp(frr);
  await veg.up(2);
});
