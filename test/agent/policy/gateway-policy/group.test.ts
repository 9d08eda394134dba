// spec.group and shared addresses: what they become, and every way to get them wrong.
import { readFileSync } from 'node:fs';
import t from 'tap';
import { GATEWAY, load, policyOf, printed } from '../support.ts';

const KEY = 'keyFile: /k';
/** A policy with this in spec.group and these policies. */
const policy = (group: string, policies = '[]', more = ''): string =>
  `${GATEWAY}  group: { ${group} }\n  policies: ${policies}\n${more}`;
const errors = (...args: Parameters<typeof policy>): string[] => printed({ 'a.yaml': policy(...args) });
const SHARED = '{ address: [172.17.0.50], shared: true }';

t.test('a group with its defaults', async (t) => {
  const text = policy(
    `members: [10.16.0.12, 10.16.0.13, "fd00:10:16:0::12"], ${KEY}`,
    '[{ egressIP: { address: [172.17.0.50, "fd00:172:17::50"], shared: true } }]',
  );
  const { group, rules, warnings } = policyOf({ 'a.yaml': text });
  t.strictSame(group, {
    members: ['10.16.0.12', '10.16.0.13', 'fd00:10:16::12'],
    port: 10667,
    credentials: { keyFile: '/k' },
    minTX: 100,
    minRX: 100,
    multiplier: 3,
  });
  t.strictSame(rules[0]!.egressIP, {
    addresses: ['172.17.0.50', 'fd00:172:17::50'],
    announce: true,
    shared: true,
  });
  t.strictSame(warnings, []);
});

t.test('certificates in place of a key', async (t) => {
  const url = new URL('../../../fixtures/policy/gateway-policy/group-certificates.yaml', import.meta.url);
  const { group } = policyOf({ 'a.yaml': readFileSync(url, 'utf8') });
  t.strictSame(group!.credentials, {
    certFile: '/etc/veg-agent/secret/tls.crt',
    certKeyFile: '/etc/veg-agent/secret/tls.key',
    caFile: '/etc/veg-agent/secret/ca.crt',
  });
});

t.test('a gateway without a group says nothing of it', async (t) => {
  const result = load({ 'a.yaml': `${GATEWAY}  policies: [{ egressIP: { address: [172.17.0.50] } }]\n` });
  t.ok(result.ok && !('group' in result.policy) && !('shared' in result.policy.rules[0]!.egressIP!));
});

t.test('members', async (t) => {
  t.match(errors(KEY), [/a.yaml:7:\d+: spec.group.members: this field is required/]);
  t.match(errors(`members: [], ${KEY}`), [/spec.group.members: must not be empty/]);
  t.match(errors(`members: [10.16.0.12, 10.16.0.12], ${KEY}`), [
    /spec.group.members\[1\]: 10.16.0.12 is members\[0\] already$/,
  ]);
  t.match(errors(`members: ["fd00::12", "fd00:0::12"], ${KEY}`), [
    /members\[1\]: fd00:0::12 is members\[0\]/,
  ]);
  t.match(errors(`members: [10.16.0.12, 10.16.0.13, 10.16.0.28], ${KEY}`), [
    /members\[2\]: 10.16.0.28 and 10.16.0.12 have the same last four bits/,
  ]);
  t.match(errors(`members: ["fd00::1", "fd00::11"], ${KEY}`), [/members\[1\]: fd00::11 and fd00::1 have/]);
  t.same(errors(`members: [10.16.0.12, "fd00:10:16::c"], ${KEY}`), [], 'families do not meet');
  t.match(errors(`members: [10.16.0.0/24], ${KEY}`), [/is a CIDR, not one address/]);
  for (const [member, what] of [
    ['"fe80::12"', 'link-local'],
    ['10.16.0.1', "the internal gateway's address"],
    ['172.17.0.1', "the external gateway's address"],
    ['172.17.0.50', 'an egress address'],
  ]) {
    const [error, ...more] = errors(`members: [10.16.0.12, ${member}], ${KEY}`, `[{ egressIP: ${SHARED} }]`);
    t.match(error, `members[1]: ${member!.replaceAll('"', '')} is ${what}; name members by their internal`);
    t.same(more, []);
  }
});

t.test('key and certificates', async (t) => {
  const members = 'members: [10.16.0.12]';
  t.match(errors(members), [/spec.group: needs keyFile, or certFile, certKeyFile and caFile$/]);
  t.match(errors(`${members}, certFile: /c`), [/spec.group: needs certKeyFile and caFile beside certFile$/]);
  t.match(errors(`${members}, ${KEY}, caFile: /c`), [
    /spec.group.caFile: keyFile and certificates exclude each other$/,
  ]);
  t.match(errors(`${members}, keyFile: k`), [/spec.group.keyFile: /], 'a relative path');
  t.match(errors(`${members}, ${KEY}, port: 10669`), [
    /spec.group.port: 10669 is the port of metrics and probes; choose another$/,
  ]);
  t.match(errors(`${members}, ${KEY}, port: 0`), [/spec.group.port: must be between 1 and 65535, is 0/]);
});

t.test('shared addresses', async (t) => {
  const group = `members: [10.16.0.12], ${KEY}`;
  t.match(printed({ 'a.yaml': `${GATEWAY}  policies: [{ egressIP: ${SHARED} }]\n` }), [
    /spec.policies\[0\].egressIP.shared: needs spec.group/,
  ]);
  t.match(errors(group, '[{ egressIP: { address: [172.17.0.50], shared: true, owner: node1 } }]'), [
    /egressIP.owner: has no meaning for a shared address/,
  ]);
  t.match(errors(group, `[{ ipBlocks: [10.17.0.0/24], portBlockSize: 64, egressIP: ${SHARED} }]`), [
    /policies\[0\].portBlockSize: has no meaning for a shared address/,
  ]);
  t.match(
    errors(
      group,
      `[{ egressIP: ${SHARED} }]`,
      '  eips: [{ externalIP: 172.17.0.50, internalIP: 10.17.0.9 }]\n',
    ),
    [/spec.eips\[0\].externalIP: 172.17.0.50 is a shared address of the group/],
  );
  const dnat = 'protocol: tcp, externalPort: 80, internalIP: 10.17.0.9, internalPort: 80';
  t.match(errors(group, `[{ egressIP: ${SHARED} }]`, `  dnats: [{ externalIP: 172.17.0.50, ${dnat} }]\n`), [
    /spec.dnats\[0\].externalIP: 172.17.0.50 is a shared address of the group/,
  ]);
  t.match(errors(group, `[{ egressIP: ${SHARED} }, { egressIP: { address: [172.17.0.50] } }]`), [
    /policies\[1\].egressIP.address\[0\]: 172.17.0.50 is shared in one policy and not in another/,
  ]);
  t.match(errors(group, '[{ egressIP: { address: ["fd00:172:17::50"], shared: true } }]'), [
    /address\[0\]: fd00:172:17::50: no member of spec.group has an IPv6 address/,
  ]);
  t.match(errors(group, '[{ egressIP: { address: [172.17.0.1], shared: true } }]'), [
    /172.17.0.1 is the external gateway's address/,
  ]);
  const many = Array.from({ length: 33 }, (_, i) => `172.17.1.${i}`);
  t.match(errors(group, `[{ egressIP: { address: [${many}], shared: true } }]`), [
    /spec.policies: 33 shared IPv4 addresses; at most 32 are allowed/,
  ]);
  t.match(errors(group, `[{ snat: false, egressIP: ${SHARED} }]`), [/has no effect with snat: false/]);
});
