// GatewayPolicy: every field, its default, and every way in which it can be wrong.
import { readFileSync } from 'node:fs';
import t from 'tap';
import { GATEWAY, policyOf, printed, translated } from '../support.ts';

/** The errors of the good policy with lines (from line 7 on) appended to its spec. */
const errorsWith = (lines: string) => printed({ 'a.yaml': `${GATEWAY}${lines}` });
const policyWith = (lines: string) => policyOf({ 'a.yaml': `${GATEWAY}${lines}` });

t.test('the defaults', async (t) => {
  t.strictSame(policyOf({ 'a.yaml': GATEWAY }), {
    name: 'default/gateway1',
    origin: { file: 'a.yaml', kind: 'GatewayPolicy', name: 'default/gateway1' },
    internal: { gateways: ['10.16.0.1', 'fd00:10:16::1'] },
    external: { gateways: ['172.17.0.1', 'fd00:172:17::1'] },
    bfd: {
      enabled: false,
      peers: [],
      minTX: 1000,
      minRX: 1000,
      multiplier: 3,
      mode: 'passive',
      minTTL: 254,
      adoptDiscriminator: true,
      anySource: false,
    },
    rules: [],
    warnings: [],
  });
});

t.test('every field', async (t) => {
  const text = readFileSync(
    new URL('../../../fixtures/policy/gateway-policy/gateway1.yaml', import.meta.url),
    'utf8',
  );
  t.strictSame(policyOf({ 'gateway1.yaml': text }), {
    name: 'default/gateway1',
    origin: { file: 'gateway1.yaml', kind: 'GatewayPolicy', name: 'default/gateway1' },
    internal: { interface: 'eth0', gateways: ['10.16.0.1', 'fd00:10:16::1'] },
    external: { interface: 'net1', gateways: ['172.17.0.1', 'fd00:172:17::1'] },
    bfd: {
      enabled: true,
      peers: ['10.255.255.255', 'fdff::1'],
      minTX: 100,
      minRX: 100,
      multiplier: 5,
      mode: 'passive',
      minTTL: 254,
      adoptDiscriminator: true,
      anySource: false,
      auth: { type: 'keyed-sha1', keyID: 1, keyFile: '/etc/veg-agent/secret/bfd' },
    },
    rules: [
      { name: 'partner', snat: false, ipBlocks: ['10.18.0.0/16', 'fd00:10:18::/64'] },
      { name: 'web', snat: true, ipBlocks: ['10.17.0.0/16', 'fd00:10:17::/64'] },
    ],
    defaultAction: 'masquerade',
    warnings: [],
  });
});

t.test('every field that there will be', async (t) => {
  const text = readFileSync(
    new URL('../../../fixtures/policy/gateway-policy/every-field.yaml', import.meta.url),
    'utf8',
  );
  const { policy, errors } = translated(text);
  t.same(errors, []);
  t.match(policy, {
    external: { gatewayMacs: ['02:42:ac:11:00:01'] },
    rules: [
      {
        name: 'web',
        snat: true,
        ipBlocks: ['10.17.0.0/24'],
        destinationCIDRs: ['0.0.0.0/0'],
        excludedCIDRs: ['10.0.0.0/8'],
        priority: 100,
        egressIP: { addresses: ['172.17.0.50', 'fd00:172:17::50'], announce: true, owner: 'node1' },
        portBlockSize: 64,
      },
    ],
    defaultAction: 'drop',
    eips: [{ externalIP: '172.17.0.60', internalIP: '10.17.0.9', owner: 'node1' }],
    dnats: [
      {
        externalIP: '172.17.0.11',
        owner: 'gateway1-0',
        protocol: 'tcp',
        externalPorts: { first: 8080, last: 8080 },
        internalIP: '10.17.0.9',
        internalPorts: { first: 80, last: 80 },
        preserveClientIP: false,
      },
      {
        externalIP: '172.17.0.11',
        protocol: 'udp',
        externalPorts: { first: 8000, last: 8010 },
        internalIP: '10.17.0.9',
        internalPorts: { first: 9000, last: 9010 },
        preserveClientIP: true,
      },
    ],
    inbound: 'any',
    limits: { connectionsPerSource: 10000 },
    mssClamp: true,
    uplink: { probe: 'icmp', interval: 500, failures: 5, targets: ['192.0.2.1'], recovery: 5000 },
    translationLog: {
      events: ['start'],
      rateLimit: { recordsPerSecond: 50, burst: 500 },
      filters: {
        include: [{ addressFamilies: ['ipv4'], protocols: ['tcp'], natTypes: ['snat'] }],
        exclude: [
          {
            original: {
              sourceCIDRs: ['10.17.0.0/16'],
              destinationCIDRs: ['192.0.2.0/24'],
              sourcePorts: [{ first: 1, last: 1023 }],
              destinationPorts: [{ first: 53, last: 53 }],
            },
            translated: { sourceCIDRs: ['172.17.0.50/32'] },
          },
        ],
      },
    },
  });
});

