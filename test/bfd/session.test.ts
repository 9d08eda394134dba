/** Sessions as transcripts on simulated time; times in milliseconds since the start. */
import t from 'tap';
import type { AuthKey } from '../../bfd/auth.ts';
import { nextDeadline, peerDetectionTime } from '../../bfd/session.ts';
import { LOCAL, REMOTE, Simulation } from './simulation.ts';

const ADMIN_DOWN = { state: 'AdminDown', diagnostic: 7 } as const;

t.test('6.2 passive: Down, Init, Up with an active peer', async (t) => {
  const s = new Simulation();
  s.receive({ state: 'Down', yourDiscriminator: 0 });
  s.receive({ state: 'Up' });
  t.strictSame(
    s.take(),
    [
      'send Init my=11 your=99 tx=1000 rx=100 x5',
      'Down → Init (0) received Down',
      'send Up my=11 your=99 tx=100 rx=100 x5 P',
      'Init → Up (0) received Up',
    ].map((line) => `0 ${line}`),
  );
});

t.test('6.2 active: Down until the peer answers Init, then Up', async (t) => {
  const s = new Simulation({ role: 'active' });
  s.pass(0);
  s.receive({ state: 'Init' });
  t.strictSame(s.take(), [
    '0 send Down my=11 your=0 tx=1000 rx=100 x5',
    '0 send Up my=11 your=99 tx=100 rx=100 x5 P',
    '0 Down → Up (0) received Init',
  ]);
});

t.test('6.1 active: sends with Your Discriminator 0 at the slow rate while nothing is heard', async (t) => {
  const s = new Simulation({ role: 'active' });
  s.pass(2000);
  t.strictSame(s.take(), [
    '0 send Down my=11 your=0 tx=1000 rx=100 x5',
    '750 send Down my=11 your=0 tx=1000 rx=100 x5',
    '1500 send Down my=11 your=0 tx=1000 rx=100 x5',
  ]);
});

t.test('6.8.7 passive: no control packet before RemoteDiscr is known, but a knock each second', async (t) => {
  const s = new Simulation();
  s.pass(2500);
  t.strictSame(s.take(), []);
  t.strictSame(s.knocks, [0, 1000, 2000]);
});

t.test('active: no knock, its packets wake the peer', async (t) => {
  const s = new Simulation({ role: 'active' });
  s.pass(2500);
  t.strictSame(s.knocks, []);
});

t.test('a peer whose packet is overdue is knocked at, in every state', async (t) => {
  for (const state of ['Down', 'Init', 'Up'] as const) {
    const s = new Simulation();
    s.bringUp();
    if (state !== 'Up') s.receive({ state: 'AdminDown' });
    if (state === 'Init') s.receive({ state: 'Down' });
    t.equal(s.session.sessionState, state);
    s.knocks = [];
    s.passWithPeer(500, 100, { state: 'AdminDown' });
    t.strictSame(s.knocks, [], 'not overdue');
    s.receive({ state: 'AdminDown' });
    s.pass(400);
    t.strictSame(s.knocks, [625, 750, 875], 'after 1.25 intervals, then again');
  }
});

t.test('a fast peer that is late is not knocked at each time', async (t) => {
  const s = new Simulation({ requiredMinRx: 10_000 });
  s.bringUp({ desiredMinTx: 10_000, detectMult: 50 });
  s.pass(120);
  t.strictSame(s.knocks, [50, 100]);
});

t.test('a session that is held, suspended or in Demand mode does not knock', async (t) => {
  const held = new Simulation();
  held.event({ type: 'hold', hold: ADMIN_DOWN });
  const suspended = new Simulation();
  suspended.event({ type: 'suspend', suspended: true });
  const demand = new Simulation({ demandPollInterval: 5_000_000 });
  demand.bringUp();
  for (const s of [held, suspended, demand]) {
    s.knocks = [];
    s.pass(400);
    t.strictSame(s.knocks, []);
  }
});

t.test('6.8.1 RemoteMinRxInterval starts at 1', async (t) => {
  t.equal(new Simulation().session.remoteMinRx, 1);
});

