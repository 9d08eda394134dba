// The forms of text: what passes, what does not, and what is said.
import t from 'tap';
import { FORMATS, parsePorts, quantityOf } from '../../../agent/policy/formats.ts';

/** By format: texts that pass, and texts that do not with what is said of them. */
const CASES: Record<string, { good: string[]; bad: Record<string, string> }> = {
  prefix: {
    good: [
      '10.0.0.0/8',
      '10.0.0.1',
      '0.0.0.0/0',
      '::/0',
      '::/80',
      '::ffff:1',
      '64:ff9b::10.0.0.1',
      'fd00::',
      'fd00::1/128',
      '10.17.3.4/16',
    ],
    bad: {
      '10.0.0.0/33': '"10.0.0.0/33" is not an address or CIDR: the length of an IPv4 CIDR is 0 to 32',
      'fd00::/129': '"fd00::/129" is not an address or CIDR: the length of an IPv6 CIDR is 0 to 128',
      '10.0.0.1-10.0.0.9':
        '"10.0.0.1-10.0.0.9" is not an address or CIDR: ranges are not supported, write CIDRs',
      '172.17.0.0..172.17.0.10':
        '"172.17.0.0..172.17.0.10" is not an address or CIDR: ranges are not supported, write CIDRs',
      '10.0.0.0/255.0.0.0': '"10.0.0.0/255.0.0.0" is not an address or CIDR: write the netmask as a length',
      '10.0.0.1\n-A INPUT -j DROP': '"10.0.0.1\\n-A INPUT -j DROP" is not an address or CIDR',
      '10.0.0.1 ': '"10.0.0.1 " is not an address or CIDR',
      '10.0.0': '"10.0.0" is not an address or CIDR',
      '010.0.0.1': '"010.0.0.1" is not an address or CIDR',
      '10.0.0.256': '"10.0.0.256" is not an address or CIDR',
      '10.0.300.0/24': '"10.0.300.0/24" is not an address or CIDR',
      'fe80::1%eth0': '"fe80::1%eth0" is not an address or CIDR',
      'fd00::1::2': '"fd00::1::2" is not an address or CIDR',
      '::ffff:10.17.0.0/112':
        '"::ffff:10.17.0.0/112" is not an address or CIDR: it is IPv4-mapped and would match nothing, write 10.17.0.0/16',
      '0:0:0:0:0:FFFF::/96':
        '"0:0:0:0:0:FFFF::/96" is not an address or CIDR: it is IPv4-mapped and would match nothing, write 0.0.0.0/0',
      example: '"example" is not an address or CIDR',
      '': '"" is not an address or CIDR',
    },
  },
  cidr: {
    good: ['10.0.0.0/8', '::/0'],
    bad: {
      '1.1.1.1': '"1.1.1.1" is not a CIDR: write "1.1.1.1/32"',
      'fd00::1': '"fd00::1" is not a CIDR: write "fd00::1/128"',
      x: '"x" is not a CIDR',
    },
  },
  mac: {
    good: ['02:42:ac:11:00:01', 'AA:BB:CC:DD:EE:FF', '00:00:5e:00:01:0a'],
    bad: {
      '01:00:5e:00:00:01': '"01:00:5e:00:00:01" is not the Ethernet address of an interface',
      'ff:ff:ff:ff:ff:ff': '"ff:ff:ff:ff:ff:ff" is not the Ethernet address of an interface',
      '00:00:00:00:00:00': '"00:00:00:00:00:00" is not the Ethernet address of an interface',
      '02:42:ac:11:00': '"02:42:ac:11:00" is not an Ethernet address: write it like 02:42:ac:11:00:01',
      '02-42-ac-11-00-01': '"02-42-ac-11-00-01" is not an Ethernet address: write it like 02:42:ac:11:00:01',
      '172.17.0.1': '"172.17.0.1" is not an Ethernet address: write it like 02:42:ac:11:00:01',
      '': '"" is not an Ethernet address: write it like 02:42:ac:11:00:01',
    },
  },
  'host-address': {
    good: ['10.16.0.1', 'fd00::1', 'fe80::1', '169.254.255.254'],
    bad: {
      '0.0.0.0': '"0.0.0.0" is not the address of a host',
      '127.0.0.1': '"127.0.0.1" is not the address of a host',
      '224.0.0.1': '"224.0.0.1" is not the address of a host',
      '255.255.255.255': '"255.255.255.255" is not the address of a host',
      '::': '"::" is not the address of a host',
      '::1': '"::1" is not the address of a host',
      'ff02::1': '"ff02::1" is not the address of a host',
      '10.0.0.0/8': '"10.0.0.0/8" is a CIDR, not one address',
      '10.0.0.300': '"10.0.0.300" is not an address',
      '::ffff:172.17.0.50':
        '"::ffff:172.17.0.50" is not an address: it is IPv4-mapped and would match nothing, write 172.17.0.50',
    },
  },
  'address-pair': {
    good: ['10.0.0.1', 'fd00::1', '10.0.0.1,fd00::1', 'fd00::1, 10.0.0.1', ''],
    bad: {
      '10.0.0.1,10.0.0.2': '"10.0.0.1,10.0.0.2" is not an address, or one of each family with a comma',
      '10.0.0.1,': '"10.0.0.1," is not an address, or one of each family with a comma',
      x: '"x" is not an address, or one of each family with a comma',
    },
  },
  'host-address-pair': {
    good: ['10.0.0.1', 'fd00::1,10.0.0.1', ''],
    bad: {
      '0.0.0.0': '"0.0.0.0" is not the address of a host',
      '10.0.0.1,fd00::1,fd00::2':
        '"10.0.0.1,fd00::1,fd00::2" is not an address, or one of each family with a comma',
    },
  },
  'prefix-pair': {
    good: ['10.0.0.1', '10.0.0.0/8,fd00::/64', ''],
    bad: { x: '"x" is not an address or CIDR, or one of each family with a comma' },
  },
  'cidr-pair': {
    good: ['10.0.0.0/8', '10.0.0.0/8,fd00::/64', ''],
    bad: {
      '10.0.0.1': '"10.0.0.1" is not a CIDR, or one of each family with a comma',
      '10.0.0.0/8,11.0.0.0/8': '"10.0.0.0/8,11.0.0.0/8" is not a CIDR, or one of each family with a comma',
    },
  },
  'interface-name': {
    good: ['eth0', 'net1', 'bond0.100', '0123456789abcde'],
    bad: Object.fromEntries(
      ['', 'eth0+', '-x', 'a b', '../x', 'eth0\n', '0123456789abcdef'].map((name) => [
        name,
        `${JSON.stringify(name)} is not an interface name: at most 15 letters, digits, ".", "_" and "-"`,
      ]),
    ),
  },
  'resource-name': {
    good: ['gateway1', 'a.b-c', '1'],
    bad: {
      a_b: '"a_b" is not a Kubernetes name: lower case letters, digits, "-" and "."',
      '-a': '"-a" is not a Kubernetes name: lower case letters, digits, "-" and "."',
      '': '"" is not a Kubernetes name: lower case letters, digits, "-" and "."',
    },
  },
  namespace: {
    good: ['default', 'kube-system'],
    bad: { 'a.b': '"a.b" is not a namespace: at most 63 lower case letters, digits and "-"' },
  },
  'policy-name': {
    good: ['web', 'Web_1.x-y'],
    bad: {
      'a b':
        '"a b" is not a policy name: at most 63 letters, digits, ".", "_" and "-", a letter or digit first and last',
      '-a': '"-a" is not a policy name: at most 63 letters, digits, ".", "_" and "-", a letter or digit first and last',
      default: '"default" is what metrics call traffic that no policy names: choose another name',
    },
  },
  'absolute-path': {
    good: ['/etc/veg-agent/secret/bfd'],
    bad: {
      'secret/bfd': '"secret/bfd" is not an absolute path',
      '/a\nb': '"/a\\nb" is not an absolute path',
    },
  },
  duration: {
    good: ['200ms', '1.5s', '5m', '1h', '0s'],
    bad: Object.fromEntries(
      ['200', '1 s', '-1s', '1d', 's'].map((text) => [
        text,
        `${JSON.stringify(text)} is not a duration: write it like 200ms, 1.5s or 5m`,
      ]),
    ),
  },
  'go-duration': {
    good: ['90s', '1m30s', '1h0m0s', '0s', '1.5s'],
    bad: Object.fromEntries(
      ['90', '1m 30s', '-1s', '1d', ''].map((text) => [
        text,
        `${JSON.stringify(text)} is not a duration: write it like 90s or 1m30s`,
      ]),
    ),
  },
  quantity: {
    good: ['1', '0.5', '.5', '5.', '500m', '64Mi', '1e3', '1E3', '1E', '-1', '+2k'],
    bad: Object.fromEntries(
      ['64MB', '64 Mi', '1ki', 'x', '.', ''].map((text) => [
        text,
        `${JSON.stringify(text)} is not a Kubernetes quantity: write it like 500m, 64Mi or 2`,
      ]),
    ),
  },
  number: {
    good: ['0', '1', '0.5', '100.25'],
    bad: Object.fromEntries(
      ['', '-1', '1e3', '.5', '1M', '1234567890123456'].map((text) => [
        text,
        `${JSON.stringify(text)} is not a number`,
      ]),
    ),
  },
  'bit-rate': {
    good: ['0', '100', '1.5', '.5G', '500k', '64Ki', '100M', '1Gi', '1T'],
    bad: Object.fromEntries(
      ['', '-1', '1e3', '100K', '1P', '10Mbit', '1 M', 'M'].map((text) => [
        text,
        `${JSON.stringify(text)} is not a bandwidth: write Mbit/s as a number, or bits per second like 500k, 100M, 1.5G or 1Gi`,
      ]),
    ),
  },
  bandwidth: {
    good: ['0', '100', '100M', '1.5G', '.5Gi', '1Mi', '9223372036854', '9223372036854M'],
    bad: Object.fromEntries(
      ['1.5', '100K', '1T', '-1', '-1M', '9223372036855', '9223372036855M', '9300000000G', ''].map((text) => [
        text,
        `${JSON.stringify(text)} is not a bandwidth: write whole Mbit/s, or bits per second like 100M, 1.5G or 1Gi`,
      ]),
    ),
  },
  'name-prefix': {
    good: ['', 'veg-', 'veg.', 'a', 'a.b-c.'],
    bad: Object.fromEntries(
      ['-', '.', '-a', 'a--.', 'A', 'a_b', 'a..'].map((text) => [
        text,
        `${JSON.stringify(text)} cannot begin the name of a Deployment: lower case letters, digits, "-" and "."`,
      ]),
    ),
  },
  'label-key': {
    good: ['a', 'A.b_c-d', 'example.com/a', 'io.kubernetes.pod.namespace', 'a'.repeat(63)],
    bad: Object.fromEntries(
      ['', '/a', 'a/', 'a/b/c', 'Example.com/a', '-a', 'a-', 'a b', 'a'.repeat(64)].map((text) => [
        text,
        `${JSON.stringify(text)} is not the key of a label: NAME or DOMAIN/NAME, NAME of at most 63 letters, digits, ".", "_" and "-", a letter or digit first and last`,
      ]),
    ),
  },
  'label-value': {
    good: ['', 'a', 'A.b_c-d', '1', 'a'.repeat(63)],
    bad: Object.fromEntries(
      ['-a', 'a-', 'a b', 'a/b', 'a'.repeat(64)].map((text) => [
        text,
        `${JSON.stringify(text)} is not the value of a label: at most 63 letters, digits, ".", "_" and "-", a letter or digit first and last`,
      ]),
    ),
  },
  'port-range': {
    good: ['1', '65535', '8000-8010', '80-80'],
    bad: Object.fromEntries(
      ['0', '65536', '10-9', '1-65536', '80,81', 'http', ''].map((text) => [
        text,
        `${JSON.stringify(text)} is not a port from 1 to 65535, or a range like 8000-8010`,
      ]),
    ),
  },
  ipv4: {
    good: ['10.0.0.1'],
    bad: {
      'fd00::1': '"fd00::1" is not an IPv4 address',
      '10.0.0.0/8': '"10.0.0.0/8" is not an IPv4 address',
      '': '"" is not an IPv4 address',
    },
  },
  ipv6: { good: ['fd00::1'], bad: { '10.0.0.1': '"10.0.0.1" is not an IPv6 address' } },
  'ipv4-or-empty': { good: ['', '10.0.0.1'], bad: { 'fd00::1': '"fd00::1" is not an IPv4 address' } },
  'route-target': {
    good: ['65000:1016', '65000:4294967295', '4200000000:65535', '172.17.0.1:1016', '0:0'],
    bad: Object.fromEntries(
      [
        ...['65000', '*:1016', '65536:65536', '65000:4294967296', '4294967296:1', '172.17.0.1:65536'],
        ...['172.17.0:1', 'fd00::1:1'],
      ].map((text) => [
        text,
        `"${text}" is not a route target: write it like 65000:1016, an AS number or IPv4 address and a number`,
      ]),
    ),
  },
  'ipv4-host': {
    good: ['10.0.0.1'],
    bad: {
      '': '"" is not an IPv4 address',
      'fd00::1': '"fd00::1" is not an IPv4 address',
      '0.0.0.0': '"0.0.0.0" is not the address of a host',
    },
  },
  'ipv4-host-or-empty': {
    good: ['', '10.0.0.1'],
    bad: {
      'fd00::1': '"fd00::1" is not an IPv4 address',
      '127.0.0.1': '"127.0.0.1" is not the address of a host',
    },
  },
  'ipv6-host-or-empty': {
    good: ['', 'fd00::1'],
    bad: {
      '10.0.0.1': '"10.0.0.1" is not an IPv6 address',
      'ff02::1': '"ff02::1" is not the address of a host',
    },
  },
  'ipv6-or-empty': { good: ['', 'fd00::1'], bad: { '10.0.0.1': '"10.0.0.1" is not an IPv6 address' } },
  'non-empty': { good: ['x'], bad: { '': 'must not be empty' } },
  address: { good: ['0.0.0.0', '::1'], bad: { 'x/8': '"x/8" is not an address' } },
};

t.test('every format has its cases', async (t) => {
  t.same(Object.keys(CASES).sort(), Object.keys(FORMATS).sort());
});

for (const [name, { good, bad }] of Object.entries(CASES)) {
  t.test(name, async (t) => {
    const { test, explain } = FORMATS[name]!;
    for (const text of good) t.ok(test(text), JSON.stringify(text));
    for (const [text, message] of Object.entries(bad)) {
      t.notOk(test(text), JSON.stringify(text));
      t.equal(explain(text), message);
    }
  });
}

t.test('ports are a first and a last', async (t) => {
  t.same(parsePorts(8080), { first: 8080, last: 8080 });
  t.same(parsePorts('8000-8010'), { first: 8000, last: 8010 });
  t.equal(parsePorts(0), undefined);
});

t.test('quantities as numbers', async (t) => {
  const values = ['500m', '64Mi', '1e3', '1E3', '1E', '5.', '-2k', 3].map(quantityOf);
  t.same(values, [0.5, 64 << 20, 1000, 1000, 1e18, 5, -2000, 3]);
  t.ok(Number.isNaN(quantityOf('64MB')));
});