t.test('the defaults of what there will be', async (t) => {
  const { policy, errors } = translated(`${GATEWAY}  policies: [{ egressIP: { address: [172.17.0.50] } }]
  uplink: {}
  translationLog: { enabled: true }
`);
  t.same(errors, []);
  t.strictSame(policy.rules[0]!.egressIP, { addresses: ['172.17.0.50'], announce: true });
  t.strictSame(policy.uplink, { probe: 'arp', interval: 200, failures: 3, targets: [], recovery: 1000 });
  t.strictSame(policy.translationLog, {
    events: ['start', 'end'],
    rateLimit: { recordsPerSecond: 100, burst: 1000 },
    filters: { include: [], exclude: [] },
  });
});

t.test('a rule that forwards any source spells it out, for the families that are programmed', async (t) => {
  const any = '  policies: [{ snat: false }]\n';
  t.same(policyWith(any).rules[0]!.ipBlocks, ['0.0.0.0/0', '::/0']);
  const v4 = GATEWAY.replace(', "fd00:172:17::1"', '');
  t.same(policyOf({ 'a.yaml': `${v4}${any}` }).rules[0]!.ipBlocks, ['0.0.0.0/0']);
  t.same(policyWith('  policies: [{ snat: true }]\n').rules[0]!.ipBlocks, []);
});

t.test('the namespace is part of the name', async (t) => {
  const text = GATEWAY.replace('{ name: gateway1 }', '{ name: g, namespace: team-a }');
  t.equal(policyOf({ 'a.yaml': text }).name, 'team-a/g');
});

t.test('blocks are canonical, each once, in their order', async (t) => {
  const { rules } = policyWith(`  policies:
    - ipBlocks: [10.17.3.4/16, 10.18.0.1, 10.17.0.0/16, "FD00:0:0::1/64", "fd00::/64"]
`);
  t.strictSame(rules, [
    { name: 'policy-0', snat: true, ipBlocks: ['10.17.0.0/16', '10.18.0.1/32', 'fd00::/64'] },
  ]);
});

t.test('a duplicate peer is one; a disabled BFD has none', async (t) => {
  const bfd = '  bfd: { enabled: true, peers: [10.255.255.255, 10.255.255.255] }\n';
  t.same(policyWith(bfd).bfd.peers, ['10.255.255.255']);
  t.same(policyWith(bfd.replace('true', 'false')).bfd, { ...policyWith('').bfd, enabled: false, peers: [] });
});