t.test(
  '6.8.3 while not Up DesiredMinTx is at least a second, RequiredMinRx low from the start',
  async (t) => {
    const s = new Simulation({ role: 'active', desiredMinTx: 10_000, requiredMinRx: 10_000 });
    s.pass(0);
    t.match(s.sent[0]!.packet, { desiredMinTx: 1_000_000, requiredMinRx: 10_000 });
    const slower = new Simulation({ role: 'active', desiredMinTx: 3_000_000 });
    slower.pass(0);
    t.match(slower.sent[0]!.packet, { desiredMinTx: 3_000_000 });
  },
);

t.test('6.8.3 reaching Up polls for the faster interval, which is used at once', async (t) => {
  const s = new Simulation();
  s.receive({ state: 'Down', yourDiscriminator: 0 });
  s.receive({ state: 'Up' });
  s.take();
  s.pass(160);
  t.strictSame(s.take(), [
    '75 send Up my=11 your=99 tx=100 rx=100 x5 P',
    '150 send Up my=11 your=99 tx=100 rx=100 x5 P',
  ]);
  s.receive({ final: true });
  s.pass(100);
  t.strictSame(s.take(), ['225 send Up my=11 your=99 tx=100 rx=100 x5']);
});

t.test('6.8.3 Up, DesiredMinTx raised: the old rate until the Poll ends', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.configure({ desiredMinTx: 400_000 });
  s.pass(160);
  t.strictSame(s.take(), [
    '75 send Up my=11 your=99 tx=400 rx=100 x5 P',
    '150 send Up my=11 your=99 tx=400 rx=100 x5 P',
  ]);
  s.receive({ final: true });
  s.pass(400);
  t.strictSame(s.take(), ['450 send Up my=11 your=99 tx=400 rx=100 x5']);
});

t.test('6.8.3 Up, DesiredMinTx lowered: the new rate at once', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.configure({ desiredMinTx: 40_000 });
  s.receive({ requiredMinRx: 20_000 });
  s.pass(40);
  t.strictSame(s.take(), ['30 send Up my=11 your=99 tx=40 rx=100 x5 P']);
});

t.test('6.8.3 Up, RequiredMinRx lowered: the old Detection Time until the Poll ends', async (t) => {
  const s = new Simulation();
  s.bringUp({ desiredMinTx: 10_000 });
  t.equal(s.session.detectionTime, 500_000);
  s.configure({ requiredMinRx: 50_000 });
  t.equal(s.session.detectionTime, 500_000);
  s.receive({ desiredMinTx: 10_000, final: true });
  t.equal(s.session.detectionTime, 250_000);
});

t.test('6.8.3 Up, RequiredMinRx raised: the longer Detection Time at once', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.configure({ requiredMinRx: 300_000 });
  t.equal(s.session.detectionTime, 1_500_000);
});

t.test('6.5 a change during a Poll Sequence polls again after the Final', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.configure({ desiredMinTx: 400_000 });
  s.configure({ desiredMinTx: 800_000 });
  s.receive({ final: true });
  t.equal(s.session.polling, true, 'the second change needs a Poll of its own');
  t.equal(s.session.transmitInterval, 100_000, 'still the old rate');
  s.receive({ final: true });
  t.equal(s.session.polling, false);
  t.equal(s.session.transmitInterval, 800_000);
});

t.test('6.5 a Final without a Poll of ours changes nothing', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.receive({ final: true });
  t.strictSame(s.take(), []);
  t.equal(s.session.polling, false);
});

t.test('6.8.12 a new Detect Mult goes with the next packet, without a Poll', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.configure({ detectMult: 9 });
  s.pass(80);
  t.strictSame(s.take(), ['75 send Up my=11 your=99 tx=100 rx=100 x9']);
});

t.test('6.8.4 expiry in Up: one Down packet with diag 1, RemoteDiscr forgotten', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.pass(499);
  t.equal(s.session.sessionState, 'Up');
  s.take();
  s.pass(2000);
  t.strictSame(s.take(), ['500 send Down(1) my=11 your=99 tx=1000 rx=100 x5 P', '500 Up → Down (1) timeout']);
  // Each with the next packet after 1.25 intervals, then once a second.
  t.strictSame(s.knocks, [150, 300, 450, 1450, 2450]);
  t.match(s.session, { remoteDiscr: 0, remoteSessionState: 'Down', remoteMinRx: 1, polling: false });
});

