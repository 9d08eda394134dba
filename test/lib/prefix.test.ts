// Addresses and prefixes: one spelling each, and the quick ways agree with ip-address.
import { Address4, Address6 } from 'ip-address';
import t from 'tap';
import {
  address,
  addressBytes,
  addressFromBytes,
  around,
  contains,
  mappedIPv4,
  parseAddress,
  parsePrefix,
  prefix,
} from '../../lib/prefix.ts';

t.test('host bits are cleared, and a bare address is a host', async (t) => {
  for (const [text, expected] of [
    ['10.1.2.3/8', '10.0.0.0/8'],
    ['10.1.2.3/0', '0.0.0.0/0'],
    ['255.255.255.255/1', '128.0.0.0/1'],
    ['10.1.2.3', '10.1.2.3/32'],
    ['10.1.2.3/32', '10.1.2.3/32'],
    ['FD00:0:0::1', 'fd00::1/128'],
    ['fd00::1/128', 'fd00::1/128'],
    ['fd00:1:2:3::4/64', 'fd00:1:2:3::/64'],
    ['::ffff:10.0.0.1', '::ffff:a00:1/128'],
    ['::ffff:a00:1', '::ffff:a00:1/128'],
    ['::', '::/128'],
  ] as const) {
    t.equal(parsePrefix(text), expected, text);
  }
});

t.test('what is none', async (t) => {
  for (const text of [
    ...[
      '',
      '10.0.0',
      '10.0.0.256',
      '010.0.0.1',
      '10.0.0.1/33',
      '10.0.0.1/',
      '10.0.0.1/-1',
      '10.0.0.1 ',
      '1.2.3.4.5',
    ],
    ...[
      'fd00::1::2',
      'fd00::g',
      'fd00::1/129',
      'fe80::1%eth0',
      ':',
      ':::',
      '1:2:3:4:5:6:7',
      '1:2:3:4:5:6:7:8:9',
    ],
    ...['[fd00::1]', 'fd00::1]/x[', 'fd00::1@[::2', '10.0.0.1\n', 'fd00::/128/128'],
  ]) {
    t.equal(parsePrefix(text), undefined, JSON.stringify(text));
    t.equal(parseAddress(text), undefined, JSON.stringify(text));
  }
});

t.test('the quick ways agree with ip-address', async (t) => {
  let seed = 3;
  const next = (below: number): number => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return (seed >> 8) % below;
  };
  const of = <T>(values: readonly T[]): T => values[next(values.length)]!;
  for (let i = 0; i < 3000; i++) {
    const v4 = Array.from({ length: 4 }, () => next(256)).join('.');
    const groups = Array.from({ length: 8 }, () => of(['0', '0', '0000', '1', 'ffff', 'Ab', '0fe0']));
    const text =
      next(2) === 0 ? `${v4}/${next(33)}` : `${groups.join(':')}${of(['', '/128', `/${next(129)}`])}`;
    const parsed = text.includes(':') ? new Address6(text) : new Address4(text);
    const expected = `${parsed.startAddress().correctForm()}/${parsed.subnetMask}`;
    if (parsePrefix(text) !== expected) t.equal(parsePrefix(text), expected, text);
    const canonical = address(text.split('/')[0]!);
    if (addressFromBytes(addressBytes(canonical)) !== canonical) t.fail(`${canonical} from its octets`);
    const length = next(parsed.subnetMask + 1);
    const outer = around(prefix(text), length);
    if (outer !== prefix(`${text.split('/')[0]}/${length}`))
      t.fail(`${length} bits around ${text}: ${outer}`);
    if (!contains(outer, prefix(text))) t.fail(`${outer} contains ${text}`);
  }
});

t.test('addresses as octets, and back', async (t) => {
  for (const text of ['0.0.0.0', '10.16.0.12', '255.255.255.255', '::', '::1', 'fd00:10:16::12']) {
    const bytes = addressBytes(address(text));
    t.equal(bytes.length, text.includes(':') ? 16 : 4);
    t.equal(addressFromBytes(bytes), text);
  }
  t.same([...addressBytes(address('10.16.0.12'))], [10, 16, 0, 12]);
});

t.test('what is IPv4-mapped, and the IPv4 of it', async (t) => {
  for (const [text, expected] of [
    ['::ffff:172.17.0.50', '172.17.0.50/32'],
    ['::ffff:ffff:ffff', '255.255.255.255/32'],
    ['::ffff:10.17.0.0/112', '10.17.0.0/16'],
    ['::ffff:0:0/96', '0.0.0.0/0'],
    ['::ffff:0:0/95', undefined],
    ['::ffff:1', undefined],
    ['fd00::ffff:1:2', undefined],
    ['10.17.0.0/16', undefined],
  ] as const) {
    t.equal(mappedIPv4(prefix(text)), expected, text);
  }
  t.equal(mappedIPv4(address('::ffff:172.17.0.50')), '172.17.0.50');
});

t.test('one block in another', async (t) => {
  for (const [outer, inner, expected] of [
    ['10.0.0.0/8', '10.1.0.0/16', true],
    ['10.0.0.0/8', '11.0.0.0/16', false],
    ['10.1.0.0/16', '10.0.0.0/8', false],
    ['0.0.0.0/0', '10.0.0.0/8', true],
    ['0.0.0.0/0', 'fd00::/8', false],
    ['::/0', 'fd00::/8', true],
    ['fd00::/64', 'fd00::1', true],
    ['fd00::/64', 'fd00:0:0:1::1', false],
  ] as const) {
    t.equal(contains(prefix(outer), prefix(inner)), expected, `${inner} in ${outer}`);
  }
});
