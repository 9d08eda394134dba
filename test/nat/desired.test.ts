import t from 'tap';
import { address, type Family, type Prefix, prefix } from '../../lib/prefix.ts';
import { desiredNat, expressible, type FamilyNat } from '../../nat/desired.ts';
import type { Tables } from '../../nat/state.ts';

const nat = (family: Family, forward: Prefix[], notrackBfd = false): FamilyNat => ({
  family,
  internalInterface: 'eth0',
  forward,
  notrackBfd,
});

const BUILT_IN = ['PREROUTING', 'INPUT', 'OUTPUT', 'POSTROUTING'];

/** As `iptables -S` lists a table, without policies. */
function listing(tables: Tables, table: string): string[] {
  const chains = tables.get(table)!;
  const own = [...chains.keys()].filter((name) => !BUILT_IN.includes(name));
  const rules = (name: string) => chains.get(name)?.rules.map(({ text }) => `-A ${name} ${text}`) ?? [];
  return [...own.map((name) => `-N ${name}`), ...[...BUILT_IN, ...own].flatMap(rules)];
}

t.test("nat is upstream's listing line for line, in both families", (t) => {
  const state = desiredNat([nat(4, [prefix('10.18.0.0/16')]), nat(6, [prefix('fd00:10:18::/64')])]);
  const lines = (block: string) => [
    '-N VEG-MASQUERADE',
    '-A PREROUTING -i eth0 -j MARK --set-xmark 0x4000/0x4000',
    `-A POSTROUTING -d ${block} -j RETURN`,
    `-A POSTROUTING -s ${block} -j RETURN`,
    '-A POSTROUTING -j VEG-MASQUERADE',
    '-A VEG-MASQUERADE -j MARK --set-xmark 0x0/0xffffffff',
    '-A VEG-MASQUERADE -j MASQUERADE --random-fully',
  ];
  t.same(listing(state.tables[4], 'nat'), lines('10.18.0.0/16'));
  t.same(listing(state.tables[6], 'nat'), lines('fd00:10:18::/64'));
  t.equal(state.sets.size, 0);
  t.notOk(state.tables[4].has('raw'));
  t.end();
});

t.test('blocks keep the order of the policy', (t) => {
  const forward = ['10.30.0.0/16', '10.20.0.0/16', '10.25.1.1/32'].map(prefix);
  const rules = desiredNat([nat(4, forward)])
    .tables[4].get('nat')!
    .get('POSTROUTING')!.rules;
  t.same(
    rules.map((r) => r.text),
    [
      ...['-d 10.30.0.0/16 -j RETURN', '-s 10.30.0.0/16 -j RETURN'],
      ...['-d 10.20.0.0/16 -j RETURN', '-s 10.20.0.0/16 -j RETURN'],
      ...['-d 10.25.1.1/32 -j RETURN', '-s 10.25.1.1/32 -j RETURN'],
      '-j VEG-MASQUERADE',
    ],
  );
  t.end();
});

t.test('a family that is not in the intent gets nothing', (t) => {
  const state = desiredNat([nat(4, [])]);
  t.equal(state.tables[6].size, 0);
  t.equal(desiredNat([]).tables[4].size, 0);
  t.end();
});

t.test('BFD of the pod is kept out of connection tracking, that of others is not', (t) => {
  const state = desiredNat([nat(4, [], true)]);
  t.same(listing(state.tables[4], 'raw'), [
    '-N VEG-NOTRACK',
    '-A PREROUTING -p udp -j VEG-NOTRACK',
    '-A OUTPUT -p udp -j VEG-NOTRACK',
    '-A VEG-NOTRACK -i eth0 -p udp -m udp --sport 49152:65535 --dport 3784 -m addrtype --dst-type LOCAL -j CT --notrack',
    '-A VEG-NOTRACK -p udp -m udp --dport 3784 -m addrtype --src-type LOCAL -j CT --notrack',
    '-A VEG-NOTRACK -i eth0 -p udp -m udp --sport 49152:65535 --dport 4784 -m addrtype --dst-type LOCAL -j CT --notrack',
    '-A VEG-NOTRACK -p udp -m udp --dport 4784 -m addrtype --src-type LOCAL -j CT --notrack',
  ]);
  t.end();
});

