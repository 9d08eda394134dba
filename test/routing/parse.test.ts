/** Payloads as Linux 6.18 sent them, each beside the iproute2 command that made the thing. */
import t from 'tap';
import {
  formatRoute,
  formatRule,
  linkDump,
  parseInterfaceAddress,
  parseLink,
  parseRoute,
  parseRule,
  routeDump,
  ruleDump,
} from '../../routing/parse.ts';
import { renderRoute, renderRule } from '../../routing/render.ts';
import type { Route, Rule } from '../../routing/state.ts';

const bytes = (hex: string): Buffer => Buffer.from(hex.replace(/\s/g, ''), 'hex');
const names = new Map([
  [3, 'd0'],
  [5, 'd1'],
]);
const nameOf = (ifindex: number): string | undefined => names.get(ifindex);

const ROUTES: [command: string, hex: string, route: Partial<Route>][] = [
  [
    '10.17.0.0/16 via 10.0.0.1 dev d0',
    '02100000fe030001 00000000 08000f00fe000000 080001000a110000 080005000a000001 0800040003000000',
    { family: 4, table: 254, scope: 0, type: 1 },
  ],
  [
    '10.17.0.0/16 tos 0x10 via 10.0.0.1 dev d0',
    '02100010fe030001 00000000 08000f00fe000000 080001000a110000 080005000a000001 0800040003000000',
    { qualifier: 'tos 0x10' },
  ],
  [
    'unreachable 10.32.0.0/16 proto static metric 77',
    '02100000fe040007 00000000 08000f00fe000000 080001000a200000 080006004d000000',
    { type: 7, metric: 77, protocol: 4 },
  ],
  [
    '10.34.0.1 dev d0',
    '02200000fe03fd01 00000000 08000f00fe000000 080001000a220001 080007000a000002 0800040003000000',
    { scope: 253, destination: '10.34.0.1/32' as Route['destination'] },
  ],
  [
    '10.30.0.0/16 # several next hops, or encapsulated',
    `02100000fe030001 00000000 08000f00fe000000 080001000a1e0000 24000900
     1000000003000000 080005000a000001 1000000005000000 080005000a000101`,
    { foreign: true },
  ],
  [
    '10.31.0.0/16 dev d0 # several next hops, or encapsulated',
    `02100000fe030001 00000000 08000f00fe000000 080001000a1f0000
     160012000a00fd000000000000000000000000000001 0000 0800040003000000`,
    { foreign: true },
  ],
  [
    'fd55::/64 via fd00::1 dev d0',
    `0a400000fe030001 00000000 08000f00fe000000 14000100fd550000000000000000000000000000 0800060000040000
     14000500fd000000000000000000000000000001 0800040003000000
     24000c000000000000000000000000000000000000000000000000000000000000000000 0500140000000000`,
    { family: 6, metric: 1024 },
  ],
  [
    'fd56::/64 from fd57::/64 via fd00::1 dev d0',
    `0a404000fe030001 00000000 08000f00fe000000 14000100fd560000000000000000000000000000
     14000200fd570000000000000000000000000000 0800060000040000
     14000500fd000000000000000000000000000001 0800040003000000`,
    { qualifier: 'from fd57::/64' },
  ],
  [
    'default via fe80::1 dev d0 proto 178 metric 5',
    `0a000000feb20001 00000000 08000f00fe000000 0800060005000000
     14000500fe800000000000000000000000000001 0800040003000000`,
    { family: 6, protocol: 178 },
  ],
  [
    'blackhole fd59::/64 dev if1',
    `0a400000fe030006 00000000 08000f00fe000000 14000100fd590000000000000000000000000000
     0800060000040000 0800040001000000`,
    { type: 6 },
  ],
];

t.test('routes', async (t) => {
  for (const [command, hex, expected] of ROUTES) {
    const route = parseRoute(bytes(hex), nameOf);
    t.equal(route && renderRoute(route), command);
    t.has(route, expected, command);
  }
  const cloned = '02200000fe000001 00020000 08000f00fe000000 0800010008080808';
  t.equal(parseRoute(bytes(cloned), nameOf), undefined, 'a cached exception is no route');
  t.equal(parseRoute(bytes(`1c${ROUTES[0]![1].slice(2)}`), nameOf), undefined, 'nor is one of MPLS');
});