t.test('6.8.4 expiry in Init: Down with diag 1', async (t) => {
  const s = new Simulation();
  s.receive({ state: 'Down', yourDiscriminator: 0 });
  s.pass(500);
  t.match(s.session, { sessionState: 'Down', localDiag: 1, remoteDiscr: 0 });
});

t.test('6.8.4 every accepted packet restarts the detection timer', async (t) => {
  const s = new Simulation();
  s.bringUp();
  for (let i = 0; i < 10; i++) {
    s.pass(499);
    s.receive();
  }
  t.equal(s.session.sessionState, 'Up');
});

t.test('6.8.4 nothing expires before the packets that came in time were read', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.now += 600_000;
  s.event({ type: 'timer', readUntil: s.now - 100_001 });
  t.equal(s.session.sessionState, 'Up');
  s.receive();
  s.event({ type: 'timer', readUntil: s.now });
  t.equal(s.session.sessionState, 'Up', 'a packet was waiting');
  s.now += 600_000;
  s.event({ type: 'timer', readUntil: s.now - 100_000 });
  t.equal(s.session.sessionState, 'Down');
});

t.test('6.8.4 the Detection Time follows what the peer says', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.receive({ detectMult: 3, desiredMinTx: 200_000 });
  t.equal(s.session.detectionTime, 600_000);
});

t.test('6.8.1 RemoteDiscr goes back to 0 after a Detection Time of silence in state Down too', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.receive({ state: 'AdminDown' });
  t.match(s.session, { sessionState: 'Down', remoteDiscr: REMOTE });
  s.pass(500);
  t.equal(s.session.remoteDiscr, 0);
});

t.test('6.8.1 and in state AdminDown', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.event({ type: 'hold', hold: ADMIN_DOWN });
  s.pass(400);
  s.receive({ state: 'Down' });
  s.pass(400);
  t.equal(s.session.remoteDiscr, REMOTE, 'the peer is still there');
  s.pass(100);
  t.equal(s.session.remoteDiscr, 0);
});

t.test('6.8.6 sets the variables of the peer from its packet', async (t) => {
  const s = new Simulation();
  s.receive({
    state: 'Down',
    yourDiscriminator: 0,
    demand: true,
    diagnostic: 4,
    requiredMinRx: 70_000,
    desiredMinTx: 80_000,
    detectMult: 7,
  });
  t.match(s.session, {
    remoteDiscr: REMOTE,
    remoteSessionState: 'Down',
    remoteDemandMode: true,
    remoteDiag: 4,
    remoteMinRx: 70_000,
    remoteMinTx: 80_000,
    remoteDetectMult: 7,
  });
});

t.test('6.8.6 received AdminDown: Up → Down with diag 3', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.receive({ state: 'AdminDown' });
  t.match(s.session, { sessionState: 'Down', localDiag: 3 });
});

t.test(
  '6.8.6 a restarted peer (Down, Your Discriminator 0): Up → Down with diag 3, then Up again',
  async (t) => {
    const s = new Simulation();
    s.bringUp();
    s.receive({ state: 'Down', yourDiscriminator: 0, myDiscriminator: 0x77 });
    t.match(s.session, { sessionState: 'Down', localDiag: 3, remoteDiscr: 0x77 });
    s.receive({ state: 'Init', myDiscriminator: 0x77 });
    t.match(s.session, { sessionState: 'Up', localDiag: 0 });
  },
);

t.test('6.8.6 received AdminDown in Down changes nothing', async (t) => {
  const s = new Simulation();
  s.receive({ state: 'AdminDown', yourDiscriminator: 0 });
  t.equal(s.session.sessionState, 'Down');
});

t.test('6.8.6 local AdminDown: discards, but keeps the discriminator and ends the Poll', async (t) => {
  const s = new Simulation();
  s.event({ type: 'hold', hold: ADMIN_DOWN });
  t.equal(s.receive({ state: 'Down', yourDiscriminator: 0 }), 'local-admin-down');
  t.match(s.session, { sessionState: 'AdminDown', remoteDiscr: REMOTE });
  const up = new Simulation();
  up.bringUp();
  up.event({ type: 'hold', hold: ADMIN_DOWN });
  t.equal(up.session.polling, true);
  t.equal(up.receive({ final: true }), 'local-admin-down');
  t.equal(up.session.polling, false);
});

