// spec.fastPath: what it rules out, and what stays out of it.
import t from 'tap';
import { GATEWAY, policyOf, printed } from './support.ts';

const LOG = '  translationLog: { enabled: true }\n';
const withSpec = (text: string) => ({ 'a.yaml': `${GATEWAY}  fastPath: true\n${text}` });
const messages = (text: string): string[] =>
  printed(withSpec(text)).map((line) => line.replace(/^a\.yaml:\d+:\d+: /, ''));

t.test('it is in the policy when it is true', async (t) => {
  t.equal(policyOf(withSpec(LOG)).fastPath, true);
  t.equal(policyOf({ 'a.yaml': `${GATEWAY}  fastPath: false\n` }).fastPath, undefined);
});

t.test(
  'without a log, with a limit of all or of an EIP, and in a group it is refused with the reason',
  async (t) => {
    const line = (rest: string) => new RegExp(`^spec\\.fastPath: ${rest}`);
    t.match(messages(''), [line('needs spec\\.translationLog\\.enabled: true; ')]);
    t.match(messages('  translationLog: { enabled: false }\n'), [
      line('needs spec\\.translationLog\\.enabled'),
    ]);
    t.match(messages(`${LOG}  bandwidth: { egress: 1G }\n`), [
      line('cannot be used with spec\\.bandwidth, '),
    ]);
    const eip = '{ externalIP: 172.17.0.60, internalIP: 10.17.0.9, bandwidth: { egress: 10 } }';
    t.match(messages(`${LOG}  eips: [${eip}]\n`), [
      line('cannot be used with the bandwidth limit of an EIP \\(eip/172\\.17\\.0\\.60\\); '),
    ]);
    const group = `  group: { members: [10.16.0.12], keyFile: /key }
  policies: [{ name: web, ipBlocks: [10.17.0.0/16], egressIP: { address: [172.17.0.50], shared: true } }]\n`;
    t.match(messages(`${LOG}${group}`), [line('cannot be used with spec\\.group: ')]);
  },
);

t.test('connections of a policy with a limit stay out, with a warning', async (t) => {
  const policies = `  policies:
    - { name: web, ipBlocks: [10.17.0.0/16], bandwidth: { egress: 100M } }
    - { name: free, ipBlocks: [10.18.0.0/16] }\n`;
  t.same(policyOf(withSpec(`${LOG}${policies}`)).warnings, [
    { message: 'policy web has a bandwidth limit: its connections do not use the fast path' },
  ]);
});
