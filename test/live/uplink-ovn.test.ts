/**
 * A gateway pod whose way out dies, behind real OVN: BFD says so, and traffic moves, which a BFD daemon that knows
 * nothing of the uplink would draw into a black hole for ever.
 */
import t from 'tap';
import { failover, failoverLine, RATE } from '../support/failover.ts';
import { Ovn } from '../support/ovn.ts';
import { scopeOf } from '../support/tap.ts';

/** failures × interval, ms, and what is allowed on top for a busy machine. */
const DETECTION = 600;
const SLACK = 1000;
/** OVN may hold a change back for five seconds. */
const HELD_BACK = 5000;

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
      within: SLACK,
    },
    {
      what: 'its network is cut off, and nothing says so',
      event: () => ovn.host.ip(`link set ${outside} nomaster`),
      mend: () => ovn.host.ip(`link set ${outside} master external`),
      within: DETECTION + SLACK,
    },
  ];
  for (const { what, event, mend, within } of cases) {
    await t.test(`traffic leaves a gateway when ${what}, and comes back`, async (t) => {
      const result = await failover(ovn, gw1, event);
      t.comment(failoverLine(result));
      t.not(result.movedMs, undefined, 'it goes through the other one');
      t.ok(result.lastUpMs! < within, `the gateway says Up for the last time after ${result.lastUpMs} ms`);
      t.ok(result.lost < ((within + HELD_BACK) * RATE) / 1000, `${result.lost} packets lost`);
      // The bridge outside forgets addresses when a port of it goes.
      t.ok(result.othersLost <= 5, `the other gateway’s traffic goes on (${result.othersLost} lost)`);
      t.equal(ovn.status(gw1.internal[4]), 'down');
      mend();
      await ovn.reaches('up');
    });
  }
});