/** Appended lines that use what is not supported yet, and what else is said of them. */
const IMPOSSIBLE: [string, string, string[]][] = [
  [
    'an egress address for what is not translated',
    '  policies: [{ snat: false, egressIP: { address: [172.17.0.50] }, portBlockSize: 64 }]\n',
    [
      'a.yaml:7:29: spec.policies[0].egressIP: has no effect with snat: false',
      'a.yaml:7:67: spec.policies[0].portBlockSize: has no effect with snat: false',
    ],
  ],
  [
    'port blocks for any source',
    '  policies: [{ portBlockSize: 64 }]\n',
    ['a.yaml:7:16: spec.policies[0].portBlockSize: needs ipBlocks: each source gets ports of its own'],
  ],
  [
    'an egress address that is the gateway',
    '  policies: [{ egressIP: { address: [172.17.0.50, 172.17.0.1] } }]\n',
    ["a.yaml:7:51: spec.policies[0].egressIP.address[1]: 172.17.0.1 is the external gateway's address"],
  ],
  [
    'an egress address that is none',
    '  policies: [{ egressIP: { address: [172.17.0.0/24] } }, { egressIP: {} }]\n',
    [
      'a.yaml:7:38: spec.policies[0].egressIP.address[0]: "172.17.0.0/24" is a CIDR, not one address',
      'a.yaml:7:60: spec.policies[1].egressIP.address: this field is required',
    ],
  ],
  [
    'a destination that is none',
    '  policies: [{ destinationCIDRs: [example.org], excludedCIDRs: [10.0.0.0/99] }]\n',
    [
      'a.yaml:7:35: spec.policies[0].destinationCIDRs[0]: "example.org" is not an address or CIDR',
      'a.yaml:7:65: spec.policies[0].excludedCIDRs[0]: "10.0.0.0/99" is not an address or CIDR: the length of an IPv4 CIDR is 0 to 32',
    ],
  ],
  [
    'an action that there is not',
    '  defaultAction: reject\n',
    ['a.yaml:7:18: spec.defaultAction: must be one of masquerade, forward, drop, is "reject"'],
  ],
  [
    'EIPs of two families, and an address in two EIPs',
    `  eips:
    - { externalIP: 172.17.0.60, internalIP: "fd00::9" }
    - { externalIP: 172.17.0.61, internalIP: 10.17.0.9 }
    - { externalIP: 172.17.0.61, internalIP: 10.17.0.10 }
    - { externalIP: 172.17.0.62, internalIP: 10.17.0.9 }
`,
    [
      'a.yaml:8:46: spec.eips[0].internalIP: is IPv6, and externalIP 172.17.0.60 is IPv4',
      'a.yaml:10:21: spec.eips[2].externalIP: 172.17.0.61 is already used by eips[1]',
      'a.yaml:11:46: spec.eips[3].internalIP: 10.17.0.9 is already used by eips[1]',
    ],
  ],
  [
    'DNATs: fields',
    '  dnats: [{ protocol: icmp, externalPort: 0, internalPort: 80-79, internalIP: 10.17.0.9 }]\n',
    [
      'a.yaml:7:11: spec.dnats[0].externalIP: this field is required',
      'a.yaml:7:23: spec.dnats[0].protocol: must be one of tcp, udp, sctp, is "icmp"',
      'a.yaml:7:43: spec.dnats[0].externalPort: must be between 1 and 65535, is 0',
      'a.yaml:7:60: spec.dnats[0].internalPort: "80-79" is not a port from 1 to 65535, or a range like 8000-8010',
    ],
  ],
  [
    'DNATs that claim the same port',
    `  dnats:
    - { externalIP: 172.17.0.11, protocol: tcp, externalPort: 8005, internalIP: 10.17.0.9, internalPort: 80 }
    - { externalIP: 172.17.0.11, protocol: udp, externalPort: 8005, internalIP: 10.17.0.9, internalPort: 80 }
    - { externalIP: 172.17.0.11, protocol: tcp, externalPort: 8000-8010, internalIP: 10.17.0.9, internalPort: 9000-9010 }
    - { externalIP: 172.17.0.11, protocol: tcp, externalPort: 8011, internalIP: 10.17.0.9, internalPort: 80-81 }
`,
    [
      'a.yaml:10:63: spec.dnats[2].externalPort: port 8005 of 172.17.0.11 tcp is already used by dnats[0]',
      'a.yaml:11:106: spec.dnats[3].internalPort: must be as many ports as externalPort, 8011',
    ],
  ],
  [
    'a DNAT of an EIP',
    `  eips: [{ externalIP: 172.17.0.60, internalIP: 10.17.0.9 }]
  dnats: [{ externalIP: 172.17.0.60, protocol: tcp, externalPort: 80, internalIP: 10.17.0.10, internalPort: 80 }]
`,
    ['a.yaml:8:25: spec.dnats[0].externalIP: 172.17.0.60 is an EIP: all its ports lead to 10.17.0.9'],
  ],
  [
    'uplink',
    '  uplink: { probe: ping, interval: 5ms, failures: 0, targets: [x], recovery: 11m }\n',
    [
      'a.yaml:7:20: spec.uplink.probe: must be one of arp, icmp, none, is "ping"',
      'a.yaml:7:36: spec.uplink.interval: must be between 10ms and 60s, is 5ms',
      'a.yaml:7:51: spec.uplink.failures: must be between 1 and 100, is 0',
      'a.yaml:7:64: spec.uplink.targets[0]: "x" is not an address',
      'a.yaml:7:78: spec.uplink.recovery: must be between 0s and 10m, is 11m',
    ],
  ],
  [
    'an interval without a unit',
    '  uplink: { interval: 200, recovery: "2" }\n',
    [
      'a.yaml:7:23: spec.uplink.interval: must have a unit, is 200; write 200ms',
      'a.yaml:7:38: spec.uplink.recovery: must have a unit, is "2"; write 2s',
    ],
  ],
  [
    'a merge key of YAML 1.1',
    '  policies: [{ <<: { snat: false }, name: a }]\n',
    [
      'a.yaml:7:16: spec.policies[0]["<<"]: merge keys are YAML 1.1 and not read (this is YAML 1.2); write the fields out',
    ],
  ],
  [
    'the log',
    '  translationLog: { events: [begin], rateLimit: { burst: 0 }, filters: { include: [{ original: { sourcePorts: [{ start: 9, end: 1 }, {}] }, protocols: [gre] }] } }\n',
    [
      'a.yaml:7:30: spec.translationLog.events[0]: must be one of start, end, is "begin"',
      'a.yaml:7:58: spec.translationLog.rateLimit.burst: must be between 1 and 1000000, is 0',
      'a.yaml:7:112: spec.translationLog.filters.include[0].original.sourcePorts[0]: the first port, 9, is above the last, 1',
      'a.yaml:7:134: spec.translationLog.filters.include[0].original.sourcePorts[1].end: this field is required',
      'a.yaml:7:134: spec.translationLog.filters.include[0].original.sourcePorts[1].start: this field is required',
      'a.yaml:7:153: spec.translationLog.filters.include[0].protocols[0]: must be one of tcp, udp, sctp, icmp, icmpv6, other, is "gre"',
    ],
  ],
];

