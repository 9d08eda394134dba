/**
 * Gateways that act as one: three agents share an egress address. Open connections outlive the gateway that they go through,
 * whether it dies or drains, and the one that comes back breaks none.
 */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Agent, gatewayPolicy, PolicyDirectory } from '../support/agent.ts';
import { type Namespace, Scope, until, veth } from '../support/netns.ts';
import { startEchoServer, Traffic } from '../support/traffic.ts';

const SHARED = { 4: '172.17.0.50', 6: 'fd00:172::50' };
const SERVER = { 4: '172.17.0.1', 6: 'fd00:172::1' };
const ROUTER = { 4: '10.17.0.1', 6: 'fd00:17::1' };
const inside = (n: number) => ({ 4: `10.17.0.${10 + n}`, 6: `fd00:17::1${n}` });

interface Member {
  ns: Namespace;
  start(): Agent;
}

/** A client, three gateways and a server, dual stack; the client's namespace is the router too. */
function lab(scope: Scope) {
  const client = scope.namespace('client');
  const server = scope.namespace('server');
  const [left, right] = [scope.namespace('left'), scope.namespace('right')];
  for (const bridge of [left, right]) bridge.ip('link add br0 type bridge\nlink set br0 up');
  const plug = (ns: Namespace, device: string, bridge: Namespace, port: string, addresses: string[]) => {
    veth(ns, device, bridge, port);
    bridge.ip(`link set ${port} master br0`);
    for (const text of addresses)
      ns.ip(`addr add ${text} dev ${device}${text.includes(':') ? ' nodad' : ''}`);
  };
  plug(client, 'eth0', left, 'client', [`${ROUTER[4]}/24`, `${ROUTER[6]}/64`]);
  client.ip('addr add 10.18.0.9/32 dev lo\naddr add fd00:18::9/128 dev lo nodad');
  plug(server, 'eth0', right, 'server', [`${SERVER[4]}/24`, `${SERVER[6]}/64`]);
  const key = join(scope.directory('key'), 'group');
  writeFileSync(key, 'd'.repeat(64));
  chmodSync(key, 0o400);
  const policy = new PolicyDirectory(scope);
  const setPolicy = (members: number[]) =>
    policy.write({
      'gateway.yaml': gatewayPolicy({
        internal: { gateways: Object.values(ROUTER) },
        external: { gateways: Object.values(SERVER) },
        policies: [
          {
            name: 'web',
            snat: true,
            ipBlocks: ['10.18.0.0/16', 'fd00:18::/64'],
            egressIP: { address: Object.values(SHARED), shared: true },
          },
        ],
        group: { members: members.flatMap((n) => Object.values(inside(n))), keyFile: key },
      }),
    });
  setPolicy([1, 2, 3]);
  const members = [1, 2, 3].map((n): Member => {
    const ns = scope.namespace(`gateway${n}`);
    plug(ns, 'eth0', left, `gw${n}`, [`${inside(n)[4]}/24`, `${inside(n)[6]}/64`]);
    plug(ns, 'net1', right, `gw${n}`, [`172.17.0.${10 + n}/24`, `fd00:172::1${n}/64`]);
    const stateDir = scope.directory(`state${n}`);
    const start = () => new Agent(ns, { policyDir: policy.dir, stateDir });
    return { ns, start };
  });
  /** Where OVN sends the client's packets. */
  const use = (n: number) =>
    client.ip(`
      route replace 172.17.0.0/24 via ${inside(n)[4]} dev eth0 src 10.18.0.9
      route replace fd00:172::/64 via ${inside(n)[6]} dev eth0 src fd00:18::9`);
  return { client, server, members, use, setPolicy };
}

const ready = (agent: Agent, what: string) => agent.statusUntil(what, (status) => status.ready, 30_000);
const holds = ({ ns }: Member, address: string): boolean =>
  ns.sh('ip neigh show proxy').includes(`${address} `);
const holders = (members: readonly Member[], address: string): number[] =>
  members.flatMap((member, i) => (holds(member, address) ? [i + 1] : []));

t.test('open connections outlive the gateway that they go through', async (t) => {
  const scope = new Scope();
  t.teardown(() => scope.dispose());
  const { client, server, members, use } = lab(scope);
  await startEchoServer(server);
  const agents = members.map(({ start }) => start());
  await Promise.all(agents.map((agent, i) => ready(agent, `gateway ${i + 1} is ready`)));
  const holder = (family: 4 | 6) =>
    until(
      () => {
        const found = holders(members, SHARED[family]);
        return found.length === 1 && found[0];
      },
      { what: `one gateway holds ${SHARED[family]}` },
    );
  const first = await holder(4);
  await holder(6);
  t.pass(`gateway ${first} holds the IPv4 address`);

  // Through a gateway that does not hold the address.
  const other = first === 1 ? 2 : 1;
  use(other);
  const paths = Object.values(SERVER).flatMap((host) => [`tcp:${host}`, `udp:${host}`]);
  const traffic = await Traffic.open(client, paths);
  for (const { path, seen } of await traffic.report()) {
    t.match(seen, /^(172\.17\.0\.50|fd00:172::50) /, `${path} has the shared address`);
  }

  const goesOn = async (what: string) => {
    const before = await traffic.report();
    await until(async () => (await traffic.report()).every((r, i) => r.received > before[i]!.received + 20), {
      what: `every connection goes on ${what}`,
      timeoutMs: 20_000,
    });
    for (const { path, broken, sources } of await traffic.report()) {
      t.equal(broken, undefined, `${path} ${what}`);
      t.equal(sources.length, 1, `${path} has one address and port ${what}`);
    }
  };
  await goesOn('through the gateway that they began at');

  // The gateway dies with everything in it; OVN finds out.
  const third = [1, 2, 3].find((n) => n !== other && n !== first)!;
  members[other - 1]!.ns.ip('link set eth0 down\nlink set net1 down');
  for (const pid of members[other - 1]!.ns.pids()) process.kill(pid, 'SIGKILL');
  use(third);
  await goesOn('when their gateway has died');

  // The holder drains.
  use(first);
  await goesOn('through the holder');
  const drained = await agents[first - 1]!.ask('POST', '/v1/drain?timeout=5s', '', 20_000);
  t.equal(drained.status, 200, drained.body);
  use(third);
  await goesOn('when the holder has drained');
  t.equal(await holder(4), third, 'the last one holds the address');

  // Both come back, and break nothing.
  await agents[first - 1]!.stop();
  members[other - 1]!.ns.ip(`link set eth0 up\nlink set net1 up
    addr replace ${inside(other)[6]}/64 dev eth0 nodad\naddr replace fd00:172::1${other}/64 dev net1 nodad`);
  for (const n of [first, other]) agents[n - 1] = members[n - 1]!.start();
  await Promise.all([first, other].map((n) => ready(agents[n - 1]!, `gateway ${n} is ready again`)));
  for (const n of [first, other, third]) {
    use(n);
    await goesOn(`through gateway ${n}, which has come back`);
  }
  await traffic.close();
});
