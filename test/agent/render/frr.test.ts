// FRR's configuration of a gateway: filters in both directions, one address family a session, no secret unless it is asked for.
import t from 'tap';
import type { BgpNeighbour, BgpPolicy } from '../../../agent/policy/model.ts';
import { renderFrr } from '../../../agent/render/frr.ts';
import type { Address } from '../../../lib/prefix.ts';

const neighbour = (address: string, more: Partial<BgpNeighbour> = {}): BgpNeighbour => ({
  ...{ address: address as Address, asn: 65000, holdTime: 9, keepaliveTime: 3, ebgpMultihop: 1 },
  ...{ bfd: false, gracefulRestart: false, ...more },
});
const bgp = (neighbours: BgpNeighbour[], more: Partial<BgpPolicy> = {}): BgpPolicy => ({
  ...{ localASN: 65001, neighbours, announce: ['egressIPs'], required: false, ...more },
});
const lines = (policy: BgpPolicy, acceptDefault = false): string[] =>
  renderFrr(
    { name: 'default/gateway1', bgp: policy },
    { acceptDefault, passwordOf: ({ password }) => (password === undefined ? undefined : '@FILE@') },
  ).split('\n');

t.test('a session of each family', async (t) => {
  t.equal(
    lines(bgp([neighbour('172.17.0.1'), neighbour('fd00:172:17::1')])).join('\n'),
    `! FRR of gateway default/gateway1, made by veg-agent render frr.
! What is announced is in the kernel: the agent changes it, not this file.
frr defaults traditional
log syslog informational
!
bgp as-path access-list VEG-OWN seq 5 permit ^$
ip prefix-list VEG-DEFAULT seq 5 permit 0.0.0.0/0
ip prefix-list VEG-NOT-DEFAULT seq 5 permit 0.0.0.0/0 ge 1
ipv6 prefix-list VEG-DEFAULT seq 5 permit ::/0
ipv6 prefix-list VEG-NOT-DEFAULT seq 5 permit ::/0 ge 1
route-map VEG-ANNOUNCED permit 10
 match metric 178
 set metric 0
exit
route-map VEG-OUT-4 permit 10
 match as-path VEG-OWN
 match ip address prefix-list VEG-NOT-DEFAULT
exit
route-map VEG-IN-4 deny 10
exit
route-map VEG-OUT-6 permit 10
 match as-path VEG-OWN
 match ipv6 address prefix-list VEG-NOT-DEFAULT
exit
route-map VEG-IN-6 deny 10
exit
!
router bgp 65001
 bgp log-neighbor-changes
 no bgp default ipv4-unicast
 neighbor 172.17.0.1 remote-as 65000
 neighbor 172.17.0.1 timers 3 9
 neighbor 172.17.0.1 timers connect 5
 neighbor fd00:172:17::1 remote-as 65000
 neighbor fd00:172:17::1 timers 3 9
 neighbor fd00:172:17::1 timers connect 5
 address-family ipv4 unicast
  redistribute kernel route-map VEG-ANNOUNCED
  neighbor 172.17.0.1 activate
  neighbor 172.17.0.1 next-hop-self
  neighbor 172.17.0.1 route-map VEG-IN-4 in
  neighbor 172.17.0.1 route-map VEG-OUT-4 out
 exit-address-family
 address-family ipv6 unicast
  redistribute kernel route-map VEG-ANNOUNCED
  neighbor fd00:172:17::1 activate
  neighbor fd00:172:17::1 next-hop-self
  neighbor fd00:172:17::1 route-map VEG-IN-6 in
  neighbor fd00:172:17::1 route-map VEG-OUT-6 out
 exit-address-family
exit
end
`,
  );
});

t.test('every option of a neighbour', async (t) => {
  const all = neighbour('172.17.0.1', {
    ...{ password: { file: '/s/bgp' }, holdTime: 90, keepaliveTime: 30, connectTime: 7, ebgpMultihop: 2 },
    ...{ bfd: true, gracefulRestart: true },
  });
  const text = lines(bgp([all], { localASN: 4_200_000_000, routerID: '192.0.2.1' as Address }));
  const start = text.indexOf('router bgp 4200000000');
  t.same(
    text.slice(
      start + 1,
      text.findIndex((line) => line.startsWith(' address-family')),
    ),
    [
      ' bgp router-id 192.0.2.1',
      ' bgp log-neighbor-changes',
      ' no bgp default ipv4-unicast',
      ' bgp graceful-restart restart-time 60',
      ' bgp graceful-restart preserve-fw-state',
      ' neighbor 172.17.0.1 remote-as 65000',
      ' neighbor 172.17.0.1 password @FILE@',
      ' neighbor 172.17.0.1 timers 30 90',
      ' neighbor 172.17.0.1 timers connect 7',
      ' neighbor 172.17.0.1 ebgp-multihop 2',
      ' neighbor 172.17.0.1 bfd',
      ' neighbor 172.17.0.1 graceful-restart',
    ],
  );
});

