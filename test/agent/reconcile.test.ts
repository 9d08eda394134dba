// What a look reads of the kernel, with models of iptables and of routing in its place.
import t from 'tap';
import type { Policy } from '../../agent/policy/model.ts';
import { type Kernels, Reconciler } from '../../agent/reconcile.ts';
import type { NatStep } from '../../nat/diff.ts';
import { RoutingError } from '../../routing/kernel.ts';
import { type Address, address, type Prefix, prefix } from '../../routing/prefix.ts';
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

const [FREE, REFUSED, LATE] = ['172.17.0.50', '172.17.0.51', '172.17.0.52'].map(address) as [
  Address,
  Address,
  Address,
];

/** A pod without any rules, and how often its translation and its routing were read. */
function pod(claims: Partial<Kernels['claims']> = {}) {
  const model = new Model();
  const on = (ifindex: number, text: string) => ({
    ...{ family: 4 as const, ifindex, address: address(text), prefixLength: 16, scope: 0, flags: 0 },
  });
  const link = (index: number, name: string) => ({
    ...{ index, name, up: true, carrier: true, mtu: 1500, mac: `02:00:00:00:00:0${index}` },
  });
  const seen = {
    links: [link(2, 'eth0'), link(3, 'net1')],
    addresses: [on(2, '10.16.0.12'), on(3, '172.17.0.11')],
  };
  const counts = { reads: 0, routing: 0 };
  const routes: Route[] = [];
  const rules: Rule[] = [];
  const added: Address[] = [];
  const kernels: Kernels = {
    routing: {
      observe: async () => {
        counts.routing++;
        return structuredClone({ ...seen, routes, rules });
      },
      apply: async (steps) => {
        for (const step of steps) {
          if (step.kind === 'addRoute') routes.push(step.route);
          else if (step.kind === 'addAddress') added.push(step.address.address);
          else if (step.kind === 'addRule') rules.push(step.rule);
          else throw new Error(`${step.kind} is not modelled`);
        }
        return steps
          .filter((step) => step.kind === 'addAddress' && step.address.address === REFUSED)
          .map((step) => new RoutingError(step, 'ENOBUFS', 'no buffer space'));
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
      ...{ ask: () => new Set(), notes: () => [], settled: async () => {}, taken: () => [] },
      ...{ hold: () => {}, isFree: () => true, refused: () => {}, took: () => {}, withdraw: () => {} },
      ...claims,
    },
    neighbours: { held: () => [], remove: () => {} },
    facts: async () => ({ ...seen, networks: [], names: [], missing: [], notes: [] }),
  };
  return { model, routes, added, counts, reconciler: new Reconciler(kernels, {}) };
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

t.test('neighbours are told of addresses that the kernel has, and of no others', async (t) => {
  const told: string[] = [];
  const { added, reconciler } = pod({
    ask: (wanted) => new Set(wanted.keys()),
    // Somebody has said that it has this one, after the look.
    isFree: (one) => one !== LATE,
    took: (one) => void told.push(`took ${one}`),
    refused: (one) => void told.push(`refused ${one}`),
  });
  const eips = [FREE, REFUSED, LATE].map((externalIP) => ({ externalIP, internalIP: address('10.16.0.9') }));
  const failures = await reconciler.apply(await reconciler.look({ ...policy('10.18.0.0/16'), eips }));
  t.same(added, [FREE, REFUSED], 'the kernel was asked for those');
  t.same(told, [`took ${FREE}`, `refused ${REFUSED}`]);
  t.match(failures, [{ object: 'address', name: REFUSED }]);
});

t.test('an address that another one has is a failed object, and no reason to fail', async (t) => {
  const { added, reconciler } = pod({
    ask: () => new Set(),
    taken: () => [{ address: FREE, holder: '02:00:00:00:00:99' }],
  });
  const eips = [{ externalIP: FREE, internalIP: address('10.16.0.9') }];
  const look = await reconciler.look({ ...policy('10.18.0.0/16'), eips });
  t.match(look.failures, [{ object: 'address', family: 4, name: FREE, reason: 'in_use' }]);
  t.match(look.failures[0]?.message, '172.17.0.50 is not taken: 02:00:00:00:00:99 has it');
  t.same(await reconciler.apply(look), []);
  t.same(added, []);
});

t.test(
  'what the gateway has on its two links is told with its place, but for what it withdraws',
  async (t) => {
    const { reconciler } = pod();
    const { held } = await reconciler.look(policy('10.18.0.0/16'));
    t.same(
      [...held],
      [
        ['10.16.0.12', { ifindex: 2, mac: '02:00:00:00:00:02', carrierChanges: 0 }],
        ['172.17.0.11', { ifindex: 3, mac: '02:00:00:00:00:03', carrierChanges: 0 }],
      ],
    );
  },
);
