// spec.bgp and egressIP.announce: what they become, every way to get them wrong, and what has no effect.
import t from 'tap';
import { GATEWAY, policyOf, printed } from '../support.ts';

const NEIGHBOUR = '{ address: 172.17.0.1, asn: 65000 }';
/** A policy with this in spec.bgp, and more of its spec. */
const policy = (bgp: string, more = ''): string => `${GATEWAY}  bgp: { ${bgp} }\n${more}`;
const EGRESS = '  policies: [{ egressIP: { address: [198.51.100.1, "fd00:5::1"], announce: bgp } }]\n';
const BOTH = '{ address: 172.17.0.1, asn: 65000 }, { address: "fd00:172:17::1", asn: 65000 }';
const errors = (...args: Parameters<typeof policy>): string[] => printed({ 'a.yaml': policy(...args) });
const warnings = (...args: Parameters<typeof policy>): string[] =>
  policyOf({ 'a.yaml': policy(...args) }).warnings.map(({ message }) => message);
const withNeighbour = (fields: string): string[] =>
  errors(`localASN: 65001, neighbours: [{ address: 172.17.0.1, asn: 65000, ${fields} }]`);

t.test('BGP with its defaults', async (t) => {
  const { bgp, warnings } = policyOf({
    'a.yaml': policy(`localASN: 4294967295, neighbours: [${BOTH}]`, EGRESS),
  });
  const timers = { holdTime: 9, keepaliveTime: 3, ebgpMultihop: 1, bfd: false, gracefulRestart: false };
  t.strictSame(bgp, {
    localASN: 4_294_967_295,
    neighbours: [
      { address: '172.17.0.1', asn: 65000, ...timers },
      { address: 'fd00:172:17::1', asn: 65000, ...timers },
    ],
    announce: ['egressIPs', 'eips', 'dnats'],
    required: false,
  });
  t.strictSame(warnings, []);
});

t.test('BGP with every field', async (t) => {
  const { bgp } = policyOf({
    'a.yaml': policy(
      `localASN: 65001, routerID: 172.17.0.11, announce: [forwarded, forwarded], required: true, neighbours: [
        { address: "FD00:172:17:0::1", asn: 1, passwordFile: /s/bgp, holdTime: 3m, keepaliveTime: 60s, ebgpMultihop: 255, bfd: true, gracefulRestart: true }]`,
    ),
  });
  t.strictSame(bgp, {
    localASN: 65001,
    routerID: '172.17.0.11',
    neighbours: [
      {
        address: 'fd00:172:17::1',
        asn: 1,
        password: { file: '/s/bgp' },
        holdTime: 180,
        keepaliveTime: 60,
        ebgpMultihop: 255,
        bfd: true,
        gracefulRestart: true,
      },
    ],
    announce: ['forwarded'],
    required: true,
  });
});

t.test('a timer that is absent follows the other', async (t) => {
  const timers = (fields: string) => {
    const text = policy(`localASN: 65001, neighbours: [{ address: 172.17.0.1, asn: 65000, ${fields} }]`);
    const [{ holdTime, keepaliveTime }] = policyOf({ 'a.yaml': text }).bgp!.neighbours as [never];
    return [holdTime, keepaliveTime];
  };
  t.same(timers('holdTime: 3s'), [3, 1]);
  t.same(timers('holdTime: 90s'), [90, 3]);
  t.same(timers('holdTime: 0s'), [0, 0]);
  t.same(timers('keepaliveTime: 20s'), [60, 20]);
  t.same(timers('keepaliveTime: 1s'), [9, 1]);
  t.same(timers('keepaliveTime: 0s'), [0, 0]);
});