for (const [name, lines, errors] of IMPOSSIBLE) {
  t.test(name, async (t) => {
    t.strictSame(translated(`${GATEWAY}${lines}`).errors, errors);
  });
}

/** Appended lines, and what is said of them. */
const WRONG: [string, string, string[]][] = [
  [
    'an unknown field of the spec',
    '  snat: true\n',
    [
      'a.yaml:7:3: spec.snat: unknown field "snat"; the fields here are internal, external, bfd, policies, defaultAction, eips, dnats, inbound, limits, bandwidth, mssClamp, fastPath, uplink, group, bgp, evpn, translationLog',
    ],
  ],
  [
    'a misspelt field',
    '  policies:\n    - snatt: false\n',
    ['a.yaml:8:7: spec.policies[0].snatt: unknown field "snatt"; did you mean "snat"?'],
  ],
  [
    'a CIDR that is none',
    '  policies:\n    - ipBlocks:\n        - 10.0.0.0/8\n        - 10.0.0.0/33\n',
    [
      'a.yaml:10:11: spec.policies[0].ipBlocks[1]: "10.0.0.0/33" is not an address or CIDR: the length of an IPv4 CIDR is 0 to 32',
    ],
  ],
  [
    'an address with a newline and an iptables line in it',
    '  policies:\n    - ipBlocks: ["10.0.0.1\\n-A POSTROUTING -j ACCEPT"]\n',
    [
      'a.yaml:8:18: spec.policies[0].ipBlocks[0]: "10.0.0.1\\n-A POSTROUTING -j ACCEPT" is not an address or CIDR',
    ],
  ],
  [
    'an address with a newline in a block scalar',
    '  policies:\n    - ipBlocks:\n        - |\n          10.0.0.1\n          COMMIT\n',
    ['a.yaml:9:11: spec.policies[0].ipBlocks[0]: "10.0.0.1\\nCOMMIT\\n" is not an address or CIDR'],
  ],
  [
    'an IPv6 prefix that YAML takes for a key',
    '  policies:\n    - ipBlocks:\n        - fd00::\n',
    [
      'a.yaml:9:11: spec.policies[0].ipBlocks[0]: must be a string, is a map of fields; quote a value that ends with a colon',
    ],
  ],
  [
    'a number for an address',
    '  policies:\n    - ipBlocks: [10.16]\n',
    ['a.yaml:8:18: spec.policies[0].ipBlocks[0]: must be a string, is 10.16; put it in quotes'],
  ],
  [
    'a text for a list',
    '  policies:\n    - ipBlocks: 10.16.0.0/16\n',
    ['a.yaml:8:17: spec.policies[0].ipBlocks: must be a list, is "10.16.0.0/16"'],
  ],
  [
    'blocks that were all commented out',
    '  policies:\n    - snat: false\n      ipBlocks:\n#        - 10.18.0.0/16\n',
    ['a.yaml:9:7: spec.policies[0].ipBlocks: must be a list, is empty'],
  ],
  [
    'an empty item',
    '  policies:\n    -\n',
    ['a.yaml:8:6: spec.policies[0]: must be a map of fields, is empty'],
  ],
  ['a list for a map', '  bfd: [enabled]\n', ['a.yaml:7:8: spec.bfd: must be a map of fields, is a list']],
  [
    'yes for true',
    '  bfd: { enabled: yes }\n',
    ['a.yaml:7:19: spec.bfd.enabled: must be true or false, is "yes"'],
  ],
  [
    'a quoted true',
    '  bfd: { enabled: "true" }\n',
    ['a.yaml:7:19: spec.bfd.enabled: must be true or false, is "true"; remove the quotes'],
  ],
  [
    'a quoted number',
    '  bfd: { minTX: "100" }\n',
    ['a.yaml:7:17: spec.bfd.minTX: must be a whole number, is "100"; remove the quotes'],
  ],
  [
    'a broken number',
    '  bfd: { minTX: 99.5 }\n',
    ['a.yaml:7:17: spec.bfd.minTX: must be a whole number, is 99.5'],
  ],
  [
    'no number at all',
    '  bfd: { minTX: .nan }\n',
    ['a.yaml:7:17: spec.bfd.minTX: must be a whole number, is NaN'],
  ],
  [
    'numbers out of range',
    '  bfd: { minTX: 0, minRX: 60001, multiplier: 300, minTTL: 256 }\n',
    [
      'a.yaml:7:17: spec.bfd.minTX: must be between 1 and 60000, is 0',
      'a.yaml:7:27: spec.bfd.minRX: must be between 1 and 60000, is 60001',
      'a.yaml:7:46: spec.bfd.multiplier: must be between 1 and 255, is 300',
      'a.yaml:7:59: spec.bfd.minTTL: must be between 1 and 255, is 256',
    ],
  ],
  [
    'a word that is not among those there are',
    '  bfd: { mode: pasive }\n',
    ['a.yaml:7:16: spec.bfd.mode: must be one of passive, active, is "pasive"; did you mean "passive"?'],
  ],
  [
    'BFD without a peer',
    '  bfd: { enabled: true }\n',
    ['a.yaml:7:3: spec.bfd.peers: BFD is enabled, so at least one peer is required'],
  ],
  [
    'BFD with an empty list of peers',
    '  bfd:\n    enabled: true\n    peers: []\n',
    ['a.yaml:9:5: spec.bfd.peers: BFD is enabled, so at least one peer is required'],
  ],
  [
    'a peer that is a network',
    '  bfd: { enabled: true, peers: [10.0.0.0/8] }\n',
    ['a.yaml:7:33: spec.bfd.peers[0]: "10.0.0.0/8" is a CIDR, not one address'],
  ],
  [
    'authentication: what is missing and what is wrong',
    '  bfd: { auth: { type: md5, keyID: 256 } }\n',
    [
      'a.yaml:7:10: spec.bfd.auth.keyFile: this field is required',
      'a.yaml:7:24: spec.bfd.auth.type: must be one of simple-password, keyed-md5, meticulous-keyed-md5, keyed-sha1, meticulous-keyed-sha1, is "md5"',
      'a.yaml:7:36: spec.bfd.auth.keyID: must be between 0 and 255, is 256',
    ],
  ],
  [
    'a key file that is not absolute',
    '  bfd: { auth: { type: keyed-sha1, keyID: 1, keyFile: bfd } }\n',
    ['a.yaml:7:55: spec.bfd.auth.keyFile: "bfd" is not an absolute path'],
  ],
  [
    'a name that cannot be a label',
    '  policies: [{ name: "a b" }]\n',
    [
      'a.yaml:7:22: spec.policies[0].name: "a b" is not a policy name: at most 63 letters, digits, ".", "_" and "-", a letter or digit first and last',
    ],
  ],
  [
    'two policies of one name',
    '  policies:\n    - name: web\n    - name: web\n',
    ['a.yaml:9:13: spec.policies[1].name: duplicate name "web", first used by policies[0]'],
  ],
  [
    'a name that is the default of another',
    '  policies:\n    - name: policy-1\n    - ipBlocks: [10.0.0.0/8]\n',
    ['a.yaml:9:7: spec.policies[1].name: duplicate name "policy-1", first used by policies[0]'],
  ],
];

