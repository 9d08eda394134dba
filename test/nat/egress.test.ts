import t, { type Test } from 'tap';
import { type Address, address, contains, type Prefix, prefix } from '../../lib/prefix.ts';
import { desiredNat, type FamilyNat } from '../../nat/desired.ts';
import { diffNat } from '../../nat/diff.ts';
import type { DefaultAction, EgressPolicy } from '../../nat/egress.ts';
import { blockOf } from '../../nat/port-blocks.ts';
import { commandLines } from '../../nat/render.ts';
import type { NatState } from '../../nat/state.ts';
import { carryOut, Model, seeded } from './model.ts';
import { type Outcome, type Packet, send } from './packet.ts';

const policy = (name: string, more: Partial<EgressPolicy> = {}): EgressPolicy => ({
  name,
  action: 'masquerade',
  sources: [],
  destinations: [],
  excluded: [],
  ...more,
});
const nat = (more: Partial<FamilyNat> = {}): FamilyNat => ({
  family: 4,
  internalInterface: 'eth0',
  forward: [],
  notrackBfd: false,
  ...more,
});
const list = (...texts: string[]): Prefix[] => texts.map(prefix);
const snat = (...texts: string[]) => ({ snat: texts.map(address) });

const outwards = (src: string, dst: string, more: Partial<Packet> = {}): Packet => ({
  ...{ in: 'eth0', out: 'net1', proto: 'tcp', dport: 443, state: 'NEW' },
  ...{ src: src as Address, dst: dst as Address },
  ...more,
});
const inwards = (src: string, dst: string, more: Partial<Packet> = {}): Packet =>
  outwards(src, dst, { in: 'net1', out: 'eth0', ...more });

/** What becomes of the source address of a connection. */
const source = (wanted: FamilyNat, packet: Packet): string =>
  send(desiredNat([wanted]), wanted.family, packet).source;

t.test('without policies mangle only says what may come in, and the listing is upstream’s', (t) => {
  const plain = nat({ forward: list('10.18.0.0/16') });
  t.same([...desiredNat([plain]).tables[4].keys()], ['nat', 'mangle']);
  t.same([...desiredNat([{ ...plain, inbound: 'any' }]).tables[4].keys()], ['nat']);
  t.same(
    desiredNat([{ ...plain, policies: [], eips: [], dnats: [], defaultAction: 'masquerade' }]),
    desiredNat([plain]),
  );
  t.equal(source(plain, outwards('10.17.0.9', '192.0.2.1')), 'masquerade');
  t.equal(source(plain, outwards('10.18.0.9', '192.0.2.1')), 'unchanged');
  t.equal(source(plain, inwards('192.0.2.1', '10.18.0.9')), 'unchanged');
  t.equal(source(plain, inwards('192.0.2.1', '10.17.0.9')), 'drop');
  t.end();
});

t.test('what comes from outside passes to what is forwarded, EIPs and DNATs, with any policies', (t) => {
  const blocks = Array.from({ length: 40 }, (_, i) => prefix(`10.18.${i}.0/24`));
  const external = address('172.17.0.60');
  const eips = [{ externalIP: external, internalIP: address('10.17.0.9') }];
  const dnats: FamilyNat['dnats'] = [
    {
      externalIP: address('172.17.0.61'),
      protocol: 'tcp',
      externalPorts: { first: 8080, last: 8080 },
      internalIP: address('10.17.0.9'),
      internalPorts: { first: 80, last: 80 },
      preserveClientIP: true,
    },
  ];
  const states = ['NEW', 'INVALID', 'UNTRACKED'] as const;
  for (const [name, more] of Object.entries({
    'blocks as rules': { forward: blocks.slice(0, 3) },
    'blocks as a set': { forward: blocks },
    'with a policy': { forward: blocks, policies: [policy('web', { action: snat('172.17.0.50') })] },
    'with drop': { forward: blocks, defaultAction: 'drop' as const },
    'as a policy': { policies: [policy('f', { sources: blocks, action: 'forward' })] },
    'with an EIP and a DNAT': { forward: blocks, eips, dnats },
  })) {
    const wanted = nat(more);
    for (const state of states) {
      const to = (dst: string, src = '192.0.2.1') => source(wanted, inwards(src, dst, { state }));
      t.equal(to('10.18.1.9'), 'unchanged', `${name}: ${state} to what is forwarded`);
      t.equal(to('10.17.0.9'), 'drop', `${name}: ${state} to what is not`);
      t.equal(to('10.17.0.9', '10.18.1.9'), 'drop', `${name}: ${state} with a source that is forwarded`);
    }
    t.equal(source(wanted, inwards('192.0.2.1', '10.17.0.9', { state: 'ESTABLISHED' })), 'unchanged', name);
    const hairpin = outwards('10.17.0.8', '10.19.0.9', { out: 'eth0' });
    t.not(source(nat({ ...more, defaultAction: 'masquerade' }), hairpin), 'drop', `${name}: within the VPC`);
    t.equal(source({ ...wanted, inbound: 'any' }, inwards('192.0.2.1', '10.17.0.9')), 'unchanged', name);
  }
  const both = nat({ eips, dnats });
  t.equal(source(both, inwards('192.0.2.1', external)), 'masquerade', 'an EIP');
  t.equal(source(both, inwards('192.0.2.1', '172.17.0.61', { dport: 8080 })), 'unchanged', 'a DNAT');
  t.equal(source(both, inwards('192.0.2.1', external, { state: 'INVALID' })), 'drop', 'part of nothing');
  t.end();
});

