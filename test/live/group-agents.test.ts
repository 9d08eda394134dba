/**
 * Gateways that act as one: three agents share an egress address. Open connections outlive the gateway that they go through,
 * whether it dies or drains, and the one that comes back breaks none. Any of them finds a connection, once, and all of them
 * together count it once.
 */
import { chmodSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { forwardedPackets } from '../../agent/drain/drain.ts';
import type { TranslationsDocument } from '../../agent/flows/translations-query.ts';
import { Agent, BFD, type GatewaySpec, gatewayPolicy, PolicyDirectory } from '../support/agent.ts';
import { type Namespace, Scope, until, veth } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { type Report, startEchoServer, Traffic } from '../support/traffic.ts';
import { Load, loadLine } from './load.ts';

const SHARED = { 4: '172.17.0.50', 6: 'fd00:172::50' };
/** Those that a policy may share beside them. */
const MORE = { 4: '172.17.0.51', 6: 'fd00:172::51' };
const SERVER = { 4: '172.17.0.1', 6: 'fd00:172::1' };
const ROUTER = { 4: '10.17.0.1', 6: 'fd00:17::1' };
const inside = (n: number) => ({ 4: `10.17.0.${10 + n}`, 6: `fd00:17::1${n}` });

interface Member {
  ns: Namespace;
  start(...args: string[]): Agent;
  /** Whether its internal port is in the bridge: the link keeps its carrier. */
  setInside(connected: boolean): void;
  /** Of the other end of its internal link: the carrier. */
  setCarrier(state: 'up' | 'down'): void;
}

/** A client, three gateways and a server, dual stack; the client's namespace is the router too. */
function lab(scope: Scope, more: GatewaySpec = {}) {
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
  const setKey = (letter: string) => {
    writeFileSync(`${key}.new`, letter.repeat(64));
    chmodSync(`${key}.new`, 0o400);
    renameSync(`${key}.new`, key);
  };
  setKey('d');
  const policy = new PolicyDirectory(scope);
  const setPolicy = (members: number[], shared: object[] = [SHARED]) =>
    policy.write({
      'gateway.yaml': gatewayPolicy({
        internal: { gateways: Object.values(ROUTER) },
        external: { gateways: Object.values(SERVER) },
        policies: [
          {
            name: 'web',
            snat: true,
            ipBlocks: ['10.18.0.0/16', 'fd00:18::/64'],
            egressIP: { address: shared.flatMap((addresses) => Object.values(addresses)), shared: true },
          },
        ],
        translationLog: { enabled: true },
        group: { members: members.flatMap((n) => Object.values(inside(n))), keyFile: key },
        ...more,
      }),
    });
  setPolicy([1, 2, 3]);
  const members = [1, 2, 3].map((n): Member => {
    const ns = scope.namespace(`gateway${n}`);
    plug(ns, 'eth0', left, `gw${n}`, [`${inside(n)[4]}/24`, `${inside(n)[6]}/64`]);
    plug(ns, 'net1', right, `gw${n}`, [`172.17.0.${10 + n}/24`, `fd00:172::1${n}/64`]);
    const stateDir = scope.directory(`state${n}`);
    const start = (...args: string[]) => new Agent(ns, { policyDir: policy.dir, stateDir, args });
    const setInside = (connected: boolean) =>
      left.ip(`link set gw${n} ${connected ? 'master br0' : 'nomaster'}`);
    const setCarrier = (state: 'up' | 'down') => left.ip(`link set gw${n} ${state}`);
    return { ns, start, setInside, setCarrier };
  });
  /** Where OVN sends the client's packets. */
  const use = (n: number) =>
    client.ip(`
      route replace 172.17.0.0/24 via ${inside(n)[4]} dev eth0 src 10.18.0.9
      route replace fd00:172::/64 via ${inside(n)[6]} dev eth0 src fd00:18::9`);
  return { client, server, members, use, setPolicy, setKey };
}

const ready = (agent: Agent, what: string) => agent.statusUntil(what, (status) => status.ready);
const holds = ({ ns }: Member, address: string): boolean =>
  ns.sh('ip neigh show proxy').includes(`${address} `);
const holders = (members: readonly Member[], address: string): number[] =>
  members.flatMap((member, i) => (holds(member, address) ? [i + 1] : []));

/**
 * Every connection goes on, with the address and port that it had when it began. `restored`: it may have another port for a
 * moment, until its entry is back.
 */
async function unbroken(
  t: Test,
  traffic: Traffic,
  began: readonly Report[],
  what: string,
  restored = false,
): Promise<void> {
  const before = await traffic.report();
  const late = async () =>
    (await traffic.report()).flatMap(({ path, received, seen }, i) => {
      const answers = received - before[i]!.received;
      if (answers > 20 && (!restored || seen === began[i]!.seen)) return [];
      return [`${path}: ${answers} answers, seen as ${seen}, was ${began[i]!.seen}`];
    });
  try {
    await until(async () => (await late()).length === 0, {
      what: `every connection goes on ${what}`,
    });
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${(await late()).join('\n')}`);
  }
  for (const [i, { path, broken, seen }] of (await traffic.report()).entries()) {
    t.same([broken, seen], [undefined, began[i]!.seen], `${path} ${what}`);
  }
}

/** Waits until each gateway's kernel has every connection: what one that is moved there needs to go on. */
const inEveryKernel = (
  members: readonly Member[],
  began: readonly Report[],
  when: string,
): Promise<boolean> =>
  until(
    () =>
      members.every(({ ns }) => {
        const table = [4, 6].map((family) => ns.sh(`conntrack -L -f ipv${family}`)).join('\n');
        return began.every(({ path, seen }) => {
          const [address, port] = seen.split(' ');
          const reply = `dst=${address} sport=\\d+ dport=${port} `;
          return new RegExp(`^${path.split(':')[0]} .*${reply}`, 'm').test(table);
        });
      }),
    { what: `every gateway has every connection ${when}`, everyMs: 100 },
  );

/** The agent process of a gateway: the child of its BFD process. */
function agentProcess({ ns }: Member): number {
  const pids = ns.pids();
  const parentOf = (pid: number) =>
    Number(/\) \S (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))?.[1]);
  return pids.find((pid) => pids.includes(parentOf(pid)))!;
}

const killAll = ({ ns }: Member): void => {
  for (const pid of ns.pids()) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // A child of the agent's that has ended meanwhile.
    }
  }
};

t.test('open connections outlive gateways, faults, drift and edits of the policy', async (t) => {
  const scope = new Scope();
  t.teardown(() => scope.dispose());
  const { client, server, members, use, setPolicy, setKey } = lab(scope);
  await startEchoServer(server);
  const agents = members.map(({ start }) => start());
  const at = (n: number) => members[n - 1]!;
  const holderOf = (address: string) => holders(members, address)[0]!;
  const heldBy = (count: number, addresses: object, what: string) =>
    until(() => Object.values(addresses).every((address) => holders(members, address).length === count), {
      what,
    });
  /** Every gateway has the flows of all others, and each address has one holder. */
  const settled = async (when: string) => {
    await Promise.all(agents.map((agent, i) => ready(agent, `gateway ${i + 1} is ready ${when}`)));
    for (const [i, agent] of agents.entries()) {
      await agent.statusUntil(`gateway ${i + 1} is in sync ${when}`, ({ group }) =>
        group!.every(({ members: others }) => others.length === 2 && others.every(({ inSync }) => inSync)),
      );
    }
    await heldBy(1, SHARED, `each address has one holder ${when}`);
  };
  await settled('at the start');
  const holder = holderOf(SHARED[4]);
  const [via, third] = [1, 2, 3].filter((n) => n !== holder) as [number, number];
  use(via);
  const paths = Object.values(SERVER).flatMap((host) => [`tcp:${host}`, `udp:${host}`]);
  const traffic = await Traffic.open(client, paths);
  const began = await traffic.report();
  const goesOn = async (when: string, restored = false) => {
    await unbroken(t, traffic, began, when, restored);
    if (restored) await inEveryKernel(members, began, when);
  };
  const goesOnThrough = async (through: number[], when: string) => {
    for (const n of through) {
      use(n);
      await goesOn(`${when}, through gateway ${n}`);
    }
  };
  for (const { path, seen } of began) {
    t.match(seen, /^(172\.17\.0\.50|fd00:172::50) /, `${path} has the shared address`);
  }
  await goesOn('at the start');

  const { ns } = at(holder);
  ns.sh(`ip neigh del proxy ${SHARED[4]} dev net1`);
  await until(() => holds(at(holder), SHARED[4]), { what: 'the proxy neighbour is there again' });
  for (const tool of ['iptables', 'ip6tables']) ns.sh(`${tool} -t raw -F`);
  for (const family of [4, 6]) ns.sh(`ip -${family} rule del priority 1000`);
  for (const family of ['ip', 'ip6']) at(via).ns.sh(`nft delete table ${family} VEG-PORT-BLOCKS`);
  await goesOn('when rules, chains and slices were deleted');
  for (const family of ['ip', 'ip6']) {
    await until(
      () => at(via).ns.run('nft', ['list', 'map', family, 'VEG-PORT-BLOCKS', 'slices']).code === 0,
      {
        what: 'the slices are there again',
      },
    );
  }
  // Of the gateway whose flows they are, and of one that has replicas: their datagrams begin other flows meanwhile.
  for (const n of [third, via]) {
    use(n);
    const stopped = agentProcess(at(n));
    process.kill(stopped, 'SIGSTOP');
    at(n).ns.sh('conntrack -F');
    await until(
      async () =>
        (await traffic.report()).every(
          ({ path, seen }, i) => path.startsWith('tcp') || seen !== began[i]!.seen,
        ),
      { what: `datagrams leave gateway ${n} with another port while its agent does not run` },
    );
    process.kill(stopped, 'SIGCONT');
    await goesOn(`when the agent of gateway ${n} runs again`, true);
  }
  for (const protocol of ['tcp', 'udp'])
    for (const family of [4, 6]) at(via).ns.sh(`conntrack -D -f ipv${family} -p ${protocol}`);
  await goesOn('when entries were deleted', true);
  await goesOnThrough([third, via], 'after entries were deleted');
  for (const flushed of [[via], [holder], [third], [via], [1, 2, 3]]) {
    for (const n of flushed) at(n).ns.sh('conntrack -F');
    await goesOn(`when gateways ${flushed} have no entries`, true);
    await settled(`after gateways ${flushed} had no entries`);
  }
  await goesOnThrough([third, via], 'after gateways had no entries');

  // Many flows: some take the ports of others during a flush, or come and go in it.
  const many = await Traffic.open(
    client,
    Object.values(SERVER).flatMap((host) => Array.from({ length: 40 }, () => `udp:${host}`)),
  );
  const manyBegan = await many.report();
  for (let i = 0; i < 5; i++) {
    at(via).ns.sh('conntrack -F');
    await unbroken(t, many, manyBegan, `when ${manyBegan.length} flows were deleted`, true);
  }
  await inEveryKernel(members, manyBegan, `when ${manyBegan.length} flows were deleted`);
  for (const n of [third, via]) {
    use(n);
    await unbroken(t, many, manyBegan, `when ${manyBegan.length} flows were deleted, through gateway ${n}`);
  }
  await many.close();

  for (const n of [via, holder]) process.kill(agentProcess(at(n)), 'SIGKILL');
  await goesOn('when agent processes were killed');
  await settled('after agent processes were killed');
  await goesOnThrough([third, via], 'after agent processes were killed');

  const refused = '-p tcp --dport 10667 -j REJECT --reject-with tcp-reset';
  const cut = (action: '-I' | '-D') => {
    for (const tool of ['iptables', 'ip6tables'])
      for (const chain of ['INPUT', 'OUTPUT']) at(third).ns.sh(`${tool} ${action} ${chain} ${refused}`);
  };
  cut('-I');
  process.kill(agentProcess(at(third)), 'SIGKILL');
  await agents[third - 1]!.statusUntil(
    'the exchange is down',
    ({ group }) =>
      group!.length === 2 && group!.every((one) => one.members.every(({ connected }) => !connected)),
  );
  await goesOn('while the exchange of a gateway is down');
  cut('-D');
  await settled('after the exchange was down');
  await goesOnThrough([third, via], 'after the exchange was down');

  const cutOff = holderOf(SHARED[4]);
  at(cutOff).setInside(false);
  use(cutOff === via ? third : via);
  await until(() => holders(members, SHARED[4]).length === 2, { what: 'a gateway on either side holds it' });
  await goesOn('while the holder is cut off inside');
  at(cutOff).setInside(true);
  await settled('after the holder was cut off');
  await goesOnThrough([1, 2, 3], 'after the holder was cut off');

  const unplugged = holderOf(SHARED[4]);
  at(unplugged).setCarrier('down');
  use(unplugged === via ? third : via);
  await until(() => Object.values(SHARED).every((address) => !holds(at(unplugged), address)), {
    what: 'a gateway without its internal link answers for nothing',
  });
  await heldBy(1, SHARED, 'another gateway holds what it has held');
  await goesOn('while the internal link of the holder has no carrier');
  at(unplugged).setCarrier('up');
  await settled('after the internal link has its carrier again');

  const disabled = holderOf(SHARED[6]);
  at(disabled).ns.ip('link set eth0 down');
  use(disabled === via ? third : via);
  await until(() => Object.values(SHARED).every((address) => !holds(at(disabled), address)), {
    what: 'a gateway whose internal interface is down answers for nothing',
  });
  await goesOn('while the internal interface of the holder is down');
  at(disabled).ns.ip(`link set eth0 up\naddr add ${inside(disabled)[6]}/64 dev eth0 nodad`);
  await settled('after the internal interface is up');
  await goesOnThrough([disabled], 'after the internal interface is up');

  const drained = holderOf(SHARED[4]);
  const drain = await agents[drained - 1]!.ask('POST', '/v1/drain?timeout=5s');
  t.equal(drain.status, 200, drain.body);
  t.not(holderOf(SHARED[4]), drained, 'another gateway holds the address of one that has drained');
  use(drained === via ? third : via);
  await goesOn('when the holder has drained');
  await agents[drained - 1]!.stop();
  agents[drained - 1] = at(drained).start();
  await settled('after the holder has drained');
  await goesOnThrough([drained], 'after the holder has drained');

  const dying = holderOf(SHARED[4]);
  const [beside, last] = [1, 2, 3].filter((n) => n !== dying) as [number, number];
  use(beside);
  for (const n of [dying, beside]) killAll(at(n));
  use(last);
  await goesOn('when the holder and the gateway of the connections were killed');
  for (const n of [dying, beside]) agents[n - 1] = at(n).start();
  await settled('after two were killed');
  await goesOnThrough([beside], 'after two were killed');

  for (const member of members) killAll(member);
  await goesOn('when all were killed');
  for (const [i, member] of members.entries()) agents[i] = member.start();
  await settled('after all were killed');
  await goesOnThrough([1, 2, 3], 'after all were killed');

  setPolicy([1, 2, 3], [SHARED, MORE]);
  await heldBy(1, MORE, 'the other addresses are held');
  await goesOn('when another address is shared');
  setPolicy([1, 2, 3]);
  await heldBy(0, MORE, 'the other addresses are not held');
  await goesOn('when it is not shared any more');
  setPolicy([1, 2]);
  await agents[0]!.statusUntil('the third is no member', ({ group }) =>
    group!.every(({ members: others }) => others.length === 1),
  );
  await goesOnThrough([1, 2], 'without the third member');
  setPolicy([1, 2, 3]);
  await settled('with the third member');
  await goesOnThrough([3], 'with the third member');

  setKey('e');
  process.kill(agentProcess(at(1)), 'SIGKILL');
  await settled('with another key');
  await goesOnThrough([1, 2], 'with another key');
  await traffic.close();
});

t.test('BFD is Up until the others have every flow, and a drain or SIGTERM loses no packet', async (t) => {
  const scope = new Scope();
  t.teardown(() => scope.dispose());
  const peers = Object.values(ROUTER);
  const { client, server, members, use } = lab(scope, { bfd: { ...BFD, peers } });
  await startEchoServer(server);
  // The others have half of it to take every flow over: longer than the test keeps them from it.
  const agents = members.map(({ start }) => start('--drain-timeout', '90s'));
  const sessions = ([4, 6] as const).flatMap((family) =>
    [1, 2, 3].map((n) => ({ local: ROUTER[family], remote: inside(n)[family] })),
  );
  const frr = await startFrr(scope, client, { sessions });
  await peerUp(frr);
  const isUp = (n: number) =>
    frr.sessions().every(({ remote, state }) => !Object.values(inside(n)).includes(remote) || state === 'Up');
  const replicas = (n: number) =>
    agents[n - 1]!.statusUntil(`gateway ${n} has every flow`, ({ group }) =>
      group!.every(({ members: others }) => others.every(({ inSync }) => inSync)),
    );
  const holder = holders(members, SHARED[4])[0]!;
  const [first, last] = [1, 2, 3].filter((n) => n !== holder) as [number, number];
  use(first);
  const load = await Load.start(client, SERVER[4]);
  t.teardown(() => load.stop());
  // By new connections a drain knows that traffic has moved: the others go on to send it answers for its slice.
  const fresh = await Traffic.open(client, [`dial:${SERVER[4]}@50`]);
  await Promise.all([holder, last].map(replicas));
  await load.report();

  const { ns } = members[first - 1]!;
  const dropped = ['input', 'output'].map(
    (hook) =>
      `chain ${hook} { type filter hook ${hook} priority 0; tcp dport 10667 drop; tcp sport 10667 drop; }`,
  );
  ns.sh(`nft add table inet cut { ${dropped.join('; ')}; }`);
  const late = await Traffic.open(client, Array<string>(20).fill(`tcp:${SERVER[4]}`));
  const ended = agents[first - 1]!.stop('SIGTERM');
  await until(
    async () => (await agents[first - 1]!.status()).group!.every(({ state }) => state === 'draining'),
    {
      what: 'it drains',
    },
  );
  for (let i = 0; i < 3; i++) t.ok(isUp(first), 'BFD is Up while the others lack flows');
  ns.sh('nft delete table inet cut');
  await until(() => !isUp(first), { what: 'BFD is AdminDown when they have them' });
  use(last);
  const forwarded = () => forwardedPackets(ns.sh('cat /proc/net/snmp'), '');
  const goesOn = async (what: string) => {
    for (const { broken } of await late.report()) t.equal(broken, undefined, what);
    const report = await load.report();
    t.comment(loadLine(report));
    t.same({ lost: report.lost, broken: report.broken }, { lost: 0, broken: 0 }, what);
  };
  t.equal(await ended, 0);
  const atTheEnd = forwarded();
  await goesOn('SIGTERM of the gateway that they go through');
  t.equal(forwarded(), atTheEnd, 'nothing is sent to a gateway whose agent has ended');

  const drain = agents[holder - 1]!.ask('POST', '/v1/drain?timeout=110s');
  await until(() => !isUp(holder), { what: 'BFD with the holder is AdminDown' });
  await until(() => holds(members[last - 1]!, SHARED[4]), { what: 'the other one holds the address' });
  t.equal((await drain).status, 200);
  // Its announcement wins over the one that drains, which removes the address with its next reconcile.
  await until(() => holders(members, SHARED[4]).join() === `${last}`, { what: 'and it alone' });
  await goesOn('a drain of the holder');
  for (const { received, sent } of await late.close()) t.equal(received, sent);
  await fresh.close();
});

t.test('each connection is found and counted once, whichever gateway is asked', async (t) => {
  const scope = new Scope();
  t.teardown(() => scope.dispose());
  const { client, server, members, use } = lab(scope);
  await startEchoServer(server);
  const agents = members.map(({ start }) => start());
  await Promise.all(agents.map((agent, i) => ready(agent, `gateway ${i + 1} is ready`)));
  use(2);
  const paths = Object.values(SERVER).flatMap((host) => [`tcp:${host}`, `udp:${host}`]);
  const traffic = await Traffic.open(client, paths);
  const find = (n: number, ...args: string[]): TranslationsDocument => {
    const { stdout, stderr } = agents[n - 1]!.cli('translations', '--json', ...args);
    if (stdout === '') throw new Error(stderr);
    return JSON.parse(stdout) as TranslationsDocument;
  };
  const replicas = (n: number) =>
    agents[n - 1]!.statusUntil(
      `gateway ${n} has the replicas`,
      ({ group }) => group.length === 2 && group.every((family) => family.replicas >= 2),
    );
  await Promise.all([1, 3].map(replicas));

  for (const [i, agent] of agents.entries()) {
    for (const own of Object.values(inside(i + 1)))
      t.notOk(agent.http('/metrics').body.includes(`external_ip="${own}"`), 'the exchange is not translated');
  }
  const [holder] = holders(members, SHARED[4]);
  const applied = agents[holder! - 1]!.cli('apply');
  t.equal(applied.code, 1);
  t.match(applied.stderr, /^veg-agent: the daemon that runs here holds addresses and ports for its group/);
  t.same(holders(members, SHARED[4]), [holder], 'apply takes nothing of the group away');

  for (const family of [4, 6] as const) {
    for (const n of [1, 2, 3]) {
      const { translations, members: others } = find(n, '--external', SHARED[family]);
      t.same(
        translations.map(({ protocol, verdict, member }) => `${protocol} ${verdict} ${member}`).sort(),
        ['tcp', 'udp'].map((protocol) => `${protocol} translated ${inside(2)[family]}`),
        `IPv${family} asked at gateway ${n}`,
      );
      t.same(
        others?.map(({ answered }) => answered),
        [true, true],
      );
    }
  }
  const counted = (n: number) =>
    ([4, 6] as const).map(
      (family) =>
        agents[n - 1]!.metric(`veg_snat_connections_total{policy="web",family="ipv${family}"}`) ?? 0,
    );
  await until(() => counted(2).join() === '2,2', { what: 'gateway 2 has counted the connections' });
  t.same(
    [1, 2, 3].map(counted),
    [
      [0, 0],
      [2, 2],
      [0, 0],
    ],
    'counted by the gateway that they go through',
  );

  // Its flows are found at the others when it has died, and belong to one of them a while later.
  killAll(members[1]!);
  members[1]!.ns.ip('link set eth0 down\nlink set net1 down');
  use(3);
  const adopted = () => {
    const { translations, members: others } = find(1, '--external', SHARED[4]);
    const missing = others?.filter(({ answered }) => !answered).map(({ member }) => String(member));
    return { missing, flows: translations.map(({ protocol, verdict }) => `${protocol} ${verdict}`).sort() };
  };
  t.same(
    adopted().flows.map((text) => text.split(' ')[0]),
    ['tcp', 'udp'],
    'found while it is dead',
  );
  t.same(adopted().missing, [inside(2)[4]]);
  await until(() => adopted().flows.join() === 'tcp translated,udp translated', {
    what: 'another gateway has adopted the flows',
  });
  t.same(
    [1, 3].map(counted),
    [
      [0, 0],
      [0, 0],
    ],
    'and not again by the one that has adopted them',
  );
  await traffic.close();
});
