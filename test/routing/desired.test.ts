import t from 'tap';
import { address, prefix } from '../../lib/prefix.ts';
import { desiredRouting, type FamilyRouting } from '../../routing/desired.ts';
import { renderRoute, renderRule } from '../../routing/render.ts';

const v4: FamilyRouting = {
  family: 4,
  internal: { interface: 'eth0', addresses: [address('10.16.0.12')], gateway: address('10.16.0.1') },
  external: { interface: 'net1', addresses: [address('172.17.0.11')], gateway: address('172.17.0.1') },
  externalBlocks: [],
  internalBlocks: [prefix('10.17.0.0/16'), prefix('10.18.0.0/16')],
  peers: [address('10.255.255.255')],
};
const v6: FamilyRouting = {
  family: 6,
  internal: { interface: 'eth0', addresses: [address('fd00:10:16::12')], gateway: address('fd00:10:16::1') },
  external: { interface: 'net1', addresses: [address('fd00:172:17::11')], gateway: address('fe80::1') },
  externalBlocks: [],
  internalBlocks: [prefix('fd00:10:17::/64')],
  peers: [],
};

t.test("Kube-OVN's example gives Kube-OVN's rules and routes", async (t) => {
  const { rules, routes } = desiredRouting([v4]);
  t.strictSame(rules.map(renderRule), [
    'priority 1001 iif eth0 lookup default',
    'priority 1002 iif net1 lookup 1000',
    'priority 1003 from 10.16.0.12 iif lo lookup 1000',
    'priority 1004 from 172.17.0.11 iif lo lookup default',
  ]);
  t.strictSame(routes.map(renderRoute), [
    'default via 10.16.0.1 dev eth0 table 1000',
    'default via 172.17.0.1 dev net1 proto 178',
    '10.17.0.0/16 via 10.16.0.1 dev eth0 proto 178',
    '10.18.0.0/16 via 10.16.0.1 dev eth0 proto 178',
    '10.255.255.255 via 10.16.0.1 dev eth0 proto 178',
  ]);
});

t.test('IPv6 is the same, and a link-local gateway keeps its interface', async (t) => {
  const { rules, routes } = desiredRouting([v6]);
  t.strictSame(rules.map(renderRule), [
    'priority 1001 iif eth0 lookup default',
    'priority 1002 iif net1 lookup 1000',
    'priority 1003 from fd00:10:16::12 iif lo lookup 1000',
    'priority 1004 from fd00:172:17::11 iif lo lookup default',
  ]);
  t.strictSame(routes.map(renderRoute), [
    'default via fd00:10:16::1 dev eth0 table 1000',
    'default via fe80::1 dev net1 proto 178',
    'fd00:10:17::/64 via fd00:10:16::1 dev eth0 proto 178',
  ]);
});

t.test('both families stand side by side, and none is nothing', async (t) => {
  t.strictSame(
    desiredRouting([v4, v6]).rules.map(({ family }) => family),
    [4, 4, 4, 4, 6, 6, 6, 6],
  );
  t.strictSame(desiredRouting([]), { rules: [], routes: [] });
});

t.test('every own address has its rule, once', async (t) => {
  const many = {
    ...v4,
    internal: { ...v4.internal, addresses: ['10.16.0.12', '10.16.0.13', '10.16.0.12'].map(address) },
  };
  t.strictSame(
    desiredRouting([many])
      .rules.filter(({ priority }) => priority === 1003)
      .map(renderRule),
    ['priority 1003 from 10.16.0.12 iif lo lookup 1000', 'priority 1003 from 10.16.0.13 iif lo lookup 1000'],
  );
});

t.test('a block that is everything gets no route: it would take the default route away', async (t) => {
  const { routes } = desiredRouting([{ ...v4, internalBlocks: [prefix('0.0.0.0/0')], peers: [] }]);
  t.strictSame(routes.map(renderRoute), [
    'default via 10.16.0.1 dev eth0 table 1000',
    'default via 172.17.0.1 dev net1 proto 178',
  ]);
  const everything6 = { ...v6, internalBlocks: [prefix('::/0')] };
  t.equal(desiredRouting([everything6]).routes.length, 2);
});

t.test(
  'blocks and peers that name the same host share a route, and the gateway itself needs none',
  async (t) => {
    const { routes } = desiredRouting([
      {
        ...v4,
        externalBlocks: [],
        internalBlocks: [prefix('10.255.255.255'), prefix('10.17.0.0/16'), prefix('10.17.0.0/16')],
        peers: [address('10.255.255.255'), address('10.16.0.1')],
      },
    ]);
    t.strictSame(routes.slice(2).map(renderRoute), [
      '10.255.255.255 via 10.16.0.1 dev eth0 proto 178',
      '10.17.0.0/16 via 10.16.0.1 dev eth0 proto 178',
    ]);
  },
);

t.test(
  'a primary network besides: rules 1005 and 1006 and table 1001, with our protocol number',
  async (t) => {
    const primary = {
      interface: 'eth9',
      addresses: [address('10.52.0.189')],
      routes: [
        { destination: prefix('169.254.1.1/32') },
        { destination: prefix('0.0.0.0/0'), gateway: address('169.254.1.1') },
      ],
      services: [address('10.53.0.10')],
    };
    const { rules, routes } = desiredRouting([{ ...v4, primary }]);
    t.strictSame(rules.slice(4).map(renderRule), [
      'priority 1005 from 10.52.0.189 iif lo lookup 1001 protocol 178',
      'priority 1006 to 10.53.0.10 iif lo lookup 1001 protocol 178',
    ]);
    t.strictSame(routes.slice(5).map(renderRoute), [
      '169.254.1.1 dev eth9 table 1001 proto 178',
      'default via 169.254.1.1 dev eth9 onlink table 1001 proto 178',
    ]);
    t.strictSame(
      routes.slice(5).map(({ scope }) => scope),
      [253, 0],
    );
  },
);

t.test('a group: slices of other members go to them by mark, shared addresses lead inside', async (t) => {
  const group = {
    shared: [address('172.17.0.50')],
    neighbours: [address('10.16.0.13')],
    forward: [{ slot: 2, via: address('172.17.0.12') }],
  };
  const { rules, routes } = desiredRouting([{ ...v4, group }]);
  const alone = desiredRouting([v4]);
  t.strictSame(
    rules.map(renderRule).filter((line) => !alone.rules.map(renderRule).includes(line)),
    ['priority 1000 iif net1 fwmark 0x220000/0x2f0000 lookup 1012 protocol 178'],
  );
  t.strictSame(
    routes.map(renderRoute).filter((line) => !alone.routes.map(renderRoute).includes(line)),
    [
      '10.16.0.13 dev eth0 table 1000',
      '172.17.0.50 via 10.16.0.1 dev eth0 proto 178',
      'default via 172.17.0.12 dev net1 table 1012 proto 178',
    ],
  );
});