t.test('a packet of a connection meets one rule of mangle FORWARD', (t) => {
  const all = { connectionsPerSource: 50, defaultAction: 'drop', dropInvalid: true } as const;
  for (const intent of [nat({ dropInvalid: true }), nat(all)]) {
    const forward = desiredNat([intent]).tables[4].get('mangle')!.get('FORWARD')!;
    t.strictSame(
      forward.rules.map(({ text }) => text),
      ['-m conntrack ! --ctstate RELATED,ESTABLISHED -j VEG-NEW'],
    );
  }
  t.end();
});

t.test('a limit of connections is asked about what the policy allows, from inside, by address', (t) => {
  const rules = (family: 4 | 6) =>
    desiredNat([nat({ family, connectionsPerSource: 50, defaultAction: 'drop', dropInvalid: true })])
      .tables[family].get('mangle')!
      .get('VEG-NEW')!
      .rules.map(({ text }) => text);
  t.strictSame(
    rules(4).filter((text) => text.startsWith('-i eth0 ')),
    ['INVALID -j VEG-INVALID', 'NEW -j VEG-EGRESS', 'NEW -j VEG-LIMIT'].map(
      (rest) => `-i eth0 -m conntrack --ctstate ${rest}`,
    ),
  );
  for (const [family, mask] of [
    [4, 32],
    [6, 128],
  ] as const) {
    const mangle = desiredNat([nat({ family, connectionsPerSource: 50 })]).tables[family].get('mangle')!;
    t.equal(
      mangle.get('VEG-LIMIT')!.rules[0]!.text,
      `-m connlimit --connlimit-above 50 --connlimit-mask ${mask} --connlimit-saddr -j DROP`,
    );
  }
  t.end();
});

t.test('what is masqueraded can have its address spelt out, outwards only', (t) => {
  const spelt = { source: { interface: 'net1', address: address('172.17.0.11') } };
  const decided = {
    policies: [policy('web', { sources: list('10.17.0.0/16'), action: snat('172.17.0.50') })],
  };
  for (const wanted of [nat(spelt), nat({ ...spelt, ...decided })]) {
    t.equal(source(wanted, outwards('10.20.0.9', '192.0.2.1')), 'snat 172.17.0.11');
    t.equal(source(wanted, outwards('10.20.0.9', '10.21.0.9', { out: 'eth0' })), 'masquerade');
  }
  t.end();
});

t.test('one policy can drop while another translates', (t) => {
  const wanted = nat({
    policies: [
      policy('no', { sources: list('10.17.0.0/16'), destinations: list('192.0.2.0/24'), action: 'drop' }),
      policy('web', { sources: list('10.17.0.0/16'), action: snat('172.17.0.50') }),
      policy('none', { sources: list('10.18.0.0/16'), action: 'drop' }),
    ],
  });
  t.equal(source(wanted, outwards('10.17.0.9', '192.0.2.1')), 'drop');
  t.equal(source(wanted, outwards('10.17.0.9', '198.51.100.1')), 'snat 172.17.0.50');
  t.equal(source(wanted, outwards('10.18.0.9', '198.51.100.1')), 'drop');
  t.equal(source(wanted, outwards('10.19.0.9', '198.51.100.1')), 'masquerade');
  t.end();
});

