/** Which policy the rules of VEG-COUNTERS find, against the rule by rule search of the translation log. */
import { test } from 'tap';
import { address, addressBytes, addressNumber, type Prefix, prefix } from '../../../lib/prefix.ts';
import { PolicyIndex } from '../../../nat/conntrack/flow.ts';
import {
  type CountedPolicy,
  type CounterIntent,
  type CounterTable,
  counterTable,
  marksOf,
} from '../../../nat/counters/table.ts';
import { ruleText } from '../../../nat/own-table.ts';

interface Connection {
  source: string;
  destination: string;
  /** NAT has translated the source. */
  snat: boolean;
  inbound: boolean;
}

const number = (text: string): bigint => addressNumber(address(text));
const contains = (block: string, text: string): boolean => {
  const [network = '', length = ''] = block.split('/');
  const shift = BigInt(32 - Number(length));
  return number(network) >> shift === number(text) >> shift;
};

/** Whether the conditions of a rule hold, and the chain that it leads to. Throws for one that it does not know. */
function follow({ sets }: CounterTable, text: string, { source, destination, snat, inbound }: Connection) {
  const ends = { original: source, reply: destination } as Record<string, string>;
  let rest = text;
  const take = (pattern: RegExp): RegExpExecArray | undefined => {
    const found = pattern.exec(rest);
    if (found !== null) rest = rest.slice(found[0].length).trimStart();
    return found ?? undefined;
  };
  for (;;) {
    const goto = take(/^goto (\S+)$/);
    if (goto) return goto[1];
    const map = take(/^ct (original|reply) ip saddr vmap @(\S+)$/);
    if (map) {
      const set = sets.get(map[2]!)!;
      const at = number(ends[map[1]!]!);
      return 'intervals' in set
        ? set.intervals.find(({ first, last }) => first <= at && at <= last)?.chain
        : undefined;
    }
    const block = take(/^ct (original|reply) ip saddr (!= )?(@?\S+)/);
    if (block) {
      const [, end = '', not, what = ''] = block;
      const set = sets.get(what.slice(1));
      const at = number(ends[end]!);
      const isIn =
        set !== undefined && 'intervals' in set
          ? set.intervals.some(({ first, last }) => first <= at && at <= last)
          : contains(what, ends[end]!);
      if (isIn === (not !== undefined)) return undefined;
    } else if (take(/^ct direction original/)) {
      // The packet that begins the connection.
    } else if (take(/^ct direction reply/) || take(/^meta iif 0/)) return undefined;
    else if (take(/^iifname != "eth0"/)) {
      if (!inbound) return undefined;
    } else if (take(/^ct status & \(snat \| dnat\) == 0/)) {
      if (snat) return undefined;
    } else if (take(/^ct status & snat == 0/)) {
      if (snat) return undefined;
    } else throw new Error(`not understood: ${rest}`);
  }
}

/** What a connection is counted for. */
function countedFor(intent: CounterIntent, table: CounterTable, connection: Connection): string | undefined {
  let chain = 'begins';
  for (let steps = 0; steps < 10 && !chain.startsWith('begin-'); steps++) {
    const next = table.chains
      .get(chain)!
      .map((rule) => follow(table, ruleText(rule), connection))
      .find((found) => found !== undefined);
    chain = next!;
  }
  const label = marksOf(intent).get(Number.parseInt(chain.slice('begin-'.length), 16));
  return label && `${label.policy} ${label.inbound ? 'in' : 'out'} ${label.forwarded ? 'forward' : 'snat'}`;
}

/** xorshift32 */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

