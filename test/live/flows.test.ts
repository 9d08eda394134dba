/** Flows that began under other rules, or under none, follow the policy; all others go on as they are. */
import t from 'tap';
import { Agent, DIRECT, type GatewaySpec, PolicyDirectory, WEB } from '../support/agent.ts';
import { until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { type Report, startEchoServer, Traffic } from '../support/traffic.ts';

const HOSTS = [ADDRESS.server[4], ADDRESS.server[6]];
const address = ({ seen }: Report) => seen.split(' ')[0];
const wanted = ({ path }: Report, of: Record<4 | 6, string>) => of[path.includes('fd00') ? 6 : 4];

t.test('UDP follows when its block changes sides, TCP and other flows stay', async (t) => {
  const scope = scopeOf(t);
  const { client, client2, gateway, server } = topology(scope);
  // The way back to what will be forwarded.
  server.ip(`
    route add 10.17.0.0/16 via 172.17.0.11
    route add fd00:10:17::/64 via fd00:172:17::11`);
  const policy = new PolicyDirectory(scope);
  policy.set();
  const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
  await agent.synced();
  await startEchoServer(server);
  const paths = HOSTS.flatMap((host) => [`udp:${host}`, `tcp:${host}`]);
  const changing = await Traffic.open(client, paths);
  const other = await Traffic.open(client2, paths);
  const before = await other.report();

  const follow = async (what: string, source: Record<4 | 6, string>) => {
    await until(
      async () =>
        (await changing.report())
          .filter(({ path }) => path.startsWith('udp:'))
          .every((report) => address(report) === wanted(report, source)),
      { what },
    );
    t.pass(what);
  };
  policy.set({ policies: [{ ...WEB, snat: false }, DIRECT] });
  await follow('UDP leaves with its own address', ADDRESS.client);
  policy.set();
  await follow('UDP is translated again', ADDRESS.gatewayExternal);

  for (const report of await changing.close()) {
    t.equal(report.broken, undefined, report.path);
    if (!report.path.startsWith('tcp:')) continue;
    t.same(report.sources, [wanted(report, ADDRESS.gatewayExternal)], 'established TCP keeps its address');
    t.equal(report.received, report.sent);
  }
  const after = await other.close();
  t.same(
    after.map(({ seen }) => seen),
    before.map(({ seen }) => seen),
    'flows of another block keep address and port',
  );
  for (const { path, sent, received } of after) t.equal(received, sent, path);
});

t.test('UDP that began before the rules is translated from the start of the agent on', async (t) => {
  const scope = scopeOf(t);
  const { client, gateway, server } = topology(scope);
  // The kernel forwards and tracks already, and nothing translates.
  gateway.sysctl({
    'net.ipv4.ip_forward': 1,
    'net.ipv6.conf.all.forwarding': 1,
    'net.ipv4.conf.eth0.rp_filter': 0,
  });
  for (const program of ['iptables', 'ip6tables']) {
    gateway.sh(`${program} -A FORWARD -m conntrack --ctstate NEW -j ACCEPT`);
  }
  gateway.ip(
    'route add 10.17.0.0/16 via 10.16.0.1 dev eth0\nroute add fd00:10:17::/64 via fd00:10:16::1 dev eth0',
  );
  await startEchoServer(server);
  const opening = Traffic.open(
    client,
    HOSTS.map((host) => `udp:${host}`),
  );
  await until(() => gateway.sh('conntrack -L -p udp').includes('src=10.17.0.9'), {
    what: 'an untranslated flow',
  });

  const policy = new PolicyDirectory(scope);
  policy.set();
  const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
  await agent.synced();
  for (const report of await (await opening).close()) {
    t.equal(address(report), wanted(report, ADDRESS.gatewayExternal), report.path);
  }
});

t.test(
  'an edit leaves flows to the gateway’s own subnet, and what may come in from outside, alone',
  async (t) => {
    const scope = scopeOf(t);
    const { gateway } = topology(scope);
    const policy = new PolicyDirectory(scope);
    const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
    policy.set({ inbound: 'any' } as GatewaySpec);
    await agent.synced();
    const flows = [
      { what: 'from outside', to: ['10.16.0.20', 'fd00:10:16::20'], source: ['203.0.113.5', '2001:db8::5'] },
      {
        what: 'from outside to a pod of no block',
        to: ['10.19.0.9', 'fd00:10:19::9'],
        source: ['203.0.113.5', '2001:db8::5'],
      },
      {
        what: 'between pods',
        to: ['10.16.0.20', 'fd00:10:16::20'],
        source: ['10.17.0.9', 'fd00:10:17::9'],
        became: ['10.16.0.12', 'fd00:10:16::12'],
      },
      { what: 'untranslated', to: ['203.0.113.6', '2001:db8::6'], source: ['10.17.0.9', 'fd00:10:17::9'] },
    ].flatMap(({ what, to, source, became = source }) =>
      [0, 1].map((i) => ({ what, to: to[i]!, source: source[i]!, became: became[i]! })),
    );
    for (const { to, source, became } of flows) {
      gateway.sh(
        `conntrack -I -p udp -t 600 -s ${source} -d ${to} --sport 7001 --dport 7002 -r ${to} -q ${became} --reply-port-src 7002 --reply-port-dst 7001`,
      );
    }
    const there = () => {
      const table = ['ipv4', 'ipv6'].map((family) => gateway.sh(`conntrack -L -f ${family} -p udp`)).join('');
      return flows.filter(({ to, source }) => table.includes(`src=${source} dst=${to} sport=7001`));
    };
    policy.set({ inbound: 'any', policies: [WEB] } as GatewaySpec);
    await until(() => !there().some(({ what }) => what === 'untranslated'), {
      what: 'flows follow the edit',
    });
    t.same(
      there(),
      flows.filter(({ what }) => what !== 'untranslated'),
    );
  },
);
