import t from 'tap';
import { FAMILIES, type Prefix, prefix } from '../../lib/prefix.ts';
import { desiredNat as desiredWhole, type NatIntent } from '../../nat/desired.ts';
import { diffNat } from '../../nat/diff.ts';
import { commandLines, isRuleStep } from '../../nat/render.ts';
import type { NatState } from '../../nat/state.ts';
import { carryOut, disturb, isForeign, Model, seeded } from './model.ts';

const intent = (forward: string[], more: Partial<NatIntent[0]> = {}): NatIntent => [
  { family: 4, internalInterface: 'eth0', forward: forward.map(prefix), notrackBfd: false, ...more },
];
const blocks = (from: number, to: number): string[] =>
  Array.from({ length: to - from }, (_, i) => `10.${(from + i) >> 8}.${(from + i) & 255}.0/24`);

/** Without what stands in mangle, which would be in all of the lists here and changes by the same rules. */
function desiredNat(wanted: NatIntent): NatState {
  const state = desiredWhole(wanted);
  for (const family of FAMILIES) state.tables[family].delete('mangle');
  return state;
}

/** A model that holds what an intent asks for. */
function applied(wanted: NatIntent): Model {
  const model = new Model();
  carryOut(model, diffNat(model.observe(), desiredNat(wanted)));
  return model;
}

const postrouting = (model: Model): string[] => model.rules(4, 'nat', 'POSTROUTING').map((rule) => rule.text);
const lines = (model: Model, desired: NatState, previous?: NatState): string[] =>
  commandLines(diffNat(model.observe(), desired, previous));

t.test('from nothing: chain, contents, hooks', (t) => {
  const model = new Model();
  t.same(lines(model, desiredNat(intent(['10.18.0.0/16']))), [
    'iptables -t nat -N VEG-MASQUERADE',
    'iptables -t nat -A PREROUTING -i eth0 -j MARK --set-xmark 0x4000/0x4000',
    'iptables -t nat -A POSTROUTING -d 10.18.0.0/16 -j RETURN',
    'iptables -t nat -A POSTROUTING -s 10.18.0.0/16 -j RETURN',
    'iptables -t nat -A POSTROUTING -j VEG-MASQUERADE',
    'iptables -t nat -A VEG-MASQUERADE -j MARK --set-xmark 0x0/0xffffffff',
    'iptables -t nat -A VEG-MASQUERADE -j MASQUERADE --random-fully',
  ]);
  t.end();
});

t.test('a second diff finds nothing to do', (t) => {
  for (const forward of [[], ['10.18.0.0/16'], blocks(0, 32), blocks(0, 33), ['0.0.0.0/0']]) {
    t.same(lines(applied(intent(forward)), desiredNat(intent(forward))), []);
  }
  t.end();
});

t.test('one more or one less block touches only its pair', (t) => {
  const model = applied(intent(['10.1.0.0/16', '10.3.0.0/16']));
  t.same(lines(model, desiredNat(intent(['10.1.0.0/16', '10.2.0.0/16', '10.3.0.0/16']))), [
    'iptables -t nat -I POSTROUTING 3 -d 10.2.0.0/16 -j RETURN',
    'iptables -t nat -I POSTROUTING 4 -s 10.2.0.0/16 -j RETURN',
  ]);
  t.same(lines(model, desiredNat(intent(['10.3.0.0/16']))), [
    'iptables -t nat -D POSTROUTING -d 10.1.0.0/16 -j RETURN',
    'iptables -t nat -D POSTROUTING -s 10.1.0.0/16 -j RETURN',
  ]);
  t.end();
});

t.test('another internal interface replaces the mark rule', (t) => {
  t.same(lines(applied(intent([])), desiredNat(intent([], { internalInterface: 'eth1' }))), [
    'iptables -t nat -D PREROUTING -i eth0 -j MARK --set-xmark 0x4000/0x4000',
    'iptables -t nat -A PREROUTING -i eth1 -j MARK --set-xmark 0x4000/0x4000',
  ]);
  t.end();
});

