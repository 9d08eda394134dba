/** Real OVN does not see an agent restart, nor a policy that changes all the time. */
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import type { BfdCapture } from '../support/capture.ts';
import { now } from '../support/failover.ts';
import { type AgentPod, Ovn } from '../support/ovn.ts';
import { scopeOf } from '../support/tap.ts';

const RESTARTS = 4;
/** A restarted agent stays up for so long before the next restart, ms. */
const PAUSE = 1500;
const POLICY_CHANGES = 8;

/** Proves that OVN said nothing but Up since a moment, and went on saying it to the end. */
function stayedUp(t: Test, capture: BfdCapture, pod: AgentPod, since: number): void {
  const own = pod.pod.internal[4];
  const fromOvn = capture.packets().filter(({ at, to }) => at >= since && to === own);
  const gap = Math.max(...fromOvn.slice(1).map(({ at }, i) => at - fromOvn[i]!.at));
  t.comment(`${fromOvn.length} packets of OVN, the longest gap ${Math.round(gap)} ms`);
  t.ok(fromOvn.length > 0, 'OVN went on');
  t.strictSame([...new Set(fromOvn.map(({ state }) => state))], ['Up'], 'OVN never left Up');
}

t.test('OVN does not see', async (t) => {
  const ovn = await Ovn.start(scopeOf(t));
  const pod = ovn.agentPod(ovn.gateways[0]);
  pod.start();
  await ovn.reaches('up', [pod.pod]);
  const capture = await ovn.capture(pod.pod);

  const restarts = (how: () => Promise<unknown>) => async (t: Test) => {
    const since = now();
    for (let i = 0; i < RESTARTS; i++) {
      await how();
      pod.startUrgently();
      await sleep(PAUSE);
    }
    stayedUp(t, capture, pod, since);
    await pod.agent.statusUntil('Up', ({ bfd }) => bfd.sessions.every(({ state }) => state === 'Up'));
  };

  await t.test(
    'an agent that is killed with all its processes and started again',
    restarts(() => pod.kill()),
  );
  await t.test(
    'an agent that is restarted in place with SIGUSR2',
    restarts(() => pod.agent.stop('SIGUSR2')),
  );

  await t.test('a policy that changes every second', async (t) => {
    const since = now();
    const before = (await pod.agent.status()).policy.generation;
    for (let i = 0; i < POLICY_CHANGES; i++) {
      pod.policy.set({ ...ovn.policy(), policies: changing(i) });
      await sleep(1000);
    }
    stayedUp(t, capture, pod, since);
    const { policy } = await pod.agent.synced();
    t.ok(policy.generation - before >= POLICY_CHANGES, 'each was taken');
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
