/** Routing against the kernel: what iproute2 lists, what is repaired, and what survives. */
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { address, prefix } from '../../lib/prefix.ts';
import type { RoutingIntent } from '../../routing/desired.ts';
import type { LinkStep, WantedLink } from '../../routing/links.ts';
import type { ProxyNeighbour } from '../../routing/proxies.ts';
import type { Link } from '../../routing/state.ts';
import { type Namespace, NODE, Scope, until, veth } from '../support/netns.ts';

const CHILD = fileURLToPath(new URL('routing-child.ts', import.meta.url));
const scope = new Scope();
t.teardown(() => scope.dispose());

interface Outcome {
  steps: string[];
  failures: string[];
  left: string[];
}

const intent: RoutingIntent = [
  {
    family: 4,
    internal: { interface: 'eth0', addresses: [address('10.16.0.12')], gateway: address('10.16.0.1') },
    external: { interface: 'net1', addresses: [address('172.17.0.11')], gateway: address('172.17.0.1') },
    externalBlocks: [],
    internalBlocks: [prefix('10.17.0.0/16'), prefix('10.18.0.0/16')],
    peers: [address('10.255.255.255')],
  },
  {
    family: 6,
    internal: {
      interface: 'eth0',
      addresses: [address('fd00:10:16::12')],
      gateway: address('fd00:10:16::1'),
    },
    external: {
      interface: 'net1',
      addresses: [address('fd00:172:17::11')],
      gateway: address('fd00:172:17::1'),
    },
    externalBlocks: [],
    internalBlocks: [prefix('fd00:10:18::/64')],
    peers: [address('fd00:ffff::1')],
  },
];

const ADDRESSES = `
  addr replace 10.16.0.12/16 dev eth0
  addr replace fd00:10:16::12/64 dev eth0 nodad
  addr replace 172.17.0.11/16 dev net1
  addr replace fd00:172:17::11/64 dev net1 nodad`;

let pods = 0;
/** A pod's namespace with eth0 and net1, whose other ends are up. */
function pod(): Namespace {
  pods++;
  const [inside, outside] = [scope.namespace(`pod${pods}`), scope.namespace(`net${pods}`)];
  veth(inside, 'eth0', outside, 'eth0');
  veth(inside, 'net1', outside, 'net1');
  inside.ip(ADDRESSES);
  return inside;
}

/** What a command of routing-child.ts prints. */
function run(ns: Namespace, command: string, input: unknown): unknown {
  const { code, stdout, stderr } = ns.run(NODE, [CHILD, command], { input: JSON.stringify(input) });
  if (code !== 0 || stderr !== '' || stdout === '') throw new Error(`exit code ${code}: ${stderr}`);
  return JSON.parse(stdout);
}

const reconcile = (ns: Namespace, intent: RoutingIntent, proxies: ProxyNeighbour[] = []): Outcome =>
  run(ns, 'reconcile', { intent, proxies }) as Outcome;

const lines = (text: string): string[] =>
  text
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean);
/** Everything that iproute2 lists, link-local routes aside: they come with the links. */
const listing = (ns: Namespace): string[] =>
  ['ip rule', 'ip -6 rule', 'ip route show table all', 'ip -6 route show table all']
    .flatMap((command) => lines(ns.sh(command)))
    .filter((line) => !/fe80|ff00|anycast|multicast/.test(line));

/** The proxy neighbours of both families. */
const proxiesOf = (ns: Namespace): string[] => lines(ns.sh('ip neigh show proxy')).map((line) => line.trim());

const RULES = [
  '0:	from all lookup local',
  '1001:	from all iif eth0 lookup default',
  '1002:	from all iif net1 lookup 1000',
  '1003:	from 10.16.0.12 iif lo lookup 1000',
  '1004:	from 172.17.0.11 iif lo lookup default',
  '32766:	from all lookup main',
  '32767:	from all lookup default',
];