t.test('numbers of autonomous systems', async (t) => {
  for (const asn of ['0', '4294967296', '-1']) {
    t.match(errors(`localASN: ${asn}, neighbours: [${NEIGHBOUR}]`), [
      new RegExp(`^a.yaml:7:\\d+: spec.bgp.localASN: must be between 1 and 4294967295, is ${asn}$`),
    ]);
    t.match(errors(`localASN: 65001, neighbours: [{ address: 172.17.0.1, asn: ${asn} }]`), [
      /spec.bgp.neighbours\[0\].asn: must be between 1 and 4294967295/,
    ]);
  }
  t.match(errors(`localASN: 23456, neighbours: [${NEIGHBOUR}]`), [/spec.bgp.localASN: 23456 is reserved/]);
  t.match(errors('localASN: 1, neighbours: [{ address: 172.17.0.1, asn: 23456 }]'), [
    /neighbours\[0\].asn: 23456 is reserved/,
  ]);
  t.match(errors(`neighbours: [${NEIGHBOUR}]`), [/spec.bgp.localASN: this field is required/]);
  t.match(errors('localASN: 1, neighbours: [{ address: 172.17.0.1 }]'), [
    /neighbours\[0\].asn: this field is/,
  ]);
  t.match(errors(`localASN: "65001", neighbours: [${NEIGHBOUR}]`), [
    /must be a whole number.*remove the quotes/,
  ]);
});

t.test('neighbours', async (t) => {
  t.match(errors('localASN: 1, neighbours: []'), [/spec.bgp.neighbours: must not be empty/]);
  t.match(errors('localASN: 1'), [/spec.bgp.neighbours: this field is required/]);
  t.match(errors(`localASN: 1, neighbours: [${NEIGHBOUR}, ${NEIGHBOUR}]`), [
    /neighbours\[1\].address: 172.17.0.1 is neighbours\[0\] already/,
  ]);
  t.match(
    errors('localASN: 1, neighbours: [{ address: "fd00::1", asn: 1 }, { address: "fd00:0::1", asn: 2 }]'),
    [/neighbours\[1\].address: fd00::1 is neighbours\[0\] already/],
  );
  t.match(errors('localASN: 1, neighbours: [{ address: "fe80::1", asn: 1 }]'), [/fe80::1 is link-local/]);
  for (const address of ['224.0.0.1', '172.17.0.0/16', 'router', '0.0.0.0']) {
    t.match(errors(`localASN: 1, neighbours: [{ address: ${address}, asn: 1 }]`), [
      /spec.bgp.neighbours\[0\].address: .* not (the|an|one) address|is a CIDR/,
    ]);
  }
});

t.test('a neighbour that is the gateway itself', async (t) => {
  const more = `  policies: [{ egressIP: { address: [172.17.0.50] } }]
  eips: [{ externalIP: 172.17.0.60, internalIP: 10.17.0.9 }]
  dnats: [{ externalIP: 172.17.0.11, protocol: tcp, externalPort: 80, internalIP: 10.17.0.9, internalPort: 80 }]
`;
  const own: [string, RegExp][] = [
    ['172.17.0.50', /an egress address of this gateway, not a router/],
    ['172.17.0.60', /an EIP of this gateway/],
    ['172.17.0.11', /the external address of a DNAT of this gateway/],
  ];
  for (const [address, message] of own) {
    t.match(errors(`localASN: 1, neighbours: [{ address: ${address}, asn: 1 }]`, more), [message]);
  }
});

t.test('timers, hops and files that cannot be', async (t) => {
  t.match(withNeighbour('holdTime: 1s'), [/neighbours\[0\].holdTime: must be 0s .* or at least 3s, is 1s/]);
  t.match(withNeighbour('holdTime: 2s, keepaliveTime: 0s'), [/holdTime: must be 0s/]);
  t.match(withNeighbour('holdTime: 9s, keepaliveTime: 4s'), [
    /keepaliveTime 4s must fit into holdTime 9s three/,
  ]);
  t.match(withNeighbour('holdTime: 9s, keepaliveTime: 0s'), [/keepaliveTime: must be at least 1s with/]);
  t.match(withNeighbour('holdTime: 0s, keepaliveTime: 3s'), [/must fit into holdTime 0s/]);
  t.match(withNeighbour('holdTime: 1500ms'), [/must be whole seconds between 0s and 65535s, is 1500ms/]);
  t.match(withNeighbour('holdTime: 20h'), [/must be whole seconds/]);
  t.match(withNeighbour('holdTime: 9'), [/holdTime: must have a unit, is 9; write 9s/]);
  t.match(withNeighbour('ebgpMultihop: 0'), [/ebgpMultihop: must be between 1 and 255/]);
  t.match(withNeighbour('passwordFile: bgp'), [/passwordFile: "bgp" is not an absolute path/]);
  t.match(withNeighbour('password: x'), [
    /unknown field "password"; the fields here are address, asn, passwordFile/,
  ]);
});