t.test('a policy gives its sources an address of their own', (t) => {
  const wanted = nat({
    policies: [policy('web', { sources: list('10.17.0.0/16'), action: snat('172.17.0.50') })],
  });
  t.equal(source(wanted, outwards('10.17.0.9', '192.0.2.1')), 'snat 172.17.0.50');
  t.equal(source(wanted, outwards('10.19.0.9', '192.0.2.1')), 'masquerade');
  t.equal(source(wanted, outwards('172.17.0.11', '192.0.2.1', { in: '' })), 'masquerade', "the pod's own");
  t.end();
});

t.test('up to four destinations are compared one by one, more are a set', (t) => {
  const nets = list(...Array.from({ length: 5 }, (_, i) => `192.0.${i}.0/24`));
  for (const size of [4, 5]) {
    const destinations = nets.slice(0, size);
    const excluded = list('192.0.1.1/32');
    const wanted = nat({
      policies: [policy('some', { destinations, excluded, action: snat('172.17.0.50') })],
    });
    t.match(
      [...desiredNat([wanted]).sets.keys()].sort(),
      size > 4 ? [/^VEG-NOT-/, /^VEG-TO-/] : [/^VEG-NOT-/],
    );
    for (const [i, destination] of nets.entries()) {
      const dst = destination.replace('0/24', '9');
      const expected = i < size ? 'snat 172.17.0.50' : 'masquerade';
      t.equal(source(wanted, outwards('10.17.0.9', dst)), expected, `${dst} of ${size}`);
    }
    t.equal(source(wanted, outwards('10.17.0.9', '192.0.1.1')), 'masquerade', 'excluded');
  }
  t.end();
});

t.test('destinations and exclusions: what a policy does not speak about goes on to the next', (t) => {
  const wanted = nat({
    policies: [
      policy('partner', {
        sources: list('10.17.0.0/16'),
        destinations: list('192.0.2.0/24', '198.51.100.0/24'),
        excluded: list('192.0.2.128/25'),
        action: snat('172.17.0.50'),
      }),
      policy('all to one net', { destinations: list('192.0.2.0/24'), action: 'forward' }),
    ],
  });
  t.equal(source(wanted, outwards('10.17.0.9', '192.0.2.1')), 'snat 172.17.0.50');
  t.equal(source(wanted, outwards('10.17.0.9', '198.51.100.1')), 'snat 172.17.0.50');
  t.equal(source(wanted, outwards('10.17.0.9', '192.0.2.129')), 'unchanged', 'excluded, but in the next');
  t.equal(source(wanted, outwards('10.17.0.9', '203.0.113.1')), 'masquerade');
  t.equal(source(wanted, outwards('10.99.0.9', '192.0.2.1')), 'unchanged');
  t.equal(source(wanted, inwards('192.0.2.200', '10.17.0.9')), 'unchanged', 'forwarded in both directions');
  t.equal(source(wanted, inwards('192.0.2.1', '10.17.0.9')), 'drop', 'the first policy translates');
  t.end();
});

t.test('the first policy wins, whichever block is longer', (t) => {
  const narrow = policy('narrow', { sources: list('10.17.5.0/24'), action: snat('172.17.0.50') });
  const wide = policy('wide', { sources: list('10.0.0.0/8'), action: snat('172.17.0.51') });
  const packet = outwards('10.17.5.9', '192.0.2.1');
  t.equal(source(nat({ policies: [narrow, wide] }), packet), 'snat 172.17.0.50');
  t.equal(source(nat({ policies: [wide, narrow] }), packet), 'snat 172.17.0.51');
  t.end();
});

t.test('what the default drops is told from what a policy masquerades', (t) => {
  const wanted = nat({
    policies: [
      policy('partner', { destinations: list('192.0.2.0/24'), action: snat('172.17.0.50') }),
      policy('web', { sources: list('10.17.0.0/16') }),
    ],
    defaultAction: 'drop',
  });
  t.equal(source(wanted, outwards('10.17.0.9', '198.51.100.1')), 'masquerade');
  t.equal(source(wanted, outwards('10.18.0.9', '198.51.100.1')), 'drop');
  t.equal(source(wanted, outwards('10.18.0.9', '192.0.2.1')), 'snat 172.17.0.50');
  t.end();
});

t.test('the default is a matter of the VPC only', (t) => {
  for (const [defaultAction, expected] of [
    ['masquerade', 'masquerade'],
    ['forward', 'unchanged'],
    ['drop', 'drop'],
  ] as const) {
    const wanted = nat({
      defaultAction,
      forward: list('10.18.0.0/16'),
      policies: [policy('web', { sources: list('10.17.0.0/16') })],
    });
    t.equal(source(wanted, outwards('10.99.0.9', '192.0.2.1')), expected);
    t.equal(source(wanted, outwards('10.17.0.9', '192.0.2.1')), 'masquerade');
    t.equal(source(wanted, outwards('10.18.0.9', '192.0.2.1')), 'unchanged');
    t.equal(source(wanted, outwards('172.17.0.11', '192.0.2.1', { in: '' })), 'masquerade');
    t.equal(source(wanted, inwards('192.0.2.1', '10.18.0.9')), 'unchanged');
  }
  t.end();
});