t.test('6.8.6 a Poll is answered at once with Final, without Poll, also while we poll', async (t) => {
  const s = new Simulation();
  s.receive({ state: 'Down', yourDiscriminator: 0 });
  s.receive({ state: 'Up' });
  s.take();
  s.receive({ poll: true });
  t.strictSame(s.take(), ['0 send Up my=11 your=99 tx=100 rx=100 x5 F']);
});

t.test('6.8.7 a Final does not restart the transmit interval', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.pass(70);
  s.receive({ poll: true });
  s.pass(10);
  t.strictSame(s.take(), [
    '70 send Up my=11 your=99 tx=100 rx=100 x5 F',
    '75 send Up my=11 your=99 tx=100 rx=100 x5',
  ]);
});

t.test('6.8.7 a state change is sent at once and restarts the interval', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.pass(70);
  s.receive({ state: 'AdminDown' });
  t.strictSame(s.take(), [
    '70 send Down(3) my=11 your=99 tx=1000 rx=100 x5 P',
    '70 Up → Down (3) received AdminDown',
  ]);
  t.equal(s.session.transmitAt - s.now, 750_000);
});

t.test('6.8.7 a shorter interval counts from the last packet', async (t) => {
  const s = new Simulation();
  s.bringUp({ requiredMinRx: 1_000_000 });
  s.pass(300);
  s.receive({ requiredMinRx: 200_000 });
  s.pass(1);
  t.strictSame(s.take(), ['300 send Up my=11 your=99 tx=100 rx=100 x5']);
});

t.test('6.8.7 no periodic packets when RemoteMinRx is 0', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.receive({ requiredMinRx: 0 });
  s.passWithPeer(1000, 100, { requiredMinRx: 0 });
  t.strictSame(s.take(), []);
  s.receive({ requiredMinRx: 0, poll: true });
  t.equal(s.take().length, 1, 'a Final is sent all the same');
});

t.test("6.8.7 the interval is at least the peer's RequiredMinRx", async (t) => {
  const s = new Simulation();
  s.bringUp({ requiredMinRx: 400_000 });
  t.equal(s.session.transmitInterval, 400_000);
});

t.test('6.6 the remote in Demand mode: no periodic packets once both are Up, Polls answered', async (t) => {
  const s = new Simulation();
  s.bringUp({ demand: true });
  s.passWithPeer(1000, 400, { demand: true });
  t.strictSame(s.take(), []);
  s.receive({ demand: true, poll: true });
  t.strictSame(s.take(), ['1000 send Up my=11 your=99 tx=100 rx=100 x5 F']);
});

t.test('6.6 the remote in Demand mode: a Poll Sequence of ours is sent', async (t) => {
  const s = new Simulation();
  s.bringUp({ demand: true });
  s.pass(200);
  s.configure({ desiredMinTx: 200_000 });
  s.pass(1);
  t.strictSame(s.take(), ['200 send Up my=11 your=99 tx=200 rx=100 x5 P']);
  s.receive({ demand: true, final: true });
  s.pass(300);
  t.strictSame(s.take(), []);
});

t.test('6.6 the D bit is never set unless Demand mode is configured', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.passWithPeer(1000);
  t.ok(s.sent.length > 5);
  t.notOk(s.sent.some(({ packet }) => packet.demand));
});

t.test(
  '6.6 Demand mode: D once both are Up, then a Poll each period and nothing expires between',
  async (t) => {
    const s = new Simulation({ demandPollInterval: 2_000_000 });
    s.receive({ state: 'Down', yourDiscriminator: 0 });
    s.receive({ state: 'Init' });
    t.notOk(s.sent.at(-1)!.packet.demand, 'the peer is not Up yet');
    s.receive({ final: true });
    s.take();
    s.pass(1990);
    t.equal(s.session.sessionState, 'Up');
    t.match(s.take().at(-1), / x5 D$/);
    s.pass(100);
    t.match(s.take().at(-1), / x5 P D$/);
    s.receive({ final: true });
    s.pass(1900);
    t.equal(s.session.sessionState, 'Up');
  },
);