t.test("with the CNI's routes in place the listings are Kube-OVN's, line for line", async (t) => {
  const ns = pod();
  ns.ip(`
    route add default via 172.17.0.1 dev net1
    route add 10.17.0.0/16 via 10.16.0.1 dev eth0
    route add 10.18.0.0/16 via 10.16.0.1 dev eth0`);
  const before = listing(ns);
  const first = reconcile(ns, [{ ...intent[0]!, peers: [] }]);
  t.strictSame([first.failures, first.left], [[], []]);
  t.strictSame(lines(ns.sh('ip rule')), RULES);
  t.strictSame(lines(ns.sh('ip route')), [
    'default via 172.17.0.1 dev net1',
    '10.16.0.0/16 dev eth0 proto kernel scope link src 10.16.0.12',
    '10.17.0.0/16 via 10.16.0.1 dev eth0',
    '10.18.0.0/16 via 10.16.0.1 dev eth0',
    '172.17.0.0/16 dev net1 proto kernel scope link src 172.17.0.11',
  ]);
  t.strictSame(lines(ns.sh('ip route show table 1000')), ['default via 10.16.0.1 dev eth0']);
  t.strictSame(reconcile(ns, [{ ...intent[0]!, peers: [] }]).steps, [], 'a second run does nothing');
  reconcile(ns, []);
  t.strictSame(listing(ns), before, 'cleanup leaves everything as it was');
});

t.test('a bridge and a VXLAN device are as iproute2 shows them, and read back', async (t) => {
  const ns = pod();
  const change = (steps: LinkStep[]) => run(ns, 'links', steps) as { failures: string[]; links: Link[] };
  const vxlan = {
    kind: 'vxlan',
    vni: 1016,
    local: address('172.17.0.11'),
    port: 4789,
    learning: false,
  } as const;
  const add = (link: WantedLink): LinkStep => ({ kind: 'addLink', family: 4, link });
  const bridge = add({ name: 'br-vpn', device: { kind: 'bridge' }, up: true });
  const tunnel = { name: 'vxlan-vpn', device: vxlan, master: 'br-vpn', mtu: 1450, up: true } as const;
  const made = change([bridge, add(tunnel)]);
  t.strictSame(made.failures, []);
  t.match(made.links, [
    { name: 'br-vpn', group: 178, up: true, device: { kind: 'bridge' } },
    { name: 'vxlan-vpn', group: 178, up: true, mtu: 1450, master: made.links[0]!.index },
  ]);
  t.strictSame(made.links[1]!.device, vxlan);
  const shown = ns.sh('ip -d link show vxlan-vpn');
  t.match(shown, /mtu 1450 .*master br-vpn .*group 178/);
  t.match(shown, /vxlan id 1016 local 172\.17\.0\.11 .*dstport 4789 .*nolearning/);

  const again = { ...vxlan, local: address('fd00:172:17::11'), vni: 16_777_215 };
  const changed = change([
    { kind: 'setLink', family: 4, link: { name: 'eth0', master: 'br-vpn' } },
    { kind: 'delLink', family: 4, link: { name: 'vxlan-vpn' } },
    { kind: 'delLink', family: 4, link: { name: 'vxlan-vpn' } },
    add({ ...tunnel, device: again, mtu: 1430 }),
    bridge,
    add({ ...tunnel, name: 'other', device: again }),
  ]);
  t.match(changed.failures, [
    /^ip link add br-vpn group 178 up type bridge: .*\(EEXIST\); a device of another program has this name/,
    /^ip link add other .*\(EEXIST\); .* or this VNI/,
  ]);
  t.strictSame(changed.links[1]!.device, again);
  t.match(ns.sh('ip link show eth0'), /master br-vpn/);
});

t.test('from bare interfaces both families are complete, and go again', async (t) => {
  const ns = pod();
  const before = listing(ns);
  const first = reconcile(ns, intent);
  t.strictSame([first.failures, first.left], [[], []]);
  t.strictSame(lines(ns.sh('ip rule')), RULES);
  t.strictSame(lines(ns.sh('ip -6 rule')), [
    '0:	from all lookup local',
    '1001:	from all iif eth0 lookup default',
    '1002:	from all iif net1 lookup 1000',
    '1003:	from fd00:10:16::12 iif lo lookup 1000',
    '1004:	from fd00:172:17::11 iif lo lookup default',
    '32766:	from all lookup main',
  ]);
  t.strictSame(lines(ns.sh('ip route show proto 178')), [
    'default via 172.17.0.1 dev net1',
    '10.17.0.0/16 via 10.16.0.1 dev eth0',
    '10.18.0.0/16 via 10.16.0.1 dev eth0',
    '10.255.255.255 via 10.16.0.1 dev eth0',
  ]);
  t.strictSame(lines(ns.sh('ip -6 route show proto 178')), [
    'fd00:10:18::/64 via fd00:10:16::1 dev eth0 metric 1024 pref medium',
    'fd00:ffff::1 via fd00:10:16::1 dev eth0 metric 1024 pref medium',
    'default via fd00:172:17::1 dev net1 metric 1024 pref medium',
  ]);
  t.strictSame(lines(ns.sh('ip -6 route show table 1000')), [
    'default via fd00:10:16::1 dev eth0 metric 1024 pref medium',
  ]);
  reconcile(ns, []);
  t.strictSame(listing(ns), before);
});