test('random policies and connections: the policy is the one that the translation log names', async (t) => {
  const next = random(20_261_128);
  const pick = <T>(list: readonly T[]): T => list[next(list.length)]!;
  const inside = () => `10.${16 + next(3)}.${next(4)}.${next(8)}`;
  const outside = () => `203.0.${112 + next(3)}.${next(8)}`;
  const block = (one: string): Prefix => {
    const length = pick([8, 16, 22, 24, 29, 31, 32]);
    const shift = BigInt(32 - length);
    const bits = (number(one) >> shift) << shift;
    return prefix(`${[24n, 16n, 8n, 0n].map((by) => (bits >> by) & 255n).join('.')}/${length}`);
  };
  const blocks = (most: number, one: () => string) => [
    ...new Set(Array.from({ length: next(most + 1) }, () => block(one()))),
  ];
  let named = 0;
  for (let round = 0; round < 300; round++) {
    const policies = Array.from(
      { length: next(6) },
      (_, i): CountedPolicy => ({
        ...{ name: `p${i}`, snat: next(3) > 0, sources: blocks(4, inside) },
        ...{ destinations: next(2) ? [] : blocks(7, outside), excluded: next(3) ? [] : blocks(6, outside) },
      }),
    );
    const intent: CounterIntent = {
      ...{ family: 4, internalInterface: 'eth0', policies, all: policies },
      ...{ fromOutside: true, forwardsRest: true },
    };
    const table = counterTable(intent);
    const index = new PolicyIndex(
      policies.map(({ name, snat, sources, destinations, excluded }) => ({
        ...{ name, snat, ipBlocks: sources, destinationCIDRs: destinations, excludedCIDRs: excluded },
      })),
    );
    for (let i = 0; i < 40; i++) {
      const inbound = next(2) === 0;
      const [inner, outer] = [inside(), outside()];
      const snat = next(2) === 0;
      const found = index.find(addressBytes(address(inner)), addressBytes(address(outer)), snat);
      if (found?.named) named++;
      const wanted = `${found?.name ?? 'default'} ${inbound ? 'in' : 'out'} ${snat ? 'snat' : 'forward'}`;
      const [source, destination] = inbound ? [outer, inner] : [inner, outer];
      const got = countedFor(intent, table, { source, destination, snat, inbound });
      if (got !== wanted) t.equal(got, wanted, JSON.stringify({ policies, source, destination }));
    }
  }
  t.ok(named > 1000, `${named} connections of a named source`);
});

const NONE = { destinations: [], excluded: [] };
const plain = (...policies: CountedPolicy[]): CounterIntent => ({
  ...{ family: 4, internalInterface: 'eth0', policies, all: policies },
  ...{ fromOutside: policies.some(({ snat }) => !snat), forwardsRest: false },
});

test('what can be of one policy alone is looked up nowhere, however many blocks it has', async (t) => {
  const blocks = Array.from({ length: 10_000 }, (_, i) => prefix(`10.${i >> 8}.${i & 255}.0/24`));
  t.equal(counterTable(plain()).sets.size, 0, 'a gateway without policies');
  const forwards = plain({ name: 'direct', snat: false, sources: blocks, ...NONE });
  const table = counterTable(forwards);
  t.notOk(
    [...table.sets.keys()].some((name) => name.startsWith('inside')),
    'forwarded blocks',
  );
  const packet = { source: '10.0.0.1', destination: '203.0.113.1', inbound: false };
  t.equal(countedFor(forwards, table, { ...packet, snat: false }), 'direct out forward');
  t.equal(countedFor(forwards, table, { ...packet, snat: true }), 'default out snat');
});

test('blocks side by side with one policy are one interval', async (t) => {
  const sources = ['10.17.0.0/24', '10.17.1.0/24', '10.17.2.0/23', '10.17.8.0/24'].map(prefix);
  const { sets } = counterTable(plain({ name: 'web', snat: true, sources, ...NONE }));
  const [set] = [...sets].flatMap(([name, one]) => (name.startsWith('inside') ? [one] : []));
  t.match(set, { isMap: true });
  t.equal(set !== undefined && 'intervals' in set && set.intervals.length, 2);
});

test('rules with counters are the same whatever the policy, and marks of the past keep theirs', async (t) => {
  const web: CountedPolicy = { name: 'web', snat: true, sources: [prefix('10.17.0.0/16')], ...NONE };
  const [mark] = [...marksOf(plain(web))].find(([, { policy }]) => policy === 'web')!;
  const name = `count-${mark.toString(16).padStart(6, '0')}`;
  const texts = (table: CounterTable) => table.chains.get(name)?.map(ruleText);
  const before = texts(counterTable(plain(web)));
  t.ok(before);
  t.equal(texts(counterTable(plain())), undefined);
  t.same(texts(counterTable(plain(), [mark])), before);
  t.same(texts(counterTable(plain({ ...web, name: 'first' }, web))), before);
});
