// What a look reads of the kernel, with models of iptables and of routing in its place.
import t from 'tap';
import type { Policy } from '../../agent/policy/model.ts';
import { type Kernels, Reconciler } from '../../agent/reconcile.ts';
import type { NatStep } from '../../nat/diff.ts';
import { address, type Prefix, prefix } from '../../routing/prefix.ts';
import type { Route, Rule } from '../../routing/state.ts';
import { carryOut, Model } from '../nat/model.ts';

const policy = (...blocks: string[]): Policy => ({
  name: 'default/gateway1',
  origin: { file: 'p.yaml', kind: 'GatewayPolicy', name: 'gateway1' },
  internal: { interface: 'eth0', gateways: [address('10.16.0.1')] },
  external: { interface: 'net1', gateways: [address('172.17.0.1')] },
  bfd: {
    ...{ enabled: false, peers: [], minTX: 100, minRX: 100, multiplier: 5 },
    ...{ mode: 'passive', minTTL: 254, adoptDiscriminator: true, anySource: false },
  },
  rules: [{ name: 'direct', snat: false, ipBlocks: blocks.map((block): Prefix => prefix(block)) }],
  warnings: [],
});

/** A pod without any rules, and how often its translation and its routing were read. */
function pod() {
  const model = new Model();
  const on = (ifindex: number, text: string) => ({
    ...{ family: 4 as const, ifindex, address: address(text), prefixLength: 16, scope: 0, flags: 0 },
  });
  const link = (index: number, name: string) => ({
    ...{ index, name, up: true, carrier: true, mtu: 1500, mac: '' },
  });
  const seen = {
    links: [link(2, 'eth0'), link(3, 'net1')],
    addresses: [on(2, '10.16.0.12'), on(3, '172.17.0.11')],
  };
  const counts = { reads: 0, routing: 0 };
  const routes: Route[] = [];
  const rules: Rule[] = [];
  const kernels: Kernels = {
    routing: {
      observe: async () => {
        counts.routing++;
        return structuredClone({ ...seen, routes, rules });
      },
      apply: async (steps) => {
        for (const step of steps) {
          if (step.kind === 'addRoute') routes.push(step.route);
          else if (step.kind === 'addRule') rules.push(step.rule);
          else throw new Error(`${step.kind} is not modelled`);
        }
        return [];
      },
    },
    nat: {
      observe: async () => {
        counts.reads++;
        return { ...structuredClone(model.observe()), backend: { 4: 'nft', 6: 'nft' } };
      },
      apply: async (steps: readonly NatStep[]) => carryOut(model, steps),
      counts: async () => [],
    },
    sysctls: {
      look: async () => ({ steps: [], problems: {}, notes: [] }),
      ...{ fingerprint: () => '', apply: async () => {}, lookForCleanup: async () => [] },
    },
    claims: {
      ...{ ask: () => new Set(), notes: () => [], settled: async () => {} },
      ...{ announce: () => {}, withdraw: () => {} },
    },
    facts: async () => ({ ...seen, networks: [], names: [], missing: [], notes: [] }),
  };
  return { model, routes, counts, reconciler: new Reconciler(kernels, {}) };
}

const ALL = { routing: true, nat: true };

const blocks = (model: Model): string[] =>
  model.rules(4, 'nat', 'POSTROUTING').flatMap(({ text }) => /^-s (\S+) -j RETURN$/.exec(text)?.[1] ?? []);

t.test('what a settled look has read counts for a new policy as long as nobody touched it', async (t) => {
  const { model, counts, reconciler } = pod();
  await reconciler.apply(await reconciler.look(policy('10.18.0.0/16'), ALL));
  t.equal(counts.reads, 1, 'nothing is known at first');
  t.same((await reconciler.look(policy('10.18.0.0/16'), ALL)).changes.nat, []);
  t.equal(counts.reads, 2, 'nor of what was applied just now');
  await reconciler.apply(await reconciler.look(policy('10.18.0.0/16', '10.19.0.0/16'), ALL));
  t.equal(counts.reads, 2, 'then it is');
  t.same(blocks(model), ['10.18.0.0/16', '10.19.0.0/16']);
  t.same((await reconciler.look(policy('10.18.0.0/16', '10.19.0.0/16'))).changes.nat, []);
  t.equal(counts.reads, 3);
});

t.test('the same goes for routing', async (t) => {
  const { routes, counts, reconciler } = pod();
  const destinations = () => routes.flatMap(({ table, destination }) => (table === 254 ? [destination] : []));
  await reconciler.apply(await reconciler.look(policy('10.18.0.0/16'), ALL));
  t.same((await reconciler.look(policy('10.18.0.0/16'), ALL)).changes.routing, []);
  t.equal(counts.routing, 2);
  await reconciler.apply(await reconciler.look(policy('10.18.0.0/16', '10.19.0.0/16'), ALL));
  t.equal(counts.routing, 2);
  t.same(destinations(), ['0.0.0.0/0', '10.18.0.0/16', '10.19.0.0/16']);
  t.same((await reconciler.look(policy('10.18.0.0/16', '10.19.0.0/16'), ALL)).changes.routing, []);
  t.equal(counts.routing, 3);
  routes.pop();
  const touched = await reconciler.look(policy('10.18.0.0/16', '10.19.0.0/16'), { ...ALL, routing: false });
  t.match(touched.changes.routing, [{ kind: 'addRoute', route: { destination: '10.19.0.0/16' } }]);
});

t.test('what somebody may have touched is read', async (t) => {
  const { model, counts, reconciler } = pod();
  await reconciler.apply(await reconciler.look(policy('10.18.0.0/16')));
  await reconciler.look(policy('10.18.0.0/16'));
  model.rules(4, 'nat', 'POSTROUTING').length = 0;
  await reconciler.apply(
    await reconciler.look(policy('10.18.0.0/16', '10.19.0.0/16'), { ...ALL, nat: false }),
  );
  t.equal(counts.reads, 3);
  t.same(blocks(model), ['10.18.0.0/16', '10.19.0.0/16']);
});

t.test('a rule that moves is read again, for its counters', async (t) => {
  const { model, counts, reconciler } = pod();
  const [first, second] = ['10.18.0.0/16', '10.19.0.0/16'] as const;
  await reconciler.apply(await reconciler.look(policy(first, second)));
  for (const rule of model.rules(4, 'nat', 'POSTROUTING')) rule.packets = 1;
  await reconciler.look(policy(first, second));
  for (const rule of model.rules(4, 'nat', 'POSTROUTING')) rule.packets = 5;
  await reconciler.apply(await reconciler.look(policy(second, first), ALL));
  t.equal(counts.reads, 3);
  t.same(blocks(model), [second, first]);
  for (const { text, packets } of model.rules(4, 'nat', 'POSTROUTING')) t.equal(packets, 5, text);
});
