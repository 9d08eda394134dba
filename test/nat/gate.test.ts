import t from 'tap';
import { address, FAMILIES, type Family, type Prefix, prefix } from '../../lib/prefix.ts';
import { desiredNat, type FamilyNat } from '../../nat/desired.ts';
import { diffNat } from '../../nat/diff.ts';
import { editGate, type GateTable } from '../../nat/gate.ts';
import { commandLines } from '../../nat/render.ts';
import type { NatState } from '../../nat/state.ts';
import { carryOut, Model, seeded } from './model.ts';
import { type Packet, passesGate, send } from './packet.ts';

const nat = (more: Partial<FamilyNat> = {}, family: Family = 4): FamilyNat => ({
  ...{ family, internalInterface: 'eth0', forward: [], notrackBfd: false, dropInvalid: true },
  ...more,
});
const withGate = (...intent: FamilyNat[]): NatState => desiredNat(intent, () => true);
const withChain = (...intent: FamilyNat[]): NatState => desiredNat(intent);
const block = (n: number): Prefix => prefix(`10.${n}.0.0/16`);
const blocks = (from: number, to: number): Prefix[] =>
  Array.from({ length: Math.max(0, to - from) }, (_, i) => block(from + i));

/** Inside and forwarded, inside, outside. */
const HOSTS = { 4: ['10.18.0.9', '10.17.0.9', '192.0.2.1'], 6: ['fd00:18::9', 'fd00:17::9', '2001:db8::1'] };
const STATES = ['NEW', 'ESTABLISHED', 'RELATED', 'INVALID', 'UNTRACKED'] as const;

function* packets(family: Family): Generator<Packet> {
  const INTERFACES = ['eth0', 'net1', 'eth9'];
  for (const from of [...INTERFACES, '']) {
    for (const to of INTERFACES) {
      for (const src of HOSTS[family].map(address)) {
        for (const dst of [...HOSTS[family], family === 4 ? '172.17.0.11' : '2001:db8:17::11'].map(address)) {
          for (const state of STATES) {
            yield { ...{ in: from, out: to, src, dst, state }, proto: 'tcp', dport: 8080 };
          }
        }
      }
    }
  }
}

t.test('each packet fares with the gate as it does with the chain VEG-NEW', (t) => {
  for (const family of FAMILIES) {
    const forward = [prefix(family === 4 ? '10.18.0.0/16' : 'fd00:18::/32')];
    const dnats: FamilyNat['dnats'] = [
      {
        ...{ externalIP: address(family === 4 ? '172.17.0.11' : '2001:db8:17::11'), protocol: 'tcp' },
        ...{ externalPorts: { first: 8080, last: 8080 }, internalPorts: { first: 80, last: 80 } },
        ...{ internalIP: address(HOSTS[family][1]!), preserveClientIP: false },
      },
    ];
    for (const [name, more] of Object.entries({
      'nothing forwarded': {},
      'a forwarded block': { forward },
      everything: { forward: [prefix(family === 4 ? '0.0.0.0/0' : '::/0')] },
      'a DNAT': { forward, dnats },
      'inbound: any': { inbound: 'any' as const },
    })) {
      const [gate, chain] = [withGate(nat(more, family)), withChain(nat(more, family))];
      t.ok(gate.gates?.[family], `IPv${family}, ${name}: there is a gate`);
      t.notOk(gate.tables[family].get('mangle')!.has('FORWARD'), 'and nothing in mangle FORWARD');
      const differ = [...packets(family)].filter((packet) => {
        const [a, b] = [send(gate, family, packet), send(chain, family, packet)];
        return a.source !== b.source || a.destination !== b.destination;
      });
      t.strictSame(differ, [], `IPv${family}, ${name}`);
    }
  }
  t.end();
});

t.test('where more is done than to drop, the chain VEG-NEW stays', (t) => {
  const snat = { name: 'web', action: { snat: [address('172.17.0.50')] }, sources: [block(17)] };
  for (const [name, more] of Object.entries({
    policies: { policies: [{ ...snat, destinations: [], excluded: [] }] },
    'another default': { defaultAction: 'drop' as const },
    'a limit': { connectionsPerSource: 50 },
    'a set of blocks': { forward: blocks(18, 51) },
    'a primary network': { primary: { interface: 'eth9', addresses: [] } },
    'a group': { group: { self: address('10.16.0.12'), shared: [], externalInterface: 'net1', forward: [] } },
  })) {
    const [gate, chain] = [withGate(nat(more)), withChain(nat(more))];
    t.strictSame(gate.tables, chain.tables, name);
    t.equal(gate.gates, undefined, name);
  }
  t.strictSame(
    desiredNat([nat()], () => false),
    withChain(nat()),
    'nf_tables is missing',
  );
  t.equal(
    withGate(nat({ mssClamp: true }))
      .tables[4].get('mangle')!
      .get('FORWARD')!.rules.length,
    1,
  );
  t.end();
});

