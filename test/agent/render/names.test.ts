import { createHash } from 'node:crypto';
import t from 'tap';
import { fileKey, labelValue, objectName, serviceName } from '../../../agent/render/names.ts';

const hash = (text: string): string => createHash('sha256').update(text).digest('hex');
const long = 'a'.repeat(70);

for (const [what, name, fits, others] of [
  [
    'an object',
    objectName,
    ['gateway1', 'gw.v1', '1gw', long, 'a'.repeat(242)],
    {
      Egress_gw: undefined,
      'a..b': undefined,
      '-gw': undefined,
      'gw-.v1': undefined,
      'gw.': undefined,
      _: undefined,
      ['a'.repeat(243)]: undefined,
      [`${'a'.repeat(232)}.${'b'.repeat(20)}`]: undefined,
    },
  ],
  [
    'a Service',
    serviceName,
    ['gateway1', 'a'.repeat(63)],
    {
      'gw.v1': undefined,
      '1gw': undefined,
      [long]: undefined,
      '123': undefined,
      'egress-.1': undefined,
      _: undefined,
    },
  ],
  [
    'the value of a label',
    labelValue,
    ['gateway1', 'gw.v1', '1gw', 'Egress_gw', 'a'.repeat(63)],
    { [long]: undefined, '-gw': undefined, 'gw.': undefined, 'a b': undefined, ä: undefined },
  ],
] as const) {
  t.test(`${what}: what is fit stays, and of the rest what is fit is left with a hash`, async (t) => {
    for (const text of fits) t.equal(name(text, hash), text);
    const made = Object.keys(others).map((text) => name(text, hash));
    for (const text of made) {
      t.match(text, /^[A-Za-z0-9][-.A-Za-z0-9]*-[0-9a-f]{8}$/);
      t.equal(name(text, hash), text, `${text} is fit`);
    }
    t.equal(new Set(made).size, made.length, 'no two are the same');
  });
}

t.test('two names with the same beginning do not become one', async (t) => {
  t.not(serviceName(`${long}1`, hash), serviceName(`${long}2`, hash));
  t.not(serviceName('gw.v1', hash), serviceName('gw-v1', hash));
  t.match(serviceName('gw.v1', hash), /^gw-v1-[0-9a-f]{8}$/);
  t.match(serviceName('1gw', hash), /^veg-1gw-[0-9a-f]{8}$/);
});

t.test('a policy file is under a key that the policy directory reads', async (t) => {
  for (const name of ['veg.yaml', 'veg.yml', 'a_b-c.d.json'])
    t.equal(fileKey(`/some/where/${name}`, hash), name);
  t.equal(fileKey('-', hash), 'stdin.yaml');
  t.equal(fileKey('veg', hash), 'veg.yaml');
  t.match(fileKey('/a/my gateway.yaml', hash), /^my-gateway-[0-9a-f]{8}\.yaml$/);
  t.match(fileKey('.hidden.json', hash), /^hidden-[0-9a-f]{8}\.json$/);
  t.match(fileKey('.yaml', hash), /^veg-[0-9a-f]{8}\.yaml$/);
  t.equal(fileKey(`${'a'.repeat(300)}.yml`, hash).length, 253);
  t.not(fileKey('a b.yaml', hash), fileKey('a+b.yaml', hash));
});
