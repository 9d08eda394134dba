/**
 * A group behind real OVN: three gateways share an egress address, under 200 open TCP connections, a UDP flow and new
 * connections all the while. No open connection breaks when the pod that holds the address dies, when another one takes its
 * place, nor when all three are replaced one after the other. By what is planned no gateway loses a packet, and no new connection
 * fails. Between the ends a busy machine may lose one in a thousand: frames that Open vSwitch does not read in time, or has no
 * flow for while OVN changes them.
 *
 * `node test/bench/ovn.ts group` has the whole table.
 */
import t from 'tap';
import { GatewayGroup, OvnPlace, SHORT } from '../support/gateway-group.ts';
import { costLine } from '../support/group-load.ts';
import { countPassage } from '../support/passage.ts';
import { scopeOf } from '../support/tap.ts';
import { ECHO_PORT } from '../support/traffic.ts';

t.test('behind OVN no open connection breaks, and what is planned loses no packet', async (t) => {
  const scope = scopeOf(t);
  const place = await OvnPlace.start(scope, { gateways: 3 });
  const group = new GatewayGroup(scope, place, { connections: 200 });
  await group.start();
  await group.load();
  const lostInGateways = countPassage(
    place.pods.map(({ pod }) => pod.ns),
    ECHO_PORT,
  );
  for (const { what, planned, act } of SHORT) {
    const before = { gateways: lostInGateways(), frames: place.ovn.dropped };
    const cost = await group.during(() => act(group));
    const lost = lostInGateways() - before.gateways;
    const frames = place.ovn.dropped - before.frames;
    t.comment(
      `${what}: ${costLine(cost)}; ${lost} of them in the gateways; frames not read in time: ${frames}`,
    );
    t.equal(cost.broken, 0, `${what}: every connection has the source that it had`);
    t.same(cost.sources, place.shared, `${what}: the server sees one address`);
    if (planned) {
      t.equal(lost, 0, `${what}: the gateways lose no packet of the UDP flow`);
      t.ok(cost.udpLost <= frames + cost.udpSent / 1000, `${what}: nor is it interrupted between them`);
      t.equal(cost.failed, 0, `${what}: no new connection fails`);
    } else {
      t.ok(lost > 0, `${what}: what a dead gateway was given is counted`);
    }
  }
  await group.close();
});