t.test('up to 32 blocks are rules, 33 are a set matched by one rule a direction', (t) => {
  const blocks = Array.from({ length: 33 }, (_, i) => prefix(`10.${i}.0.0/16`));
  t.equal(desiredNat([nat(4, blocks.slice(1))]).sets.size, 0);
  const state = desiredNat([nat(4, blocks)]);
  t.same(
    state.tables[4]
      .get('nat')!
      .get('POSTROUTING')!
      .rules.map((r) => r.text),
    [
      '-m set --match-set VEG-FORWARD-4 dst -j RETURN',
      '-m set --match-set VEG-FORWARD-4 src -j RETURN',
      '-j VEG-MASQUERADE',
    ],
  );
  const set = state.sets.get('VEG-FORWARD-4')!;
  t.equal(set.type, 'hash:net');
  t.same([...set.elements.keys()], blocks);
  t.ok(set.maxelem >= 2 ** 20, 'room to grow without a new set');
  t.end();
});

t.test('the whole address space stands as its two halves, in rules and in sets', (t) => {
  t.same(expressible(['10.0.0.0/8', '0.0.0.0/0', '0.0.0.0/1'].map(prefix), 4), [
    '10.0.0.0/8',
    '0.0.0.0/1',
    '128.0.0.0/1',
  ]);
  t.same(expressible([prefix('::/0')], 6), ['::/1', '8000::/1']);
  const rules = desiredNat([nat(6, [prefix('::/0')])])
    .tables[6].get('nat')!
    .get('POSTROUTING')!.rules;
  t.equal(rules[0]!.text, '-d ::/1 -j RETURN');
  t.end();
});

t.test('an interface name that would read as something else is refused', (t) => {
  for (const internalInterface of [
    'eth0 -j ACCEPT',
    'eth+',
    '!eth0',
    '-j',
    'a"b',
    '',
    'averyveryverylongname',
  ]) {
    t.throws(() => desiredNat([{ ...nat(4, []), internalInterface }]), RangeError, internalInterface);
  }
  t.end();
});

t.test(
  'a primary network besides: its own traffic stays as it is, and nothing is forwarded to it or from it',
  (t) => {
    const primary = { interface: 'eth9', addresses: ['10.52.0.189', '10.52.0.190'].map(address) };
    const tables = desiredNat([{ ...nat(4, [prefix('10.18.0.0/16')]), primary }]).tables[4];
    const lines = listing(tables, 'nat');
    t.same(
      lines.filter((line) => line.includes('-A POSTROUTING')),
      [
        '-A POSTROUTING -s 10.52.0.189/32 -o eth9 -j VEG-PRIMARY',
        '-A POSTROUTING -s 10.52.0.190/32 -o eth9 -j VEG-PRIMARY',
        '-A POSTROUTING -d 10.18.0.0/16 -j RETURN',
        '-A POSTROUTING -s 10.18.0.0/16 -j RETURN',
        '-A POSTROUTING -j VEG-MASQUERADE',
      ],
    );
    t.ok(lines.includes('-A VEG-PRIMARY -j ACCEPT'));
    const mangle = listing(tables, 'mangle');
    t.same(
      mangle.filter((line) => line.includes('-A VEG-NEW')).slice(0, 2),
      ['-A VEG-NEW -i eth9 -j VEG-PRIMARY', '-A VEG-NEW -o eth9 -j VEG-PRIMARY'],
      'before what a policy opens',
    );
    t.ok(mangle.includes('-A VEG-PRIMARY -j DROP'));
    t.end();
  },
);

t.test(
  'what comes for an address on no interface goes no further, behind what is refused anyhow',
  async (t) => {
    const fresh = (count: number, inbound?: 'any') => {
      const nowhere = Array.from({ length: count }, (_, i) => address(`198.51.100.${i}`));
      const state = desiredNat([{ ...nat(4, []), nowhere, ...(inbound && { inbound }) }], () => true);
      return {
        ...state,
        rules: state.tables[4]
          .get('mangle')!
          .get('VEG-NEW')!
          .rules.map(({ text }) => text),
      };
    };
    t.same(fresh(1, 'any').rules, ['-d 198.51.100.0/32 -o eth0 -j DROP']);
    t.same(fresh(2).rules, [
      '! -i eth0 -o eth0 -j VEG-INGRESS',
      '-d 198.51.100.0/32 -o eth0 -j DROP',
      '-d 198.51.100.1/32 -o eth0 -j DROP',
    ]);
    const { rules, sets } = fresh(33, 'any');
    t.same(rules, ['-o eth0 -m set --match-set VEG-NOWHERE-4 dst -j DROP']);
    t.equal(sets.get('VEG-NOWHERE-4')?.elements.size, 33);
  },
);
