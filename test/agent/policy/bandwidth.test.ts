// Bandwidth in a GatewayPolicy: units, and what is refused or warned of.
import t from 'tap';
import { bitsOf } from '../../../agent/policy/bandwidth.ts';
import { GATEWAY, policyOf, printed } from './support.ts';

const withSpec = (text: string) => ({ 'a.yaml': `${GATEWAY}${text}` });
const policy = (bandwidth: string) =>
  withSpec(`  policies:\n    - { name: web, ipBlocks: [10.17.0.0/16], bandwidth: ${bandwidth} }\n`);
const messages = (files: Record<string, string>): string[] =>
  printed(files).map((line) => line.replace(/^a\.yaml:\d+:\d+: /, ''));

t.test('a number is Mbit/s, a unit one of bit/s', async (t) => {
  for (const [value, bits] of [
    [100, 100e6],
    [0.5, 500e3],
    ['100', 100e6],
    ['1.5', 1.5e6],
    ['500k', 500e3],
    ['100M', 100e6],
    ['1.5G', 1.5e9],
    ['1Gi', 2 ** 30],
    ['64Ki', 65_536],
    ['1T', 1e12],
  ] as const) {
    t.equal(bitsOf(value), bits, `${value}`);
  }
});

t.test('limits of a policy, an EIP and the gateway', async (t) => {
  const { rules, addressLimits, bandwidth, warnings } = policyOf(
    withSpec(`  policies:
    - { name: web, ipBlocks: [10.17.0.0/16], bandwidth: { egress: 100M, ingress: 1Gi, burst: 1M, perSource: false } }
    - { name: guests, ipBlocks: [10.18.0.0/16], bandwidth: { egress: 10, perSource: true } }
  eips:
    - { externalIP: 172.17.0.60, internalIP: 10.17.0.9, bandwidth: { ingress: 20 } }
    - { externalIP: 172.17.0.61, internalIP: 10.17.0.10 }
  bandwidth: { egress: 1G, ingress: 2G }
`),
  );
  t.same(
    rules.map((rule) => rule.bandwidth),
    [
      { egress: 100e6, ingress: 2 ** 30, burst: 1e6 },
      { egress: 10e6, perSource: true },
    ],
  );
  t.same(addressLimits, [
    { name: 'eip/172.17.0.60', addresses: ['172.17.0.60'], bandwidth: { ingress: 20e6 } },
  ]);
  t.same(bandwidth, { egress: 1e9, ingress: 2e9 });
  t.same(warnings, []);
});

t.test('rates that limit nothing or let nothing pass are refused', async (t) => {
  const range = /^spec\.policies\[0\]\.bandwidth\.egress: must be between 64k and 1T bit\/s, is /;
  for (const value of ['-1', '0.01', '1k', '2T', '10000000', '-0.5', '63.9k']) {
    const [message = '', ...more] = messages(policy(`{ egress: ${value} }`));
    t.match(message, value === '-1' || !value.startsWith('-') ? range : /bandwidth\.egress/, value);
    t.same(more, []);
  }
  for (const value of ['0', '"0"', '0M', '0.0']) {
    t.match(messages(policy(`{ egress: ${value} }`)), [
      /must be more than 0; leave the field out for no limit/,
    ]);
  }
  for (const value of ['fast', '"10 M"', '10Mbit', '"1e3"', '""', '-1M']) {
    t.match(messages(policy(`{ ingress: ${value} }`)), [
      /bandwidth\.ingress: ".*" is not a bandwidth: write Mbit/,
    ]);
  }
  t.match(messages(policy('{ egress: [1] }')), [/must be a number or a string/]);
});

t.test('a burst holds a packet, and is no rate of its own', async (t) => {
  t.match(messages(policy('{ egress: 10, burst: 11k }')), [/burst: must be at least 12k/]);
  t.match(messages(policy('{ egress: 10, burst: 0 }')), [/burst: must be at least 12k/]);
  t.match(messages(policy('{ egress: 10, ingress: 1, burst: 11 }')), [
    /burst: must be at most what passes in 10 s, 10000000 bits, is 11000000/,
  ]);
  t.same(messages(policy('{ egress: 10, burst: 12k }')), []);
});

t.test('what names no direction, or one address by source, is refused', async (t) => {
  t.same(messages(policy('{ burst: 1M }')), ['spec.policies[0].bandwidth: needs egress, ingress or both']);
  t.same(messages(withSpec('  bandwidth: {}\n')), ['spec.bandwidth: needs egress, ingress or both']);
  t.match(
    messages(
      withSpec(
        '  eips: [{ externalIP: 172.17.0.60, internalIP: 10.17.0.9, bandwidth: { egress: 1, perSource: true } }]\n',
      ),
    ),
    [/eips\[0\]\.bandwidth\.perSource: has no effect: an EIP is one address/],
  );
  t.match(messages(policy('{ egres: 1 }')), [/unknown field "egres"; did you mean "egress"/]);
});

t.test('a limit above that of the whole gateway is warned of', async (t) => {
  const files = withSpec(`  policies:
    - { name: web, ipBlocks: [10.17.0.0/16], bandwidth: { egress: 2G, ingress: 1G } }
  bandwidth: { egress: 1G, ingress: 1G }
`);
  t.same(policyOf(files).warnings, [
    { message: 'policy web: bandwidth.egress is above that of the whole gateway, which limits it' },
  ]);
});

t.test('there are numbers for eight limits by source', async (t) => {
  const policies = (count: number) =>
    withSpec(
      `  policies:\n${Array.from({ length: count }, (_, i) => `    - { ipBlocks: [10.17.${i}.0/24], bandwidth: { egress: 1, perSource: true } }\n`).join('')}`,
    );
  t.same(messages(policies(8)), []);
  t.match(messages(policies(9)), [/^spec: more than 8 bandwidth limits with perSource/]);
});
