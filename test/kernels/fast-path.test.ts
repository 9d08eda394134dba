/**
 * The fast path in a kernel that has flowtables (`npm run test:kernels`; test/live/kernel-features.test.ts tests one that
 * has not): what passes the flowtable, what stays out, and each promise of the agent for what passes it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import {
  Agent,
  type AgentOptions,
  DIRECT,
  type GatewaySpec,
  PolicyDirectory,
  WEB,
} from '../support/agent.ts';
import { type Carried, carriedBy, countAt, type Family, scrape } from '../support/carried.ts';
import { type Namespace, until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, type Topology, topology } from '../support/topology.ts';
import { ECHO_PORT, startEchoServer, Traffic } from '../support/traffic.ts';

const FAMILIES = [4, 6] as const;
const PATHS = FAMILIES.flatMap((family) => ['tcp', 'udp'].map((kind) => `${kind}:${ADDRESS.server[family]}`));
const FAST: GatewaySpec = {
  policies: [DIRECT, WEB],
  fastPath: true,
  translationLog: { enabled: true, rateLimit: { recordsPerSecond: 1, burst: 1 } },
};
const TABLE = 'inet VEG-FASTPATH';

interface Lab extends Topology {
  policies: PolicyDirectory;
  options: AgentOptions;
  agent: Agent;
  /** The server's counts of what came from the client translated, accepted or not, and what it answered. */
  seen: ReturnType<typeof countAt>;
}

const hasTable = (gateway: Namespace): boolean =>
  gateway.run('nft', ['list', 'table', 'inet', 'VEG-FASTPATH']).code === 0;
const inForce = (gateway: Namespace, wanted = true) =>
  until(() => hasTable(gateway) === wanted, { what: `the fast path is ${wanted ? '' : 'not '}in force` });

async function lab(t: Test, spec: GatewaySpec = FAST): Promise<Lab> {
  const scope = scopeOf(t);
  const made = topology(scope);
  const seen = countAt(made.server, ADDRESS.gatewayExternal, 'eth0');
  await startEchoServer(made.server);
  const policies = new PolicyDirectory(scope);
  policies.set(spec);
  const options = { policyDir: policies.dir, stateDir: scope.directory('state') };
  const agent = new Agent(made.gateway, options);
  await agent.synced();
  await inForce(made.gateway);
  return { ...made, policies, options, agent, seen };
}

/** The connections of a source in the flowtable, as `tcp 4`. */
function offloaded(gateway: Namespace, source: Record<Family, string>): string[] {
  return FAMILIES.flatMap((family) =>
    gateway
      .sh(`conntrack -L -f ipv${family} --src ${source[family]} 2>/dev/null`)
      .split('\n')
      .filter((line) => line.includes('[OFFLOAD]') && line.includes(`dport=${ECHO_PORT}`))
      .map((line) => `${line.split(' ', 1)[0]} ${family}`),
  ).sort();
}
const ALL = ['tcp 4', 'tcp 6', 'udp 4', 'udp 6'];
const areOffloaded = (gateway: Namespace, source: Record<Family, string>, wanted = ALL) =>
  until(() => offloaded(gateway, source).join() === wanted.join(), {
    what: `in the flowtable are ${wanted.join(', ') || 'none'}`,
  });

/** Packets that the slow path has forwarded. */
const forwarded = (gateway: Namespace): number => {
  const [names = [], values = []] = gateway
    .sh('grep ^Ip: /proc/net/snmp')
    .split('\n')
    .map((line) => line.split(' '));
  return Number(values[names.indexOf('ForwDatagrams')]);
};

/** Every path goes on: each has answers from now on, and nobody but this source was seen. */
async function goesOn(
  t: Test,
  traffic: Traffic,
  source: Record<Family, string>,
  what: string,
): Promise<void> {
  await traffic.restart();
  await until(async () => (await traffic.report()).every(({ received }) => received > 3), { what });
  for (const { path, sources, broken } of await traffic.report()) {
    t.same(sources, [source[path.includes('[') || path.includes('fd00') ? 6 : 4]], `${path}: ${what}`);
    t.equal(broken, undefined, `${path}: ${what}`);
  }
}

/**
 * The metrics agree with the server, as soon as the log has read the table: nothing is counted twice, and of each connection
 * at most one packet is missing for each time that the kernel moved it between the ways (docs/design/0013-fast-path.md).
 */
