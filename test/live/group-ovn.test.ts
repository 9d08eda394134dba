/**
 * A group behind real OVN: three gateways share an egress address, under 200 open TCP connections, a UDP flow and new
 * connections all the while. No open connection breaks when the pod that holds the address dies, when another one takes its
 * place, nor when all three are replaced one after the other, which loses no packet either, but for frames that Open vSwitch does
 * not read in time on a busy machine.
 *
 * `node test/bench/ovn.ts group` has the whole table.
 */
import t from 'tap';
import { GatewayGroup, OvnPlace, SHORT } from '../support/gateway-group.ts';
import { costLine } from '../support/group-load.ts';
import { scopeOf } from '../support/tap.ts';

t.test('behind OVN no open connection breaks, and what is planned loses no packet', async (t) => {
  const scope = scopeOf(t);
  const place = await OvnPlace.start(scope, { gateways: 3 });
  const group = new GatewayGroup(scope, place, { connections: 200 });
  await group.start();
  await group.load();
  for (const { what, planned, act } of SHORT) {
    const before = place.ovn.dropped;
    const cost = await group.during(() => act(group));
    const dropped = place.ovn.dropped - before;
    t.comment(`${what}: ${costLine(cost)}; the switch itself dropped ${dropped} frames`);
    t.equal(cost.broken, 0, `${what}: every connection has the source that it had`);
    t.same(cost.sources, place.shared, `${what}: the server sees one address`);
    if (planned) t.ok(cost.udpLost <= dropped, `${what}: the gateways lose no packet of the UDP flow`);
  }
  await group.close();
});
