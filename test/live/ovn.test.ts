/**
 * Gateways behind real OVN, at 100 ms × 5 on a quiet chassis, whose BFD thread sleeps up to 60 s unless something wakes
 * it: sessions come Up and come back by themselves, restarts and policy changes are not seen, and what a client loses
 * when a gateway leaves. The figures are in docs/design/0003-ovn.md and docs/benchmarks.md (test/bench/ovn.ts).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { type AgentPod, stopForwarding } from '../support/agent-pod.ts';
import type { BfdCapture } from '../support/capture.ts';
import { type Failover, failover, failoverLine, now, Streams } from '../support/failover.ts';
import { Ovn } from '../support/ovn.ts';
import { scopeOf } from '../support/tap.ts';

/** Far below the 60 s that OVN sleeps. */
/**
 * Longer than the Detection Time at OVN. Its thread may sleep then, so that neither its database nor a packet shows that
 * it has noticed.
 */
const NOTICED = 2500;
/** Of the gateway's packets: a restart on a busy machine, too, is inside the Detection Time that this makes at OVN. */
const PATIENT = 20;
const RESTARTS = 4;
const POLICY_CHANGES = 8;
/** When streams that nothing happened to lose packets, this machine lost them: it is measured again. */
const ATTEMPTS = 3;

const ovn = await Ovn.start(scopeOf(t), { gateways: 3, v6: true });
const pods = ovn.gateways.map((gateway) => ovn.agentPod(gateway));
const [first, second] = pods as [AgentPod, AgentPod];

/** The first gateway alone, with a new agent, its sessions Up or not yet. */
async function lone(bfd = {}): Promise<void> {
  await Promise.all(pods.map((pod) => pod.kill()));
  await sleep(NOTICED);
  first.policy.set(ovn.policy(bfd));
  first.startFresh();
}

/** All gateways, each with an agent, their sessions Up. */
async function all(): Promise<void> {
  for (const pod of pods) if (!pod.running) pod.start();
  await ovn.reaches('up');
}

const bothUp = ({ agent }: AgentPod, since = 0) =>
  agent.statusUntil(
    'Up at both ends',
    ({ bfd }) =>
      bfd.sessions.length === 2 &&
      bfd.sessions.every((s) => s.state === 'Up' && s.remoteState === 'Up' && s.since > since),
  );

// Sessions ---------------------------------------------------------------------------------------------------

/** Does something, waits until both ends of every session are Up, and whether they stay so for ten packets. */
async function comesUp(t: Test, how: () => unknown): Promise<void> {
  const began = now();
  await how();
  const { bfd: then } = await bothUp(first, began);
  t.comment(`Up ${Math.round(now() - began)} ms after the start`);
  const { bfd } = await first.agent.statusUntil('ten packets more', ({ bfd }) =>
    bfd.sessions.every((s, i) => s.packetsIn >= then.sessions[i]!.packetsIn + 10),
  );
  t.strictSame(
    bfd.sessions.map(({ state, remoteState }) => `${state} ${remoteState}`),
    ['Up Up', 'Up Up'],
    'and it stays Up',
  );
  t.notOk(
    bfd.sessions.some(({ transitions }) => transitions.some(({ from }) => from === 'Up')),
    'without having left Up',
  );
}

t.test('on a quiet chassis a lone gateway comes Up', async (t) => {
  await t.test('when it is new, in both families', (t) => comesUp(t, lone));

  await t.test('as a new pod at the address of one that was just killed', async (t) => {
    await lone();
    await bothUp(first);
    await first.kill();
    await comesUp(t, () => first.startFresh());
  });

  await t.test('as a new pod at the address of one that OVN gave up', async (t) => {
    await lone();
    await bothUp(first);
    await first.kill();
    await sleep(NOTICED);
    await comesUp(t, () => first.startFresh());
  });

  await t.test('as a new pod after repeated AdminDown', async (t) => {
    await lone();
    await bothUp(first);
    await first.agent.ask('POST', '/v1/drain?timeout=0');
    await sleep(NOTICED);
    await first.kill();
    await comesUp(t, () => first.startFresh());
  });

  await t.test('after drain and undrain', async (t) => {
    await lone();
    await bothUp(first);
    await first.agent.ask('POST', '/v1/drain?timeout=500');
    const since = now();
    await first.agent.ask('POST', '/v1/undrain');
    await bothUp(first, since);
    t.pass('both families');
  });
});

