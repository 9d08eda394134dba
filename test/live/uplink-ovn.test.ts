/**
 * A gateway pod whose way out dies, behind real OVN: BFD says so, and traffic moves, which a BFD daemon that knows
 * nothing of the uplink would draw into a black hole for ever.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { failover, failoverLine } from '../support/failover.ts';
import { Ovn } from '../support/ovn.ts';
import { scopeOf } from '../support/tap.ts';

/** OVN holds back what it says of sessions for so long after the last it said, ms. */
const BATCH = 5000;
/** Packets of the 1000 a second that may be lost: failures × interval, OVN, and a busy machine. */
const DETECTED = 600 + 600;

t.test('behind OVN', async (t) => {
  const ovn = await Ovn.start(scopeOf(t));
  const [gw1] = ovn.gateways;
  const pods = ovn.gateways.map((gateway) => ovn.agentPod(gateway));
  for (const pod of pods) pod.start();
  await ovn.reaches('up');
  const outside = `x-${gw1.name}`;

  const cases = [
    {
      what: 'its link loses the carrier',
      event: () => ovn.host.ip(`link set ${outside} down`),
      mend: () => ovn.host.ip(`link set ${outside} up`),
      lost: 600,
    },
    {
      what: 'its network is cut off, and nothing says so',
      event: () => ovn.host.ip(`link set ${outside} nomaster`),
      mend: () => ovn.host.ip(`link set ${outside} master external`),
      lost: DETECTED,
    },
  ];
  for (const { what, event, mend, lost } of cases) {
    await t.test(`traffic leaves a gateway when ${what}, and comes back`, async (t) => {
      await sleep(BATCH + 500);
      const result = await failover(ovn, gw1, event, { afterMs: 3000 });
      t.comment(failoverLine(result));
      t.not(result.movedMs, undefined, 'it goes through the other one');
      t.ok(result.lost < lost, `${result.lost} packets lost`);
      // The bridge outside forgets addresses when a port of it goes.
      t.ok(result.othersLost <= 5, `the other gateway’s traffic goes on (${result.othersLost} lost)`);
      t.equal(ovn.status(gw1.internal[4]), 'down');
      mend();
      await ovn.reaches('up');
    });
  }
});
