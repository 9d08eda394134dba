// What a gateway of a group adds to the rules: its own slice of ports, and the way to the slices of the others.
import t from 'tap';
import { address, type Family, prefix } from '../../lib/prefix.ts';
import { desiredNat, type FamilyNat, type GroupNat } from '../../nat/desired.ts';
import type { NatState } from '../../nat/state.ts';

const NETS = {
  4: { client: '10.17.0.9/32', shared: '172.17.0.50', other: '172.17.0.51', self: '10.16.0.12', bits: 32 },
  6: {
    client: 'fd00:17::9/128',
    shared: 'fd00:172::50',
    other: 'fd00:172::51',
    self: 'fd00:16::12',
    bits: 128,
  },
} as const;
const OWN = { first: 41_344, last: 45_375 };
const OTHERS = [
  { slot: 11, first: 45_376, last: 49_407 },
  { slot: 12, first: 49_408, last: 53_439 },
];

function member(family: Family, group: Partial<GroupNat> = {}): FamilyNat {
  const shared = [address(NETS[family].shared)];
  return {
    ...{ family, internalInterface: 'eth0', forward: [], notrackBfd: false, dropInvalid: true },
    policies: [
      {
        ...{ name: 'web', destinations: [], excluded: [], sources: [prefix(NETS[family].client)] },
        action: { snat: shared, slice: OWN },
      },
    ],
    group: { self: address(NETS[family].self), shared, externalInterface: 'net1', forward: OTHERS, ...group },
    groupIcmp: true,
  };
}

/** The chains of a table, each with the text of its rules. */
const chains = (state: NatState, family: Family, table: string): Record<string, string[]> =>
  Object.fromEntries(
    [...state.tables[family].get(table)!].map(([name, { rules }]) => [name, rules.map(({ text }) => text)]),
  );

const MEMBER_CHAINS = {
  'VEG-GROUP-11': ['-j MARK --set-xmark 0x2b0000/0x2f0000', '-j CT --notrack'],
  'VEG-GROUP-12': ['-j MARK --set-xmark 0x2c0000/0x2f0000', '-j CT --notrack'],
};

t.test('what arrives for the ports of another member gets its mark and is not tracked, in IPv4', (t) => {
  const start = '0x0>>0x16&0x3c@';
  const error = `${start}0x0>>0x18=0x3,0xb:0xc&&${start}0x10>>0x10&0xff`;
  const inner = `${start}0x8>>0x16&0x3c@`;
  const icmp = (range: string, slot: number) => [
    `-p icmp -m icmp --icmp-type 0 -m u32 --u32 "${start}0x4>>0x10=${range}" -g VEG-GROUP-${slot}`,
    `-p icmp -m u32 --u32 "${error}=0x6,0x11,0x84&&${inner}0x8>>0x10=${range}" -g VEG-GROUP-${slot}`,
    `-p icmp -m u32 --u32 "${error}=0x1&&${inner}0xc>>0x10=${range}" -g VEG-GROUP-${slot}`,
  ];
  t.strictSame(chains(desiredNat([member(4)]), 4, 'raw'), {
    PREROUTING: ['-d 172.17.0.50/32 -i net1 -j VEG-GROUP'],
    'VEG-GROUP': [
      '-p tcp -m tcp --dport 45376:49407 -g VEG-GROUP-11',
      '-p udp -m udp --dport 45376:49407 -g VEG-GROUP-11',
      '-p sctp -m sctp --dport 45376:49407 -g VEG-GROUP-11',
      '-p tcp -m tcp --dport 49408:53439 -g VEG-GROUP-12',
      '-p udp -m udp --dport 49408:53439 -g VEG-GROUP-12',
      '-p sctp -m sctp --dport 49408:53439 -g VEG-GROUP-12',
      '-p icmp -j VEG-GROUP-ICMP',
    ],
    'VEG-GROUP-ICMP': [...icmp('0xb140:0xc0ff', 11), ...icmp('0xc100:0xd0bf', 12)],
    ...MEMBER_CHAINS,
  });
  t.end();
});

t.test('it does in IPv6 too, where a rule also keeps redirects from leaving outside', (t) => {
  const error = '0x28>>0x18=0x1:0x4&&0x34>>0x8&0xff';
  const icmp = (range: string, slot: number) => [
    `-p ipv6-icmp -m icmp6 --icmpv6-type 129 -m u32 --u32 "0x2c>>0x10=${range}" -g VEG-GROUP-${slot}`,
    `-p ipv6-icmp -m u32 --u32 "${error}=0x6,0x11,0x84&&0x58>>0x10=${range}" -g VEG-GROUP-${slot}`,
    `-p ipv6-icmp -m u32 --u32 "${error}=0x3a&&0x5c>>0x10=${range}" -g VEG-GROUP-${slot}`,
  ];
  t.strictSame(chains(desiredNat([member(6)]), 6, 'raw'), {
    PREROUTING: ['-d fd00:172::50/128 -i net1 -j VEG-GROUP'],
    OUTPUT: ['-o net1 -p ipv6-icmp -m icmp6 --icmpv6-type 137 -j VEG-REDIRECT'],
    'VEG-GROUP': [
      '-p tcp -m tcp --dport 45376:49407 -g VEG-GROUP-11',
      '-p udp -m udp --dport 45376:49407 -g VEG-GROUP-11',
      '-p sctp -m sctp --dport 45376:49407 -g VEG-GROUP-11',
      '-p tcp -m tcp --dport 49408:53439 -g VEG-GROUP-12',
      '-p udp -m udp --dport 49408:53439 -g VEG-GROUP-12',
      '-p sctp -m sctp --dport 49408:53439 -g VEG-GROUP-12',
      '-p ipv6-icmp -j VEG-GROUP-ICMP',
    ],
    'VEG-GROUP-ICMP': [...icmp('0xb140:0xc0ff', 11), ...icmp('0xc100:0xd0bf', 12)],
    'VEG-REDIRECT': ['-j DROP'],
    ...MEMBER_CHAINS,
  });
  t.end();
});

