import t from 'tap';
import { type Facts, findInterfaces, parseNetworkStatus } from '../../../agent/pod/interfaces.ts';
import { type Address, address } from '../../../lib/prefix.ts';

const link = (index: number, name: string) => ({ index, name, up: true, carrier: true, mtu: 1500, mac: '' });
const on = (ifindex: number, text: string, prefixLength: number, scope = 0) => ({
  family: text.includes(':') ? (6 as const) : (4 as const),
  ifindex,
  address: address(text),
  prefixLength,
  scope,
  flags: 0,
});
const facts: Facts = {
  links: [link(1, 'lo'), link(2, 'eth0'), link(3, 'net1'), link(4, 'net2')],
  addresses: [
    on(2, '10.16.0.12', 16),
    on(3, '172.17.0.11', 16),
    on(4, '192.168.5.5', 24),
    on(2, 'fe80::2', 64, 253),
    on(3, 'fe80::3', 64, 253),
  ],
  connected: [],
  routes: [],
  podIPs: [],
  services: [],
  networks: [],
  missing: [],
  names: [],
  notes: [],
};
const network = (iface: string, isDefault = false) => ({
  name: 'x',
  interface: iface,
  default: isDefault,
  gateways: [],
});
const policy = (internal: string, external: string, names: { internal?: string; external?: string } = {}) => {
  const side = (gateway: string, name?: string) => ({
    gateways: gateway.split(',').filter(Boolean).map(address) as Address[],
    ...(name === undefined ? {} : { interface: name }),
  });
  return { internal: side(internal, names.internal), external: side(external, names.external) };
};
const usual = policy('10.16.0.1', '172.17.0.1');

t.test('the policy decides over everything, then the flag', async (t) => {
  const flags = { internalInterface: 'flag0', externalInterface: 'flag1' };
  t.strictSame(
    findInterfaces(policy('10.16.0.1', '172.17.0.1', { internal: 'p0', external: 'p1' }), flags, facts),
    {
      internal: 'p0',
      external: 'p1',
      reasons: { internal: 'the policy', external: 'the policy' },
    },
  );
  t.strictSame(findInterfaces(usual, flags, facts), {
    internal: 'flag0',
    external: 'flag1',
    reasons: { internal: '--internal-interface', external: '--external-interface' },
  });
});

t.test('network-status: the cluster’s own network is the internal one', async (t) => {
  const known = { ...facts, networks: [network('eth0', true), network('net1')] };
  t.strictSame(findInterfaces(usual, {}, known).reasons, {
    internal: 'network-status',
    external: 'network-status',
  });
  const elsewhere = { ...known, addresses: [] };
  t.has(
    findInterfaces(usual, {}, elsewhere),
    { internal: 'eth0', external: 'net1' },
    'without addresses too',
  );
});

t.test('network-status: of several, the one that the gateway is on', async (t) => {
  const several = { ...facts, networks: [network('eth0', true), network('net2'), network('net1')] };
  t.equal(findInterfaces(usual, {}, several).external, 'net1');
  t.has(
    findInterfaces(policy('172.17.0.1', '192.168.5.1'), {}, several),
    { internal: 'net1', external: 'net2', reasons: { internal: 'the network of the gateway' } },
    'the gateway’s network speaks against network-status',
  );
});

t.test('without network-status the gateway’s network says it', async (t) => {
  t.strictSame(findInterfaces(policy('10.16.0.1', '192.168.5.1'), {}, facts), {
    internal: 'eth0',
    external: 'net2',
    reasons: { internal: 'the network of the gateway', external: 'the network of the gateway' },
  });
});

t.test('else the usual names: a link-local gateway is on every link', async (t) => {
  t.strictSame(findInterfaces(policy('fe80::1', ''), {}, facts), {
    internal: 'eth0',
    external: 'net1',
    reasons: { internal: 'the usual name', external: 'the usual name' },
  });
});

t.test('the network-status file', async (t) => {
  const multus = `[{ "name": "kube-ovn", "interface": "eth0", "ips": ["10.16.0.12"], "default": true, "dns": {} },
                   { "name": "default/ext", "interface": "net1", "ips": ["172.17.0.11"], "dns": {} }]`;
  t.strictSame(parseNetworkStatus(multus), {
    networks: [
      { name: 'kube-ovn', interface: 'eth0', default: true, gateways: [] },
      { name: 'default/ext', interface: 'net1', default: false, gateways: [] },
    ],
  });
  t.strictSame(parseNetworkStatus(' \n'), { networks: [] }, 'an absent annotation mounts as an empty file');
  t.match(parseNetworkStatus('{'), { problem: /^not JSON: / });
  t.strictSame(parseNetworkStatus('{}'), { problem: 'not a JSON list' });
  for (const wrong of ['[1, {"interface": 5}]', '[{}, {"default": "yes"}]', '[null, {"name": []}]']) {
    t.strictSame(parseNetworkStatus(wrong), {
      problem: 'entry 1 has a name, interface or default of the wrong type',
    });
  }
});

t.test('with Kube-OVN as a secondary CNI both sides are among the other networks', async (t) => {
  const pod: Facts = {
    ...facts,
    addresses: [on(2, '10.52.0.189', 32), on(3, '172.20.10.254', 24), on(4, '10.115.8.3', 21)],
    networks: [network('eth0', true), network('net1'), network('net2')],
  };
  const found = (internal: string, external: string, seen = pod) => {
    const { reasons: _, ...names } = findInterfaces(policy(internal, external), {}, seen);
    return names;
  };
  const sides = { internal: 'net1', external: 'net2' };
  t.strictSame(found('172.20.10.1', '10.115.8.1'), sides);
  t.strictSame(found('172.20.10.1', '192.0.2.1'), sides, 'a gateway off the link outside');
  t.strictSame(found('172.20.10.1', '192.0.2.1', { ...pod, networks: [] }), sides, 'without network-status');
  t.strictSame(found('10.115.8.1', '172.20.10.1'), { internal: 'net2', external: 'net1' });
});

t.test('network-status: gateways are read as far as they are addresses', async (t) => {
  const gateways = (gateway: unknown) => {
    const read = parseNetworkStatus(JSON.stringify([{ name: 'a', interface: 'eth0', gateway }]));
    return 'networks' in read ? read.networks[0]!.gateways : read.problem;
  };
  t.strictSame(gateways(['169.254.1.1', 'fe80::1', 'x', 7]), ['169.254.1.1', 'fe80::1']);
  t.strictSame(gateways(undefined), []);
  t.strictSame(gateways('169.254.1.1'), []);
});