t.test('an empty intent takes everything of ours away and nothing else', (t) => {
  const model = new Model();
  const foreign = ['-s 10.18.0.0/16 -j RETURN', '-d 10.99.0.0/16 -j ACCEPT', '-s 10.99.0.0/16 -j RETURN'];
  for (const text of foreign) model.rules(4, 'nat', 'POSTROUTING').push({ text, packets: 1, bytes: 2 });
  const before = structuredClone(model.tables);
  const wanted = intent(blocks(0, 40), { notrackBfd: true });
  carryOut(model, diffNat(model.observe(), desiredNat(wanted)));
  t.ok(model.sets.has('VEG-FORWARD-4'));
  carryOut(model, diffNat(model.observe(), desiredNat([])));
  t.same(model.tables, before);
  t.equal(model.sets.size, 0);
  t.end();
});

t.test('chains and sets of ours that nothing wants are removed, with what jumps to them', (t) => {
  const model = applied(intent([]));
  model.restoreSets('create VEG-OLD hash:ip family inet hashsize 64 maxelem 5\n');
  model.restoreRules(
    4,
    `*nat
-N VEG-OLD
-N VEG-OLDER
-A VEG-OLD -j VEG-OLDER
-A VEG-OLDER -j VEG-OLD
-A OUTPUT -p tcp -m comment --comment "a -j b" -g VEG-OLD
-A OUTPUT -p tcp -m set ! --match-set VEG-OLD src -j ACCEPT
-A OUTPUT -m comment --comment "see -j VEG-OLD" -j ACCEPT
-A OUTPUT -m comment --comment "--match-set VEG-OLD" -j ACCEPT
-A OUTPUT -m comment --comment VEG-OLD -j ACCEPT
COMMIT
`,
  );
  t.same(lines(model, desiredNat(intent([]))), [
    'iptables -t nat -D OUTPUT -p tcp -m comment --comment "a -j b" -g VEG-OLD',
    'iptables -t nat -D OUTPUT -p tcp -m set ! --match-set VEG-OLD src -j ACCEPT',
    'iptables -t nat -F VEG-OLD',
    'iptables -t nat -F VEG-OLDER',
    'iptables -t nat -X VEG-OLD',
    'iptables -t nat -X VEG-OLDER',
    'ipset destroy VEG-OLD',
  ]);
  t.end();
});

t.test('a foreign rule in a chain of ours goes: the chain is wholly ours', (t) => {
  const model = applied(intent([]));
  model
    .rules(4, 'nat', 'VEG-MASQUERADE')
    .unshift({ text: '-d 192.0.2.1/32 -j RETURN', packets: 0, bytes: 0 });
  t.same(lines(model, desiredNat(intent([]))), [
    'iptables -t nat -D VEG-MASQUERADE -d 192.0.2.1/32 -j RETURN',
  ]);
  t.end();
});

t.test('a rule that no transaction can name is flushed from our chain, and left alone elsewhere', (t) => {
  const model = applied(intent([]));
  const text = '-m comment --comment "two\nlines" -j VEG-MASQUERADE';
  model.rules(4, 'nat', 'OUTPUT').push({ text, packets: 0, bytes: 0 });
  t.same(lines(model, desiredNat(intent([]))), []);
  model
    .rules(4, 'nat', 'VEG-MASQUERADE')
    .push({ text: '-m comment --comment "two\nlines" -j ACCEPT', packets: 0, bytes: 0 });
  carryOut(model, diffNat(model.observe(), desiredNat(intent([]))));
  t.equal(model.rules(4, 'nat', 'VEG-MASQUERADE').length, 2);
  t.end();
});