t.test('whatever is broken is repaired, and strangers survive', async (t) => {
  const ns = pod();
  const strangers = `
    rule add priority 999 from 10.1.1.1 lookup 77
    rule add priority 1005 iif eth0 lookup 77
    route add 10.200.0.0/16 via 172.17.0.9 dev net1
    route add 10.201.0.0/16 via 10.16.0.9 dev eth0 proto static metric 5
    route add unreachable 10.202.0.0/16 table 77`;
  ns.ip(strangers);
  reconcile(ns, intent);
  const good = listing(ns);
  const damage: [what: string, lines: string, family?: 4 | 6][] = [
    ['a rule deleted', 'rule del priority 1001'],
    ['an IPv6 rule deleted', 'rule del priority 1003', 6],
    ['a rule doubled', 'rule add priority 1003 from 10.16.0.12 iif lo lookup 1000 protocol static'],
    ['a wider rule beside it', 'rule add priority 1003 lookup 1000'],
    [
      'an inverted rule in its place',
      'rule del priority 1001\nrule add not priority 1001 iif eth0 lookup default',
    ],
    [
      'a suppressed rule in its place',
      'rule del priority 1002\nrule add priority 1002 iif net1 lookup 1000 suppress_prefixlength 0',
    ],
    ['a marked rule', 'rule add priority 1002 iif net1 fwmark 1 lookup 1000'],
    [
      'other rules at our priorities',
      'rule add priority 1002 to 10.9.9.9 blackhole\nrule add priority 1004 lookup main',
    ],
    [
      'all rules gone',
      'rule del priority 1001\nrule del priority 1002\nrule del priority 1003\nrule del priority 1004',
    ],
    ['table 1000 flushed', 'route flush table 1000'],
    ['IPv6 table 1000 flushed', 'route flush table 1000', 6],
    ['table 1000 redirected', 'route replace default via 10.16.0.77 dev eth0 table 1000'],
    [
      'more in table 1000',
      'route add 10.77.0.0/16 table 1000 nexthop via 10.16.0.7 dev eth0 nexthop via 172.17.0.7 dev net1\nroute add unreachable 10.78.0.0/16 table 1000\nroute add 10.79.0.0/16 tos 0x10 via 10.16.0.1 table 1000',
    ],
    [
      'more in IPv6 table 1000',
      'route add fd77::/64 table 1000 nexthop via fd00:10:16::7 dev eth0 nexthop via fd00:172:17::7 dev net1\nroute add default via fd00:10:16::9 metric 1 table 1000',
      6,
    ],
    ['a second gateway in IPv6 table 1000', 'route append default via fd00:10:16::9 dev eth0 table 1000', 6],
    ['a policy route deleted', 'route del 10.18.0.0/16'],
    ['a peer route deleted', 'route del fd00:ffff::1', 6],
    ['the default route deleted', 'route del default'],
    ['the default route replaced', 'route replace default via 172.17.0.2 dev net1 proto 178'],
    ['a stale route of ours', 'route add 10.66.0.0/16 via 10.16.0.1 proto 178'],
    ['everything of ours gone', 'route flush proto 178\nroute flush table 1000\nrule del priority 1001'],
  ];
  for (const [what, change, family] of damage) {
    ns.ip(change, family);
    const { failures, left } = reconcile(ns, intent);
    t.strictSame([failures, left], [[], []], what);
    t.strictSame(listing(ns), good, what);
  }
  ns.ip('link set eth0 down\nlink set net1 down\nlink set eth0 up\nlink set net1 up');
  ns.ip(
    `${ADDRESSES}\n${strangers
      .split('\n')
      .filter((line) => / via /.test(line))
      .join('\n')}`,
  );
  t.strictSame([reconcile(ns, intent).left, listing(ns)], [[], good], 'links that went and came back');
});