t.test('6.8.4 Demand mode: a Poll without Final for a Detection Time ends the session', async (t) => {
  const s = new Simulation({ demandPollInterval: 2_000_000 });
  s.bringUp();
  s.pass(2000);
  s.take();
  s.pass(499);
  t.equal(s.session.sessionState, 'Up');
  s.pass(1);
  t.match(s.session, { sessionState: 'Down', localDiag: 1 });
});

t.test(
  '6.8.16 AdminDown is sent at once and then at the slow rate, and kept whatever the peer sends',
  async (t) => {
    const s = new Simulation();
    s.bringUp();
    s.pass(10);
    s.event({ type: 'hold', hold: ADMIN_DOWN });
    s.passWithPeer(1600, 200, { state: 'Down' });
    t.strictSame(s.take(), [
      '10 send AdminDown(7) my=11 your=99 tx=1000 rx=100 x5 P',
      '10 Up → AdminDown (7) disable',
      '760 send AdminDown(7) my=11 your=99 tx=1000 rx=100 x5 P',
      '1510 send AdminDown(7) my=11 your=99 tx=1000 rx=100 x5 P',
    ]);
  },
);

t.test('6.8.16 and back: Down with diag 0 and the same discriminators, then Up', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.event({ type: 'hold', hold: ADMIN_DOWN });
  s.receive({ state: 'Down', final: true });
  s.take();
  s.event({ type: 'hold', hold: undefined });
  s.receive({ state: 'Init' });
  t.strictSame(s.take(), [
    '0 send Down my=11 your=99 tx=1000 rx=100 x5 P',
    '0 AdminDown → Down (0) enable',
    '0 send Up my=11 your=99 tx=100 rx=100 x5 P',
    '0 Down → Up (0) received Init',
  ]);
});

t.test('6.8.17 a concatenated path failure: AdminDown with diag 6', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.event({ type: 'hold', hold: { state: 'AdminDown', diagnostic: 6 } });
  t.match(s.take()[0], /^0 send AdminDown\(6\)/);
  s.event({ type: 'hold', hold: { state: 'AdminDown', diagnostic: 8 } });
  s.passWithPeer(800, 400, { state: 'Down' });
  t.match(s.take()[0], /^750 send AdminDown\(8\)/, 'another reason is told with the next packet');
});

t.test('a session held from the start is silent, learns the peer, and never enters Init', async (t) => {
  const s = new Simulation();
  s.event({ type: 'hold', hold: { state: 'AdminDown', diagnostic: 6 } });
  s.pass(1500);
  t.strictSame(s.take(), ['0 Down → AdminDown (6) disable']);
  s.passWithPeer(2000, 100, { state: 'Down', yourDiscriminator: 0 });
  t.equal(s.session.sessionState, 'AdminDown');
  t.ok(s.take().every((line) => line.includes('send AdminDown(6) my=11 your=99')));
});

t.test('a forced Down stays Down with its diagnostic', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.event({ type: 'hold', hold: { state: 'Down', diagnostic: 5 } });
  s.receive({ state: 'Down' });
  s.receive({ state: 'Init' });
  t.match(s.session, { sessionState: 'Down', localDiag: 5 });
  s.event({ type: 'hold', hold: undefined });
  s.receive({ state: 'Init' });
  t.equal(s.session.sessionState, 'Up');
});

t.test('a suspended session sends nothing and still receives', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.event({ type: 'suspend', suspended: true });
  s.passWithPeer(1000);
  t.strictSame(s.take(), []);
  t.equal(s.session.sessionState, 'Up');
  s.event({ type: 'suspend', suspended: false });
  s.pass(1);
  t.equal(s.take().length, 1);
});

t.test('a reset session sends Down, forgets its peer and keeps its discriminator', async (t) => {
  const s = new Simulation();
  s.bringUp();
  s.event({ type: 'reset' });
  t.strictSame(s.take(), ['0 send Down my=11 your=99 tx=1000 rx=100 x5 P', '0 Up → Down (0) reset']);
  t.match(s.session, { localDiscr: LOCAL, remoteDiscr: 0 });
});

