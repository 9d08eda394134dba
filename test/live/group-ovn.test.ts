/**
 * A group behind real OVN: three gateways share an egress address, under 200 open TCP connections, a UDP flow and new
 * connections all the while. No open connection breaks when the pod that holds the address dies, when another one takes its
 * place, nor when all three are replaced one after the other, which loses no packet either.
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
    const cost = await group.during(() => act(group));
    t.comment(`${what}: ${costLine(cost)}`);
    t.equal(cost.broken, 0, `${what}: every connection has the source that it had`);
    t.same(cost.sources, place.shared, `${what}: the server sees one address`);
    if (planned) t.equal(cost.udpLost, 0, `${what}: no packet of the UDP flow is lost`);
  }
  await group.close();
});