const RULES: [command: string, hex: string, rule: Partial<Rule>][] = [
  [
    'priority 1003 from 10.0.0.2 iif lo lookup 1000',
    `02002000fc000001 00000000 08000f00e8030000 08000e00ffffffff 0500150000000000 070003006c6f0000
     08000600eb030000 080002000a000002`,
    { family: 4, foreign: false },
  ],
  [
    'priority 1003 from fd00::2 iif lo lookup 1000',
    `0a008000fc000001 00000000 08000f00e8030000 08000e00ffffffff 0500150000000000 070003006c6f0000
     08000600eb030000 14000200fd000000000000000000000000000002`,
    { family: 6, foreign: false },
  ],
  [
    'priority 1001 iif d0 lookup default',
    '0a000000fd000001 00000000 08000f00fd000000 08000e00ffffffff 0500150000000000 0700030064300000 08000600e9030000',
    { family: 6, foreign: false },
  ],
  [
    'priority 1001 iif d0 lookup default',
    '0a000000fd000001 08000000 08000f00fd000000 08000e00ffffffff 0500150000000000 0700030064300000 08000600e9030000',
    { foreign: false },
  ],
  [
    'priority 1003 from 10.0.0.2 iif lo lookup 1000 # inverted or with a suppressor',
    `02002000fc000001 02000000 08000f00e8030000 08000e00ffffffff 0500150000000000 070003006c6f0000
     08000600eb030000 080002000a000002`,
    { foreign: true },
  ],
  [
    'priority 1003 from 10.0.0.2 iif lo lookup 1000 # protocol 4',
    `02002000fc000001 00000000 08000f00e8030000 08000e00ffffffff 0500150004000000 070003006c6f0000
     08000600eb030000 080002000a000002`,
    { foreign: true },
  ],
  [
    'priority 1006 to 10.53.0.10 iif lo lookup 1001 protocol 178',
    `02200000fc000001 00000000 08000f00e9030000 08000e00ffffffff 05001500b2000000 070003006c6f0000
     08000600ee030000 080001000a35000a`,
    { foreign: false, protocol: 178 },
  ],
  [
    'priority 1003 from 10.0.0.2 iif lo lookup 1000 # protocol 178',
    `02002000fc000001 00000000 08000f00e8030000 08000e00ffffffff 05001500b2000000 070003006c6f0000
     08000600eb030000 080002000a000002`,
    { foreign: true },
  ],
  [
    'priority 900 lookup main # fwmark 0x01000000 fwmask 0xff000000',
    `02000000fe000001 00000000 08000f00fe000000 08000e0000000000 0500150000000000 0800060084030000
     08000a0001000000 08001000ff000000`,
    { foreign: true, qualifier: 'fwmark 0x01000000 fwmask 0xff000000' },
  ],
  [
    'priority 901 to 10.0.0.0/8 lookup 0 # action 8',
    '0208000000000008 00000000 08000f0000000000 08000e00ffffffff 0500150000000000 0800060085030000 080001000a000000',
    { foreign: true },
  ],
  [
    'priority 902 lookup 5 # oif 0x643000 uidrange 0x0000000001000000 ipproto 0x06 dport 0x50005000 dport mask 0xffff',
    `0200000005000001 00000000 08000f0005000000 08000e00ffffffff 0500150000000000 0700110064300000
     0800060086030000 0c0014000000000001000000 0800180050005000 06001d00ffff0000 0500160006000000`,
    { foreign: true },
  ],
  [
    'priority 903 lookup 5 # tos 0x10',
    '0200001005000001 00000000 08000f0005000000 08000e00ffffffff 0500150000000000 0800060087030000',
    { foreign: true },
  ],
];

t.test('rules: a missing interface changes nothing, any selector of others makes it foreign', async (t) => {
  for (const [command, hex, expected] of RULES) {
    const rule = parseRule(bytes(hex));
    t.equal(rule && renderRule(rule), command);
    t.has(rule, expected, command);
  }
});

t.test('links and addresses', async (t) => {
  const veth = `00000100030000004310010000000000 0700030064300000 08000d00e8030000 08000400dc050000
     0a0001008e2354f6b0fa0000 0a000200ffffffffffff0000`;
  t.strictSame(parseLink(bytes(veth)), {
    index: 3,
    name: 'd0',
    up: true,
    carrier: true,
    mtu: 1500,
    mac: '8e:23:54:f6:b0:fa',
  });
  const tunnel =
    '000000030900000080000000ffffffff 0900030074756e6c30000000 08000400c8050000 080001000a000001';
  t.strictSame(parseLink(bytes(tunnel)), {
    index: 9,
    name: 'tunl0',
    up: false,
    carrier: false,
    mtu: 1480,
    mac: '',
  });
  t.equal(parseLink(bytes(`07${veth.slice(2)}`)), undefined, 'a bridge port is no link');

  t.strictSame(
    parseInterfaceAddress(
      bytes('0218800003000000 080001000a000002 080002000a000002 0700030064300000 0800080080000000'),
    ),
    { family: 4, ifindex: 3, address: '10.0.0.2', prefixLength: 24, scope: 0, flags: 128 },
  );
  t.has(
    parseInterfaceAddress(bytes('0220800003000000 080001000a000063 080002000a000002')),
    { address: '10.0.0.2', flags: 128 },
    'on a point-to-point link it is our end',
  );
  t.strictSame(
    parseInterfaceAddress(
      bytes('0a4080fd03000000 14000100fe800000000000008c2354fffef6b0fa 0800080080000000'),
    ),
    { family: 6, ifindex: 3, address: 'fe80::8c23:54ff:fef6:b0fa', prefixLength: 64, scope: 253, flags: 128 },
  );
});

