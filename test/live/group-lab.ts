/**
 * Two gateways between a client and a server, for the live tests of groups:
 *
 *     client ─ bridge ─ gateway1, gateway2 ─ bridge ─ server
 *
 * The client uses one of the gateways, as OVN would have it.
 */
import { type Namespace, type Scope, veth } from '../support/netns.ts';

export const FAMILIES = {
  4: {
    clientAddress: '10.17.0.9/24',
    inside: ['10.17.0.11', '10.17.0.12'],
    outside: ['172.17.0.11/24', '172.17.0.12/24'],
    serverAddress: '172.17.0.1/24',
    server: '172.17.0.1',
    shared: '172.17.0.50',
    iptables: 'iptables',
    any: '0.0.0.0/0',
  },
  6: {
    clientAddress: 'fd00:17::9/64',
    inside: ['fd00:17::11', 'fd00:17::12'],
    outside: ['fd00:172::11/64', 'fd00:172::12/64'],
    serverAddress: 'fd00:172::1/64',
    server: 'fd00:172::1',
    shared: 'fd00:172::50',
    iptables: 'ip6tables',
    any: '::/0',
  },
} as const;

/**
 * The kernel gives an association 3 s for each step of its beginning, too little where each is a process that a busy machine
 * starts. For gateways that have conntrack already.
 */
export function waitForSctp(gateways: readonly Namespace[]): void {
  const [wait, echoed] = ['wait', 'echoed'].map(
    (step) => `net.netfilter.nf_conntrack_sctp_timeout_cookie_${step}`,
  );
  for (const gateway of gateways) gateway.sysctl({ [wait!]: 60, [echoed!]: 60 });
}

/** Makes the network in one family; both gateways forward, and translate nothing. */
export function network(scope: Scope, family: 4 | 6) {
  const net = FAMILIES[family];
  const client = scope.namespace('client');
  const server = scope.namespace('server');
  const gateways = [scope.namespace('gateway1'), scope.namespace('gateway2')] as const;
  const inside = scope.namespace('inside');
  const outside = scope.namespace('outside');
  for (const [ns, name] of [
    [inside, 'br0'],
    [outside, 'br0'],
  ] as const) {
    ns.ip(`link add ${name} type bridge\nlink set ${name} up`);
  }
  const plug = (ns: Namespace, device: string, bridge: Namespace, port: string, address: string) => {
    veth(ns, device, bridge, port);
    bridge.ip(`link set ${port} master br0`);
    ns.ip(`addr add ${address} dev ${device}${family === 6 ? ' nodad' : ''}`);
  };
  const length = family === 4 ? 24 : 64;
  plug(client, 'eth0', inside, 'client', net.clientAddress);
  plug(server, 'eth0', outside, 'server', net.serverAddress);
  gateways.forEach((gateway, i) => {
    plug(gateway, 'eth0', inside, `gw${i}`, `${net.inside[i]}/${length}`);
    plug(gateway, 'net1', outside, `gw${i}`, net.outside[i]!);
    gateway.sysctl({ 'net.ipv4.ip_forward': 1, 'net.ipv6.conf.all.forwarding': 1 });
  });
  const macOf = (gateway: Namespace) => JSON.parse(gateway.sh('ip -j link show net1'))[0].address as string;
  /** OVN and the holder's announcement: everything goes through a gateway. */
  const use = (i: 0 | 1) => {
    client.ip(`route replace ${net.any} via ${net.inside[i]} dev eth0`);
    server.ip(`neigh replace ${net.shared} lladdr ${macOf(gateways[i])} dev eth0 nud permanent`);
  };
  use(0);
  return { client, server, gateways, use };
}