t.test('a pair above the jump is ours, a lone half is not', (t) => {
  const model = applied(intent([]));
  const chain = model.rules(4, 'nat', 'POSTROUTING');
  const put = (...texts: string[]) => texts.map((text) => ({ text, packets: 0, bytes: 0 }));
  chain.unshift(
    ...put('-d 10.1.0.0/16 -j RETURN', '-s 10.1.0.0/16 -j RETURN'),
    ...put('-s 10.2.0.0/16 -j RETURN'),
    ...put('-s 10.3.0.0/16 -j RETURN', '-d 10.3.0.0/16 -j RETURN'),
    ...put('-d 10.4.0.0/16 -j RETURN', '-j LOG', '-s 10.4.0.0/16 -j RETURN'),
  );
  chain.push(...put('-d 10.5.0.0/16 -j RETURN', '-s 10.5.0.0/16 -j RETURN'));
  t.same(lines(model, desiredNat(intent([]))), [
    'iptables -t nat -D POSTROUTING -d 10.1.0.0/16 -j RETURN',
    'iptables -t nat -D POSTROUTING -s 10.1.0.0/16 -j RETURN',
  ]);
  t.end();
});

t.test('pairs within pairs, and pairs that the jump passes when it is put back in its place', (t) => {
  const put = (...texts: string[]) => texts.map((text) => ({ text, packets: 0, bytes: 0 }));
  const nested = applied(intent([]));
  nested
    .rules(4, 'nat', 'POSTROUTING')
    .unshift(
      ...put('-d 10.1.0.0/16 -j RETURN', '-d 10.2.0.0/16 -j RETURN'),
      ...put('-s 10.2.0.0/16 -j RETURN', '-s 10.1.0.0/16 -j RETURN'),
    );
  carryOut(nested, diffNat(nested.observe(), desiredNat(intent([]))));
  t.same(postrouting(nested), ['-j VEG-MASQUERADE']);

  const passed = applied(intent(['10.1.0.0/16']));
  const chain = passed.rules(4, 'nat', 'POSTROUTING');
  const pair = chain.splice(0, 2);
  chain.push(...put('-d 10.2.0.0/16 -j RETURN', '-s 10.2.0.0/16 -j RETURN'), ...pair);
  carryOut(passed, diffNat(passed.observe(), desiredNat(intent(['10.1.0.0/16']))));
  t.same(postrouting(passed), ['-d 10.1.0.0/16 -j RETURN', '-s 10.1.0.0/16 -j RETURN', '-j VEG-MASQUERADE']);
  t.end();
});

t.test('half a pair of ours: mended while wanted, removed when it was ours, else left', (t) => {
  const wanted = desiredNat(intent(['10.1.0.0/16']));
  const damaged = applied(intent(['10.1.0.0/16']));
  damaged.rules(4, 'nat', 'POSTROUTING').shift();
  t.same(lines(damaged, wanted), ['iptables -t nat -I POSTROUTING 1 -d 10.1.0.0/16 -j RETURN']);
  t.same(lines(damaged, desiredNat(intent([])), wanted), [
    'iptables -t nat -D POSTROUTING -s 10.1.0.0/16 -j RETURN',
  ]);
  t.same(lines(damaged, desiredNat(intent([]))), []);
  t.end();
});

t.test('pairs whose jump is gone are ours as long as the chain is there', (t) => {
  const model = applied(intent(['10.1.0.0/16']));
  model.rules(4, 'nat', 'POSTROUTING').pop();
  t.same(lines(model, desiredNat(intent([]))), [
    'iptables -t nat -D POSTROUTING -d 10.1.0.0/16 -j RETURN',
    'iptables -t nat -D POSTROUTING -s 10.1.0.0/16 -j RETURN',
    'iptables -t nat -A POSTROUTING -j VEG-MASQUERADE',
  ]);
  const foreign = new Model();
  foreign
    .rules(4, 'nat', 'POSTROUTING')
    .push(
      { text: '-d 10.1.0.0/16 -j RETURN', packets: 0, bytes: 0 },
      { text: '-s 10.1.0.0/16 -j RETURN', packets: 0, bytes: 0 },
    );
  t.same(lines(foreign, desiredNat([])), []);
  t.end();
});