for (const [name, lines, errors] of WRONG) {
  t.test(name, async (t) => {
    t.strictSame(errorsWith(lines), errors);
  });
}

t.test('the head of the document', async (t) => {
  const change = (from: string | RegExp, to: string) => printed({ 'a.yaml': GATEWAY.replace(from, to) });
  t.same(change(/spec:.*/s, ''), ['a.yaml:1:1: spec: this field is required']);
  t.same(change(/spec:.*/s, 'spec:\n'), ['a.yaml:4:1: spec: must be a map of fields, is empty']);
  t.same(change('metadata: { name: gateway1 }\n', ''), ['a.yaml:1:1: metadata: this field is required']);
  t.same(change('{ name: gateway1 }', '{ namespace: x }'), [
    'a.yaml:3:1: metadata.name: this field is required',
  ]);
  t.same(change('name: gateway1', 'name: Gateway_1'), [
    'a.yaml:3:19: metadata.name: "Gateway_1" is not a Kubernetes name: lower case letters, digits, "-" and "."',
  ]);
  t.same(change('name: gateway1', 'name: g, label: x'), [
    'a.yaml:3:22: metadata.label: unknown field "label"; did you mean "labels"?',
  ]);
  t.same(change('name: gateway1', 'name: g, labels: { a: 1 }'), [
    'a.yaml:3:35: metadata.labels.a: must be a string, is 1; put it in quotes',
  ]);
  t.same(change('name: gateway1', 'name: g, creationTimestamp: null'), [], 'as kubectl prints it');
  t.same(change('kind: Gate', 'status: {}\nkind: Gate'), [
    'a.yaml:2:1: status: unknown field "status"; the fields here are apiVersion, kind, metadata, spec',
  ]);
});