t.test('the whole address space works as source, destination and exclusion', (t) => {
  const any = list('0.0.0.0/0');
  const sources = policy('s', { sources: list('0.0.0.0/0', '10.1.0.0/16'), action: 'forward' });
  t.equal(source(nat({ policies: [sources] }), outwards('10.9.0.9', '192.0.2.1')), 'unchanged');
  const destinations = policy('d', { sources: list('10.1.0.0/16'), destinations: any, action: 'forward' });
  t.equal(source(nat({ policies: [destinations] }), outwards('10.1.0.9', '192.0.2.1')), 'unchanged');
  const excluded = policy('x', { sources: list('10.1.0.0/16'), excluded: any, action: 'forward' });
  t.equal(source(nat({ policies: [excluded] }), outwards('10.1.0.9', '192.0.2.1')), 'masquerade');
  t.end();
});

t.test('several addresses: one range if they are adjacent, else one of them by the source', (t) => {
  const range = snat('172.17.0.52', '172.17.0.50', '172.17.0.51');
  const one = nat({ policies: [policy('a', { action: range })] });
  t.equal(source(one, outwards('10.1.0.9', '192.0.2.1')), 'snat 172.17.0.50-172.17.0.52');
  const apart = nat({ policies: [policy('a', { action: snat('172.17.0.50', '172.17.0.60') })] });
  const seen = new Set<string>();
  for (let i = 1; i < 9; i++) seen.add(source(apart, outwards(`10.1.0.${i}`, '192.0.2.1')));
  t.same([...seen].toSorted(), ['snat 172.17.0.50', 'snat 172.17.0.60']);
  const many = Array.from({ length: 70 }, (_, i) => address(`172.17.${i}.1`));
  t.throws(() => desiredNat([nat({ policies: [policy('a', { action: { snat: many } })] })]), RangeError);
  t.end();
});

t.test('an EIP is one address both ways, before everything else', (t) => {
  const wanted = nat({
    forward: list('10.17.0.0/16'),
    eips: [{ externalIP: address('172.17.0.60'), internalIP: address('10.17.0.9') }],
  });
  t.equal(source(wanted, outwards('10.17.0.9', '192.0.2.1')), 'snat 172.17.0.60');
  t.equal(source(wanted, outwards('10.17.0.8', '192.0.2.1')), 'unchanged');
  const state = desiredNat([wanted]);
  t.same(send(state, 4, inwards('192.0.2.1', '172.17.0.60')), {
    destination: '10.17.0.9',
    source: 'masquerade',
  });
  t.same(
    send(state, 4, outwards('10.17.0.8', '172.17.0.60', { out: 'eth0' })),
    { destination: '10.17.0.9', source: 'masquerade' },
    'hairpin: replies come back here',
  );
  t.end();
});

t.test('a DNAT takes its ports, and keeps the client if it shall and the client is outside', (t) => {
  const external = address('172.17.0.11');
  const internal = address('10.17.0.9');
  const wanted = nat({
    forward: list('10.17.0.0/16'),
    eips: [{ externalIP: external, internalIP: address('10.17.0.7') }],
    dnats: [
      {
        externalIP: external,
        protocol: 'tcp',
        externalPorts: { first: 8080, last: 8080 },
        internalIP: internal,
        internalPorts: { first: 80, last: 80 },
        preserveClientIP: true,
      },
      {
        externalIP: external,
        protocol: 'udp',
        externalPorts: { first: 5000, last: 5009 },
        internalIP: internal,
        internalPorts: { first: 6000, last: 6009 },
        preserveClientIP: false,
      },
      {
        externalIP: external,
        protocol: 'sctp',
        externalPorts: { first: 9, last: 10 },
        internalIP: internal,
        internalPorts: { first: 9, last: 10 },
        preserveClientIP: false,
      },
    ],
  });
  const state = desiredNat([wanted]);
  const to = (proto: Packet['proto'], dport: number, more: Partial<Packet> = {}): Outcome =>
    send(state, 4, inwards('192.0.2.1', '172.17.0.11', { proto, dport, ...more }));
  t.same(to('tcp', 8080), { destination: '10.17.0.9:80', source: 'unchanged' });
  t.same(to('tcp', 8080, { in: 'eth0', src: '10.17.0.5' as Address }), {
    destination: '10.17.0.9:80',
    source: 'masquerade',
  });
  t.same(to('udp', 5003), { destination: '10.17.0.9:6003', source: 'masquerade' });
  t.same(to('sctp', 10), { destination: '10.17.0.9', source: 'masquerade' });
  t.same(to('tcp', 81), { destination: '10.17.0.7', source: 'masquerade' }, 'the rest is the EIP’s');
  t.end();
});