t.test('the repairs that the kernel needs after a hand edit', (t) => {
  const wanted = desiredNat(intent(['10.1.0.0/16', '10.2.0.0/16']));
  const damage: [string, (rules: (chain: string) => { text: string }[], model: Model) => void][] = [
    ['one chain flushed', (rules) => rules('VEG-MASQUERADE').splice(0)],
    ['POSTROUTING flushed', (rules) => rules('POSTROUTING').splice(0)],
    ['table flushed', (_, model) => [...model.tables[4].get('nat')!.values()].map((c) => c.rules.splice(0))],
    ['hook deleted', (rules) => rules('POSTROUTING').pop()],
    ['hook doubled', (rules) => rules('POSTROUTING').push({ ...rules('POSTROUTING').at(-1)! })],
    ['pairs reversed', (rules) => rules('POSTROUTING').reverse()],
    ['mark rule doubled', (rules) => rules('PREROUTING').push({ ...rules('PREROUTING')[0]! })],
    ['table gone', (_, model) => model.tables[4].get('nat')!.delete('VEG-MASQUERADE')],
  ];
  for (const [what, harm] of damage) {
    const model = applied(intent(['10.1.0.0/16', '10.2.0.0/16']));
    harm((chain) => model.rules(4, 'nat', chain), model);
    if (what === 'table gone') model.rules(4, 'nat', 'POSTROUTING').splice(4);
    carryOut(model, diffNat(model.observe(), wanted));
    t.same(
      postrouting(model),
      [
        ...['-d 10.1.0.0/16 -j RETURN', '-s 10.1.0.0/16 -j RETURN'],
        ...['-d 10.2.0.0/16 -j RETURN', '-s 10.2.0.0/16 -j RETURN'],
        '-j VEG-MASQUERADE',
      ],
      what,
    );
    t.same(lines(model, wanted), [], what);
  }
  t.end();
});

t.test(
  'the 33rd block: the set is filled, then the rules change in one go; and back the set goes last',
  (t) => {
    const model = applied(intent(blocks(0, 32)));
    const steps = diffNat(model.observe(), desiredNat(intent(blocks(0, 33))));
    t.equal(steps[0]!.type, 'create-set');
    t.equal(steps[1]!.type, 'add-elements');
    t.ok(steps.slice(2).every(isRuleStep));
    t.equal(steps.length, 2 + 64 + 2);
    carryOut(model, steps);
    t.same(postrouting(model).slice(0, 2), [
      '-m set --match-set VEG-FORWARD-4 dst -j RETURN',
      '-m set --match-set VEG-FORWARD-4 src -j RETURN',
    ]);
    const back = diffNat(model.observe(), desiredNat(intent(blocks(0, 2))));
    t.same(
      back.map((step) => step.type),
      [
        ...['delete-rule', 'delete-rule', 'insert-rule', 'insert-rule', 'insert-rule', 'insert-rule'],
        'destroy-set',
      ],
    );
    t.end();
  },
);

t.test('one block more or less in a set is one element', (t) => {
  const model = applied(intent(blocks(0, 40)));
  t.same(lines(model, desiredNat(intent(blocks(1, 41)))), [
    'ipset add VEG-FORWARD-4 10.0.40.0/24',
    'ipset del VEG-FORWARD-4 10.0.0.0/24',
  ]);
  t.end();
});

t.test('a set that becomes another is built aside and swapped in', (t) => {
  const model = applied(intent(blocks(0, 40)));
  model.restoreSets('create VEG-NEW-4 hash:ip family inet hashsize 64 maxelem 5\n');
  const commands = lines(model, desiredNat(intent(blocks(100, 140))));
  t.equal(commands[0], 'ipset create VEG-NEW1-4 hash:net family inet hashsize 64 maxelem 1048576');
  t.same(commands.slice(41), [
    'ipset swap VEG-NEW1-4 VEG-FORWARD-4',
    'ipset destroy VEG-NEW1-4',
    'ipset destroy VEG-NEW-4',
  ]);
  t.end();
});