t.test('a session returns by itself', async (t) => {
  /** Waits until the sessions have been Down and are Up at both ends again, in the database too. */
  async function return_(t: Test, since: number): Promise<void> {
    const { bfd } = await bothUp(first, since);
    t.comment(`Up ${Math.round(bfd.sessions[0]!.since - since)} ms after the restart`);
    await ovn.reaches('up', [first.pod]);
  }

  await t.test('after ovn-controller was killed and started again', async (t) => {
    await lone();
    await bothUp(first);
    const since = now();
    await ovn.restartController(NOTICED);
    await return_(t, since);
  });

  await t.test('after ovn-controller and the agent were killed, and a new pod came', async (t) => {
    await lone();
    await bothUp(first);
    await Promise.all([ovn.restartController(NOTICED), first.kill()]);
    const since = now();
    first.startFresh();
    await return_(t, since);
  });

  await t.test("after OVN's discriminators changed", async (t) => {
    await lone();
    const { bfd } = await bothUp(first);
    const since = now();
    ovn.renewSessions();
    await return_(t, since);
    const after = (await first.agent.status()).bfd.sessions[0]!.remoteDiscriminator;
    t.not(after, bfd.sessions[0]!.remoteDiscriminator, 'OVN has another discriminator');
  });
});

// Restarts and changes ---------------------------------------------------------------------------------------

/** Proves that OVN sent nothing but Up since a moment, and went on sending. */
function stayedUp(t: Test, capture: BfdCapture, since: number): void {
  const own = first.pod.internal[4];
  const fromOvn = capture.packets().filter(({ at, to }) => at >= since && to === own);
  const gap = Math.max(...fromOvn.slice(1).map(({ at }, i) => at - fromOvn[i]!.at));
  t.comment(`${fromOvn.length} packets of OVN, the longest gap ${Math.round(gap)} ms`);
  t.ok(fromOvn.length > 0, 'OVN went on');
  t.strictSame([...new Set(fromOvn.map(({ state }) => state))], ['Up'], 'OVN never left Up');
}

t.test('OVN does not see', async (t) => {
  const restarts = (how: () => Promise<unknown>) => async (t: Test) => {
    await lone({ multiplier: PATIENT });
    await bothUp(first);
    const capture = await ovn.capture(first.pod);
    const since = now();
    const sent = (packets: number) =>
      first.agent.statusUntil(`${packets} packets sent`, ({ bfd }) =>
        bfd.sessions.every(({ packetsOut }) => packetsOut >= packets),
      );
    for (let i = 0; i < RESTARTS; i++) {
      const before = (await first.agent.status()).bfd.sessions[0]!.packetsOut;
      await how();
      first.startUrgently();
      await first.agent.statusUntil('ready', ({ ready }) => ready);
      await sent(before + 2);
    }
    // For longer than the Detection Time: OVN has accepted packets of the last process.
    await sent((await first.agent.status()).bfd.sessions[0]!.packetsOut + PATIENT + 5);
    stayedUp(t, capture, since);
    await bothUp(first);
    await capture.stop();
  };

  await t.test(
    'an agent that is killed with all its processes and started again',
    restarts(() => first.kill()),
  );
  await t.test(
    'an agent that is restarted in place with SIGUSR2',
    restarts(() => first.agent.stop('SIGUSR2')),
  );

  await t.test('a policy that changes all the time', async (t) => {
    await lone();
    await bothUp(first);
    const capture = await ovn.capture(first.pod);
    const since = now();
    const { generation } = (await first.agent.status()).policy;
    for (let i = 1; i <= POLICY_CHANGES; i++) {
      first.policy.set({ ...ovn.policy(), policies: changing(i) });
      await first.agent.statusUntil(
        `change ${i}`,
        ({ policy, kernel }) => policy.generation === generation + i && kernel.inSync,
      );
    }
    stayedUp(t, capture, since);
    await capture.stop();
  });
});

