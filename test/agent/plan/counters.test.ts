import t from 'tap';
import { familyCounters } from '../../../agent/plan/counters.ts';
import type { EgressRule, Policy } from '../../../agent/policy/model.ts';
import { address, prefix } from '../../../lib/prefix.ts';

const rule = (name: string, more: Partial<EgressRule> = {}): EgressRule => ({
  ...{ name, snat: true, ipBlocks: [prefix('10.17.0.0/16')] },
  ...more,
});
const of = (rules: EgressRule[], more: Partial<Policy> = {}, family: 4 | 6 = 4) =>
  familyCounters({ rules, ...more } as Policy, family, 'eth0');

t.test('policies come in the order in which they decide, with the blocks of the family', async (t) => {
  const rules = [
    rule('last', { priority: 2000 }),
    rule('six', { ipBlocks: [prefix('fd00::/64')], destinationCIDRs: [prefix('2001:db8::/32')] }),
    rule('any', { ipBlocks: [], excludedCIDRs: [prefix('10.0.0.0/8'), prefix('fd00::/8')] }),
    rule('to six', { destinationCIDRs: [prefix('2001:db8::/32')] }),
  ];
  t.match(of(rules), {
    ...{ family: 4, internalInterface: 'eth0', all: rules.map(({ name, snat }) => ({ name, snat })) },
    policies: [
      { name: 'any', sources: [], excluded: ['10.0.0.0/8'] },
      { name: 'last', sources: ['10.17.0.0/16'], destinations: [] },
    ],
  });
  t.same(
    of(rules, {}, 6).policies.map(({ name }) => name),
    ['six', 'any'],
  );
});

t.test('a policy without an egress address of the family is named all the same, as in the log', async (t) => {
  const six = rule('web', {
    ipBlocks: [prefix('fd00::/64')],
    egressIP: { addresses: [address('172.17.0.50')], announce: true },
  });
  t.match(of([six], {}, 6).policies, [{ name: 'web' }]);
});

t.test(
  'connections come from outside where something is open, unchanged ones of no policy too',
  async (t) => {
    const ways = ({ fromOutside, forwardsRest }: ReturnType<typeof of>) => ({ fromOutside, forwardsRest });
    const eip = { externalIP: address('172.17.0.60'), internalIP: address('10.17.0.9') };
    t.same(ways(of([rule('web')])), { fromOutside: false, forwardsRest: false });
    t.same(ways(of([rule('direct', { snat: false })])), { fromOutside: true, forwardsRest: false });
    t.same(ways(of([], { eips: [eip] })), { fromOutside: true, forwardsRest: false });
    t.same(ways(of([], { eips: [eip] }, 6)), { fromOutside: false, forwardsRest: false });
    t.same(ways(of([], { inbound: 'any' })), { fromOutside: true, forwardsRest: true });
    t.same(ways(of([], { defaultAction: 'forward' })), { fromOutside: true, forwardsRest: true });
  },
);