t.test('a foreign default route yields while we are there, and is what it was afterwards', async (t) => {
  const ns = pod();
  ns.ip('route add default via 10.16.0.1 dev eth0\nroute add default via fd00:10:16::1 dev eth0');
  const before = listing(ns);
  t.strictSame(reconcile(ns, intent).left, []);
  t.match(ns.sh('ip route get 198.51.100.1'), /via 172\.17\.0\.1 dev net1/);
  t.match(ns.sh('ip -6 route get 2001:db8::1'), /via fd00:172:17::1 dev net1/);
  t.match(ns.sh('ip route'), /default via 10\.16\.0\.1 dev eth0/);
  t.strictSame(reconcile(ns, intent).steps, []);
  ns.ip(
    'route del default via 172.17.0.1\nroute prepend default via 10.16.0.3 dev eth0\nroute append default via 172.17.0.1 dev net1 proto 178',
  );
  t.strictSame(reconcile(ns, intent).left, [], 'also when another got in front of ours');
  t.match(ns.sh('ip route get 198.51.100.1'), /via 172\.17\.0\.1 dev net1/);
  ns.ip('route del default via 10.16.0.3');
  reconcile(ns, []);
  t.strictSame(listing(ns), before);
});

t.test('a changed gateway is replaced in place', async (t) => {
  const ns = pod();
  reconcile(ns, intent);
  const moved = intent.map((family) => ({
    ...family,
    internal: { ...family.internal, gateway: address(family.family === 4 ? '10.16.0.2' : 'fd00:10:16::2') },
  }));
  const { steps, left } = reconcile(ns, moved);
  t.ok(steps.length === 7 && steps.every((step) => / route replace /.test(step)), steps.join('\n'));
  t.strictSame(left, []);
});

t.test('the kernel’s refusal is reported with its reason, and the rest is applied', async (t) => {
  const ns = pod();
  const wrong: RoutingIntent = [
    { ...intent[0]!, internal: { ...intent[0]!.internal, gateway: address('10.99.0.1') }, peers: [] },
  ];
  const { failures } = reconcile(ns, wrong);
  t.ok(
    failures.includes(
      'ip route add default via 10.99.0.1 dev eth0 table 1000: Nexthop has invalid gateway (ENETUNREACH); 10.99.0.1 is on no network of eth0 (10.16.0.12/16)',
    ),
    failures.join('\n'),
  );
  t.strictSame(lines(ns.sh('ip rule')), RULES);
});

t.test('ten thousand blocks are set, found in order, and removed', async (t) => {
  const ns = pod();
  const blocks = Array.from({ length: 10_000 }, (_, i) => prefix(`10.${100 + (i >> 8)}.${i & 255}.0/24`));
  const many: RoutingIntent = [{ ...intent[0]!, internalBlocks: blocks }];
  const { failures, left } = reconcile(ns, many);
  t.strictSame([failures, left], [[], []]);
  t.equal(lines(ns.sh('ip route show proto 178')).length, 10_002);
  t.strictSame(reconcile(ns, many).steps, []);
  t.strictSame(reconcile(ns, []).left, []);
  t.strictSame(lines(ns.sh('ip route show proto 178')), []);
});

t.test('changes are reported as events, with their writer', async (t) => {
  const ns = pod();
  const watcher = ns.spawn(NODE, [CHILD, 'watch'], { name: 'watch' });
  await until(() => watcher.log().includes('"watching":"all"'), { what: 'the watcher' });
  ns.ip(`
    rule add priority 1003 from 10.1.2.3 iif lo lookup 1000
    route add 10.99.0.0/16 via 10.16.0.1 dev eth0
    route add 10.98.0.0/16 via 10.16.0.1 dev eth0 table 77
    route add fd99::/64 via fd00:10:16::1 dev eth0 table 1000
    addr del 172.17.0.11/16 dev net1
    link set eth0 down`);
  ns.sh('iptables-nft -t nat -N VEG-TEST');
  const expected = [
    /"object":"rule","family":4,"what":"rule added: priority 1003 from 10\.1\.2\.3 iif lo lookup 1000","portid":[1-9]/,
    /"object":"route","family":4,"what":"route set: 10\.99\.0\.0\/16 via 10\.16\.0\.1 dev eth0","portid":[1-9]/,
    /"object":"route","family":6,"what":"route set: fd99::\/64 via fd00:10:16::1 dev eth0 table 1000"/,
    /"object":"address","family":4,"what":"address removed: 172\.17\.0\.11\/16 dev net1"/,
    /"object":"link","what":"link eth0 is down"/,
    /"object":"netfilter","portid":[1-9][0-9]*,"what":"nf_tables changed by iptables-nft \(pid [0-9]+\)"/,
  ];
  await until(() => expected.every((event) => event.test(watcher.log())), {
    what: `every event: ${watcher.log()}`,
  });
  t.notMatch(watcher.log(), /10\.98/, 'other tables are nobody’s business');
  t.equal(await watcher.stop(), 0, 'closed, it lets the process end');
});