async function countsAgree(
  t: Test,
  { agent, seen }: Pick<Lab, 'agent' | 'seen'>,
  what: string,
  moves: number,
): Promise<void> {
  const both = () => {
    const values = scrape(agent);
    return FAMILIES.map((family) => [carriedBy(values, 'snat', 'web', family), seen(family)] as const);
  };
  const packets = ({ packets: { out, in: back } }: Carried) => [out, back] as const;
  const agree = (counted: Carried, passed: Carried) =>
    counted.connections === passed.connections &&
    packets(counted).every((n, i) => {
      const missing = packets(passed)[i]! - n;
      return missing >= 0 && missing <= moves * passed.connections;
    });
  await until(() => both().every((pair) => agree(...pair)), { what: `counts after ${what}` }).catch(() => {});
  for (const pair of both()) t.ok(agree(...pair), `counted after ${what}: ${JSON.stringify(pair)}`);
}

t.test('established connections pass the flowtable, over whatever befalls it, and are counted', async (t) => {
  const made = await lab(t);
  const { client, client2, gateway, server, policies, options } = made;
  let { agent } = made;
  t.match((await agent.status()).kernel, { notes: [], fastPath: true });
  t.equal(agent.cli('plan').code, 0, 'nothing to do');
  const translated = await Traffic.open(client, PATHS);
  const unchanged = await Traffic.open(client2, PATHS);
  let moves = 0;
  /** Something that moves connections out of the flowtable and into it again has happened. */
  const both = async (what: string) => {
    moves++;
    await Promise.all([
      goesOn(t, translated, ADDRESS.gatewayExternal, what),
      goesOn(t, unchanged, ADDRESS.client2, what),
    ]);
    await areOffloaded(gateway, ADDRESS.client);
    await areOffloaded(gateway, ADDRESS.client2);
  };
  await both('at first');
  const slow = forwarded(gateway);
  await goesOn(t, translated, ADDRESS.gatewayExternal, 'past the slow path');
  t.equal(forwarded(gateway), slow, 'no packet took the slow path');

  const damage = async (command: string) => {
    const before = (await agent.status()).kernel.driftRepaired.set ?? 0;
    t.equal(gateway.run('nft', [command]).code, 0, command);
    await agent.statusUntil(
      command,
      ({ kernel }) => (kernel.driftRepaired.set ?? 0) > before && kernel.inSync,
    );
    await both(command);
  };
  for (const command of [
    `delete table ${TABLE}`,
    `flush chain ${TABLE} enter`,
    `add rule ${TABLE} forward counter`,
    `add flowtable ${TABLE} another { hook ingress priority 5; devices = { lo }; }`,
  ])
    await damage(command);
  server.ip('link set dev eth0 address 02:00:00:00:00:99');
  await both('the router has another Ethernet address');

  const generation = async () => (await agent.status()).policy.generation;
  const edit = async (spec: GatewaySpec, what: string) => {
    const before = await generation();
    policies.set(spec);
    await agent.statusUntil(what, ({ policy, kernel }) => policy.generation > before && kernel.inSync);
  };
  await edit({ ...FAST, policies: [DIRECT, WEB, { name: 'more', ipBlocks: ['10.99.0.0/16'] }] }, 'an edit');
  moves++;
  await goesOn(t, translated, ADDRESS.gatewayExternal, 'an edit');
  const noneIsForwarded = async () => {
    const before = forwarded(gateway);
    await sleep(500);
    return forwarded(gateway) === before;
  };
  await until(noneIsForwarded, { what: 'after an edit no packet takes the slow path' });
  // Linux 7.3 no longer marks those whose route was out of date. It does when the table is made anew, as by a renewal.
  await damage(`add rule ${TABLE} forward counter`);

  const [child = ''] = gateway.run('pgrep', ['-P', `${agent.daemon.pid}`]).stdout.split('\n');
  process.kill(Number(child), 'SIGKILL');
  await both('the death of the agent process');
  await agent.synced();
  await agent.stop('SIGKILL');
  await both('the death of all of it');
  agent = new Agent(gateway, options);
  await agent.synced();
  await inForce(gateway);
  await both('a restart');

  await edit({ ...FAST, fastPath: false }, 'the fast path is turned off');
  t.notOk(hasTable(gateway));
  await areOffloaded(gateway, ADDRESS.client, []);
  await goesOn(t, translated, ADDRESS.gatewayExternal, 'without the fast path');
  t.equal((await agent.status()).kernel.fastPath, null);
  for (const traffic of [translated, unchanged])
    for (const { path, sent, received } of await traffic.close()) t.equal(received, sent, path);
  await countsAgree(t, { ...made, agent }, 'all of it', moves);

  // Nothing is under way: from here on every packet is counted again.
  await edit(FAST, 'the fast path is turned on');
  await inForce(gateway);
  const again = await Traffic.open(client, PATHS);
  await areOffloaded(gateway, ADDRESS.client);
  await again.close();
  await countsAgree(t, { ...made, agent }, 'being turned on', moves);
  t.equal(await agent.stop(), 0);
  t.notOk(hasTable(gateway), 'a drain has taken it away');
  t.equal(agent.cli('cleanup').code, 0);
  t.notOk(hasTable(gateway), 'cleanup removes it');
});

