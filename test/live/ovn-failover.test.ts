/**
 * What a client behind real OVN loses while gateways leave: a stream of 1000 packets a second through each of
 * three, on a quiet chassis, 100 ms x 5. Figures are in docs/design/0003-ovn.md.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { type Failover, failover, failoverLine, now, RATE, Streams } from '../support/failover.ts';
import { type AgentPod, Ovn, stopForwarding } from '../support/ovn.ts';
import { scopeOf } from '../support/tap.ts';

/**
 * A stream whose gateway is gone comes back within this time, seconds: the Detection Time, and the five for which OVN
 * may hold a change back. Or not for long: OVN sleeps up to 60.
 */
const SOON = 8;
/** When streams that nothing happened to lose packets, this machine lost them: it is measured again. */
const ATTEMPTS = 3;

t.test('a client behind OVN', async (t) => {
  const ovn = await Ovn.start(scopeOf(t), { gateways: 3 });
  const pods = ovn.gateways.map((gateway) => ovn.agentPod(gateway));
  const [first, second] = pods as [AgentPod, AgentPod];
  for (const pod of pods) pod.start();
  await ovn.reaches('up');

  /** Lets something happen to the first gateway, puts it right again, and returns what it cost. */
  async function measured(t: Test, event: () => unknown): Promise<Failover> {
    for (let attempt = 1; ; attempt++) {
      const result = await failover(ovn, first.pod, event);
      t.comment(failoverLine(result));
      first.start();
      await ovn.reaches('up');
      if ((result.othersLost === 0 && result.lostBefore === 0) || attempt === ATTEMPTS) return result;
    }
  }

  await t.test('loses nothing when a gateway is drained and removed', async (t) => {
    const result = await measured(t, async () => {
      t.equal(await first.agent.stop(), 0, 'the agent ends by itself');
      stopForwarding(first.pod);
    });
    t.equal(result.lost, 0);
    t.not(result.movedMs, undefined, 'its traffic goes through another one');
  });

  await t.test('loses nothing when two are drained and removed within 5 s of each other', async (t) => {
    const streams = await Streams.open(ovn);
    const began = now();
    const drain = async ({ agent, pod }: AgentPod) => {
      await agent.stop();
      stopForwarding(pod);
    };
    await Promise.all([drain(first), sleep(1000).then(() => drain(second))]);
    await sleep(1000);
    const { streams: reports, senderStallMs } = await streams.close(began);
    t.comment(JSON.stringify(reports), `sender stall ${senderStallMs} ms`);
    t.equal(reports.gw1!.lost, 0);
    t.equal(reports.gw2!.lost, 0);
    t.not(reports.gw2!.movedMs, undefined, 'all goes through the one that is left');
    for (const pod of [first, second]) pod.start();
    await ovn.reaches('up');
  });

  await t.test('loses nothing when every process of an agent is killed: forwarding goes on', async (t) => {
    const result = await measured(t, () => first.kill());
    t.equal(result.lost, 0);
    t.not(result.movedMs, undefined, 'OVN took its traffic elsewhere');
  });

  await t.test('loses what it sends in the detection time when a pod dies', async (t) => {
    const result = await measured(t, () => first.die());
    t.not(result.movedMs, undefined, 'then OVN takes its traffic elsewhere');
    t.ok(result.lost > 0 && result.lost < SOON * RATE);
  });
});
