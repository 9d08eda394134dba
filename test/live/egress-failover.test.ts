/** Virtual addresses, an egress address and an EIP, move from one gateway to another. */
import t from 'tap';
import { FAMILIES } from '../../routing/prefix.ts';
import { Agent, gatewayPolicy, PolicyDirectory, WEB } from '../support/agent.ts';
import { type Namespace, until, veth } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { ask, startMirror } from './nat-lab.ts';

const MIRROR = 9999;
const VIRTUAL = { 4: '172.17.0.50', 6: 'fd00:172:17::50' } as const;
const EIP = { 4: '172.17.0.60', 6: 'fd00:172:17::60' } as const;
const MOVING = [...Object.values(VIRTUAL), ...Object.values(EIP)];
const NAMES = ['gateway1-0', 'gateway1-1'] as const;

const scope = scopeOf(t);
const { client, client2, router, gateway, server } = topology(scope);
const second = scope.namespace('second');
const gateways = [gateway, second];
// The external network becomes a bridge at the server; the second gateway has a network of its own to the router.
veth(server, 'eth1', second, 'net1');
veth(router, 'second', second, 'eth0', 1400);
server.ip(`
  link add br0 type bridge mcast_snooping 0
  link set br0 up
  addr flush dev eth0
  link set eth0 master br0
  link set eth1 master br0
  addr add 172.17.0.1/16 dev br0
  addr add fd00:172:17::1/64 dev br0 nodad`);
router.ip(`
  addr add 10.30.0.1/16 dev second
  addr add fd00:10:30::1/64 dev second nodad`);
second.ip(`
  addr add 10.30.0.12/16 dev eth0
  addr add fd00:10:30::12/64 dev eth0 nodad
  addr add 172.17.0.12/16 dev net1
  addr add fd00:172:17::12/64 dev net1 nodad`);
second.sysctl({ 'net.ipv4.conf.eth0.rp_filter': 0 });

const policies = gateways.map(() => new PolicyDirectory(scope));
const INTERNAL = [
  ['10.16.0.1', 'fd00:10:16::1'],
  ['10.30.0.1', 'fd00:10:30::1'],
];
const INTERNAL_ADDRESSES = [ADDRESS.gatewayInternal, { 4: '10.30.0.12', 6: 'fd00:10:30::12' }] as const;
/** Says to both gateways who owns the addresses, and leads the client there. */
function giveTo(owner: 0 | 1): void {
  for (const [i, policy] of policies.entries()) {
    const egressIP = { address: Object.values(VIRTUAL), owner: NAMES[owner] };
    policy.write({
      'gateway.yaml': gatewayPolicy({
        internal: { gateways: INTERNAL[i] },
        policies: [{ ...WEB, egressIP } as typeof WEB],
        eips: FAMILIES.map((family) => ({
          ...{ externalIP: EIP[family], internalIP: ADDRESS.client2[family], owner: NAMES[owner] },
        })),
      }),
    });
  }
  router.ip(`route replace default via ${['10.16.0.12', '10.30.0.12'][owner]} table 100`, 4);
  router.ip(`route replace default via ${['fd00:10:16::12', 'fd00:10:30::12'][owner]} table 100`, 6);
}
giveTo(0);
for (const [i, ns] of gateways.entries()) {
  const env = { POD_NAME: NAMES[i] };
  await new Agent(ns, { policyDir: policies[i]!.dir, stateDir: scope.directory(`state-${i}`), env }).synced();
}
for (const ns of [server, client2]) await startMirror(ns, MIRROR);

const macOf = (ns: Namespace): string => / link\/ether (\S+)/.exec(ns.sh('ip link show net1'))![1]!;
const holds = (ns: Namespace, address: string): boolean =>
  ns.sh('ip -o addr show dev net1').includes(` ${address}/`);
/** Where the server sends what is for an address. */
const neighbour = (address: string): string | undefined =>
  / lladdr (\S+)/.exec(server.sh(`ip neigh show ${address} dev br0`))?.[1];

t.test('the server follows the announcement, and the source stays the same', async (t) => {
  await until(() => MOVING.every((address) => holds(gateway, address)), {
    what: 'the first',
  });
  for (const family of FAMILIES) {
    t.equal(ask(client, ADDRESS.server[family], MIRROR), VIRTUAL[family]);
    t.equal(neighbour(VIRTUAL[family]), macOf(gateway));
    t.equal(ask(server, EIP[family], MIRROR), INTERNAL_ADDRESSES[0][family]);
  }
  for (const owner of [1, 0] as const) {
    const to = gateways[owner]!;
    const from = gateways[1 - owner]!;
    const began = performance.now();
    giveTo(owner);
    await until(() => MOVING.every((address) => neighbour(address) === macOf(to)), {
      what: 'the neighbour table of the server',
    });
    t.comment(`${Math.round(performance.now() - began)} ms from the policy to the neighbour table`);
    for (const family of FAMILIES) {
      t.equal(ask(client, ADDRESS.server[family], MIRROR), VIRTUAL[family], 'the next connection');
      const inside = INTERNAL_ADDRESSES[owner]![family];
      t.equal(ask(server, EIP[family], MIRROR), inside, 'the next connection to the EIP comes by way of it');
      for (const address of [VIRTUAL[family], EIP[family]]) {
        t.notOk(holds(from, address), 'the old owner has it no longer');
        t.ok(holds(to, address));
      }
    }
  }
});
