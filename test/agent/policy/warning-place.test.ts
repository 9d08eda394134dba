// Where warnings are, for those who ask: the field that they are about, in the document that has it.
import { readFileSync } from 'node:fs';
import t from 'tap';
import { formatWarning } from '../../../agent/policy/error-text.ts';
import { GATEWAY, load } from './support.ts';

/** The warnings as `check` prints them. */
function printed(files: Record<string, string>): string[] {
  const result = load(files, { places: true });
  if (!result.ok) throw new Error(JSON.stringify(result.errors));
  return result.policy.warnings.map(formatWarning);
}

t.test('without being asked for they are not looked for', async (t) => {
  const result = load({ 'a.yaml': `${GATEWAY}  bfd: { peers: [10.255.255.255] }\n` });
  t.same(result.ok && result.policy.warnings, [
    { message: 'spec.bfd.peers has no effect without enabled: true' },
  ]);
});

t.test('a field of a GatewayPolicy, and one of its policies by its name or index', async (t) => {
  const text = `${GATEWAY}  bfd: { peers: [10.255.255.255] }
  policies:
    - { name: wide, ipBlocks: [172.16.0.0/12] }
    - { snat: false, ipBlocks: [172.17.1.0/24, 172.17.1.0/24] }
    - name: far
      bandwidth: { egress: 2G }
      egressIP: { address: [172.17.0.50, 172.17.0.50], announce: bgp }
  bandwidth: { egress: 1G }
`;
  t.same(printed({ 'a.yaml': text }), [
    'a.yaml:7:10: warning: spec.bfd.peers has no effect without enabled: true',
    'a.yaml:13:42: warning: spec.policies[2].egressIP.address[1] has no effect: 172.17.0.50 is item 0 already',
    'a.yaml:12:20: warning: policy far: bandwidth.egress is above that of the whole gateway, which limits it',
    'a.yaml:9:21: warning: policy wide: 172.16.0.0/12 holds the external gateway 172.17.0.1; packets to it go outside, list only blocks that are inside',
    'a.yaml:10:22: warning: conflict: 172.17.1.0/24 is forwarded by policy-1 and translated by wide; it is translated',
    'a.yaml:13:56: warning: policy far: announce: bgp has no effect without spec.bgp; nobody announces its addresses',
  ]);
});

t.test('what the gateway lacks is where it belongs, and files that are not read have no place', async (t) => {
  const text = `${GATEWAY.replace(', "fd00:172:17::1"', '')}  bgp:
    localASN: 65001
    neighbours: [{ address: 172.17.0.1, asn: 65000 }]
`;
  t.same(printed({ 'a.yaml': text }), [
    'a.yaml:6:15: warning: IPv6 is not programmed: the external side has no IPv6 gateway',
    'a.yaml:7:3: warning: spec.bgp announces nothing: the policy has none of what its announce names',
  ]);
});

t.test('documents of other systems, and items of a list', async (t) => {
  const manifest = (name: string) =>
    readFileSync(new URL(`../../fixtures/manifests/${name}.yaml`, import.meta.url), 'utf8');
  const beside = Object.fromEntries(
    ['gateway', 'pods'].map((name) => [`${name}.yaml`, manifest(`beside/${name}`)]),
  );
  t.match(printed({ 'egress.yaml': manifest('24'), ...beside }), [
    /^egress\.yaml:5:1: warning: no node holds the address of EgressGateway "eg1"/,
  ]);
  const item = `${GATEWAY}  bfd: { peers: [10.255.255.255] }\n`.trim().replaceAll('\n', '\n    ');
  t.same(printed({ 'a.yaml': `apiVersion: v1\nkind: List\nitems:\n  - ${item}\n` }), [
    'a.yaml:10:14: warning: spec.bfd.peers has no effect without enabled: true',
  ]);
});
