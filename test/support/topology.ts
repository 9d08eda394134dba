/**
 * The small VPC of docs and tests, in namespaces:
 *
 *     client  10.17.0.9 ─┐
 *                        ├─ router ── eth0 10.16.0.12  gateway  172.17.0.11 net1 ── server 172.17.0.1
 *     client2 10.18.0.9 ─┘  bfd@ 10.255.255.255
 *
 * and the same in IPv6 (fd00:10:16::/64 …, bfd@ fd00:ffff::1) if the kernel has it. The router stands for OVN: it sends what
 * comes from the clients to the gateway by source, as Kube-OVN's reroute policies do, and holds the address
 * of the bfd@ port. The server knows the way back to 10.18.0.0/16 only: 10.17.0.0/16 must be translated.
 */
import { IPV6 } from './machine.ts';
import { type Namespace, type Scope, veth } from './netns.ts';

export interface Topology {
  /** 10.17.0.9: a translated source in the tests' policies. */
  client: Namespace;
  /** 10.18.0.9: a forwarded source. */
  client2: Namespace;
  router: Namespace;
  gateway: Namespace;
  server: Namespace;
}

export interface TopologyOptions {
  /** Routes in the gateway that Kube-OVN's CNI makes from the pod's annotations (default: only `default`). */
  cniRoutes?: boolean;
  /** IPv6 on the external network (default true). */
  externalV6?: boolean;
  /** How the namespaces' names begin, for several in one scope (default: with their own). */
  place?: string;
}

/** The addresses of the topology. */
export const ADDRESS = {
  client: { 4: '10.17.0.9', 6: 'fd00:10:17::9' },
  client2: { 4: '10.18.0.9', 6: 'fd00:10:18::9' },
  gatewayInternal: { 4: '10.16.0.12', 6: 'fd00:10:16::12' },
  gatewayExternal: { 4: '172.17.0.11', 6: 'fd00:172:17::11' },
  router: { 4: '10.16.0.1', 6: 'fd00:10:16::1' },
  server: { 4: '172.17.0.1', 6: 'fd00:172:17::1' },
  bfdPort: { 4: '10.255.255.255', 6: 'fd00:ffff::1' },
} as const;

/** The addresses of the gateway's eth0, as the CNI gives them; again after a link came back. */
export const INTERNAL_ADDRESSES = `
  addr replace 10.16.0.12/16 brd 10.16.255.255 dev eth0
  addr replace fd00:10:16::12/64 dev eth0 nodad`;

/** The gateway's addresses and routes on net1, as the CNI gives them. */
export const EXTERNAL_ADDRESSES = `
  addr replace 172.17.0.11/16 brd 172.17.255.255 dev net1
  route replace default via 172.17.0.1 dev net1`;
export const EXTERNAL_ADDRESSES_6 = `
  addr replace fd00:172:17::11/64 dev net1 nodad
  route replace default via fd00:172:17::1 dev net1`;

/** Routes of the pod's annotations. */
export const CNI_ROUTES = `
  route replace 10.17.0.0/16 via 10.16.0.1 dev eth0
  route replace 10.18.0.0/16 via 10.16.0.1 dev eth0
  route replace fd00:10:17::/64 via fd00:10:16::1 dev eth0
  route replace fd00:10:18::/64 via fd00:10:16::1 dev eth0`;

/** As `ip -batch` takes them; without IPv6 in the kernel without the lines about it. */
function add(ns: Namespace, lines: string): void {
  ns.ip(
    lines
      .split('\n')
      .filter((line) => IPV6 || !line.includes('fd00:'))
      .join('\n'),
  );
}

/** Makes the namespaces of the VPC. */
export function topology(
  scope: Scope,
  { cniRoutes = false, externalV6 = true, place = '' }: TopologyOptions = {},
): Topology {
  const [client, client2, router, gateway, server] = ['client', 'client2', 'router', 'gateway', 'server'].map(
    (name) => scope.namespace(place + name),
  ) as [Namespace, Namespace, Namespace, Namespace, Namespace];

  veth(router, 'client', client, 'eth0', 1400);
  veth(router, 'client2', client2, 'eth0', 1400);
  veth(router, 'gateway', gateway, 'eth0', 1400);
  veth(server, 'eth0', gateway, 'net1');

  add(
    client,
    `
    addr add 10.17.0.9/16 dev eth0
    addr add fd00:10:17::9/64 dev eth0 nodad
    route add default via 10.17.0.1
    route add default via fd00:10:17::1`,
  );
  add(
    client2,
    `
    addr add 10.18.0.9/16 dev eth0
    addr add fd00:10:18::9/64 dev eth0 nodad
    route add default via 10.18.0.1
    route add default via fd00:10:18::1`,
  );

  router.sysctl({ 'net.ipv4.ip_forward': 1, ...(IPV6 && { 'net.ipv6.conf.all.forwarding': 1 }) });
  add(
    router,
    `
    addr add 10.16.0.1/16 dev gateway
    addr add fd00:10:16::1/64 dev gateway nodad
    addr add 10.17.0.1/16 dev client
    addr add fd00:10:17::1/64 dev client nodad
    addr add 10.18.0.1/16 dev client2
    addr add fd00:10:18::1/64 dev client2 nodad
    addr add 10.255.255.255/32 dev lo
    addr add fd00:ffff::1/128 dev lo nodad`,
  );
  router.ip(
    `
    rule add priority 100 to 10.0.0.0/8 lookup main
    rule add priority 200 from 10.17.0.0/16 lookup 100
    rule add priority 200 from 10.18.0.0/16 lookup 100
    route add default via 10.16.0.12 table 100`,
    4,
  );
  if (IPV6)
    router.ip(
      `
    rule add priority 100 to fd00:10::/32 lookup main
    rule add priority 200 from fd00:10:17::/64 lookup 100
    rule add priority 200 from fd00:10:18::/64 lookup 100
    route add default via fd00:10:16::12 table 100`,
      6,
    );

  // The kernel's defaults of a new pod, whatever this machine's are: the agent has to set them.
  gateway.sysctl({
    'net.ipv4.ip_forward': 0,
    'net.ipv4.conf.eth0.rp_filter': 1,
    ...(IPV6 && { 'net.ipv6.conf.all.forwarding': 0 }),
  });
  add(gateway, INTERNAL_ADDRESSES);
  gateway.ip(EXTERNAL_ADDRESSES);
  if (externalV6) add(gateway, EXTERNAL_ADDRESSES_6);
  if (cniRoutes) add(gateway, CNI_ROUTES);

  add(
    server,
    `
    addr add 172.17.0.1/16 dev eth0
    route add 10.18.0.0/16 via 172.17.0.11
    ${externalV6 ? 'addr add fd00:172:17::1/64 dev eth0 nodad' : ''}
    ${externalV6 ? 'route add fd00:10:18::/64 via fd00:172:17::11' : ''}`,
  );
  return { client, client2, router, gateway, server };
}
