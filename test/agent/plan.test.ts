import t from 'tap';
import type { Facts } from '../../agent/interfaces.ts';
import { makePlan } from '../../agent/plan.ts';
import type { Policy } from '../../agent/policy/model.ts';
import { address, prefix } from '../../routing/prefix.ts';

const link = (index: number, name: string, up = true) => ({
  index,
  name,
  up,
  carrier: up,
  mtu: 1500,
  mac: '',
});
const on = (ifindex: number, text: string, flags = 0) => {
  const [host, length] = text.split('/') as [string, string];
  const value = address(host);
  return {
    family: (value.includes(':') ? 6 : 4) as 4 | 6,
    ifindex,
    address: value,
    prefixLength: Number(length),
    scope: 0,
    flags,
  };
};

/** The pod of the seeds, dual stack. */
const POD: Facts = {
  links: [link(1, 'lo'), link(2, 'eth0'), link(3, 'net1')],
  addresses: [
    on(2, '10.16.0.12/16'),
    on(2, 'fd00:10:16::12/64'),
    on(3, '172.17.0.11/16'),
    on(3, 'fd00:172:17::11/64'),
  ],
  networks: [],
  names: ['gateway1-0', 'node1'],
  notes: [],
};

const POLICY: Policy = {
  name: 'default/gateway1',
  origin: { file: 'p.yaml', kind: 'GatewayPolicy', name: 'gateway1' },
  internal: { gateways: [address('10.16.0.1'), address('fd00:10:16::1')] },
  external: { gateways: [address('172.17.0.1'), address('fd00:172:17::1')] },
  bfd: {
    enabled: true,
    peers: [address('10.255.255.255'), address('fd00:ffff::1')],
    minTX: 100,
    minRX: 200,
    multiplier: 5,
    mode: 'passive',
    minTTL: 254,
    adoptDiscriminator: true,
  },
  rules: [
    { name: 'web', snat: true, ipBlocks: [prefix('10.17.0.0/16'), prefix('fd00:10:17::/64')] },
    { name: 'legacy', snat: false, ipBlocks: [prefix('10.18.0.0/16'), prefix('10.16.7.0/24')] },
  ],
  warnings: [],
};

t.test('the seeds: routes to blocks and peers, forwarded blocks, sessions in microseconds', async (t) => {
  const plan = makePlan(POLICY, POD, {});
  t.strictSame(plan.families, [
    { family: 4, state: 'programmed' },
    { family: 6, state: 'programmed' },
  ]);
  const [v4] = plan.routing;
  t.strictSame(
    v4!.internalBlocks,
    ['10.17.0.0/16', '10.18.0.0/16'],
    'a block inside the subnet needs no route',
  );
  t.strictSame(v4!.peers, ['10.255.255.255']);
  t.strictSame(plan.nat[0]!.forward, ['10.18.0.0/16', '10.16.7.0/24'], 'but is forwarded all the same');
  t.match(plan.peers, [
    { local: '10.16.0.12', remote: '10.255.255.255', desiredMinTx: 100_000, requiredMinRx: 200_000 },
    { local: 'fd00:10:16::12', remote: 'fd00:ffff::1', detectMult: 5, interface: 'eth0' },
  ]);
});

t.test('an internal dual stack with a v4-only external network works for v4 and says so', async (t) => {
  const plan = makePlan({ ...POLICY, external: { gateways: [address('172.17.0.1')] } }, POD, {});
  t.strictSame(plan.families, [
    { family: 4, state: 'programmed' },
    { family: 6, state: 'unused' },
  ]);
  t.strictSame(plan.notes, [
    'IPv6 is left out: the external network has no IPv6 gateway',
    'BFD peer fd00:ffff::1 is left out: IPv6 is not programmed',
  ]);
  t.equal(plan.routing.length, 1);
});

t.test('what the pod lacks blocks a family and names the cause', async (t) => {
  const reason = (facts: Facts) => makePlan(POLICY, facts, {}).families[0]!.reason;
  t.match(
    reason({ ...POD, links: POD.links.slice(0, 2) }),
    /^the external interface net1 does not exist; attach it/,
  );
  t.equal(
    reason({ ...POD, links: [link(2, 'eth0', false), link(3, 'net1')] }),
    'the internal interface eth0 is down',
  );
  const v6only = { ...POD, addresses: POD.addresses.filter(({ family }) => family === 6) };
  t.equal(reason(v6only), 'the internal interface eth0 has no usable IPv4 address');
  t.equal(makePlan(POLICY, v6only, {}).families[1]!.state, 'programmed', 'the other family goes on');
});

t.test('an address that duplicate address detection has not passed is not used', async (t) => {
  const IFA_F_TENTATIVE = 0x40;
  const addresses = [...POD.addresses.slice(0, 3), on(3, 'fd00:172:17::11/64', IFA_F_TENTATIVE)];
  t.match(makePlan(POLICY, { ...POD, addresses }, {}).families[1], {
    state: 'blocked',
    reason: /net1 has no usable IPv6 address/,
  });
});

t.test('BFD answers from the address that shares a network with the gateway', async (t) => {
  const addresses = [on(2, '192.0.2.7/32'), ...POD.addresses];
  t.equal(makePlan(POLICY, { ...POD, addresses }, {}).peers[0]!.local, '10.16.0.12');
});

t.test('without BFD there are no sessions and nothing is kept from conntrack', async (t) => {
  const plan = makePlan({ ...POLICY, bfd: { ...POLICY.bfd, enabled: false } }, POD, {});
  t.strictSame(plan.peers, []);
  t.strictSame(plan.routing[0]!.peers, []);
  t.equal(plan.nat[0]!.notrackBfd, false);
});