t.test('a family without a neighbour is not configured', async (t) => {
  t.notMatch(lines(bgp([neighbour('172.17.0.1')])).join('\n'), /address-family ipv6/);
  t.notMatch(lines(bgp([neighbour('fd00::1')])).join('\n'), /address-family ipv4/);
});

t.test('a neighbour that is not on the link is looked for behind the default route', async (t) => {
  const resolves = (one: BgpNeighbour) => lines(bgp([one])).includes('ip nht resolve-via-default');
  t.notOk(resolves(neighbour('172.17.0.1')));
  t.ok(resolves(neighbour('192.0.2.1', { ebgpMultihop: 2 })));
  t.ok(resolves(neighbour('192.0.2.1', { asn: 65001 })), 'iBGP');
  const internal = lines(bgp([neighbour('192.0.2.1', { asn: 65001, ebgpMultihop: 2 })]));
  t.notMatch(internal.join('\n'), /ebgp-multihop/, 'which FRR refuses for iBGP');
});

t.test('nothing comes in, or a default route', async (t) => {
  const policy = bgp([neighbour('172.17.0.1')]);
  t.ok(lines(policy).includes('route-map VEG-IN-4 deny 10'));
  const accepting = lines(policy, true);
  const at = accepting.indexOf('route-map VEG-IN-4 permit 10');
  t.equal(accepting[at + 1], ' match ip address prefix-list VEG-DEFAULT');
});

t.test('a policy without BGP cannot be rendered', async (t) => {
  t.throws(
    () => renderFrr({ name: 'a/b' }, { acceptDefault: false, passwordOf: () => undefined }),
    /a\/b has no spec.bgp/,
  );
});

t.test(
  'EVPN: a VRF with its VNI, sessions that carry nothing else, and marked routes of both families',
  async (t) => {
    const policy = bgp([neighbour('172.17.0.1'), neighbour('fd00:172:17::1', { bfd: true })]);
    const evpn = { vni: 1016, routeTargets: ['65000:1016', '65000:7'] };
    t.equal(
      renderFrr(
        { name: 'default/gateway1', bgp: policy, evpn },
        { acceptDefault: false, passwordOf: () => undefined },
      ),
      `! FRR of gateway default/gateway1, made by veg-agent render frr.
! What is announced is in the kernel: the agent changes it, not this file.
frr defaults traditional
log syslog informational
!
vrf vrf-vpn
 vni 1016
exit-vrf
!
bgp as-path access-list VEG-OWN seq 5 permit ^$
route-map VEG-ANNOUNCED permit 10
 match metric 178
 set metric 0
exit
route-map VEG-OUT-EVPN permit 10
 match as-path VEG-OWN
exit
route-map VEG-IN-EVPN permit 10
exit
!
router bgp 65001
 bgp log-neighbor-changes
 no bgp default ipv4-unicast
 neighbor 172.17.0.1 remote-as 65000
 neighbor 172.17.0.1 timers 3 9
 neighbor 172.17.0.1 timers connect 5
 neighbor fd00:172:17::1 remote-as 65000
 neighbor fd00:172:17::1 timers 3 9
 neighbor fd00:172:17::1 timers connect 5
 neighbor fd00:172:17::1 bfd
 address-family l2vpn evpn
  neighbor 172.17.0.1 activate
  neighbor 172.17.0.1 route-map VEG-IN-EVPN in
  neighbor 172.17.0.1 route-map VEG-OUT-EVPN out
  neighbor fd00:172:17::1 activate
  neighbor fd00:172:17::1 route-map VEG-IN-EVPN in
  neighbor fd00:172:17::1 route-map VEG-OUT-EVPN out
  advertise-all-vni
 exit-address-family
exit
router bgp 65001 vrf vrf-vpn
 no bgp default ipv4-unicast
 address-family ipv4 unicast
  redistribute kernel route-map VEG-ANNOUNCED
 exit-address-family
 address-family ipv6 unicast
  redistribute kernel route-map VEG-ANNOUNCED
 exit-address-family
 address-family l2vpn evpn
  advertise ipv4 unicast
  advertise ipv6 unicast
  route-target import 65000:1016
  route-target export 65000:1016
  route-target import 65000:7
  route-target export 65000:7
 exit-address-family
exit
end
`,
    );
  },
);
