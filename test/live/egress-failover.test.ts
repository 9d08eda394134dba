/** Virtual addresses, an egress address and an EIP, move from one gateway to another, or are wanted by both. */
import t from 'tap';
import { FAMILIES } from '../../lib/prefix.ts';
import { Agent, gatewayPolicy, PolicyDirectory, WEB } from '../support/agent.ts';
import { type Namespace, until, veth } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, EXTERNAL_ADDRESSES, EXTERNAL_ADDRESSES_6, topology } from '../support/topology.ts';
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
/** Says to both gateways who owns the addresses; without an owner both want them. */
function setOwner(owner: string | undefined): void {
  const whose = owner === undefined ? {} : { owner };
  for (const [i, policy] of policies.entries()) {
    const egressIP = { address: Object.values(VIRTUAL), ...whose };
    policy.write({
      'gateway.yaml': gatewayPolicy({
        internal: { gateways: INTERNAL[i] },
        policies: [{ ...WEB, egressIP } as typeof WEB],
        eips: FAMILIES.map((family) => ({
          ...{ externalIP: EIP[family], internalIP: ADDRESS.client2[family], ...whose },
        })),
      }),
    });
  }
}
/** Gives the addresses to one of them, and leads the client there. */
function giveTo(owner: 0 | 1): void {
  setOwner(NAMES[owner]);
  router.ip(`route replace default via ${['10.16.0.12', '10.30.0.12'][owner]} table 100`, 4);
  router.ip(`route replace default via ${['fd00:10:16::12', 'fd00:10:30::12'][owner]} table 100`, 6);
}
giveTo(0);
const agents = gateways.map((ns, i) => startAgent(ns, i));
function startAgent(ns: Namespace, i: number): Agent {
  const env = { POD_NAME: NAMES[i] };
  return new Agent(ns, { policyDir: policies[i]!.dir, stateDir: scope.directory(`state-${i}`), env });
}
for (const agent of agents) await agent.synced();
for (const ns of [server, client2]) await startMirror(ns, MIRROR);

const macOf = (ns: Namespace): string => / link\/ether (\S+)/.exec(ns.sh('ip link show net1'))![1]!;
const holds = (ns: Namespace, address: string): boolean =>
  ns.sh('ip -o addr show dev net1').includes(` ${address}/`);
/** Where the server sends what is for an address. */
const neighbour = (address: string): string | undefined =>
  / lladdr (\S+)/.exec(server.sh(`ip neigh show ${address} dev br0`))?.[1];

t.test('the server follows the announcement, and the source stays the same', async (t) => {
  giveTo(0);
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

/** What each gateway has of the addresses that move. */
const held = (): string[][] => gateways.map((ns) => MOVING.filter((address) => holds(ns, address)));

t.test(
  'of two gateways that want an address at once exactly one takes it, and the other says who has it',
  async (t) => {
    for (let round = 0; round < 5; round++) {
      setOwner('');
      await until(() => held().flat().length === 0, { what: 'nobody has them' });
      setOwner(undefined);
      const statuses = await Promise.all(
        agents.map((agent) =>
          agent.statusUntil('each is taken or somebody else’s', ({ kernel, policy }) => {
            const failed = kernel.failed.map(({ name }) => name);
            const mine = held()[agents.indexOf(agent)]!;
            return (
              policy.valid && MOVING.every((address) => mine.includes(address) !== failed.includes(address))
            );
          }),
        ),
      );
      t.same(held().flat().sort(), [...MOVING].sort(), 'each address is held once');
      for (const [i, { kernel, ready }] of statuses.entries()) {
        const other = macOf(gateways[1 - i]!);
        t.equal(ready, kernel.failed.length === 0);
        for (const { object, reason, message } of kernel.failed) {
          t.match({ object, reason }, { object: 'address', reason: 'in_use' });
          t.match(message, `is not taken: ${other} has it`);
        }
        if (kernel.failed.length === 0) continue;
        t.match(agents[i]!.http('/readyz'), { status: 503, body: `${other} has it` });
        t.equal(
          agents[i]!.metric('veg_agent_objects_failed{object="address",reason="in_use"}'),
          kernel.failed.length,
        );
      }
    }
  },
);

t.test('an address whose old holder is dead and still answers is taken when that has gone', async (t) => {
  giveTo(0);
  await until(() => held()[0]!.length === MOVING.length, { what: 'the first has them' });
  await agents[0]!.stop('SIGKILL');
  giveTo(1);
  const began = performance.now();
  await agents[1]!.statusUntil('the owner says who has them', ({ reasons }) =>
    MOVING.every((address) =>
      reasons.some((r) => r.includes(`${address} is not taken: ${macOf(gateway)} has it`)),
    ),
  );
  t.comment(`said after ${Math.round(performance.now() - began)} ms`);
  t.same(held()[1], [], 'it takes nothing that another one answers for');
  const gone = performance.now();
  gateway.ip('link set net1 down');
  await until(() => MOVING.every((address) => neighbour(address) === macOf(second)), {
    what: 'the owner takes them',
  });
  t.comment(`taken ${Math.round(performance.now() - gone)} ms after the old pod went`);
  await agents[1]!.statusUntil('ready', ({ ready }) => ready);
  gateway.ip('link set net1 up');
  gateway.ip(EXTERNAL_ADDRESSES);
  gateway.ip(EXTERNAL_ADDRESSES_6);
  agents[0] = startAgent(gateway, 0);
  await agents[0].synced();
});
