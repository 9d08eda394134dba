/** What Kube-OVN's controller makes of a gateway pod: the words of its containers, as reference releases have them. */

/** Kube-OVN's variants: A up to 1.15.22 and 1.16.2, B from then on; and a gateway without BFD. */
export type Variant = 'A' | 'B' | 'none';

/** The init container's command line. */
export function initCommand(variant: Variant): string[] {
  const state = variant === 'B' ? ' && chmod 1777 /var/run/kube-ovn/bfdd-supervisor' : '';
  return ['bash', '-exc', `chmod +t /usr/local/sbin${state} && bash /kube-ovn/init-vpc-egress-gateway.sh`];
}

/** Its environment: the example of the documents, in IPv4. */
export const INIT_ENV = {
  INTERNAL_GATEWAY_IPV4: '10.16.0.1',
  EXTERNAL_GATEWAY_IPV4: '172.17.0.1',
  NO_SNAT_SOURCES_IPV4: '10.18.0.0/16',
};

/** The environment of the container with BFD. */
export const BFD_ENV = {
  POD_IPS: '10.16.0.12',
  BFD_PEER_IPS: '10.255.255.255',
  BFD_MIN_TX: '100',
  BFD_MIN_RX: '100',
  BFD_MULTI: '5',
};

/** The same in both families. */
export const DUAL = {
  init: {
    ...INIT_ENV,
    INTERNAL_GATEWAY_IPV6: 'fd00:10:16::1',
    EXTERNAL_GATEWAY_IPV6: 'fd00:172:17::1',
    NO_SNAT_SOURCES_IPV6: 'fd00:10:18::/64',
  },
  bfd: { ...BFD_ENV, POD_IPS: '10.16.0.12,fd00:10:16::12', BFD_PEER_IPS: '10.255.255.255,fd00:ffff::1' },
};

/** The container with BFD: its command line and its probes. */
export const BFD_COMMAND = {
  A: ['bash', '/kube-ovn/start-bfdd.sh'],
  B: ['/kube-ovn/kube-ovn-bfdd-supervisor', 'run'],
} as const;

/** What Multus says of the pod's networks. */
export const NETWORK_STATUS = JSON.stringify([
  { name: 'kube-ovn', interface: 'eth0', ips: ['10.16.0.12'], default: true },
  { name: 'default/macvlan1', interface: 'net1', ips: ['172.17.0.11'], default: false },
]);

export const PROBE = {
  prestart: ['bash', '/kube-ovn/bfdd-prestart.sh'],
  status: ['bfdd-control', 'status'],
  healthcheck: ['bash', '/kube-ovn/bfdd-healthcheck.sh'],
  live: ['/kube-ovn/kube-ovn-bfdd-supervisor', 'live'],
  ready: ['/kube-ovn/kube-ovn-bfdd-supervisor', 'ready'],
} as const;

/** `nat -S` of the example, which the controller's own tests and the documents show. */
export const NAT_LISTING = `-P PREROUTING ACCEPT
-P INPUT ACCEPT
-P OUTPUT ACCEPT
-P POSTROUTING ACCEPT
-N VEG-MASQUERADE
-A PREROUTING -i eth0 -j MARK --set-xmark 0x4000/0x4000
-A POSTROUTING -d 10.18.0.0/16 -j RETURN
-A POSTROUTING -s 10.18.0.0/16 -j RETURN
-A POSTROUTING -j VEG-MASQUERADE
-A VEG-MASQUERADE -j MARK --set-xmark 0x0/0xffffffff
-A VEG-MASQUERADE -j MASQUERADE --random-fully
`;

/** How Kube-OVN's test takes every session away: the peers are blocked first, so that they do not come back. */
export const TAKE_SESSIONS_AWAY = [
  'bash',
  '-c',
  'set -e; for peer in $(tr , " " <<<"$BFD_PEER_IPS"); do bfdd-control block "$peer"; done; bfdd-control session all kill',
];

/** Kube-OVN's test for a supervisor: what process 1 is called, and its socket. */
export const DETECT_SUPERVISOR = `tr '\\0' ' ' </proc/1/cmdline; printf '\\n'; if [ -S /var/run/kube-ovn/bfdd-supervisor/control.sock ]; then printf socket; else printf missing; fi`;

/** What that test says of its output. */
export function isSupervisor(output: string): boolean {
  const [first = '', second = ''] = output.trim().split('\n');
  const [file, command] = first.split(/\s+/);
  return second.trim() === 'socket' && file === BFD_COMMAND.B[0] && command === 'run';
}

/** Kube-OVN's test that `bfdd-control status` shows exactly the expected peers, each Up. */
export function allPeersUp(status: string, peers: string[]): boolean {
  const [head = '', ...lines] = status.trim().split('\n');
  const reported = Number(/^There are (\d+) sessions:/.exec(head)?.[1] ?? 0);
  const sessions = lines.flatMap((line) => {
    const remote = /\bremote=(\S+)/.exec(line)?.[1];
    return remote === undefined ? [] : [{ remote, state: /\bstate=(\S+)/.exec(line)?.[1] }];
  });
  return (
    reported > 0 &&
    sessions.length === reported &&
    sessions.every(({ state }) => state === 'Up') &&
    peers.every((peer) => sessions.some(({ remote }) => remote === peer))
  );
}
