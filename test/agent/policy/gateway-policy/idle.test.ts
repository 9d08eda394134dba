// Parts of a valid GatewayPolicy that have no effect are warnings.
import t from 'tap';
import { GATEWAY, policyOf } from '../support.ts';

const warnings = (lines: string): string[] =>
  policyOf({ 'a.yaml': `${GATEWAY}${lines}` }).warnings.map(({ message }) => message);

t.test('an item that its list holds already, however it is written', async (t) => {
  t.strictSame(warnings('  bfd: { enabled: true, peers: [10.255.255.255, "fd00::1", "FD00:0::1"] }\n'), [
    'spec.bfd.peers[2] has no effect: fd00::1 is item 1 already',
  ]);
  t.strictSame(
    warnings(
      '  policies: [{ name: a, ipBlocks: [10.1.0.0/16] }, { egressIP: { address: [172.17.0.50, 172.17.0.51, 172.17.0.50] } }]\n',
    ),
    ['spec.policies[1].egressIP.address[2] has no effect: 172.17.0.50 is item 0 already'],
  );
  const peers = Array.from({ length: 9 }, () => '10.255.255.255').join(', ');
  const many = warnings(`  bfd: { enabled: true, peers: [${peers}] }\n`);
  t.equal(many.length, 6);
  t.equal(many[5], 'spec.bfd.peers: 3 more items have no effect, they are there already');
  const neighbours = 'neighbours: [{ address: 172.17.0.1, asn: 2 }]';
  const bgp = `  bgp: { localASN: 1, announce: [forwarded, forwarded], ${neighbours} }\n`;
  const evpn = '  evpn: { vni: 1016, routeTargets: ["65000:1", "65000:2", "65000:1"] }\n';
  const forwarded = '  policies: [{ snat: false, ipBlocks: [10.17.0.0/16] }]\n';
  t.strictSame(warnings(bgp + evpn + forwarded), [
    'spec.bgp.announce[1] has no effect: forwarded is item 0 already',
    'spec.evpn.routeTargets[2] has no effect: 65000:1 is item 0 already',
  ]);
});

t.test('what is not enabled', async (t) => {
  const auth = 'auth: { type: keyed-sha1, keyID: 1, keyFile: /k }';
  const bfd = ['spec.bfd.peers has no effect without enabled: true'];
  t.strictSame(warnings('  bfd: { peers: [10.255.255.255] }\n'), bfd);
  t.strictSame(warnings(`  bfd: { enabled: false, peers: [10.255.255.255], ${auth} }\n`), [
    ...bfd,
    'spec.bfd.auth has no effect without enabled: true',
  ]);
  t.strictSame(warnings('  bfd: { enabled: false, minTX: 100 }\n'), []);
  const filters = 'filters: { include: [{ protocols: [tcp] }] }';
  t.strictSame(warnings(`  translationLog: { events: [end], rateLimit: { burst: 1 }, ${filters} }\n`), [
    'spec.translationLog.events has no effect without enabled: true',
    'spec.translationLog.rateLimit has no effect without enabled: true',
    'spec.translationLog.filters has no effect without enabled: true',
  ]);
  t.strictSame(warnings(`  translationLog: { enabled: true, ${filters} }\n`), []);
});

t.test('a gateway that is on both sides', async (t) => {
  const of = (internal: string, external: string) =>
    policyOf({
      'a.yaml': GATEWAY.replace(/internal.*/, `internal: { gateways: [${internal}] }`).replace(
        /external.*/,
        `external: { gateways: [${external}] }`,
      ),
    }).warnings.map(({ message }) => message);
  t.strictSame(of('10.16.0.1, "fd00::1"', '10.16.0.1, "FD00:0::1"'), [
    'spec.external.gateways: 10.16.0.1 is the internal gateway too, packets from the VPC do not leave it; give the next hop outside',
    'spec.external.gateways: fd00::1 is the internal gateway too, packets from the VPC do not leave it; give the next hop outside',
  ]);
  t.strictSame(of('"fe80::1"', '"fe80::1"'), [], 'of another link');
});

t.test('destinations of a family that the sources do not have', async (t) => {
  const of = (fields: string) => warnings(`  policies: [{ name: web, ${fields} }]\n`);
  t.strictSame(of('ipBlocks: [10.17.0.0/16], destinationCIDRs: [192.0.2.0/24, "2001:db8::/32"]'), [
    'policy web: 2001:db8::/32 of destinationCIDRs has no effect: its ipBlocks have no IPv6',
  ]);
  const six = Array.from({ length: 6 }, (_, i) => `192.0.2.${i}`).join(', ');
  t.strictSame(of(`ipBlocks: ["fd00:10:17::/64"], destinationCIDRs: [${six}]`), [
    'policy web: 192.0.2.0/32, 192.0.2.1/32, 192.0.2.2/32, 192.0.2.3/32, 192.0.2.4/32 and 1 more of destinationCIDRs have no effect: its ipBlocks have no IPv4',
  ]);
  t.strictSame(of('destinationCIDRs: [192.0.2.0/24, "2001:db8::/32"]'), [], 'any source');
  t.strictSame(of('ipBlocks: [10.17.0.0/16], destinationCIDRs: [192.0.2.0/24]'), []);
});

t.test('a policy whose every destination is excepted', async (t) => {
  const of = (fields: string) => warnings(`  policies: [{ name: web, ${fields} }]\n`);
  const idle = ['policy web has no effect: its excludedCIDRs cover all of its destinations'];
  t.strictSame(
    of('destinationCIDRs: [192.0.2.0/24, 198.51.100.1], excludedCIDRs: [192.0.0.0/8, 198.51.100.0/24]'),
    idle,
  );
  t.strictSame(of('ipBlocks: [10.17.0.0/16], excludedCIDRs: [0.0.0.0/0]'), idle, 'any destination');
  t.strictSame(of('excludedCIDRs: [0.0.0.0/0]'), [], 'IPv6 is left');
  t.strictSame(of('destinationCIDRs: [192.0.2.0/24, 198.51.100.1], excludedCIDRs: [192.0.0.0/8]'), []);
  t.strictSame(of('destinationCIDRs: [192.0.2.0/24], excludedCIDRs: [192.0.2.0/25]'), []);
});