t.test(
  'rules of a VRF: the two of the agent’s priorities are its own, that of the kernel is not',
  async (t) => {
    const rule = (priority: number, l3mdev: 'lookup' | 'unreachable'): Rule => ({
      ...{ family: 4, priority, l3mdev, table: 0, foreign: false },
    });
    for (const l3mdev of ['lookup', 'unreachable'] as const) {
      const { message, ...read } = parseRule(Buffer.from(formatRule(rule(1002, l3mdev))))!;
      t.strictSame(read, rule(1002, l3mdev));
      t.ok(message, 'a delete sends it back');
    }
    t.equal(renderRule(rule(1001, 'lookup')), 'priority 1001 l3mdev');
    t.equal(renderRule(rule(1002, 'unreachable')), 'priority 1002 l3mdev unreachable');
    const kernels = parseRule(Buffer.from(formatRule(rule(1000, 'lookup'))))!;
    t.match(kernels, { priority: 1000, foreign: true, qualifier: 'l3mdev 0x01' });
    t.equal(kernels.message, undefined);
    const blackhole = Buffer.from(formatRule(rule(1002, 'unreachable')));
    blackhole[7] = 6;
    t.match(parseRule(blackhole), { foreign: true, qualifier: 'l3mdev 0x01 action 6' });
  },
);

t.test('what is written reads back the same', async (t) => {
  for (const [command, hex] of ROUTES) {
    const { message: _, ...route } = parseRoute(bytes(hex), nameOf)!;
    const ifindex = [...names].find(([, name]) => name === route.dev)?.[0];
    if (route.foreign || route.qualifier !== undefined || ifindex === undefined) continue;
    const { message: __, ...back } = parseRoute(Buffer.from(formatRoute(route, ifindex)), nameOf)!;
    t.strictSame(back, route, command);
  }
  for (const [command, hex] of RULES) {
    const { message: _, ...rule } = parseRule(bytes(hex))!;
    if (rule.foreign) continue;
    const { message: __, ...back } = parseRule(Buffer.from(formatRule(rule)))!;
    t.strictSame(back, rule, command);
  }
});

t.test('a next hop that is on the link by decree', async (t) => {
  // default via 10.0.0.9 dev d0 onlink proto 178
  const hex = '02000000feb20001 04000000 08000f00fe000000 080005000a000009 0800040003000000';
  const route = parseRoute(bytes(hex), nameOf)!;
  t.equal(renderRoute(route), 'default via 10.0.0.9 dev d0 onlink proto 178');
  t.equal(route.message, undefined);
  t.equal(Buffer.from(formatRoute(route, 3)).readUInt32LE(8), 4, 'RTNH_F_ONLINK');
});

t.test('what cannot be said in fields keeps the kernel’s message where it may have to go', async (t) => {
  const inTable1000 = (hex: string) => bytes(hex.replace('08000f00fe000000', '08000f00e8030000'));
  const multipath = inTable1000(ROUTES[4]![1]);
  t.strictSame(formatRoute(parseRoute(multipath, nameOf)!, undefined), multipath, 'and sends it back');
  const preferredSource = inTable1000(ROUTES[3]![1]);
  t.strictSame(parseRoute(preferredSource, nameOf)!.message, preferredSource);
  t.ok(parseRoute(inTable1000(ROUTES[1]![1]), nameOf)!.message, 'a TOS is in the header');
  t.equal(parseRoute(inTable1000(ROUTES[6]![1]), nameOf)!.message, undefined, 'a plain route needs none');
  t.equal(parseRoute(bytes(ROUTES[4]![1]), nameOf)!.message, undefined, 'nor does a foreign one');
  t.strictSame(formatRule(parseRule(bytes(RULES[4]![1]))!), bytes(RULES[4]![1]));
  t.equal(parseRule(bytes(RULES[8]![1]))!.message, undefined);
});

t.test('dump requests name what they want', async (t) => {
  t.equal(Buffer.from(routeDump(6, 1000)).toString('hex'), `0a${'00'.repeat(11)}08000f00e8030000`);
  t.equal(Buffer.from(routeDump(4, 254)).toString('hex'), `02000000fe${'00'.repeat(7)}08000f00fe000000`);
  t.equal(Buffer.from(ruleDump(4)).toString('hex'), `02${'00'.repeat(11)}`);
  t.equal(Buffer.from(linkDump()).toString('hex'), `${'00'.repeat(16)}08001d0008000000`, 'without counters');
});