/** The blocks that nat leaves unchanged. */
const forwardedIn = (model: Model): Set<string> =>
  new Set(
    model
      .rules(4, 'nat', 'POSTROUTING')
      .flatMap(({ text }) =>
        text.includes('VEG-FORWARD-4 dst')
          ? [...model.sets.get('VEG-FORWARD-4')!.elements.keys()]
          : (/^-d (\S+) -j RETURN$/.exec(text)?.[1] ?? []),
      ),
  );

/** The blocks among the first `count` that connections from outside come to. */
function letIn(model: Model, count: number): Set<string> {
  const state = { ...model.observe(), gates: {} };
  const gate = model.madeFrom[4];
  const passes = (to: Prefix): boolean => {
    const packet: Packet = {
      ...{ in: 'net1', out: 'eth0', src: address('192.0.2.1'), dst: address(to.replace('.0/16', '.9')) },
      ...{ state: 'NEW', proto: 'udp', dport: 53 },
    };
    if (gate !== undefined && !passesGate(gate, { packet, mark: 0 })) return false;
    return send(state, 4, packet).source !== 'drop';
  };
  return new Set(blocks(0, count).filter(passes));
}

t.test(
  'between two policies nothing comes in that nat would translate, and what both forward passes',
  (t) => {
    const random = seeded(20261129);
    const model = new Model();
    let forward = blocks(0, 5);
    let [moments, turns] = [0, 0];
    carryOut(model, diffNat(model.observe(), withGate(nat({ forward }))));
    for (let round = 0; round < 20; round++) {
      const from = random.below(20);
      const next = blocks(from, from + [0, 3, 20, 32, 33, 36][random.below(6)]!);
      const hasGate = random.below(3) > 0;
      const wanted = desiredNat([nat({ forward: next })], () => hasGate);
      const [had, has] = [model.gates[4] !== undefined, wanted.gates !== undefined];
      if (had !== has) turns++;
      carryOut(model, diffNat(model.observe(), wanted), () => {
        moments++;
        const [unchanged, passing] = [forwardedIn(model), letIn(model, 56)];
        const lost = next.filter((one) => forward.includes(one) && !passing.has(one));
        const wrong = [...passing].filter(
          (one) =>
            !(next as string[]).concat(forward).includes(one) ||
            // Chains open before nat does.
            (had && has && !unchanged.has(one)),
        );
        if (lost.length + wrong.length > 0) t.fail(`round ${round}: ${lost} lost, ${wrong} come in`);
      });
      const [passing, rest] = [letIn(model, 56), commandLines(diffNat(model.observe(), wanted))];
      if (rest.length > 0 || [...passing].join() !== next.join())
        t.fail(`round ${round}: ${rest}, ${[...passing]}`);
      forward = next;
    }
    t.ok(moments > 40 && turns > 5, `${moments} moments, ${turns} times from gate to chain or back`);
    t.end();
  },
);