t.test('a set with flagged elements, options or too little room is replaced', (t) => {
  const wanted = desiredNat(intent(blocks(0, 40)));
  for (const harm of ['nomatch', 'timeout', 'maxelem']) {
    const model = applied(intent(blocks(0, 40)));
    const set = model.sets.get('VEG-FORWARD-4')!;
    if (harm === 'nomatch') {
      set.elements.set('10.0.0.0/24', ' nomatch');
    } else if (harm === 'timeout') set.header += ' timeout 60';
    else set.header = set.header.replace(/maxelem \d+/, 'maxelem 39');
    carryOut(model, diffNat(model.observe(), wanted));
    t.match(
      model.sets.get('VEG-FORWARD-4')!.header,
      /^hash:net family inet hashsize 64 maxelem 1048576$/,
      harm,
    );
    t.same([...model.sets.get('VEG-FORWARD-4')!.elements.keys()], blocks(0, 40), harm);
    t.equal(model.sets.size, 1, harm);
  }
  t.end();
});

t.test('a set of another type in our place is removed with its rules and made anew', (t) => {
  const wanted = desiredNat(intent(blocks(0, 40)));
  for (const header of ['hash:ip family inet maxelem 99', 'hash:net family inet6 maxelem 99']) {
    const model = applied(intent(blocks(0, 40)));
    model.sets.set('VEG-FORWARD-4', { header, elements: new Map() });
    carryOut(model, diffNat(model.observe(), wanted));
    t.same([...model.sets.get('VEG-FORWARD-4')!.elements.keys()], blocks(0, 40), header);
    t.same(lines(model, wanted), [], header);
  }
  t.end();
});

t.test('a set destroyed or emptied is filled again', (t) => {
  const wanted = desiredNat(intent(blocks(0, 40)));
  const emptied = applied(intent(blocks(0, 40)));
  emptied.sets.get('VEG-FORWARD-4')!.elements.clear();
  t.equal(lines(emptied, wanted).length, 40);
  const destroyed = applied(intent(blocks(0, 40)));
  destroyed.rules(4, 'nat', 'POSTROUTING').splice(0, 2);
  destroyed.sets.clear();
  carryOut(destroyed, diffNat(destroyed.observe(), wanted));
  t.same(lines(destroyed, wanted), []);
  t.end();
});

t.test('100 000 blocks are compared in one pass', { timeout: 30_000 }, (t) => {
  const elements = Array.from(
    { length: 100_000 },
    (_, i) => `10.${i >> 10}.${(i >> 2) & 255}.${(i & 3) * 64}/26` as Prefix,
  );
  const wanted = (list: Prefix[]): NatState => desiredNat([{ ...intent([])[0]!, forward: list }]);
  const observed = wanted(elements.slice(0, -1));
  t.same(commandLines(diffNat(observed, wanted(elements))), [`ipset add VEG-FORWARD-4 ${elements.at(-1)}`]);
  t.end();
});

/**
 * Whether POSTROUTING forwards a packet to (and from) a block unchanged, before the chain that translates, and
 * mangle lets it in.
 */
function forwards(model: Model, block: string): boolean {
  const rules = model.rules(4, 'nat', 'POSTROUTING');
  const hook = rules.findIndex((rule) => rule.text === '-j VEG-MASQUERADE');
  const isIn = (list: typeof rules, direction: string): boolean =>
    list.some(({ text }) => {
      const set = / --match-set (\S+) (\S+) /.exec(text);
      if (set !== null) return set[2] === direction && model.sets.get(set[1]!)!.elements.has(block);
      return text === `-${direction[0]} ${block} -j RETURN`;
    });
  const translated = rules.slice(0, hook);
  return (
    isIn(translated, 'dst') && isIn(translated, 'src') && isIn(model.rules(4, 'mangle', 'VEG-INGRESS'), 'dst')
  );
}