t.test('IPv6 is written as ip6tables takes it', (t) => {
  const external = address('fd00:172:17::60');
  const internal = address('fd00:10:17::9');
  const wanted = nat({
    family: 6,
    policies: [policy('web', { sources: list('fd00:10:17::/64'), action: snat('fd00:172:17::50') })],
    dnats: [
      {
        externalIP: external,
        protocol: 'tcp',
        externalPorts: { first: 8080, last: 8081 },
        internalIP: internal,
        internalPorts: { first: 80, last: 81 },
        preserveClientIP: false,
      },
      {
        externalIP: external,
        protocol: 'tcp',
        externalPorts: { first: 443, last: 443 },
        internalIP: internal,
        internalPorts: { first: 443, last: 443 },
        preserveClientIP: false,
      },
    ],
  });
  t.equal(source(wanted, outwards('fd00:10:17::9', '2001:db8::1')), 'snat fd00:172:17::50');
  const state = desiredNat([wanted]);
  const to = (dport: number) => send(state, 6, inwards('2001:db8::1', external, { dport })).destination;
  t.equal(to(8081), 'fd00:10:17::9:81');
  t.equal(to(443), 'fd00:10:17::9');
  t.end();
});

t.test('more than 32 external addresses are a set', (t) => {
  const eips = Array.from({ length: 33 }, (_, i) => ({
    externalIP: address(`172.17.1.${i}`),
    internalIP: address(`10.17.1.${i}`),
  }));
  const state = desiredNat([nat({ eips })]);
  t.equal(state.sets.get('VEG-EXTERNAL-4')!.elements.size, 33);
  t.equal(send(state, 4, inwards('192.0.2.1', '172.17.1.30')).destination, '10.17.1.30');
  t.end();
});

t.test('what belongs to no connection is dropped unless it is forwarded anyway', (t) => {
  const invalid = (src: string) => outwards(src, '192.0.2.1', { state: 'INVALID' });
  const blocks = Array.from({ length: 40 }, (_, i) => prefix(`10.18.${i}.0/24`));
  for (const wanted of [
    nat({ forward: blocks.slice(0, 3), dropInvalid: true }),
    nat({ forward: blocks, dropInvalid: true }),
    nat({ dropInvalid: true, policies: [policy('f', { sources: blocks, action: 'forward' })] }),
  ]) {
    t.equal(source(wanted, invalid('10.17.0.9')), 'drop');
    t.equal(source(wanted, invalid('10.18.1.9')), 'unchanged');
    t.equal(source(wanted, outwards('10.17.0.9', '192.0.2.1')), 'masquerade');
  }
  t.equal(source(nat(), invalid('10.17.0.9')), 'unchanged', 'without it such packets leave as they are');
  t.end();
});

t.test('the clamp of TCP segments is independent of the rest', (t) => {
  const rules = desiredNat([nat({ mssClamp: true, inbound: 'any' })]).tables[4].get('mangle')!;
  t.same(
    [...rules].map(([name, { rules }]) => [name, rules.map(({ text }) => text)]),
    [
      ['VEG-MSS', ['-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu']],
      ['FORWARD', ['-p tcp -j VEG-MSS']],
    ],
  );
  t.end();
});

/** The meaning of policies, said in the plainest way. */
function oracle(
  policies: EgressPolicy[],
  fallback: DefaultAction,
  packet: Packet,
  inbound: FamilyNat['inbound'] = 'forwarded',
): string {
  const any = (blocks: Prefix[], value: Address) =>
    blocks.length === 0 || blocks.some((block) => contains(block, value));
  const outside = packet.in === 'eth0';
  const [inner, outer] = outside ? [packet.src, packet.dst] : [packet.dst, packet.src];
  const found = policies.find(
    ({ sources, destinations, excluded }) =>
      any(sources, inner) && any(destinations, outer) && !excluded.some((block) => contains(block, outer)),
  );
  const action = found?.action ?? fallback;
  if (action === 'forward') return 'unchanged';
  if (!outside && inbound === 'any') return 'unchanged';
  if (!outside || action === 'drop') return 'drop';
  if (action === 'masquerade') return 'masquerade';
  if (action.portBlockSize === undefined) return `snat ${action.snat[0]}`;
  const { sources } = found!;
  const block = blockOf({ sources, addresses: action.snat, size: action.portBlockSize }, inner);
  return block === undefined ? 'drop' : `snat ${block.address}:${block.first}-${block.last}`;
}