t.test('lost notifications are an event like any other', async (t) => {
  const ns = pod();
  const told = JSON.parse(ns.sh(`${NODE} ${CHILD} overrun`)) as { lost: number; heardAfterwards: number };
  t.ok(told.lost > 0, 'the loss is told');
  t.equal(told.heardAfterwards, 1, 'and what comes later is heard');
});

t.test('a read-only /proc/sys is reported, with what to do', async (t) => {
  const ns = pod();
  ns.sysctl({ 'net.ipv4.ip_forward': 0 });
  const { stdout, stderr } = ns.run('unshare', [
    ...['-m', 'sh', '-c'],
    `mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec ${NODE} ${CHILD} sysctls`,
  ]);
  t.equal(stderr, '');
  const { steps, problems } = JSON.parse(stdout) as { steps: unknown[]; problems: Record<number, string> };
  t.strictSame(steps, []);
  t.match(
    problems[4],
    /^sysctl net\.ipv4\.ip_forward has to be 1, and cannot be set here \(EROFS\): set it in an init/,
  );
});

t.test('a group has a table for each other member, and proxies for what this one holds', async (t) => {
  const ns = pod();
  const before = [...listing(ns), ...proxiesOf(ns)];
  const shared = { 4: address('172.17.0.50'), 6: address('fd00:172:17::50') };
  const members = { 4: address('172.17.0.12'), 6: address('fd00:172:17::12') };
  const group = intent.map((family) => ({
    ...family,
    group: {
      shared: [shared[family.family]],
      neighbours: [],
      forward: [{ slot: 13, via: members[family.family] }],
    },
  }));
  const proxies = ([4, 6] as const).map((family) => ({ family, address: shared[family], dev: 'net1' }));
  // What a former process may have left: a route to a member that is not there any more.
  ns.ip('route add default via 172.17.0.99 dev net1 table 1023');

  const first = reconcile(ns, group, proxies);
  t.strictSame([first.failures, first.left], [[], []]);
  for (const [command, via] of [
    ['ip', '172.17.0.12'],
    ['ip -6', 'fd00:172:17::12'],
  ] as const) {
    t.match(
      ns.sh(`${command} rule`),
      /^1000:\tfrom all fwmark 0x2d0000\/0x2f0000 iif net1 lookup 1023 proto 178$/m,
    );
    t.match(ns.sh(`${command} route show table 1023`), new RegExp(`^default via ${via} dev net1`));
  }
  t.match(ns.sh('ip route show 172.17.0.50'), '172.17.0.50 via 10.16.0.1 dev eth0 proto 178');
  t.strictSame(proxiesOf(ns), [
    '172.17.0.50 dev net1 proxy proto 178',
    'fd00:172:17::50 dev net1 proxy proto 178',
  ]);
  t.strictSame(reconcile(ns, group, proxies).steps, [], 'a second run does nothing');

  ns.sh('ip neigh del proxy 172.17.0.50 dev net1');
  ns.sh('ip -6 rule del priority 1000');
  ns.sh('ip neigh add proxy 172.17.0.77 dev net1');
  t.strictSame(
    reconcile(ns, group, proxies).steps,
    [
      // A table without its rule is not read.
      'ip -6 route replace default via fd00:172:17::12 dev net1 table 1023 proto 178',
      'ip -6 rule add priority 1000 iif net1 fwmark 0x2d0000/0x2f0000 lookup 1023 protocol 178',
      'ip neigh add proxy 172.17.0.50 dev net1 proto 178',
    ],
    'drift is repaired, and a proxy of somebody else stays',
  );
  ns.sh('ip neigh del proxy 172.17.0.77 dev net1');
  t.strictSame(
    reconcile(ns, group, proxies.slice(1)).steps,
    ['ip neigh del proxy 172.17.0.50 dev net1'],
    'another member holds the address',
  );
  reconcile(ns, []);
  t.strictSame([...listing(ns), ...proxiesOf(ns)], before, 'all of it goes again');
});