t.test('an empty list of CIDRs does not mean any', async (t) => {
  for (const [field, hint] of [
    ['ipBlocks', 'leave the field out for any source'],
    ['destinationCIDRs', 'leave the field out for any destination'],
    ['excludedCIDRs', 'leave the field out for none'],
  ]) {
    t.same(errorsWith(`  policies: [{ name: direct, snat: false, ${field}: [] }]\n`), [
      `a.yaml:7:${45 + field!.length}: spec.policies[0].${field}: must not be empty: ${hint}`,
    ]);
  }
  t.same(errorsWith('  policies: [{ name: direct, snat: false }]\n'), []);
});

t.test('the sides', async (t) => {
  const change = (from: string | RegExp, to: string) => printed({ 'a.yaml': GATEWAY.replace(from, to) });
  t.same(change(/ {2}external.*\n/, ''), ['a.yaml:4:1: spec.external: this field is required']);
  t.same(change('gateways: [10.16.0.1, "fd00:10:16::1"]', 'interface: eth0'), [
    'a.yaml:5:3: spec.internal.gateways: this field is required',
  ]);
  t.same(change('[10.16.0.1, "fd00:10:16::1"]', '[]'), [
    'a.yaml:5:25: spec.internal.gateways: must not be empty',
  ]);
  t.same(change('[10.16.0.1, "fd00:10:16::1"]', '[10.16.0.1, 10.16.0.2]'), [
    'a.yaml:5:37: spec.internal.gateways[1]: a second IPv4 gateway; only one per family is supported',
  ]);
  t.same(change('{ gateways: [10', '{ interface: "eth0 -j ACCEPT", gateways: [10'), [
    'a.yaml:5:26: spec.internal.interface: "eth0 -j ACCEPT" is not an interface name: at most 15 letters, digits, ".", "_" and "-"',
  ]);
  t.same(change('10.16.0.1', '0.0.0.0'), [
    'a.yaml:5:26: spec.internal.gateways[0]: "0.0.0.0" is not the address of a host',
  ]);
  const apart = GATEWAY.replace('[10.16.0.1, "fd00:10:16::1"]', '[10.16.0.1]').replace('[172.17.0.1, ', '[');
  t.same(printed({ 'a.yaml': apart }), [
    'a.yaml:4:1: spec: no address family has a gateway on both sides, internal and external',
  ]);
});

t.test('what is wrong in several ways is said in all of them at once', async (t) => {
  t.same(
    errorsWith(`  bfd: { enabled: true, minTX: 0, peers: [x] }
  policies:
    - { name: web, ipBlocks: [10.0.0.0/40] }
    - { name: web, priority: 1.5 }
`),
    [
      'a.yaml:7:32: spec.bfd.minTX: must be between 1 and 60000, is 0',
      'a.yaml:7:43: spec.bfd.peers[0]: "x" is not an address',
      'a.yaml:9:31: spec.policies[0].ipBlocks[0]: "10.0.0.0/40" is not an address or CIDR: the length of an IPv4 CIDR is 0 to 32',
      'a.yaml:10:15: spec.policies[1].name: duplicate name "web", first used by policies[0]',
      'a.yaml:10:30: spec.policies[1].priority: must be a whole number, is 1.5',
    ],
  );
});