type Random = ReturnType<typeof seeded>;

const randomBlock = (random: Random, net: number): Prefix =>
  prefix(
    `${net}.${random.below(4)}.${random.below(4)}.${random.below(8) * 32}/${[8, 14, 16, 23, 24, 27, 32][random.below(7)]}`,
  );

function randomPolicies(random: Random, count: number, ports = false): EgressPolicy[] {
  const blocks = (most: number, net: number) =>
    Array.from({ length: random.below(most + 1) }, () => randomBlock(random, net));
  const withPorts = (i: number): EgressPolicy =>
    policy(`ports-${i}`, {
      action: {
        ...snat(`172.17.1.${random.below(40)}`, '172.17.2.1'),
        portBlockSize: 1 << (6 + random.below(6)),
      },
      sources: [randomBlock(random, 10)],
      destinations: random.below(2) === 0 ? [] : blocks(7, 20),
    });
  return Array.from({ length: count }, (_, i) =>
    ports && random.below(3) === 0
      ? withPorts(i)
      : policy(`p${random.below(3) === 0 ? random.below(1000) : i}-${i}`, {
          action: (['masquerade', 'forward', snat(`172.17.0.${random.below(40)}`)] as const)[
            random.below(3)
          ]!,
          sources: blocks(4, 10),
          destinations: random.below(2) === 0 ? [] : blocks(7, 20),
          excluded: random.below(3) === 0 ? blocks(2, 20) : [],
        }),
  );
}

function randomPacket(random: Random): Packet {
  const inside = `10.${random.below(5)}.${random.below(5)}.${random.below(256)}`;
  const outside = `20.${random.below(5)}.${random.below(5)}.${random.below(256)}`;
  return random.below(3) === 0 ? inwards(outside, inside) : outwards(inside, outside);
}

t.test('one rule counts all that may not come in', (t) => {
  for (const more of [{}, { policies: randomPolicies(seeded(7), 20) }, { defaultAction: 'drop' as const }]) {
    const mangle = desiredNat([nat(more)]).tables[4].get('mangle')!;
    const ingress = [...mangle].filter(([name]) => name.startsWith('VEG-INGRESS'));
    t.notOk(ingress.some(([, { rules }]) => rules.some(({ text }) => text.endsWith('-j DROP'))));
    t.equal(ingress.find(([name]) => name === 'VEG-INGRESS')![1].rules.at(-1)!.text, '-j VEG-REFUSED');
    t.same(
      mangle.get('VEG-REFUSED')!.rules.map(({ text }) => text),
      ['-j DROP'],
    );
  }
  t.end();
});

const DEFAULTS: DefaultAction[] = ['masquerade', 'forward', 'drop'];

t.test('random policies decide as their plain meaning does', (t) => {
  const random = seeded(8200);
  for (let round = 0; round < 120; round++) {
    const count = 1 + random.below(round % 10 === 0 ? 60 : 8);
    const policies = randomPolicies(random, count, round % 2 === 1);
    const defaultAction = DEFAULTS[random.below(3)]!;
    const state = desiredNat([nat({ policies, defaultAction })]);
    for (let i = 0; i < 60; i++) {
      const packet = randomPacket(random);
      const { source } = send(state, 4, packet);
      const expected = oracle(policies, defaultAction, packet);
      if (source !== expected) {
        t.equal(source, expected, `round ${round}: ${JSON.stringify(packet)} ${JSON.stringify(policies)}`);
      }
    }
  }
  t.pass('7200 packets');
  t.end();
});

