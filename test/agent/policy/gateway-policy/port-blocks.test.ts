// `portBlockSize`: every source has a block, and nothing else its ports.
import t from 'tap';
import { GATEWAY, policyOf, printed } from '../support.ts';

const errorsOf = (lines: string, more = ''): string[] =>
  printed({ 'a.yaml': `${GATEWAY}${lines}`, ...(more && { 'b.yaml': more }) });
const EGRESS = 'egressIP: { address: [172.17.0.50] }';

t.test('sources as many as blocks are accepted, one more is not', async (t) => {
  const lines = (blocks: string) => `  policies: [{ ipBlocks: ${blocks}, ${EGRESS}, portBlockSize: 1008 }]\n`;
  t.same(errorsOf(lines('[10.17.0.0/26]')), []);
  t.same(errorsOf(lines('[10.17.0.0/26, 10.18.0.1]')), [
    'a.yaml:7:106: spec.policies[0].portBlockSize: IPv4 sources: ipBlocks hold 65, and one egress address has 64 ' +
      'blocks of 1008 of 64512 ports; 64 sources fit, such as a /26',
  ]);
  const { rules } = policyOf({ 'a.yaml': `${GATEWAY}${lines('[10.17.0.0/26]')}` });
  t.match(rules, [{ portBlockSize: 1008 }]);
});

t.test('IPv6 says how long a prefix has to be', async (t) => {
  const lines = (blocks: string) =>
    `  policies: [{ ipBlocks: [${blocks}], egressIP: { address: ["fd00:172:17::50", "fd00:172:17::51"] }, portBlockSize: 64 }]\n`;
  t.same(errorsOf(lines('"fd00:10:17::/118"')), []);
  t.same(errorsOf(lines('"fd00:10:17::/64"')), [
    'a.yaml:7:125: spec.policies[0].portBlockSize: IPv6 sources: ipBlocks hold 2^64, and 2 egress addresses have ' +
      '2016 blocks of 64 of 64512 ports; 2016 sources fit, such as a /118',
  ]);
});

t.test('a family without an egress address is not counted', async (t) => {
  const lines = `  policies: [{ ipBlocks: [10.17.0.0/24, "fd00:10:17::/64"], ${EGRESS}, portBlockSize: 64 }]\n`;
  t.same(errorsOf(lines), []);
});

t.test('what it needs', async (t) => {
  t.same(errorsOf('  policies: [{ portBlockSize: 64 }]\n'), [
    'a.yaml:7:16: spec.policies[0].portBlockSize: needs ipBlocks: each source gets ports of its own',
  ]);
  t.same(errorsOf('  policies: [{ ipBlocks: [10.17.0.0/24], portBlockSize: 64 }]\n'), [
    'a.yaml:7:42: spec.policies[0].portBlockSize: needs egressIP: it is the ports of its addresses that are divided',
  ]);
  t.same(errorsOf('  policies: [{ portBlockSize: 0 }]\n'), [], 'no blocks need nothing');
});

t.test('a source is in one place', async (t) => {
  const lines = `  policies: [{ ipBlocks: [10.17.0.9, 10.17.1.0/24, 10.17.0.0/24], ${EGRESS}, portBlockSize: 64 }]\n`;
  t.same(errorsOf(lines), [
    'a.yaml:7:52: spec.policies[0].ipBlocks[2]: 10.17.0.9/32 lies in 10.17.0.0/24: a source can have only one ' +
      'block of ports',
  ]);
});

t.test('an egress address with port blocks is used for nothing else', async (t) => {
  const web = `    - { name: web, ipBlocks: [10.17.0.0/24], egressIP: { address: [172.17.0.51, 172.17.0.50] }, portBlockSize: 64 }\n`;
  t.same(errorsOf(`  policies:\n${web}    - { name: other, ipBlocks: [10.18.0.0/24], ${EGRESS} }\n`), [
    'a.yaml:8:81: spec.policies[0].egressIP.address[1]: 172.17.0.50 is an egress address of policy "other" as well; ' +
      'an address with port blocks cannot be shared',
  ]);
  const eip = '  eips: [{ externalIP: 172.17.0.51, internalIP: 10.18.0.9 }]\n';
  t.match(errorsOf(`  policies:\n${web}${eip}`), [
    /^a.yaml:8:68: .*address\[0\]: 172.17.0.51 is the EIP of 10.18.0.9 as well;/,
  ]);
});