/** Another policy each time: more and fewer blocks, translated and not. */
const changing = (i: number) => [
  { name: 'web', snat: true, ipBlocks: ['10.17.0.0/16'] },
  {
    name: 'partners',
    snat: i % 3 === 0,
    ipBlocks: Array.from({ length: 1 + (i % 5) * 20 }, (_, j) => `10.${100 + (i % 7)}.${j}.0/24`),
  },
];

// Gateways that leave ------------------------------------------------------------------------------------------

/** Lets something happen to the first gateway of all, puts it right again, and returns what it cost. */
async function measured(t: Test, event: () => unknown, mend: () => unknown): Promise<Failover> {
  for (let attempt = 1; ; attempt++) {
    await all();
    const result = await failover(ovn, first.pod, event);
    t.comment(failoverLine(result));
    mend();
    if ((result.othersLost === 0 && result.lostBefore === 0) || attempt === ATTEMPTS) return result;
  }
}

t.test('a client behind OVN', async (t) => {
  await t.test('loses nothing when a gateway is drained and removed', async (t) => {
    const result = await measured(
      t,
      async () => {
        t.equal(await first.agent.stop(), 0, 'the agent ends by itself');
        stopForwarding(first.pod);
      },
      () => first.start(),
    );
    t.equal(result.lost, 0);
    t.not(result.movedMs, undefined, 'its traffic goes through another one');
  });

  await t.test('loses nothing when two are drained and removed within 5 s of each other', async (t) => {
    await all();
    const streams = await Streams.open(ovn);
    const began = now();
    const drain = async ({ agent, pod }: AgentPod) => {
      await agent.stop();
      stopForwarding(pod);
    };
    // A second apart: within the five for which OVN may hold a change back.
    await Promise.all([drain(first), sleep(1000).then(() => drain(second))]);
    await ovn.reaches('down', [first.pod, second.pod]);
    const { streams: reports, senderStallMs } = await streams.close(began);
    t.comment(JSON.stringify(reports), `sender stall ${senderStallMs} ms`);
    t.equal(reports.gw1!.lost, 0);
    t.equal(reports.gw2!.lost, 0);
    t.not(reports.gw2!.movedMs, undefined, 'all goes through the one that is left');
  });

  await t.test('loses nothing when every process of an agent is killed: forwarding goes on', async (t) => {
    const result = await measured(
      t,
      () => first.kill(),
      () => first.start(),
    );
    t.equal(result.lost, 0);
    t.not(result.movedMs, undefined, 'OVN took its traffic elsewhere');
  });

  await t.test('loses what it sends in the detection time when a pod dies', async (t) => {
    const result = await measured(
      t,
      () => first.die(),
      () => first.start(),
    );
    t.not(result.movedMs, undefined, 'then OVN takes its traffic elsewhere');
    t.ok(result.lost > 0);
  });

  for (const [what, event] of [
    ['its link loses the carrier', 'cable'],
    ['its network is cut off, and nothing says so', 'silent'],
  ] as const) {
    await t.test(`leaves a gateway when ${what}, and comes back`, async (t) => {
      await all();
      const result = await failover(ovn, first.pod, () => ovn.cutUplink(first.pod, event));
      t.comment(failoverLine(result));
      t.not(result.movedMs, undefined, 'it goes through another one');
      t.ok(result.lastUpMs! < result.statusMs!, 'the gateway leaves Up, then OVN acts');
      // The bridge outside forgets addresses when a port of it goes.
      t.ok(result.othersLost <= 5, `the other gateways’ traffic goes on (${result.othersLost} lost)`);
      t.equal(ovn.status(first.pod.internal[4]), 'down');
      ovn.restoreUplink(first.pod);
      await ovn.reaches('up');
    });
  }
});