t.test('a kernel without xt_u32 gets everything but what is of ICMP', (t) => {
  const { 'VEG-GROUP': ports, 'VEG-GROUP-ICMP': icmp } = chains(
    desiredNat([{ ...member(4), groupIcmp: false }]),
    4,
    'raw',
  );
  t.equal(ports!.length, 6);
  t.equal(icmp, undefined);
  t.end();
});

for (const family of [4, 6] as const) {
  const { client, shared, other, self, bits } = NETS[family];

  t.test(`IPv${family}: a member that is alone forwards no ports, and its hook stays`, (t) => {
    const raw = chains(desiredNat([member(family, { forward: [] })]), family, 'raw');
    t.strictSame([raw['VEG-GROUP']!.length, raw['VEG-GROUP-ICMP']], [1, []]);
    t.strictSame(raw.PREROUTING, [`-d ${shared}/${bits} -i net1 -j VEG-GROUP`]);
    t.notOk('VEG-GROUP-11' in raw);
    t.end();
  });

  t.test(
    `IPv${family}: what is for a shared address and belongs to no connection does not go inside`,
    (t) => {
      const both = [shared, other].map(address);
      const state = desiredNat([member(family, { shared: both })]);
      t.strictSame(chains(state, family, 'mangle')['VEG-NEW'], [
        '-i eth0 -m conntrack --ctstate INVALID -j VEG-INVALID',
        '-i eth0 -m conntrack --ctstate NEW -j VEG-EGRESS',
        `-d ${shared}/${bits} -o eth0 -j DROP`,
        `-d ${other}/${bits} -o eth0 -j DROP`,
        '! -i eth0 -o eth0 -j VEG-INGRESS',
      ]);
      t.strictSame(
        chains(state, family, 'raw').PREROUTING,
        both.map((to) => `-d ${to}/${bits} -i net1 -j VEG-GROUP`),
        'and each has the way to the others',
      );
      t.end();
    },
  );

  t.test(`IPv${family}: what the pod itself sends to other members is not translated`, (t) => {
    const { POSTROUTING: hooks, 'VEG-GROUP-OWN': own } = chains(desiredNat([member(family)]), family, 'nat');
    t.equal(hooks![0], `-s ${self}/${bits} -o eth0 -j VEG-GROUP-OWN`, 'before anything is');
    t.strictSame(own, ['-j ACCEPT']);
    t.end();
  });

  t.test(`IPv${family}: the mark of a source leads to the slice of this member`, (t) => {
    const state = desiredNat([member(family)]);
    const slices = [...state.ports![family]!.slices];
    t.strictSame(
      slices.map(([, slice]) => slice),
      [{ address: shared, first: 41_344, last: 45_375 }],
    );
    const mark = slices[0]![0];
    t.equal(mark >>> 28, 9, 'the kind of mark that the table of ports looks up');
    t.equal(state.sets.get(`VEG-SOURCE-${family}`)!.elements.get(prefix(client)), mark);
    const accepted = `-m mark --mark 0x${mark.toString(16)}/0xffffbfff -j ACCEPT`;
    t.ok(
      chains(state, family, 'nat')['VEG-TRANSLATE']!.includes(accepted),
      'iptables leaves its ports alone',
    );
    t.end();
  });

  t.test(`IPv${family}: without a group nothing is in raw, and nothing is dropped for it`, (t) => {
    const { group: _, ...nat } = member(family);
    const state = desiredNat([nat]);
    t.notOk(state.tables[family].has('raw'));
    t.strictSame(chains(state, family, 'mangle')['VEG-NEW'], [
      '-i eth0 -m conntrack --ctstate INVALID -j VEG-INVALID',
      '-i eth0 -m conntrack --ctstate NEW -j VEG-EGRESS',
      '! -i eth0 -o eth0 -j VEG-INGRESS',
    ]);
    t.end();
  });

  t.test(`IPv${family}: an external interface that would read as something else is refused`, (t) => {
    t.throws(() => desiredNat([member(family, { externalInterface: 'net1 -j ACCEPT' })]), RangeError);
    t.end();
  });
}
