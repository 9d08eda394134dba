/**
 * Sessions with real OVN on a quiet chassis, whose BFD thread sleeps up to 60 s unless something wakes it: they
 * come Up at once, and come back by themselves whatever was restarted.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { now } from '../support/failover.ts';
import { type AgentPod, Ovn } from '../support/ovn.ts';
import { scopeOf } from '../support/tap.ts';

/** Far below the 60 s that OVN sleeps. */
const SOON = 15_000;
/** Longer than the Detection Time at OVN: it has noticed that the agent is gone. */
const NOTICED = 1200;

const ends = ({ agent }: AgentPod) =>
  agent.status().then(({ bfd }) => bfd.sessions.map(({ state, remoteState }) => `${state} ${remoteState}`));

/** Does something, waits until both ends of every session are Up, and tells whether they stay so. */
async function comesUp(t: Test, pod: AgentPod, how: () => unknown): Promise<void> {
  const began = now();
  await how();
  await pod.agent.statusUntil(
    'Up',
    ({ bfd }) =>
      bfd.sessions.length > 0 &&
      bfd.sessions.every(
        ({ state, remoteState, since }) => state === 'Up' && remoteState === 'Up' && since > began,
      ),
    SOON,
  );
  t.comment(`Up ${Math.round(now() - began)} ms after the start`);
  await sleep(1000);
  const { bfd } = await pod.agent.status();
  t.strictSame(new Set(await ends(pod)), new Set(['Up Up']), 'and it stays Up');
  t.notOk(
    bfd.sessions.some(({ transitions }) => transitions.some(({ from }) => from === 'Up')),
    'without having left Up',
  );
}

t.test('on a quiet chassis a lone gateway comes Up', async (t) => {
  const ovn = await Ovn.start(scopeOf(t), { v6: true });
  const pod = ovn.agentPod(ovn.gateways[0]);

  await t.test('when it is new, in both families', (t) => comesUp(t, pod, () => pod.start()));

  await t.test('as a new pod at the address of one that was just killed', async (t) => {
    await pod.kill();
    await comesUp(t, pod, () => pod.startFresh());
  });

  await t.test('as a new pod at the address of one that OVN gave up', async (t) => {
    await pod.kill();
    await sleep(NOTICED);
    await comesUp(t, pod, () => pod.startFresh());
  });

  await t.test('as a new pod after repeated AdminDown', async (t) => {
    await pod.agent.ask('POST', '/v1/drain?timeout=0');
    await sleep(NOTICED);
    await pod.kill();
    await comesUp(t, pod, () => pod.startFresh());
  });

  await t.test('after drain and undrain', (t) =>
    pod.agent.ask('POST', '/v1/drain?timeout=500').then(async () => {
      const began = now();
      await pod.agent.ask('POST', '/v1/undrain');
      const { bfd } = await pod.agent.statusUntil(
        'Up again',
        (s) => s.bfd.sessions.every(({ state, remoteState }) => state === 'Up' && remoteState === 'Up'),
        SOON,
      );
      t.comment(`Up ${Math.round(now() - began)} ms after undrain`);
      t.equal(bfd.sessions.length, 2);
    }),
  );
});

t.test('a session returns by itself', async (t) => {
  const ovn = await Ovn.start(scopeOf(t));
  const pod = ovn.agentPod(ovn.gateways[0]);
  await comesUp(t, pod, () => pod.start());

  /** Waits until the session has been Down and is Up at both ends again, in the database too. */
  async function returns(t: Test, since: number): Promise<void> {
    const { bfd } = await pod.agent.statusUntil(
      'Up again',
      (s) =>
        s.bfd.sessions.length > 0 &&
        s.bfd.sessions.every(
          ({ state, remoteState, since: entered }) =>
            state === 'Up' && remoteState === 'Up' && entered > since,
        ),
      SOON,
    );
    t.comment(`Up ${Math.round(bfd.sessions[0]!.since - since)} ms after the restart`);
    await ovn.reaches('up', [pod.pod]);
  }

  await t.test('after ovn-controller was killed and started again', async (t) => {
    await ovn.restartController(NOTICED);
    await returns(t, now());
    t.strictSame(await ends(pod), ['Up Up']);
  });

  await t.test('after ovn-controller and the agent were killed, and a new pod came', async (t) => {
    await Promise.all([ovn.restartController(NOTICED), pod.kill()]);
    const since = now();
    pod.startFresh();
    await returns(t, since);
    t.strictSame(await ends(pod), ['Up Up']);
  });

  await t.test("after OVN's discriminators changed", async (t) => {
    const before = (await pod.agent.status()).bfd.sessions[0]!.remoteDiscriminator;
    const since = now();
    ovn.renewSessions();
    await returns(t, since);
    const after = (await pod.agent.status()).bfd.sessions[0]!.remoteDiscriminator;
    t.not(after, before, 'OVN has another discriminator');
  });
});