function changeAtRandom(t: Test, seed: number, ports: boolean): void {
  const random = seeded(seed);
  const model = new Model();
  let policies = randomPolicies(random, 6, ports);
  let defaultAction: DefaultAction = 'masquerade';
  let inbound: FamilyNat['inbound'] = 'forwarded';
  const apply = (wanted: NatState, after?: () => void) =>
    carryOut(model, diffNat(model.observe(), wanted), after);
  apply(desiredNat([nat({ policies, defaultAction, inbound })]));
  let moments = 0;
  for (let round = 0; round < 60; round++) {
    // What changes is whose they are and what is done; a policy whose destinations change is its own matter.
    const next = policies.flatMap((one) => (random.below(6) === 0 ? [] : [{ ...one }]));
    for (const one of next) {
      if (random.below(4) === 0 && one.sources.length > 0) one.action = snat(`172.17.0.${random.below(40)}`);
      if (random.below(4) === 0) one.sources = [randomBlock(random, 10), ...one.sources.slice(1)];
    }
    next.push(
      ...randomPolicies(random, random.below(3), ports).map((one, i) => ({ ...one, name: `n${round}-${i}` })),
    );
    const nextDefault = DEFAULTS[random.below(3)]!;
    const nextInbound = random.below(3) === 0 ? 'any' : 'forwarded';
    const packets = Array.from({ length: 12 }, () => randomPacket(random)).filter(
      (packet) => !ports || packet.in === 'eth0',
    );
    // The decision of the same packet under both; where they agree nothing else may ever be seen.
    const same = packets
      .map((packet) => ({ packet, expected: oracle(policies, defaultAction, packet, inbound) }))
      .filter(({ packet, expected }) => expected === oracle(next, nextDefault, packet, nextInbound));
    const wanted = nat({ policies: next, defaultAction: nextDefault, inbound: nextInbound });
    apply(desiredNat([wanted]), () => {
      moments++;
      if (moments % 3 !== 0) return;
      const state = model.observe();
      for (const { packet, expected } of same) {
        const { source } = send(state, 4, packet);
        if (source !== expected && defaultAction === nextDefault) {
          t.equal(source, expected, `round ${round}, moment ${moments}: ${JSON.stringify(packet)}`);
        }
      }
    });
    policies = next;
    defaultAction = nextDefault;
    inbound = nextInbound;
    const rest = diffNat(model.observe(), desiredNat([wanted]));
    if (rest.length > 0) t.same(rest, [], `round ${round}: a second diff finds nothing`);
  }
  t.ok(moments > 200, `${moments} moments`);
}

t.test('while policies change, each connection is treated as by the old or by the new ones', async (t) => {
  changeAtRandom(t, 1701, false);
});

t.test('so is each connection from the VPC while port blocks change', async (t) => {
  changeAtRandom(t, 1702, true);
});

t.test('a source with port blocks gets its ports of the address, to the destinations of its policy', (t) => {
  const blocks = {
    sources: list('10.17.0.0/28', '10.18.0.9/32'),
    action: { ...snat('172.17.0.50', '172.17.0.51'), portBlockSize: 4096 },
  };
  const always = nat({ policies: [policy('tenants', blocks)] });
  t.equal(source(always, outwards('10.17.0.0', '192.0.2.1')), 'snat 172.17.0.50:1024-5119');
  t.equal(
    source(always, outwards('10.17.0.15', '192.0.2.1')),
    'snat 172.17.0.51:1024-5119',
    '15 blocks each',
  );
  t.equal(source(always, outwards('10.18.0.9', '192.0.2.1')), 'snat 172.17.0.51:5120-9215');
  t.equal(source(always, outwards('10.19.0.9', '192.0.2.1')), 'masquerade');
  const partly = nat({
    policies: [policy('tenants', { ...blocks, destinations: list('192.0.2.0/24') })],
  });
  t.equal(source(partly, outwards('10.18.0.9', '192.0.2.1')), 'snat 172.17.0.51:5120-9215');
  t.equal(source(partly, outwards('10.18.0.9', '198.51.100.1')), 'masquerade');
  t.notOk('ports' in desiredNat([nat({ policies: [policy('web', { action: snat('172.17.0.50') })] })]));
  t.end();
});

t.test(
  'of several addresses with a slice each source keeps one, whichever destinations the policy has',
  (t) => {
    const slice = { first: 5056, last: 9087 };
    const shared = (...texts: string[]): EgressPolicy[] => [
      policy('web', {
        sources: list('10.17.0.0/24'),
        action: { ...snat(...texts), slice },
      }),
      policy('partly', {
        sources: list('10.18.0.0/24'),
        destinations: list('192.0.2.0/24'),
        action: { ...snat(...texts), slice },
      }),
    ];
    const addresses = ['172.17.0.50', '172.17.0.51', '172.17.0.60'];
    const here = nat({ policies: shared(...addresses) });
    const there = nat({ policies: shared(...addresses.toReversed()) });
    for (const net of ['10.17.0', '10.18.0']) {
      const found = Array.from({ length: 12 }, (_, i) => {
        const packet = outwards(`${net}.${i}`, '192.0.2.1');
        const got = source(here, packet);
        t.equal(source(there, packet), got, `${net}.${i} has one address on all members`);
        return got;
      });
      t.same(
        new Set(found),
        new Set(addresses.map((text) => `snat ${text}:5056-9087`)),
        `${net} has them all`,
      );
    }
    t.equal(source(here, outwards('10.18.0.9', '198.51.100.1')), 'masquerade');
    const one = nat({ policies: shared('172.17.0.51') });
    t.equal(source(one, outwards('10.17.0.9', '192.0.2.1')), 'snat 172.17.0.51:5056-9087');
    t.end();
  },
);