t.test('egress addresses of a family that the gateway has not are left out, and said to be', async (t) => {
  const v4 = GATEWAY.replace(', "fd00:10:16::1"', '').replace(', "fd00:172:17::1"', '');
  const warnings = (...addresses: string[]) =>
    policyOf({
      'a.yaml': `${v4}  policies: [{ egressIP: { address: ${JSON.stringify(addresses)} } }, { egressIP: { address: ["fd00::50"] } }]\n`,
    }).warnings;
  const message = 'IPv6 is not programmed: the two sides have no IPv6 gateway;';
  t.same(warnings('172.17.0.50', 'fd00::50'), [{ message: `${message} 1 IPv6 egress address left out` }]);
  t.same(warnings('172.17.0.50', 'fd00::51'), [{ message: `${message} 2 IPv6 egress addresses left out` }]);
});

t.test('a family with a gateway on one side only is left out, and said to be', async (t) => {
  const warnings = (text: string) => policyOf({ 'a.yaml': text }).warnings.map(({ message }) => message);
  const noV6Outside = GATEWAY.replace(', "fd00:172:17::1"', '');
  t.same(warnings(noV6Outside), ['IPv6 is not programmed: the external side has no IPv6 gateway']);
  t.same(
    warnings(
      `${noV6Outside}  policies: [{ ipBlocks: ["fd00::/64", "fd01::/64", 10.0.0.0/8] }]\n  bfd: { enabled: true, peers: ["fdff::1"] }\n`,
    ),
    [
      'IPv6 is not programmed: the external side has no IPv6 gateway; 2 IPv6 blocks and 1 IPv6 BFD peer left out',
    ],
  );
  const v4Only = noV6Outside.replace(', "fd00:10:16::1"', '');
  t.same(warnings(v4Only), []);
  t.same(warnings(`${v4Only}  policies: [{ ipBlocks: ["fd00::/64"] }]\n`), [
    'IPv6 is not programmed: the two sides have no IPv6 gateway; 1 IPv6 block left out',
  ]);
});

t.test('a block that holds the external gateway is warned about', async (t) => {
  const warnings = (blocks: string) =>
    policyWith(`  policies:\n    - { name: wide, ipBlocks: [${blocks}] }\n`).warnings.map(
      ({ message }) => message,
    );
  const warning = (block: string, gateway: string) =>
    `policy wide: ${block} holds the external gateway ${gateway}; packets to it go outside, list only blocks that are inside`;
  t.same(warnings('172.16.0.0/12, 172.17.0.0/16, "fd00::/16", 10.0.0.0/8'), [
    warning('172.16.0.0/12', '172.17.0.1'),
    warning('172.17.0.0/16', '172.17.0.1'),
    warning('fd00::/16', 'fd00:172:17::1'),
  ]);
  t.same(warnings('0.0.0.0/0, "::/0"'), [], 'everything is no mistake');
});

t.test('a translated block that is forwarded all the same is a conflict', async (t) => {
  const warnings = (lines: string) => policyWith(lines).warnings.map(({ message }) => message);
  t.same(
    warnings(
      '  policies:\n    - { name: f, snat: false, ipBlocks: [10.0.0.0/8] }\n    - { name: t, ipBlocks: [10.1.0.0/16, 11.0.0.0/8] }\n',
    ),
    ['conflict: 10.1.0.0/16 is translated by t and forwarded by f; it is forwarded'],
  );
  t.same(
    warnings(
      '  policies:\n    - { name: f, snat: false, ipBlocks: [10.1.0.0/16] }\n    - { name: t, ipBlocks: [10.0.0.0/8] }\n',
    ),
    [],
    'an exception is none',
  );
  t.same(warnings('  policies:\n    - { name: f, snat: false }\n    - { name: t }\n'), [
    'conflict: 0.0.0.0/0 is translated by t and forwarded by f; it is forwarded',
    'conflict: ::/0 is translated by t and forwarded by f; it is forwarded',
  ]);
  const many = Array.from({ length: 8 }, (_, i) => `10.${i}.0.0/16`).join(', ');
  t.same(
    warnings(
      `  policies:\n    - { name: f, snat: false, ipBlocks: [10.0.0.0/8] }\n    - { name: t, ipBlocks: [${many}] }\n`,
    ).slice(4),
    [
      'conflict: 10.4.0.0/16 is translated by t and forwarded by f; it is forwarded',
      'conflict: earlier policies treat 3 more blocks of t otherwise as well',
    ],
  );
});