t.test('a gate is edited in one transaction each, closes before nat does and opens behind it', (t) => {
  const model = new Model();
  const lines = (state: NatState): string[] => {
    const steps = diffNat(model.observe(), state);
    carryOut(model, steps);
    return commandLines(steps).filter((line) => line.startsWith('nft') || line.includes('POSTROUTING'));
  };
  lines(withGate(nat({ forward: blocks(1, 3) })));
  t.strictSame(lines(withGate(nat({ forward: blocks(2, 4) }))), [
    'nft edit table ip VEG-GATE: open for 10.2.0.0/16',
    'iptables -t nat -D POSTROUTING -d 10.1.0.0/16 -j RETURN',
    'iptables -t nat -D POSTROUTING -s 10.1.0.0/16 -j RETURN',
    'iptables -t nat -I POSTROUTING 3 -d 10.3.0.0/16 -j RETURN',
    'iptables -t nat -I POSTROUTING 4 -s 10.3.0.0/16 -j RETURN',
    'nft edit table ip VEG-GATE: open for 10.2.0.0/16, 10.3.0.0/16',
  ]);
  t.strictSame(
    lines(withGate(nat({ forward: [prefix('10.0.0.0/8')] }))).filter((line) => line.startsWith('nft')),
    ['nft edit table ip VEG-GATE: open for 10.0.0.0/8'],
    'what is in a wider block stays open',
  );
  t.strictSame(
    lines(withGate(nat({ forward: [block(7)] }))).filter((line) => line.startsWith('nft')),
    ['nft edit table ip VEG-GATE: open for 10.7.0.0/16'],
    'and what is in a wider block before',
  );
  t.strictSame(lines(withGate(nat({ forward: [block(7)], inbound: 'any' }))), [
    'iptables -t nat -I POSTROUTING 1 -o eth0 -m mark ! --mark 0x4000/0x4000 -j VEG-INWARDS',
    'nft edit table ip VEG-GATE: open for all',
  ]);
  model.tables[4].get('nat')!.get('POSTROUTING')!.rules = [];
  delete model.gates[4];
  const flushed = lines(withGate(nat({ forward: [block(7)] })));
  t.strictSame(
    flushed.filter((line) => line.startsWith('nft')),
    ['nft add table ip VEG-GATE: open for no block', 'nft edit table ip VEG-GATE: open for 10.7.0.0/16'],
    'after nft flush ruleset it is closed until nat is there',
  );
  t.strictSame(lines(withGate()).at(-1), 'nft delete table ip VEG-GATE', 'cleanup');
  t.end();
});

t.test('the gate takes over from VEG-NEW when that is as the policy says, and hands over first', (t) => {
  const model = new Model();
  carryOut(model, diffNat(model.observe(), withChain(nat({ forward: blocks(1, 3) }))));
  const kinds = (state: NatState): string[] => {
    const steps = diffNat(model.observe(), state);
    carryOut(model, steps);
    return commandLines(steps).flatMap((line) => {
      if (line.startsWith('nft')) return [line];
      const found = /(-[ND]) (?:FORWARD -m conntrack ! --ctstate \S+ -j )?VEG-NEW$/.exec(line);
      if (found !== null) return [`${found[1] === '-N' ? 'new' : 'unhook'} VEG-NEW`];
      return /-[AI] .*-d 10\.3\.0\.0\/16 -j RETURN$/.test(line) ? [line] : [];
    });
  };
  t.strictSame(kinds(withGate(nat({ forward: blocks(2, 4) }))), [
    'iptables -t mangle -I VEG-INGRESS 3 -d 10.3.0.0/16 -j RETURN',
    'iptables -t nat -I POSTROUTING 3 -d 10.3.0.0/16 -j RETURN',
    'nft add table ip VEG-GATE: open for 10.2.0.0/16, 10.3.0.0/16',
    'unhook VEG-NEW',
  ]);
  t.notOk(model.tables[4].get('mangle')!.has('VEG-NEW'));
  t.strictSame(kinds(withChain(nat({ forward: blocks(2, 4) }))), [
    'new VEG-NEW',
    'iptables -t mangle -A VEG-INGRESS -d 10.3.0.0/16 -j RETURN',
    'nft delete table ip VEG-GATE',
  ]);
  t.end();
});

t.test('what another program has done to the gate is repaired, and the rest of it stays', (t) => {
  const gate = withGate(nat({ forward: [block(18)] })).gates![4]!;
  const damaged = (change: (rules: Map<string, string[]>) => void, hooked = true): GateTable => {
    const rules = new Map([...gate.rules].map(([name, list]): [string, string[]] => [name, [...list]]));
    change(rules);
    return { hooked, rules };
  };
  const nothing = withGate(nat({ forward: [block(18)] })).tables[4].get('nat');
  for (const there of [
    damaged((rules) => rules.delete('fresh')),
    damaged((rules) => rules.get('ingress')!.push('')),
    damaged((rules) => rules.get('postrouting')!.reverse().push('')),
    damaged((rules) => rules.set('theirs', [''])),
    damaged(() => {}, false),
  ]) {
    const { before, after } = editGate(there, gate, nothing, 4);
    t.match(before, [{ type: 'write-gate', there }]);
    t.equal(before.length + after.length, 1);
  }
  t.end();
});
