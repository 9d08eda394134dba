import t from 'tap';
import type { Facts } from '../../../agent/pod/interfaces.ts';
import { primaryInterface, primaryNetwork } from '../../../agent/pod/primary.ts';
import { address, type Prefix, prefix } from '../../../lib/prefix.ts';
import type { Route } from '../../../routing/state.ts';

const link = (index: number, name: string) => ({ index, name, up: true, carrier: true, mtu: 1500, mac: '' });
const on = (ifindex: number, text: string) => {
  const [host, length] = text.split('/') as [string, string];
  const family = host.includes(':') ? (6 as const) : (4 as const);
  return { family, ifindex, address: address(host), prefixLength: Number(length), scope: 0, flags: 0 };
};
const route = (destination: string, dev: string, gateway?: string, more: Partial<Route> = {}): Route => ({
  family: destination.includes(':') ? 6 : 4,
  table: 254,
  destination: prefix(destination),
  ...(gateway !== undefined && { gateway: address(gateway) }),
  dev,
  protocol: 3,
  scope: gateway === undefined ? 253 : 0,
  type: 1,
  metric: 0,
  foreign: false,
  ...more,
});
const network = (iface: string, isDefault: boolean, ...gateways: string[]) => {
  return { name: iface, interface: iface, default: isDefault, gateways: gateways.map(address) };
};

/** As Harvester has it: eth0 of Calico, net1 inside, net2 outside. */
const POD: Facts = {
  links: [link(1, 'lo'), link(2, 'eth0'), link(3, 'net1'), link(4, 'net2')],
  addresses: [
    on(2, '10.52.0.189/32'),
    on(2, 'fd00:52::bd/128'),
    on(3, '172.20.10.254/24'),
    on(4, '10.115.8.3/21'),
  ],
  connected: [
    { dev: 'net1', network: prefix('172.20.10.0/24') },
    { dev: 'net2', network: prefix('10.115.8.0/21') },
  ],
  routes: [
    route('0.0.0.0/0', 'net2', '10.115.8.1', { protocol: 178 }),
    route('0.0.0.0/0', 'eth0', '169.254.1.1', { onlink: true }),
    route('169.254.1.1/32', 'eth0'),
    route('fd00:52::bd/128', 'eth0', undefined, { protocol: 2, metric: 256, scope: 0 }),
    route('::/0', 'eth0', 'fe80::ecee:eeff:feee:eeee', { metric: 1024 }),
    route('fe80::/64', 'eth0', undefined, { protocol: 2, metric: 256, scope: 0 }),
  ],
  podIPs: [],
  services: [],
  networks: [network('eth0', true), network('net1', false), network('net2', false)],
  names: [],
  missing: [],
  notes: [],
};
const SIDES = { internal: 'net1', external: 'net2' };
const routesOf = (pod: Facts, family: 4 | 6 = 4) =>
  primaryNetwork(pod, 'eth0', family)?.routes.map(
    ({ destination, gateway }) => `${destination}${gateway === undefined ? '' : ` via ${gateway}`}`,
  );

t.test('the primary interface is the default network, the one with the pod’s address, or eth0', async (t) => {
  t.equal(primaryInterface(POD, SIDES), 'eth0');
  const unnamed = { ...POD, networks: [] };
  t.equal(primaryInterface(unnamed, SIDES), 'eth0', 'by its usual name');
  const named = { ...unnamed, links: [link(1, 'lo'), link(2, 'ens3'), link(3, 'net1'), link(4, 'net2')] };
  t.equal(primaryInterface(named, SIDES), undefined, 'unknown');
  t.equal(primaryInterface({ ...named, podIPs: [address('10.52.0.189')] }, SIDES), 'ens3', 'by POD_IPS');
});

t.test('where a side of the gateway is the primary interface there is none besides', async (t) => {
  t.equal(primaryInterface(POD, { internal: 'eth0', external: 'net1' }), undefined);
  t.equal(primaryInterface(POD, { internal: 'net1', external: 'eth0' }), undefined);
  const byAddress = { ...POD, networks: [], podIPs: [address('172.20.10.254')] };
  t.equal(primaryInterface(byAddress, SIDES), undefined, 'nor where Kubernetes knows the pod by a side');
});

t.test('its routes are the CNI’s, the link first, in both families', async (t) => {
  t.strictSame(routesOf(POD), ['169.254.1.1/32', '0.0.0.0/0 via 169.254.1.1']);
  t.strictSame(routesOf(POD, 6), ['::/0 via fe80::ecee:eeff:feee:eeee']);
  const cilium = [
    route('0.0.0.0/0', 'eth0', '10.0.0.7', { metric: 5 }),
    route('0.0.0.0/0', 'eth0', '10.0.0.8', { metric: 9 }),
    route('10.0.0.7/32', 'eth0'),
    route('10.0.0.0/8', 'eth0', '10.0.0.7', { qualifier: 'tos 0x10' }),
    route('10.9.0.0/16', 'eth0', undefined, { type: 7 }),
  ];
  t.strictSame(
    routesOf({ ...POD, routes: cilium }),
    ['10.0.0.7/32', '0.0.0.0/0 via 10.0.0.7'],
    'plain ones only',
  );
  t.equal(primaryNetwork({ ...POD, addresses: POD.addresses.slice(0, 1) }, 'eth0', 6), undefined);
});

t.test('a default route that Multus has removed is inferred', async (t) => {
  const calico = { ...POD, routes: [route('169.254.1.1/32', 'eth0')] };
  t.strictSame(routesOf(calico), ['169.254.1.1/32', '0.0.0.0/0 via 169.254.1.1']);
  const flannel = {
    ...POD,
    routes: [
      route('10.52.0.0/24', 'eth0', undefined, { protocol: 2 }),
      route('10.52.0.0/16', 'eth0', '10.52.0.1'),
    ],
  };
  t.strictSame(routesOf(flannel), ['10.52.0.0/24', '10.52.0.0/16 via 10.52.0.1', '0.0.0.0/0 via 10.52.0.1']);
  const named = { ...flannel, networks: [network('eth0', true, 'fe80::1', '10.52.0.254')] };
  t.equal(routesOf(named)!.at(-1), '0.0.0.0/0 via 10.52.0.254', 'network-status decides');
  t.strictSame(routesOf({ ...POD, routes: [] }), [], 'or is not known');
});

t.test(
  'the API server and the name servers are reached through it, unless another link has them',
  async (t) => {
    const services = ['10.53.0.1', '172.20.10.2', 'fd00:53::a'].map(address);
    t.strictSame(primaryNetwork({ ...POD, services }, 'eth0', 4)?.services, ['10.53.0.1']);
    t.strictSame(primaryNetwork({ ...POD, services }, 'eth0', 6)?.services, [
      'fd00:53::a',
    ] as unknown as Prefix[]);
  },
);