t.test('a stale discriminator that the peer repeats is adopted, and the session comes Up', async (t) => {
  const s = new Simulation();
  s.pass(0);
  s.take();
  t.equal(s.receive({ state: 'Down', yourDiscriminator: 0x55 }, true), 'unknown-discriminator');
  t.equal(s.receive({ state: 'Down', yourDiscriminator: 0x55 }, true), undefined);
  t.strictSame(s.take(), [
    '0 adopt 55',
    '0 send Init my=55 your=99 tx=1000 rx=100 x5',
    '0 Down → Init (0) received Down',
  ]);
});

t.test(
  'a stale discriminator is not adopted when it comes once, varies, or is in another state',
  async (t) => {
    const s = new Simulation();
    for (const yourDiscriminator of [1, 2, 3, 4, 1, 2]) s.receive({ state: 'Down', yourDiscriminator }, true);
    for (const state of ['AdminDown', 'Init', 'Up'] as const) {
      for (let i = 0; i < 4; i++) {
        t.equal(s.receive({ state, yourDiscriminator: 0x55 }, true), 'unknown-discriminator');
      }
    }
    t.match(s.session, { localDiscr: LOCAL, remoteDiscr: 0, sessionState: 'Down' });
  },
);

t.test(
  'a stale discriminator is not adopted by a session that is Up, held, or configured not to',
  async (t) => {
    const up = new Simulation();
    up.bringUp();
    const held = new Simulation();
    held.event({ type: 'hold', hold: { state: 'Down', diagnostic: 5 } });
    const strict = new Simulation({ adoptDiscriminator: false });
    for (const s of [up, held, strict]) {
      for (let i = 0; i < 5; i++) {
        t.equal(s.receive({ state: 'Down', yourDiscriminator: 0x55 }, true), 'unknown-discriminator');
      }
      t.equal(s.session.localDiscr, LOCAL);
    }
  },
);

t.test('a stale packet does not restart the detection timer', async (t) => {
  const s = new Simulation();
  s.bringUp();
  for (let i = 0; i < 5; i++) {
    s.pass(100);
    s.receive({ state: 'Up', yourDiscriminator: 0x55 }, true);
  }
  t.equal(s.session.sessionState, 'Down');
});

t.test('4.1 the C bit is that of the configuration', async (t) => {
  const s = new Simulation({ role: 'active', controlPlaneIndependent: true });
  s.pass(0);
  t.equal(s.sent[0]!.packet.controlPlaneIndependent, true);
});

t.test('6.4 Echo is not offered', async (t) => {
  const s = new Simulation({ role: 'active' });
  s.pass(0);
  t.equal(s.sent[0]!.packet.requiredMinEchoRx, 0);
});

t.test("the peer's Detection Time is that of the rate it has been told", async (t) => {
  const s = new Simulation();
  s.bringUp();
  t.equal(peerDetectionTime(s.session), 500_000);
  s.receive({ requiredMinRx: 300_000 });
  t.equal(peerDetectionTime(s.session), 1_500_000);
});

t.test('an idle passive session wakes only to knock', async (t) => {
  const s = new Simulation();
  s.pass(0);
  t.equal(nextDeadline(s.session) - s.now, 1_000_000);
});

// Authentication in the session; the section itself is in auth.test.ts ------------------------------------------

const KEY: AuthKey = { type: 'meticulous-keyed-sha1', id: 1, secret: Buffer.from('secret') };
const NEW_KEY: AuthKey = { type: 'meticulous-keyed-sha1', id: 1, secret: Buffer.from('another') };

function authenticated(keys: AuthKey[] = [KEY]): Simulation {
  const s = new Simulation({ authKeys: keys });
  s.receiveSigned(keys[0]!, 1, { state: 'Down', yourDiscriminator: 0 });
  s.receiveSigned(keys[0]!, 2, { state: 'Up' });
  s.receiveSigned(keys[0]!, 3, { final: true });
  t.equal(s.session.sessionState, 'Up');
  return s;
}

t.test('6.8.6 discards an A bit when no authentication is configured', async (t) => {
  t.equal(new Simulation().receiveSigned(KEY, 1), 'auth-unexpected');
});