t.test('between two policies no packet finds neither: what both forward is forwarded throughout', (t) => {
  const random = seeded(20261121);
  let forward = blocks(0, 20);
  const model = new Model();
  carryOut(model, diffNat(model.observe(), desiredWhole(intent(forward))));
  let moments = 0;
  for (let round = 0; round < 60; round++) {
    const from = random.below(40);
    const next = blocks(from, from + random.below(70));
    const both = next.filter((block) => forward.includes(block));
    carryOut(
      model,
      diffNat(model.observe(), desiredWhole(intent(next)), desiredWhole(intent(forward))),
      () => {
        moments++;
        const lost = both.filter((block) => !forwards(model, block));
        if (lost.length > 0) t.fail(`round ${round}: ${lost.length} blocks are not forwarded`);
        if (!postrouting(model).includes('-j VEG-MASQUERADE')) t.fail(`round ${round}: nothing translates`);
      },
    );
    t.ok(next.every((block) => forwards(model, block)));
    forward = next;
  }
  t.ok(moments > 100);
  t.end();
});

t.test('from any state to any other: ours in order, what is foreign untouched, counters kept', (t) => {
  const random = seeded(5880);
  const model = new Model();
  let previous: NatState | undefined;
  for (let round = 0; round < 400; round++) {
    for (let i = random.below(8); i > 0; i--) disturb(model, random, random.below(2) === 0 ? 4 : 6);
    const size = [0, 1, 5, 32, 33, 50][random.below(6)]!;
    const from = random.below(20);
    const wanted: NatIntent = FAMILIES.filter(() => random.below(8) > 0).map((family) => ({
      family,
      internalInterface: random.below(5) === 0 ? 'eth1' : 'eth0',
      forward: blocks(from, from + size).map((block) =>
        prefix(family === 4 ? block : `fd00:${block.split('.').slice(1, 3).join(':')}::/48`),
      ),
      notrackBfd: random.below(2) === 0,
      dropInvalid: random.below(2) === 0,
      inbound: random.below(3) === 0 ? 'any' : 'forwarded',
    }));
    const desired = desiredWhole(wanted);
    const before = model.observe();
    carryOut(model, diffNat(before, desired, previous));
    const after = model.observe();
    const rest = commandLines(diffNat(after, desired, previous));
    if (rest.length > 0) t.same(rest, [], `round ${round}: a second diff finds nothing`);
    for (const family of FAMILIES) {
      for (const [table, chains] of after.tables[family]) {
        for (const [chain, { rules }] of chains) {
          const old = before.tables[family].get(table)?.get(chain)?.rules ?? [];
          const want =
            desired.tables[family]
              .get(table)
              ?.get(chain)
              ?.rules.map((rule) => rule.text) ?? [];
          const where = `round ${round}: ${family} ${table} ${chain}`;
          const ours = rules.filter((rule) => want.includes(rule.text));
          t.strictSame(
            ours.map((rule) => rule.text),
            want,
            `${where}: ours in order`,
          );
          const foreign = chain.startsWith('VEG-') ? [] : old.filter((rule) => isForeign(rule.text));
          t.strictSame(
            rules.filter((rule) => isForeign(rule.text)),
            foreign,
            `${where}: foreign rules and their order`,
          );
          const counts = (list: typeof rules, text: string): number =>
            Math.max(0, ...list.filter((rule) => rule.text === text).map((rule) => rule.packets));
          for (const { text, packets } of ours) {
            if (packets !== counts(old, text)) t.equal(packets, counts(old, text), `${where}: ${text}`);
          }
        }
      }
      for (const set of desired.sets.values()) {
        t.strictSame(after.sets.get(set.name)!.elements, set.elements, `round ${round}: ${set.name}`);
      }
    }
    t.equal(after.sets.size, desired.sets.size);
    previous = desired;
  }
  t.end();
});