t.test('what is announced, and the identifier', async (t) => {
  t.match(errors(`localASN: 1, neighbours: [${NEIGHBOUR}], announce: [connected]`), [
    /spec.bgp.announce\[0\]: must be one of egressIPs, eips, dnats, forwarded, is "connected"/,
  ]);
  t.match(errors(`localASN: 1, neighbours: [${NEIGHBOUR}], announce: [egressIP]`), [
    /did you mean "egressIPs"/,
  ]);
  for (const id of ['0.0.0.0', 'fd00::1', '224.0.0.1', '1']) {
    t.match(errors(`localASN: 1, routerID: "${id}", neighbours: [${NEIGHBOUR}]`), [/spec.bgp.routerID: /]);
  }
});

t.test('announce of an egress address', async (t) => {
  const announced = (announce: string) =>
    policyOf({
      'a.yaml': `${GATEWAY}  policies: [{ egressIP: { address: [172.17.0.50], announce: ${announce} } }]\n`,
    }).rules[0]!.egressIP!.announce;
  t.same(['true', 'false', 'arp', 'bgp'].map(announced), [true, false, 'arp', 'bgp']);
  const wrong = (announce: string) =>
    printed({
      'a.yaml': `${GATEWAY}  policies: [{ egressIP: { address: [172.17.0.50], announce: ${announce} } }]\n`,
    });
  t.match(wrong('ospf'), [/announce: must be one of true, false, arp, bgp, is "ospf"/]);
  t.match(wrong('"true"'), [/announce: must be true, is "true"; remove the quotes/]);
  t.match(wrong('1'), [/announce: must be true or false or a string, is 1/]);
});

t.test('valid input without effect is a warning', async (t) => {
  const bgp = `localASN: 1, neighbours: [${BOTH}]`;
  t.match(warnings(bgp), [/^spec.bgp announces nothing/]);
  t.match(warnings(`${bgp}, announce: [eips]`, EGRESS), [
    /^spec.bgp announces nothing/,
    /^policy policy-0: announce: bgp has no effect: spec.bgp.announce lacks egressIPs/,
  ]);
  t.match(warnings(`localASN: 1, neighbours: [${NEIGHBOUR}]`, EGRESS), [
    /^spec.bgp has no IPv6 neighbour: nothing of IPv6 is announced/,
  ]);
  t.match(
    warnings('localASN: 1, neighbours: [{ address: 172.17.0.1, asn: 2, holdTime: 0s }]', EGRESS)[0],
    /the failure of 172.17.0.1 is not detected/,
  );
  t.match(
    warnings('localASN: 1, neighbours: [{ address: 172.17.0.1, asn: 1, ebgpMultihop: 2 }]', EGRESS)[0],
    /^spec.bgp: ebgpMultihop of 172.17.0.1 has no effect: it is in the gateway's own autonomous system$/,
  );
  t.notMatch(
    warnings('localASN: 1, neighbours: [{ address: 172.17.0.1, asn: 1, ebgpMultihop: 1 }]', EGRESS).join(),
    /ebgpMultihop/,
  );
  const only6 = `${GATEWAY.replace(/10.16.0.1, /, '').replace(/172.17.0.1, /, '')}  bgp: { localASN: 1, neighbours: [{ address: "fd00:172:17::1", asn: 2 }] }
${EGRESS}`;
  t.match(
    policyOf({ 'a.yaml': only6 })
      .warnings.map(({ message }) => message)
      .join('\n'),
    /spec.bgp has no routerID/,
  );
  const { warnings: without } = policyOf({ 'a.yaml': `${GATEWAY}${EGRESS}` });
  t.match(without, [{ message: /announce: bgp has no effect without spec.bgp/ }]);
  const only4 = `${GATEWAY.replace(/, "fd00[^"]*"/g, '')}  bgp: { ${bgp} }
  policies: [{ egressIP: { address: [198.51.100.1] } }]\n`;
  t.match(policyOf({ 'a.yaml': only4 }).warnings, [
    { message: /neighbour fd00:172:17::1 has no effect: IPv6 is not programmed/ },
  ]);
});
