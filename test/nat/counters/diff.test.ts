import { test } from 'tap';
import { prefix } from '../../../lib/prefix.ts';
import { counterLine, diffCounters, KEPT_MARKS } from '../../../nat/counters/diff.ts';
import { type CounterIntent, counterTable, markOfChain, marksOf } from '../../../nat/counters/table.ts';
import { markOfRule } from '../../../nat/own-table.ts';
import { observedOf } from './model.ts';

const intentOf = (...names: string[]): CounterIntent => ({
  ...{ family: 4, internalInterface: 'eth0', fromOutside: false, forwardsRest: false },
  all: names.map((name) => ({ name, snat: true })),
  policies: names.map((name, i) => ({
    ...{
      name,
      snat: true,
      sources: [prefix(`10.${i >> 8}.${i & 255}.0/24`)],
      destinations: [],
      excluded: [],
    },
  })),
});
const of = (...names: string[]) => observedOf(counterTable(intentOf(...names)));
const marksIn = (chains: Iterable<string>) =>
  new Set([...chains].flatMap((chain) => markOfChain(chain)?.mark ?? []));

test('a table is made, and then there is nothing to do; without an intent it is deleted', async (t) => {
  t.match(diffCounters(4, undefined, intentOf()), [{ type: 'create-counters', replace: false }]);
  t.same(diffCounters(4, of('web'), intentOf('web')), []);
  t.match(diffCounters(4, of('web'), undefined), [{ type: 'delete-counters' }]);
  t.same(diffCounters(4, undefined, undefined), []);
});

test('an edit makes what is new and touches no rule with a counter', async (t) => {
  const [step] = diffCounters(4, of('web'), intentOf('web', 'more'));
  if (step?.type !== 'edit-counters') return t.fail('an edit');
  t.equal(step.add.chains.length, 2, 'begin and count of the new policy');
  t.ok(step.rewrite.length > 0 && step.rewrite.every((chain) => markOfChain(chain) === undefined));
  t.ok(step.remove.chains.every((chain) => markOfChain(chain) === undefined));
  t.match(counterLine(step), /^nft edit table ip VEG-COUNTERS: 2 chains/);
});

test('the counters of a policy that is gone stay, and lead nowhere new', async (t) => {
  const [step] = diffCounters(4, of('web'), intentOf());
  if (step?.type !== 'edit-counters') return t.fail('an edit');
  t.ok(step.remove.chains.every((chain) => markOfChain(chain) === undefined));
  t.equal(step.remove.sets.length, 1, 'the map of sources');
  t.same(diffCounters(4, observedOf(step.table), intentOf()), [], 'and that is all');
  const web = [...marksOf(intentOf('web'))].find(([, { policy }]) => policy === 'web')![0];
  t.ok(marksIn(step.table.chains.keys()).has(web));
});

test('the base chain counts the first policy that translates, and goes on when it is no longer the first', async (t) => {
  const web = [...marksOf(intentOf('web'))].find(([, { policy }]) => policy === 'web')![0];
  const primary = ({ rules }: ReturnType<typeof of>) => rules.get('postrouting')!.flatMap(markOfRule);
  const many = Array.from({ length: 20 }, (_, i) => `p${i}`);
  t.same(primary(of('web')).filter(Number), [web, web]);
  t.same(primary(of(...many)).filter(Number), [], 'many are looked up at once');
  for (const names of [['first', 'web'], [], many]) {
    const [step] = diffCounters(4, of('web'), intentOf(...names));
    if (step?.type !== 'edit-counters') return t.fail('an edit');
    t.notOk(step.rewrite.includes('postrouting'), names.join());
    t.same(diffCounters(4, observedOf(step.table), intentOf(...names)), []);
  }
  const emptied = of('web');
  emptied.rules.set('postrouting', []);
  t.match(diffCounters(4, emptied, intentOf('web')), [{ type: 'edit-counters', rewrite: ['postrouting'] }]);
});

test('of more than a thousand policies of the past the rest is removed', async (t) => {
  const many = Array.from({ length: KEPT_MARKS + 50 }, (_, i) => `p${i}`);
  const [step] = diffCounters(4, of(...many), intentOf());
  if (step?.type !== 'edit-counters') return t.fail('an edit');
  t.equal(marksIn(step.remove.chains).size, 50);
});

test('what another program has changed is mended: a rule, a chain, an element, a hook', async (t) => {
  const intent = intentOf('web');
  const rule = of('web');
  rule.rules.set('begins', ['']);
  t.match(diffCounters(4, rule, intent), [{ type: 'edit-counters', rewrite: ['begins'] }]);
  const chain = of('web');
  chain.rules.delete('begins');
  t.match(diffCounters(4, chain, intent), [{ type: 'edit-counters', add: { chains: ['begins'] } }]);
  const foreign = of('web');
  foreign.rules.set('theirs', ['']);
  t.match(diffCounters(4, foreign, intent), [{ remove: { chains: ['theirs'] } }]);
  const element = of('web');
  for (const name of element.sets.keys()) element.sets.set(name, '0 00000000');
  t.match(diffCounters(4, element, intent), [{ type: 'create-counters', replace: true }]);
  t.match(diffCounters(4, { ...of('web'), hooked: false }, intent), [
    { type: 'create-counters', replace: true },
  ]);
});