t.test('6.8.6 discards a clear A bit when authentication is configured', async (t) => {
  const s = authenticated();
  t.equal(s.receive(), 'auth-missing');
});

t.test('6.7 without the secret nothing is accepted and nothing sent', async (t) => {
  const s = new Simulation({ role: 'active', authKeys: [] });
  s.pass(3000);
  t.equal(s.receiveSigned(KEY, 1), 'auth-no-key');
  t.strictSame(s.sent, []);
});

t.test(
  '6.8.6 a packet that fails authentication changes nothing, not even the detection timer',
  async (t) => {
    const s = authenticated();
    const before = s.session;
    s.pass(10);
    t.equal(s.receiveSigned(NEW_KEY, 4, { state: 'AdminDown' }), 'auth-digest');
    t.strictSame(s.session, before);
  },
);

t.test('6.7.3 XmitAuthSeq goes up with every packet, circularly', async (t) => {
  const s = authenticated();
  s.session = { ...s.session, xmitAuthSeq: 0xfffffffe };
  s.actions.length = 0;
  s.passWithPeer(0);
  s.pass(240);
  const sequences = s.actions.map((action) => (action.type === 'send' ? action.sequence : undefined));
  t.strictSame(sequences.slice(0, 3), [0xffffffff, 0, 1]);
});

t.test('6.8.1 AuthSeqKnown is cleared after two Detection Times without a packet', async (t) => {
  const s = authenticated();
  t.equal(s.receiveSigned(KEY, 2), 'auth-sequence');
  s.pass(999);
  t.equal(s.session.authSeqKnown, true);
  s.pass(1);
  t.equal(s.session.authSeqKnown, false);
  t.equal(s.receiveSigned(KEY, 2, { state: 'Down', yourDiscriminator: 0 }), undefined);
});

t.test('a changed key: the old one is accepted, and used until the peer uses the new one', async (t) => {
  const s = authenticated();
  s.configure({ authKeys: [NEW_KEY, KEY] });
  const lastKey = () => {
    const last = s.actions.at(-1)!;
    return last.type === 'send' ? last.key : undefined;
  };
  s.pass(80);
  t.equal(lastKey(), KEY);
  t.equal(s.receiveSigned(KEY, 4), undefined);
  t.equal(s.receiveSigned(NEW_KEY, 5), undefined);
  s.pass(80);
  t.equal(lastKey(), NEW_KEY);
  s.configure({ authKeys: [NEW_KEY] });
  t.equal(s.receiveSigned(KEY, 6), 'auth-digest', 'the grace is over');
  t.equal(s.session.sessionState, 'Up');
});

t.test('a changed key is used at the latest when the old one is no longer accepted', async (t) => {
  const s = authenticated();
  s.configure({ authKeys: [NEW_KEY, KEY] });
  s.configure({ authKeys: [NEW_KEY] });
  s.pass(80);
  const last = s.actions.at(-1)!;
  t.equal(last.type === 'send' && last.key, NEW_KEY);
});

t.test('intervals of an hour: Up until ten days without a packet have passed', async (t) => {
  const hour = 3_600_000_000;
  const s = new Simulation({ desiredMinTx: hour, requiredMinRx: hour, detectMult: 255 });
  const slow = { desiredMinTx: hour, requiredMinRx: hour, detectMult: 255 };
  s.receive({ state: 'Down', yourDiscriminator: 0, ...slow });
  s.receive({ state: 'Up', ...slow });
  s.receive({ state: 'Up', final: true, ...slow });
  t.equal(s.session.detectionTime, 255 * hour);
  t.equal(s.session.transmitInterval, hour);
  s.take();
  s.pass(254 * 3_600_000);
  const sent = s.take();
  t.ok(sent.every((line) => line.includes(`send Up my=11 your=99 tx=${hour / 1000} rx=${hour / 1000} x255`)));
  t.ok(sent.length >= 254 && sent.length <= 339, `${sent.length}`);
  s.pass(2 * 3_600_000);
  t.match(
    s.take().filter((line) => line.includes('→')),
    [/Up → Down \(1\)/],
  );
});