t.test('a block that an earlier policy translates to other addresses is a conflict', async (t) => {
  const warnings = (...rules: string[]) =>
    policyWith(`  policies:\n${rules.map((rule) => `    - { ${rule} }\n`).join('')}`).warnings.map(
      ({ message }) => message,
    );
  const egress = (...list: string[]) => `egressIP: { address: [${list.join(', ')}] }`;
  const a = `name: a, ipBlocks: [10.1.0.0/16], ${egress('172.17.0.50')}`;
  const block = 'ipBlocks: [10.1.1.0/24]';
  t.same(warnings(a, `name: b, ${block}, ${egress('172.17.0.51', '172.17.0.52')}`), [
    'conflict: 10.1.1.0/24 is translated to 172.17.0.51 and 1 more by b and translated to 172.17.0.50 by a; it is translated to 172.17.0.50',
  ]);
  t.same(warnings('name: m', `name: b, ${block}, ${egress('172.17.0.51')}, portBlockSize: 64`), [
    'conflict: 10.1.1.0/24 is translated to 172.17.0.51 with 64 ports for each source by b and translated by m; it is translated',
  ]);
  t.same(warnings(a, `name: b, ${block}`), [], 'masquerading may be overridden');
  t.same(warnings(a, `name: b, ${block}, ${egress('172.17.0.50')}`), [], 'the same addresses');
  t.same(warnings(`${a}, destinationCIDRs: [203.0.113.0/24]`, `name: b, ${block}`), [], 'some destinations');
  t.same(warnings(a, `name: b, ${block}, priority: 1`), [], 'an earlier one');
});

t.test('of several earlier policies the first decides', async (t) => {
  const rules = [
    '{ name: f, snat: false, ipBlocks: [10.0.0.0/8] }',
    '{ name: t, ipBlocks: [10.1.0.0/16] }',
    '{ name: g, snat: false, ipBlocks: [10.1.1.0/24] }',
  ];
  t.same(
    policyWith(`  policies:\n${rules.map((rule) => `    - ${rule}\n`).join('')}`).warnings.map(
      ({ message }) => message,
    ),
    ['conflict: 10.1.0.0/16 is translated by t and forwarded by f; it is forwarded'],
  );
});

t.test('an egress policy says nothing about a family without an egress address', async (t) => {
  const rules = [
    '{ name: any, egressIP: { address: [172.17.0.50] } }',
    '{ name: six, snat: false, ipBlocks: ["fd00:10:18::/64"] }',
  ];
  t.same(policyWith(`  policies:\n${rules.map((rule) => `    - ${rule}\n`).join('')}`).warnings, []);
});

t.test('an address belongs to one owner, and is not that of the external gateway', async (t) => {
  const dnat = (owner: string, port: number) =>
    `{ externalIP: 172.17.0.50, protocol: tcp, externalPort: ${port}, internalIP: 10.17.0.9, internalPort: 80${owner && `, owner: ${owner}`} }`;
  const text = (...dnats: string[]) => `${GATEWAY}  policies:
    - { name: web, egressIP: { address: [172.17.0.50], owner: node1 } }
  dnats:
${dnats.map((one) => `    - ${one}\n`).join('')}`;
  t.same(printed({ 'a.yaml': text(dnat('node1', 80), dnat('', 81)) }), []);
  t.same(printed({ 'a.yaml': text(dnat('node1', 80), dnat('node2', 81), dnat('""', 82)) }), [
    'a.yaml:11:115: spec.dnats[1].owner: 172.17.0.50 belongs to node1 according to policy web',
    'a.yaml:12:115: spec.dnats[2].owner: 172.17.0.50 belongs to node1 according to policy web',
  ]);
  const eips = `${GATEWAY}  eips: [{ externalIP: 172.17.0.1, internalIP: 10.17.0.9 }]\n`;
  t.same(printed({ 'a.yaml': eips }), [
    "a.yaml:7:24: spec.eips[0].externalIP: 172.17.0.1 is the external gateway's address",
  ]);
});