t.test('what contradicts an edited policy leaves the flowtable at once, established TCP stays', async (t) => {
  const { client2, gateway, server, policies, agent } = await lab(t);
  const traffic = await Traffic.open(client2, PATHS);
  await areOffloaded(gateway, ADDRESS.client2);
  // The server has no way back to the source, once it is to be translated.
  const translates = { ...DIRECT, snat: true };
  policies.set({ ...FAST, policies: [translates, WEB] });
  await until(
    async () =>
      (await traffic.report())
        .filter(({ path }) => path.startsWith('udp'))
        .every(({ seen }) =>
          FAMILIES.some((family) => seen.startsWith(`${ADDRESS.gatewayExternal[family]} `)),
        ),
    { what: 'UDP follows the policy' },
  );
  await areOffloaded(gateway, ADDRESS.client2);
  for (const { path, sources, broken } of await traffic.report()) {
    if (!path.startsWith('tcp')) continue;
    t.equal(sources.length, 1, `${path} keeps its source`);
    t.equal(broken, undefined);
  }
  t.notMatch(agent.daemon.log(), 'cannot remove flows');

  // A limit of bandwidth: its connections leave, and stay out.
  const limited = { ...translates, bandwidth: { egress: 100, ingress: 100 } };
  policies.set({ ...FAST, policies: [limited, WEB] });
  const { policy } = await agent.statusUntil('a limit', ({ policy: { warnings } }) => warnings.length > 0);
  t.same(policy.warnings, ['policy direct has a bandwidth limit: its connections do not use the fast path']);
  await until(() => gateway.sh(`nft list table ${TABLE}`).includes('limited'), {
    what: 'the table has the limit',
  });
  // Those that are untranslated have the mark of the policy as it was then: translated or not, it is one number.
  await areOffloaded(gateway, ADDRESS.client2, []);
  await traffic.restart();
  await until(async () => (await traffic.report()).every(({ received }) => received > 3), {
    what: 'it goes on',
  });
  await areOffloaded(gateway, ADDRESS.client2, []);
  await traffic.close();
  server.sh('true');
});

t.test(
  'connections of any source, and those from outside, pass it on the way that the gateway has for them',
  async (t) => {
    const { client, gateway, server, agent } = await lab(t, {
      ...FAST,
      policies: [],
      eips: [{ externalIP: '172.17.0.60', internalIP: '10.17.0.20' }],
    });
    t.notMatch(
      gateway.sh('ip route show table main'),
      /10\.17\.0\.(?:9|0)\b/,
      'the main table has no way to the source',
    );
    client.ip('addr add 10.17.0.20/16 dev eth0');
    await startEchoServer(client);
    const out = await Traffic.open(client, PATHS);
    await areOffloaded(gateway, ADDRESS.client);
    await goesOn(t, out, ADDRESS.gatewayExternal, 'a source without a route');
    const inward = await Traffic.open(server, ['tcp:172.17.0.60']);
    const inside = () => gateway.sh('conntrack -L --src 172.17.0.1 2>/dev/null').includes('[OFFLOAD]');
    await until(inside, { what: 'a connection from outside is in the flowtable' });
    await inward.restart();
    await until(async () => (await inward.report()).every(({ received }) => received > 3), {
      what: 'it goes on',
    });
    for (const traffic of [out, inward])
      for (const { path, sent, received } of await traffic.close()) t.equal(received, sent, path);
    await agent.stop();
  },
);

t.test('a drain sees what passes the flowtable', async (t) => {
  const { client, gateway, agent } = await lab(t);
  const traffic = await Traffic.open(client, PATHS);
  await areOffloaded(gateway, ADDRESS.client);
  t.match(agent.cli('drain', '--timeout', '20s').stdout, /some traffic still came/);
  t.notOk(hasTable(gateway), 'a drain takes it out of force');
  agent.cli('undrain');
  await inForce(gateway);
  await areOffloaded(gateway, ADDRESS.client);
  await goesOn(t, traffic, ADDRESS.gatewayExternal, 'after an undrain');
  await traffic.close();
  t.match(agent.cli('drain', '--timeout', '60s').stdout, /traffic has moved/);
  await agent.stop();
});