t.test('port blocks come before the marks that lead to them and go after them; what is right stays', (t) => {
  const model = new Model();
  const wanted = (...sources: string[]): NatState =>
    desiredNat([
      nat({
        policies: [
          policy('tenants', {
            sources: list(...sources),
            action: { ...snat('172.17.0.50'), portBlockSize: 64 },
          }),
        ],
      }),
    ]);
  const types = (state: NatState) => {
    const steps = diffNat(model.observe(), state);
    carryOut(model, steps);
    return steps.map(({ type }) => type).filter((type) => type.includes('port'));
  };
  t.same(types(wanted('10.17.0.0/28')), ['create-port-table', 'write-port-blocks']);
  t.same(types(wanted('10.17.0.0/28')), []);
  t.same(types(wanted('10.17.0.0/27')), ['write-port-blocks', 'delete-port-blocks']);
  const [sum] = model.ports[4]!.policies.values();
  sum!.digest++;
  t.same(types(wanted('10.17.0.0/27')), ['write-port-blocks'], 'somebody changed an element');
  model.ports[4]!.intact = false;
  t.same(types(wanted('10.17.0.0/27')), ['create-port-table', 'write-port-blocks'], 'or a rule');
  const steps = diffNat(model.observe(), wanted('10.17.0.0/26'));
  t.equal(steps[0]!.type, 'write-port-blocks');
  t.equal(steps.at(-1)!.type, 'delete-port-blocks');
  t.equal(
    commandLines(steps.slice(0, 1))[0]!.replace(/0x\w+/, 'MARK'),
    'nft add element ip VEG-PORT-BLOCKS blocks { MARK . 10.17.0.0 : 172.17.0.50 . 1024-1087, and 63 more }',
  );
  t.same(types(desiredNat([nat()])), ['delete-port-table']);
  t.end();
});

t.test('a class keeps its mark when others come and go', (t) => {
  const one = policy('one', {
    sources: list('10.1.0.0/16'),
    destinations: list('192.0.2.0/24'),
    action: snat('172.17.0.50'),
  });
  const others = Array.from({ length: 50 }, (_, i) =>
    policy(`other${i}`, {
      sources: list(`10.${2 + i}.0.0/16`),
      destinations: list('198.51.100.0/24'),
      action: snat(`172.17.1.${i}`),
    }),
  );
  const mark = (policies: EgressPolicy[]) =>
    desiredNat([nat({ policies })])
      .sets.get('VEG-SOURCE-4')!
      .elements.get(prefix('10.1.0.0/16'));
  t.equal(mark([one]), mark([...others, one]));
  const model = new Model();
  carryOut(model, diffNat(model.observe(), desiredNat([nat({ policies: others })])));
  const steps = diffNat(model.observe(), desiredNat([nat({ policies: [...others, one] })]));
  t.ok(steps.length < 20, `${steps.length} steps for one policy among 51`);
  t.end();
});

t.test('1000 policies of 100 sources: few comparisons for each packet', { timeout: 60_000 }, (t) => {
  const policies = Array.from({ length: 1000 }, (_, i) =>
    policy(`p${i}`, {
      sources: Array.from(
        { length: 100 },
        (_, k) => `10.${i >> 2}.${(i & 3) * 64 + (k >> 2)}.${(k & 3) * 64}/26` as Prefix,
      ),
      destinations: list(`198.${i >> 8}.${i & 255}.0/24`),
      action: snat(`172.${i >> 8}.${i & 255}.1`),
    }),
  );
  const { tables, sets } = desiredNat([nat({ policies })]);
  t.equal(sets.get('VEG-SOURCE-4')!.elements.size, 100_000);
  const longest = Math.max(
    ...[...tables[4].values()].flatMap((table) => [...table.values()].map((chain) => chain.rules.length)),
  );
  t.ok(longest <= 16, `no chain has more than 16 rules, the longest ${longest}`);
  t.end();
});
