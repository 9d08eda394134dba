// What a look reads of the kernel, with models of iptables and of routing in its place.
import t from 'tap';
import { portSlice } from '../../../agent/group/slices.ts';
import { waysOut } from '../../../agent/plan/plan.ts';
import type { Facts } from '../../../agent/pod/interfaces.ts';
import { type LastGood, NOTHING_MISSING } from '../../../agent/policy/last-good.ts';
import { DEFAULT_UPLINK, type Policy } from '../../../agent/policy/model.ts';
import { changeLines, countChanges } from '../../../agent/reconcile/changes.ts';
import { planCleanup } from '../../../agent/reconcile/cleanup.ts';
import type { Kernels } from '../../../agent/reconcile/observation.ts';
import { Reconciler } from '../../../agent/reconcile/reconciler.ts';
import { routeKey, ruleKey } from '../../../agent/reconcile/targets.ts';
import { RTN_UNREACHABLE } from '../../../lib/linux.ts';
import { type Address, address, type Prefix, prefix } from '../../../lib/prefix.ts';
import type { NatStep } from '../../../nat/diff.ts';
import { incompatible, NatError } from '../../../nat/errors.ts';
import { createFastPathKernel } from '../../../nat/fast-path/kernel.ts';
import { GateError } from '../../../nat/gate-kernel.ts';
import type { ObservedNat } from '../../../nat/kernel.ts';
import { commandLines, isRuleStep } from '../../../nat/render.ts';
import { RoutingError } from '../../../routing/kernel.ts';
import {
  METRIC_ANNOUNCED,
  METRIC_VEG_AGENT,
  RTPROT_VEG_AGENT,
  TABLE_MAIN,
} from '../../../routing/numbers.ts';
import type { ObservedProxy } from '../../../routing/proxies.ts';
import { renderStep } from '../../../routing/render.ts';
import type { InterfaceAddress, Route, Rule } from '../../../routing/state.ts';
import { createShapingKernel } from '../../../shaping/kernel.ts';
import { classId, formatRoot, TC_H_ROOT } from '../../../shaping/tc-codec.ts';
import { createCounterModel } from '../../nat/counters/model.ts';
import { NftablesModel } from '../../nat/fast-path/model.ts';
import { carryOut, Model } from '../../nat/model.ts';
import { ShapingModel } from '../../shaping/model.ts';

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

/** What the kernel refuses: steps whose line holds this text, with this error. */
type Refusal = [text: string, error: Error & { code?: string }];

/** A pod without any rules, and how often its translation and its routing were read. */
function pod(
  claims: Partial<Kernels['claims']> = {},
  lastGood?: () => LastGood | undefined,
  model = new Model(),
) {
  const refusals: Refusal[] = [];
  const shaping = new ShapingModel();
  const refusal = (line: string) => refusals.find(([text]) => line.includes(text))?.[1];
  const announced: string[] = [];
  const added: Address[] = [];
  /** What was applied, in order, as commands. */
  const lines: string[] = [];
  const settings = new Map<string, string>();
  /** What was asked about tables that cannot be listed, and the chains of them that are not led to. */
  const [asked, gone]: [string[], Set<string>] = [[], new Set()];
  const groups: NonNullable<Facts['groups']> = {};
  const trouble: Partial<Pick<ObservedNat, 'failed' | 'unreadable'>> = {};
  const on = (ifindex: number, text: string) => ({
    ...{ family: 4 as const, ifindex, address: address(text), prefixLength: 16, scope: 0, flags: 0 },
  });
  const link = (index: number, name: string) => ({
    ...{ index, name, up: true, carrier: true, mtu: 1500, mac: `02:00:00:00:00:0${index}` },
  });
  const seen = {
    links: [link(2, 'eth0'), link(3, 'net1')],
    addresses: [on(2, '10.16.0.12'), on(3, '172.17.0.11')] as InterfaceAddress[],
  };
  const counts = { reads: 0, routing: 0 };
  const routes: Route[] = [];
  const rules: Rule[] = [];
  const proxies: ObservedProxy[] = [];
  const counters = createCounterModel();
  const nftables = new NftablesModel();
  const gates: { lack?: string } = {};
  const kernels: Kernels = {
    routing: {
      observe: async () => {
        counts.routing++;
        return structuredClone({ ...seen, routes, rules, proxies });
      },
      apply: async (steps) => {
        const refused: RoutingError[] = [];
        for (const step of steps) {
          lines.push(renderStep(step));
          if (step.kind === 'addAddress') added.push(step.address.address);
          const error = refusal(renderStep(step));
          if (error !== undefined) refused.push(new RoutingError(step, error.code!, error.message));
          else if (step.kind === 'addRoute') routes.push(step.route);
          else if (step.kind === 'replaceRoute') {
            const at = routes.findIndex((one) => routeKey(one) === routeKey(step.route));
            routes.splice(at, 1, step.route);
          } else if (step.kind === 'delRoute') {
            const at = routes.findIndex((one) => routeKey(one) === routeKey(step.route));
            routes.splice(at, 1);
          } else if (step.kind === 'delRule') {
            const at = rules.findIndex((one) => ruleKey(one) === ruleKey(step.rule));
            rules.splice(at, 1);
          } else if (step.kind === 'addRule') rules.push(step.rule);
          else if (step.kind === 'delProxy') {
            const at = proxies.findIndex((one) => one.address === step.proxy.address);
            proxies.splice(at, 1);
          } else if (step.kind === 'addAddress') {
            const { family, address } = step.address;
            if (family === 4)
              seen.addresses.push({ ...on(3, address), prefixLength: 32, metric: METRIC_VEG_AGENT });
          } else throw new Error(`${step.kind} is not modelled`);
        }
        return refused;
      },
    },
    shaping: createShapingKernel({
      ...{ tc: shaping, openFilter: () => shaping, indexes: () => shaping.indexes },
    }),
    nat: {
      observe: async () => {
        counts.reads++;
        return {
          ...structuredClone(model.observe()),
          ...{ backend: { 4: 'nft', 6: 'nft' }, failed: {}, unreadable: { 4: new Map(), 6: new Map() } },
          ...trouble,
        };
      },
      apply: async (steps: readonly NatStep[]) => {
        for (const batch of batches(steps)) {
          const error = commandLines(batch).map(refusal).find(Boolean);
          if (error !== undefined) throw error;
          lines.push(...commandLines(batch));
          carryOut(model, batch);
        }
      },
      missingHook: async (family, table, hooks) => {
        asked.push(`${family} ${table} ${hooks.map(({ chain, target }) => `${chain} ${target}`).join()}`);
        return hooks.find(({ target }) => gone.has(target));
      },
      counts: async () => [],
      gateLack: () => gates.lack,
    },
    counters,
    fastPath: createFastPathKernel(() => nftables),
    sysctls: {
      observe: async (wanted) => ({
        steps: wanted
          .filter(({ path, value }) => settings.get(path) !== value)
          .map((one) => ({ ...one, line: `sysctl -w ${one.path}=${one.value}` })),
        ...{ problems: {}, notes: [] },
      }),
      apply: async (steps) => {
        for (const { path, value, line } of steps) {
          const error = refusal(line);
          if (error !== undefined) throw error;
          settings.set(path, value);
        }
      },
      ...{ fingerprint: () => '', planCleanup: async () => [] },
    },
    claims: {
      probe: (links) => new Set(links.keys()),
      assigned: (one) => void announced.push(one),
      ...{ notes: () => [], settled: async () => {}, conflicts: () => [] },
      ...{ setAssigned: () => {}, isFree: () => true, refused: () => {}, removed: () => {} },
      ...claims,
    },
    neighbours: { permanent: () => [], remove: () => {} },
    facts: async () => ({
      ...structuredClone(seen),
      connected: [],
      routes: [],
      podIPs: [],
      services: [],
      networks: [],
      names: [],
      missing: [],
      notes: [],
      groups,
    }),
  };
  const reconciler = new Reconciler(kernels, {}, lastGood);
  const run = async (wanted: Policy, anew = true) =>
    reconciler.apply(await reconciler.observe(wanted, NONE, anew));
  return {
    model,
    shaping,
    seen,
    routes,
    rules,
    proxies,
    added,
    lines,
    counts,
    refusals,
    announced,
    asked,
    gone,
    settings,
    groups,
    trouble,
    gates,
    counters,
    nftables,
    kernels,
    reconciler,
    run,
  };
}

/** Steps as the kernel gets them: the rules in one go, the sets in one go. */
function batches(steps: readonly NatStep[]): NatStep[][] {
  const found: NatStep[][] = [];
  for (const step of steps) {
    const last = found.at(-1);
    if (last !== undefined && isRuleStep(last[0]!) === isRuleStep(step)) last.push(step);
    else found.push([step]);
  }
  return found;
}

const NONE = { routing: false, nat: false };

const ALL = { routing: true, nat: true };

const blocks = (model: Model): string[] =>
  model.rules(4, 'nat', 'POSTROUTING').flatMap(({ text }) => /^-s (\S+) -j RETURN$/.exec(text)?.[1] ?? []);

t.test('what nf_tables refuses of the gate iptables does, until another policy comes', async (t) => {
  const { run, model, refusals, lines, gates, reconciler } = pod();
  refusals.push([
    'nft add table ip VEG-GATE',
    new GateError('unsupported', 'nf_tables: VEG-GATE: no (ENOENT)'),
  ]);
  const wanted = policy('10.18.0.0/16');
  const first = await run(wanted);
  t.same(first.families, { 4: 'applied', 6: 'applied' });
  t.same(first.failures, []);
  t.match(first.observation.notes, [/^what belongs to no connection .*no \(ENOENT\); load nf_tables/]);
  t.equal(model.gates[4], undefined);
  t.ok(model.tables[4].get('mangle')!.has('VEG-NEW'));
  t.same(blocks(model), ['10.18.0.0/16']);

  refusals.length = 0;
  t.same((await reconciler.preview(wanted)).changes.nat, [], 'a preview knows it, and forgets nothing');
  const second = await run(wanted);
  t.same(second.observation.changes.nat, [], 'it is not asked again');
  t.match(second.observation.notes, [/^what belongs to no connection/]);
  const applied = lines.length;
  await run(policy('10.18.0.0/16', '10.19.0.0/16'));
  t.ok(lines.slice(applied).some((line) => line.startsWith('nft add table ip VEG-GATE')));
  t.notOk(model.tables[4].get('mangle')!.has('VEG-NEW'));

  gates.lack = 'no nf_tables';
  const without = await run(policy('10.18.0.0/16'));
  t.same(without.families, { 4: 'applied', 6: 'applied' });
  t.match(without.observation.notes, [/no nf_tables/]);
  t.same([model.gates[4], model.tables[4].get('mangle')!.has('VEG-NEW')], [undefined, true]);
});

t.test('a family is applied as often as what it needs moves meanwhile, up to a bound', async (t) => {
  for (const [changes, result] of [
    [0, 'applied'],
    [2, 'applied'],
    [1000, 'broken'],
  ] as const) {
    const { run, model, refusals, kernels } = pod();
    refusals.push(['nft add table ip VEG-GATE', new GateError('unsupported', 'no (ENOENT)')]);
    const { apply } = kernels.nat;
    let left: number = changes;
    kernels.nat.apply = async (steps) => {
      if (left-- > 0) throw new NatError('changed', 'another program was faster');
      await apply(steps);
    };
    const { families, failures } = await run(policy('10.18.0.0/16'));
    t.same(families, { 4: result, 6: 'applied' }, `${changes} changes`);
    t.equal(failures.length, result === 'applied' ? 0 : 1);
    if (result === 'applied') t.same(blocks(model), ['10.18.0.0/16']);
  }
});

t.test(
  'limits that the kernel refuses take no family down, and only a full run tries them again',
  async (t) => {
    const { shaping, run, model } = pod();
    shaping.unknownKinds.add('htb');
    const wanted = { ...policy('10.18.0.0/16'), bandwidth: { egress: 1e6 } };
    const first = await run(wanted);
    t.same(first.families, { 4: 'applied', 6: 'applied' });
    t.same(blocks(model), ['10.18.0.0/16']);
    t.match(first.failures[0], { object: 'qdisc', name: 'net1', reason: 'unsupported', message: /sch_htb/ });
    const repair = await run(wanted, false);
    t.same(repair.observation.changes.shaping, [], 'a repair does not retry');
    t.same(repair.failures, first.failures);
    shaping.unknownKinds.clear();
    t.same((await run(wanted)).failures, []);
    t.same((await run(wanted)).observation.changes.shaping, []);
    t.ok(shaping.qdiscs.some(({ ifindex }) => ifindex === 3));
  },
);

t.test(
  'a kernel without traffic control takes only limits away, and a clean-up does not need it',
  async (t) => {
    const { shaping, run, model, kernels } = pod();
    shaping.lacksTc = true;
    const wanted = policy('10.18.0.0/16');
    t.match(await run(wanted), { families: { 4: 'applied', 6: 'applied' }, failures: [] });
    const limited = await run({ ...policy('10.19.0.0/16'), bandwidth: { egress: 1e6 } });
    t.same(limited.families, { 4: 'applied', 6: 'applied' });
    t.same(blocks(model), ['10.19.0.0/16']);
    t.match(limited.failures[0], {
      ...{ object: 'qdisc', name: 'net1', reason: 'unsupported', message: /CONFIG_NET_SCHED/ },
    });
    t.match((await planCleanup(kernels)).changes.shaping, [{ kind: 'delete-filter' }]);
    t.same((await run(wanted)).failures, []);
    t.same((await planCleanup(kernels)).changes.shaping, []);
  },
);

t.test('a root qdisc of another program is a conflict, and no failure to retry', async (t) => {
  const { shaping, run } = pod();
  const data = Buffer.from(formatRoot(3, 0x42));
  shaping.qdiscs.push({ ifindex: 3, handle: classId(0x42, 0), parent: TC_H_ROOT, data });
  const outcome = await run({ ...policy('10.18.0.0/16'), bandwidth: { egress: 1e6, ingress: 1e6 } });
  t.same(outcome.failures, []);
  t.match(outcome.observation.conflicts, [
    {
      object: 'qdisc',
      name: 'net1',
      reason: 'in_use',
      message: /^egress bandwidth is not limited: net1 has/,
    },
  ]);
  t.ok(
    shaping.qdiscs.some(({ ifindex }) => ifindex === 2),
    'the other direction is limited',
  );
});

t.test('a settled observation counts for a new policy as long as nothing has changed', async (t) => {
  const { model, counts, reconciler } = pod();
  await reconciler.apply(await reconciler.observe(policy('10.18.0.0/16'), ALL));
  t.equal(counts.reads, 1, 'nothing is known at first');
  t.same((await reconciler.observe(policy('10.18.0.0/16'), ALL)).changes.nat, []);
  t.equal(counts.reads, 2, 'nor of what was applied just now');
  await reconciler.apply(await reconciler.observe(policy('10.18.0.0/16', '10.19.0.0/16'), ALL));
  t.equal(counts.reads, 2, 'then it is');
  t.same(blocks(model), ['10.18.0.0/16', '10.19.0.0/16']);
  t.same((await reconciler.observe(policy('10.18.0.0/16', '10.19.0.0/16'))).changes.nat, []);
  t.equal(counts.reads, 3);
});

t.test('the same goes for routing', async (t) => {
  const { routes, counts, reconciler } = pod();
  const destinations = () => routes.flatMap(({ table, destination }) => (table === 254 ? [destination] : []));
  await reconciler.apply(await reconciler.observe(policy('10.18.0.0/16'), ALL));
  t.same((await reconciler.observe(policy('10.18.0.0/16'), ALL)).changes.routing, []);
  t.equal(counts.routing, 2);
  await reconciler.apply(await reconciler.observe(policy('10.18.0.0/16', '10.19.0.0/16'), ALL));
  t.equal(counts.routing, 2);
  t.same(destinations(), ['0.0.0.0/0', '10.18.0.0/16', '10.19.0.0/16']);
  t.same((await reconciler.observe(policy('10.18.0.0/16', '10.19.0.0/16'), ALL)).changes.routing, []);
  t.equal(counts.routing, 3);
  routes.pop();
  const touched = await reconciler.observe(policy('10.18.0.0/16', '10.19.0.0/16'), {
    ...ALL,
    routing: false,
  });
  t.match(touched.changes.routing, [{ kind: 'addRoute', route: { destination: '10.19.0.0/16' } }]);
});

t.test('the way to a member of the group is there before packets are marked for it', async (t) => {
  const { groups, lines, run } = pod();
  const base = policy();
  const shared = { addresses: [FREE], announce: true as const, shared: true as const };
  groups[4] = {
    ...{ self: address('10.16.0.12'), state: 'live', slice: portSlice(12), ready: true },
    ...{ takingOverFrom: [], notConnectedWith: [] },
    ...{ held: [], forward: [{ slice: portSlice(13), via: address('172.17.0.12') }] },
  };
  await run({
    ...base,
    rules: [{ name: 'web', snat: true, ipBlocks: [prefix('10.17.0.0/16')], egressIP: shared }],
    group: {
      ...{
        members: ['10.16.0.12', '10.16.0.13'].map(address),
        port: 10_667,
        credentials: { keyFile: '/key' },
      },
      ...{ minTX: 100, minRX: 100, multiplier: 3 },
    },
  });
  const at = (text: string) => lines.findIndex((line) => line.includes(text));
  const marks = at('MARK --set-xmark 0x2d0000/0x2f0000');
  t.ok(at('ip route replace default via 172.17.0.12 dev net1 table 1023') < at('ip rule add priority 1000'));
  t.ok(at('ip rule add priority 1000') < marks, lines.join('\n'));
  t.ok(marks < at('ip rule add priority 1001'), 'what leads packets to the translation comes after it');
});

t.test('what another program may have changed is read', async (t) => {
  const { model, counts, reconciler } = pod();
  await reconciler.apply(await reconciler.observe(policy('10.18.0.0/16')));
  await reconciler.observe(policy('10.18.0.0/16'));
  model.rules(4, 'nat', 'POSTROUTING').length = 0;
  await reconciler.apply(
    await reconciler.observe(policy('10.18.0.0/16', '10.19.0.0/16'), { ...ALL, nat: false }),
  );
  t.equal(counts.reads, 3);
  t.same(blocks(model), ['10.18.0.0/16', '10.19.0.0/16']);
});

t.test('tables that another program deletes between observation and apply are made again', async (t) => {
  const { reconciler, run, counters, nftables } = pod();
  await run({ ...policy('10.18.0.0/16'), fastPath: true });
  const edited = policy('10.19.0.0/16');
  edited.rules.push({ name: 'web', snat: true, ipBlocks: [prefix('10.20.0.0/16')] });
  const observation = await reconciler.observe(edited);
  t.match(observation.changes.counters, [{ type: 'edit-counters' }]);
  t.match(observation.changes.fastPath, [{ type: 'delete-fast-path' }]);
  counters.flush();
  nftables.flush();
  const outcome = await reconciler.apply(observation);
  t.same([outcome.failures, outcome.observation.notes], [[], []]);
  t.match(counters.asked.at(-1), { type: 'create-counters', family: 4 });
  t.equal(outcome.observation.fastPath, false);
  const { changes } = await reconciler.observe(edited);
  t.same([changes.counters, changes.fastPath], [[], []]);
});

t.test('a family whose counters are refused does not stop those of the other', async (t) => {
  const { run, seen, counters } = pod();
  seen.addresses.push(
    ...['fd00:10::12', 'fd00:17::11'].map((text, i) => ({
      ...{ family: 6 as const, ifindex: 2 + i, address: address(text), prefixLength: 64, scope: 0, flags: 0 },
    })),
  );
  const both = policy('10.18.0.0/16', 'fd00:18::/64');
  both.internal.gateways.push(address('fd00:10::1'));
  both.external.gateways.push(address('fd00:17::1'));
  counters.refuses[4] = 'ENOMEM';
  const first = await run(both);
  t.match(await counters.observe(), { 6: {} });
  t.match(first.failures, [{ object: 'table', family: 4, name: 'VEG-COUNTERS' }]);
  t.same(first.families, { 4: 'applied', 6: 'applied' });
  counters.flush();
  const asked = counters.asked.length;
  const second = await run(both, false);
  t.match(counters.asked.slice(asked), [{ family: 6 }], 'a repair does not retry what was refused');
  t.match(second.failures, [{ family: 4 }]);
  counters.refuses = {};
  t.same((await run(both)).failures, []);
  t.match(await counters.observe(), { 4: {}, 6: {} });
});

t.test('a rule that moves is read again, for its counters', async (t) => {
  const { model, counts, reconciler } = pod();
  const [first, second] = ['10.18.0.0/16', '10.19.0.0/16'] as const;
  await reconciler.apply(await reconciler.observe(policy(first, second)));
  for (const rule of model.rules(4, 'nat', 'POSTROUTING')) rule.packets = 1;
  await reconciler.observe(policy(first, second));
  for (const rule of model.rules(4, 'nat', 'POSTROUTING')) rule.packets = 5;
  await reconciler.apply(await reconciler.observe(policy(second, first), ALL));
  t.equal(counts.reads, 3);
  t.same(blocks(model), [second, first]);
  for (const { text, packets } of model.rules(4, 'nat', 'POSTROUTING')) t.equal(packets, 5, text);
});

const errno = (code: string) => Object.assign(new Error(code), { code });

t.test('the addresses that the kernel has are announced, and no others', async (t) => {
  const told: string[] = [];
  const { added, refusals, run } = pod({
    // Somebody has said that it has this one, after the look.
    isFree: (one) => one !== LATE,
    assigned: (one) => void told.push(`assigned ${one}`),
    refused: (one) => void told.push(`refused ${one}`),
  });
  const eips = [FREE, REFUSED, LATE].map((externalIP) => ({ externalIP, internalIP: address('10.16.0.9') }));
  refusals.push([`${REFUSED}/32 dev`, errno('ENOBUFS')]);
  const { failures } = await run({ ...policy('10.18.0.0/16'), eips });
  t.same(added, [FREE, REFUSED], 'the kernel was asked for those');
  t.same(told, [`assigned ${FREE}`, `refused ${REFUSED}`]);
  t.match(failures, [{ object: 'address', name: REFUSED }]);
});

t.test('an address that another one has is a failed object, and no reason to fail', async (t) => {
  const { added, reconciler } = pod({
    probe: () => new Set(),
    conflicts: () => [{ address: FREE, holder: '02:00:00:00:00:99' }],
  });
  const eips = [{ externalIP: FREE, internalIP: address('10.16.0.9') }];
  const look = await reconciler.observe({ ...policy('10.18.0.0/16'), eips });
  t.match(look.conflicts, [{ object: 'address', family: 4, name: FREE, reason: 'in_use' }]);
  t.match(look.conflicts[0]?.message, '172.17.0.50 is not taken: 02:00:00:00:00:99 has it');
  t.same((await reconciler.apply(look)).failures, []);
  t.same(added, []);
});

t.test(
  'the addresses on both links are announced with their link, except for those that it removes',
  async (t) => {
    const { seen, reconciler } = pod();
    // As formatAddress writes virtual addresses.
    const virtual = { prefixLength: 32, scope: 253, metric: METRIC_VEG_AGENT };
    seen.addresses.push({ ...seen.addresses[1]!, address: FREE, ...virtual });
    const eips = [{ externalIP: FREE, internalIP: address('10.16.0.9') }];
    const wished = await reconciler.observe({ ...policy('10.18.0.0/16'), eips });
    t.same([...wished.assigned.keys()], ['10.16.0.12', '172.17.0.11', FREE]);
    const { assigned: held } = await reconciler.observe(policy('10.18.0.0/16'));
    t.same(
      [...held],
      [
        ['10.16.0.12', { ifindex: 2, mac: '02:00:00:00:00:02', carrierChanges: 0 }],
        ['172.17.0.11', { ifindex: 3, mac: '02:00:00:00:00:03', carrierChanges: 0 }],
      ],
    );
  },
);

// What the kernel refuses ---------------------------------------------------------------------------------

const all = (model: Model) =>
  JSON.stringify([[...model.tables[4]].map(([n, t]) => [n, [...t]]), [...model.sets]]);
const told = ({ failures }: { failures: readonly { object: string; name: string; reason: string }[] }) =>
  failures.map(({ object, name, reason }) => `${object} ${name}: ${reason}`);
const clamped = (...list: string[]): Policy => ({ ...policy(...list), mssClamp: true });
const TCPMSS: Refusal = ['TCPMSS', new NatError('unsupported', 'no TCPMSS')];

t.test('an optional part that is refused is left out, and the rest goes in', async (t) => {
  const { model, refusals, run, settings } = pod();
  refusals.push(TCPMSS);
  const first = await run(clamped('10.18.0.0/16'));
  t.equal(first.families[4], 'held', 'at the start too');
  t.same(told(first), ['chain VEG-MSS: unsupported']);
  t.same(blocks(model), ['10.18.0.0/16']);
  t.equal(settings.get('net/ipv4/ip_forward'), '1', 'and it forwards');

  const wanted = clamped('10.18.0.0/16', '10.19.0.0/16');
  await run(wanted);
  t.same(blocks(model), ['10.18.0.0/16', '10.19.0.0/16']);
  model.rules(4, 'nat', 'POSTROUTING').length = 0;
  const again = await run(wanted, false);
  t.equal(again.families[4], 'held');
  t.same(told(again), ['chain VEG-MSS: unsupported'], 'it stays told');
  t.same(blocks(model), ['10.18.0.0/16', '10.19.0.0/16'], 'and what others damage comes back');

  refusals.length = 0;
  const last = await run(wanted);
  t.same([last.families[4], last.failures], ['applied', []]);
  t.ok(model.tables[4].get('mangle')!.has('VEG-MSS'));
});

t.test('what translates is refused as a whole: the last good state is put back whole', async (t) => {
  const { model, refusals, run } = pod();
  const many = (n: number) => Array.from({ length: n }, (_, i) => `10.100.${i}.0/24`);
  const old = policy(...many(40));
  t.equal((await run(old)).families[4], 'applied');
  const before = all(model);
  // The set that is in use gets its new elements, then the rules are refused.
  refusals.push(['DNAT', new NatError('failed', 'no DNAT')]);
  const next: Policy = {
    ...policy(...many(50)),
    eips: [{ externalIP: address('172.17.0.60'), internalIP: address('10.17.0.9') }],
  };
  const { families, policies, failures } = await run(next);
  t.equal(families[4], 'held');
  t.equal(policies[4], old);
  t.equal(failures.length, 1);
  t.equal(all(model), before);
  model.rules(4, 'nat', 'VEG-MASQUERADE').length = 0;
  t.equal((await run(next, false)).families[4], 'held');
  t.equal(all(model), before, 'it is what is maintained');
  refusals.length = 0;
  t.equal((await run(next)).families[4], 'applied');
});

t.test(
  'what an earlier process brought about counts, and without any good policy a family is lost',
  async (t) => {
    const old = policy('10.18.0.0/16');
    const first = pod();
    await first.run(old);
    const refused: Refusal = ['10.19.0.0/16 -j RETURN', new NatError('failed', 'no')];
    const next = policy('10.18.0.0/16', '10.19.0.0/16');
    const second = pod({}, () => ({ policy: old, missing: NOTHING_MISSING }), first.model);
    second.refusals.push(refused);
    const { families, policies } = await second.run(next);
    t.equal(families[4], 'held');
    t.equal(policies[4], old);
    const third = pod({}, undefined, first.model);
    third.refusals.push(refused);
    t.equal((await third.run(next)).families[4], 'broken');
    const fresh = pod();
    fresh.refusals.push(refused);
    t.equal((await fresh.run(next)).families[4], 'broken');
    t.same(fresh.routes, [], 'and no route leads past a translation that is not there');
  },
);

t.test('a policy is in force where every family that worked before has it', async (t) => {
  const [old, next] = [policy('10.18.0.0/16'), policy('10.18.0.0/16', '10.19.0.0/16')];
  const { model, trouble, refusals, run } = pod();
  t.match(await run(old), { inForce: true, missing: { broken: [] } });
  const unreadable = new NatError('timed-out', 'no answer');
  trouble.failed = { 4: unreadable };
  t.match(
    await run(next),
    { families: { 4: 'unknown', 6: 'applied' }, inForce: false },
    'one was not observed',
  );
  delete trouble.failed;
  // The last good policy cannot be put back either.
  refusals.push(['10.19.0.0/16 -j RETURN', new NatError('failed', 'no')]);
  model.rules(4, 'nat', 'POSTROUTING').length = 0;
  refusals.push(['10.18.0.0/16 -j RETURN', new NatError('failed', 'no')]);
  t.match(await run(next), { families: { 4: 'broken', 6: 'applied' }, inForce: false });
  const restarted = pod({}, () => ({ policy: old, missing: NOTHING_MISSING }), model);
  restarted.refusals.push(...refusals);
  t.match(await restarted.run(next), { families: { 4: 'broken', 6: 'applied' }, inForce: false });

  const first = pod();
  first.refusals.push(...refusals);
  const { inForce, missing } = await first.run(next);
  t.match({ inForce, missing }, { inForce: true, missing: { broken: [4] } }, 'it never worked');
  const second = pod({}, () => ({ policy: next, missing }), first.model);
  second.refusals.push(...refusals);
  t.match(await second.run(old), { inForce: true, missing: { broken: [4] } }, 'nor since');
});

t.test('a held lock is no matter to what is intact, and is to what is damaged', async (t) => {
  const { model, refusals, run } = pod();
  const old = policy('10.18.0.0/16');
  await run(old);
  refusals.push(['iptables', new NatError('locked', 'the xtables lock is held')]);
  const next = clamped('10.18.0.0/16', '10.19.0.0/16');
  const { families, failures } = await run(next);
  t.equal(families[4], 'held');
  t.match(failures, [{ reason: 'locked' }]);
  t.same(blocks(model), ['10.18.0.0/16']);
  model.rules(4, 'nat', 'POSTROUTING').length = 0;
  t.equal((await run(next)).families[4], 'broken');
});

t.test('of several addresses the one that is refused is missing, and is not announced', async (t) => {
  const { refusals, announced, run } = pod();
  const egress = (name: string, ip: string) => ({
    ...{
      name,
      snat: true,
      ipBlocks: [prefix(`10.${name}.0.0/16`)],
      egressIP: { addresses: [address(ip)], announce: true },
    },
  });
  const wanted = {
    ...policy(),
    rules: [egress('20', '172.17.0.50'), egress('21', '172.17.0.51'), egress('22', '172.17.0.52')],
  };
  refusals.push(['172.17.0.51/32 dev', errno('EADDRNOTAVAIL')]);
  const first = await run(wanted);
  t.equal(first.families[4], 'held');
  t.same(told(first), ['address 172.17.0.51: invalid']);
  t.same(announced, ['172.17.0.50', '172.17.0.52']);
  const quiet = await run(wanted, false);
  t.same(quiet.observation.changes.routing, [], 'it is not tried at each event');
  t.same(told(quiet), ['address 172.17.0.51: invalid']);
  refusals.length = 0;
  t.equal((await run(wanted)).families[4], 'applied');
  t.same(announced, ['172.17.0.50', '172.17.0.52', '172.17.0.51']);
});

t.test(
  'routes: a new one that is refused is missing, a changed one takes the policy back, a lost one the family',
  async (t) => {
    const { routes, refusals, run } = pod();
    const old = policy('10.18.0.0/16');
    await run(old);
    refusals.push(['add 10.19.0.0/16', errno('ENETUNREACH')]);
    const more = policy('10.18.0.0/16', '10.19.0.0/16');
    const first = await run(more);
    t.equal(first.families[4], 'held');
    t.equal(first.policies[4], more);
    t.same(told(first), ['route 10.19.0.0/16: unreachable']);
    t.equal((await run(more)).families[4], 'held', 'and so it is at the next attempt');

    refusals.push(['via 192.0.2.1', errno('ENETUNREACH')]);
    const moved = { ...more, internal: { interface: 'eth0', gateways: [address('192.0.2.1')] } };
    const second = await run(moved);
    t.equal(second.families[4], 'held');
    t.equal(second.policies[4], more);
    t.ok(routes.every(({ gateway }) => gateway !== address('192.0.2.1')));

    routes.length = 0;
    refusals.push(['ip route add default', errno('ENETUNREACH')]);
    t.equal((await run(more)).families[4], 'broken');
  },
);

t.test(
  'what a policy in force lacks is known over a restart, and takes nothing away then either',
  async (t) => {
    const { model, routes, refusals, run, seen } = pod();
    const restart = (policy: Policy, missing: LastGood['missing']) => {
      const next = pod({}, () => structuredClone({ policy, missing }), model);
      next.routes.push(...routes);
      next.seen.addresses.splice(0, Infinity, ...seen.addresses);
      next.refusals.push(...refusals);
      return next;
    };
    const old = clamped('10.18.0.0/16');
    refusals.push(TCPMSS, ['add 10.19.0.0/16', errno('ENETUNREACH')]);
    t.same((await run(old)).missing.without, { 4: ['mssClamp'], 6: [] });
    const more = clamped('10.18.0.0/16', '10.19.0.0/16');
    const { families, missing } = await run(more);
    t.equal(families[4], 'held');
    t.equal(missing.lacking.length, 1, 'the route');

    const same = restart(more, missing);
    const again = await same.run(more);
    t.equal(again.families[4], 'held');
    t.same(told(again), ['chain VEG-MSS: unsupported', 'route 10.19.0.0/16: unreachable']);
    t.same(again.missing, missing);

    const newer = restart(more, missing);
    newer.refusals.push(['10.20.0.0/16 -j RETURN', new NatError('failed', 'no')]);
    const held = await newer.run(clamped('10.18.0.0/16', '10.19.0.0/16', '10.20.0.0/16'));
    t.equal(held.families[4], 'held', 'what a newer policy is refused beside that neither');
    t.same(held.policies[4], more);
    t.same(held.missing, NOTHING_MISSING, 'that is of another policy');

    refusals.push(['ip route add default', errno('ENETUNREACH')]);
    routes.length = 0;
    t.equal((await restart(more, missing).run(more)).families[4], 'broken', 'what was there is missed');
  },
);

t.test(
  'a family that is held has the way out of the policy that holds it: interface, pins and probes',
  async (t) => {
    const { seen, settings, refusals, run } = pod();
    seen.links.push({ ...seen.links[1]!, index: 4, name: 'net2' });
    seen.addresses.push({ ...seen.addresses[1]!, ifindex: 4, address: address('172.18.0.11') });
    const old: Policy = {
      ...policy('10.18.0.0/16'),
      external: {
        ...{ interface: 'net1', gateways: [address('172.17.0.1')], gatewayMacs: ['02:00:00:00:aa:01'] },
      },
    };
    await run(old);
    const next: Policy = {
      ...old,
      external: {
        ...{ interface: 'net2', gateways: [address('172.18.0.1')], gatewayMacs: ['02:00:00:00:bb:01'] },
      },
      uplink: { ...DEFAULT_UPLINK, targets: [address('192.0.2.1')] },
    };
    const waysOf = ({ observation, policies }: Awaited<ReturnType<typeof run>>) =>
      waysOut(observation.plan, policies);
    t.match(waysOf(await run(next)), [{ gateway: '172.18.0.1', interface: 'net2' }], 'the way that goes in');
    await run(old);
    refusals.push(['via 172.18.0.1', errno('ENETUNREACH')]);
    settings.delete('net/ipv4/ip_forward');
    const held = await run(next);
    t.equal(held.families[4], 'held');
    t.same(waysOf(held), [
      {
        ...{ gateway: '172.17.0.1', interface: 'net1', gatewayMacs: ['02:00:00:00:aa:01'] },
        ...{ masquerades: true, policy: DEFAULT_UPLINK },
      },
    ]);
    t.match(held.observation.plan.interfaces, { internal: 'eth0', external: 'net1' });
    t.match(
      held.observation.assigned.get(address('172.17.0.11')),
      { ifindex: 3 },
      'neighbours are told where it is',
    );
    t.equal(settings.get('net/ipv4/ip_forward'), '1');
  },
);

t.test(
  'without its internal link a gateway answers for no address and announces none, and the rest stays as it is',
  async (t) => {
    const { seen, model, proxies, routes, run } = pod();
    await run(policy('10.18.0.0/16'));
    const before = model.saveRules(4);
    const proxy = { family: 4, address: address('172.17.0.50'), dev: 'net1' } as const;
    proxies.push({ ...proxy, protocol: RTPROT_VEG_AGENT });
    const kept = structuredClone(routes);
    const announced: Route = {
      ...{ family: 4, table: TABLE_MAIN, destination: prefix('198.51.100.50/32'), metric: METRIC_ANNOUNCED },
      ...{ protocol: RTPROT_VEG_AGENT, scope: 0, type: RTN_UNREACHABLE, foreign: false },
    };
    routes.push(announced);
    seen.links[0]!.up = false;
    const { changes, plan } = (await run(policy('10.18.0.0/16'))).observation;
    t.match(plan.families[0], { state: 'blocked', reason: /internal interface eth0 is down/ });
    t.same(changes.routing, [
      { kind: 'delProxy', proxy },
      { kind: 'delRoute', route: announced },
    ]);
    t.same([proxies, routes], [[], kept]);
    t.equal(model.saveRules(4), before);
  },
);

t.test(
  'a policy that needs what the pod has not leaves the last one in force, and goes in when it is there',
  async (t) => {
    const { seen, model, routes, run, reconciler } = pod();
    const old = policy('10.18.0.0/16');
    const on = (name: string, ...blocks: string[]): Policy => ({
      ...policy(...blocks),
      external: { interface: name, gateways: [address('172.18.0.1')] },
    });
    const typo = on('net11', '10.18.0.0/16', '10.19.0.0/16');
    t.equal(
      (await pod().run(typo)).observation.plan.families[0]?.state,
      'blocked',
      'without a last one there is none',
    );
    await run(old);
    const net2 = { ...seen.links[1]!, index: 4, name: 'net2', up: false };
    seen.links.push(net2);
    for (const [name, reason] of [
      ['net11', /external interface net11 does not exist/],
      ['net2', /external interface net2 is down/],
    ] as const) {
      const held = await run(on(name, '10.18.0.0/16', '10.19.0.0/16'));
      t.equal(held.families[4], 'held');
      t.equal(held.policies[4], old);
      t.match(held.observation.plan.families, [{ family: 4, state: 'programmed' }, { family: 6 }]);
      t.same(told(held), [`interface eth0, ${name}: unreachable`]);
      t.match(held.failures[0]?.message, reason);
    }
    net2.up = true;
    const wanted = on('net2', '10.18.0.0/16', '10.19.0.0/16');
    t.match(
      (await run(wanted)).failures,
      [{ message: /net2 has no usable IPv4 address/ }],
      'nor is it dropped',
    );
    t.same(blocks(model), ['10.18.0.0/16']);
    model.rules(4, 'nat', 'POSTROUTING').length = 0;
    t.equal((await run(wanted, false)).families[4], 'held');
    t.same(blocks(model), ['10.18.0.0/16'], 'it is what is maintained');
    t.equal(countChanges((await reconciler.preview(wanted)).changes), 0);

    const restarted = pod({}, () => ({ policy: old, missing: NOTHING_MISSING }), model);
    restarted.routes.push(...routes);
    const again = await restarted.run(typo);
    t.same([again.families[4], told(again)], ['held', ['interface eth0, net11: unreachable']]);

    seen.links[1]!.up = false;
    const both = await run(typo);
    t.match(
      both.observation.plan.families[0],
      { state: 'blocked', reason: /net11 does not exist/ },
      'neither can be',
    );
    seen.links[1]!.up = true;
    t.equal((await run(typo)).families[4], 'held');
    seen.addresses.push({ ...seen.addresses[1]!, ifindex: 4, address: address('172.18.0.11') });
    const done = await run(wanted);
    t.same([done.families[4], done.failures], ['applied', []]);
    t.same(blocks(model), ['10.18.0.0/16', '10.19.0.0/16']);
  },
);

t.test('a refused sysctl is reported; without forwarding the family is broken', async (t) => {
  const { refusals, run, settings } = pod();
  refusals.push(['rp_filter', errno('EINVAL')]);
  const { families, failures } = await run(policy());
  t.equal(families[4], 'held');
  t.ok(failures.every(({ object, reason }) => object === 'sysctl' && reason === 'invalid'));
  t.equal(settings.get('net/ipv4/ip_forward'), '1');
  const other = pod();
  other.refusals.push(['ip_forward', errno('EPERM')]);
  t.equal((await other.run(policy())).families[4], 'broken');
});

t.test('a family that cannot be observed is left as it is, and the other is applied', async (t) => {
  const { model, trouble, run } = pod();
  trouble.failed = { 6: new NatError('timed-out', 'ip6tables-save: timed out after 20 s') };
  const outcome = await run(policy('10.18.0.0/16'));
  t.same(outcome.families, { 4: 'applied', 6: 'unknown' });
  t.same(told(outcome), ['listing kernel: timed_out']);
  t.same(blocks(model), ['10.18.0.0/16']);
});

t.test('a table that only nft can list counts as it was last seen', async (t) => {
  const { model, trouble, run } = pod();
  const unreadable = (...names: string[]) => ({
    4: new Map(names.map((name) => [name, incompatible(4, name, `Table ${name} is incompatible`)])),
    6: new Map(),
  });
  const old = { ...policy('10.18.0.0/16'), defaultAction: 'drop' } as Policy;
  await run(old);
  const mangle = model.tables[4].get('mangle')!;
  const hide = () => model.tables[4].set('mangle', new Map());
  trouble.unreadable = unreadable('filter');
  t.same(told(await run(old)), [], 'what holds nothing of ours is no matter');

  hide();
  trouble.unreadable = unreadable('mangle');
  const same = await run(old);
  t.equal(same.families[4], 'held');
  t.same(told(same), ['table mangle: incompatible']);
  const before = JSON.stringify([...model.tables[4].get('nat')!]);
  const changed = await run({
    ...policy('10.18.0.0/16', '10.19.0.0/16'),
    defaultAction: 'masquerade',
  } as Policy);
  t.equal(changed.families[4], 'held');
  t.equal(changed.policies[4], old);
  t.equal(JSON.stringify([...model.tables[4].get('nat')!]), before, 'nothing of it is half written');

  const { trouble: other, run: start, model: fresh } = pod();
  other.unreadable = unreadable('mangle');
  t.equal((await start(old)).families[4], 'broken', 'at the start nothing was seen');
  t.notOk(fresh.tables[4].get('nat')!.has('VEG-MASQUERADE'));
  trouble.unreadable = unreadable();
  model.tables[4].set('mangle', mangle);
  t.equal((await run(old)).families[4], 'applied');
});

t.test('a table that cannot be listed and has lost what leads to ours takes the family down', async (t) => {
  const { model, trouble, asked, gone, run } = pod();
  const wanted = policy('10.18.0.0/16');
  await run(wanted);
  const nat = model.tables[4].get('nat')!;
  model.tables[4].set('nat', new Map());
  trouble.unreadable = {
    4: new Map([['nat', incompatible(4, 'nat', 'Table nat is incompatible')]]),
    6: new Map(),
  };
  t.equal((await run(wanted)).families[4], 'held');
  t.ok(asked.includes('4 nat POSTROUTING VEG-MASQUERADE'), asked.join('; '));
  gone.add('VEG-MASQUERADE');
  const lost = await run(wanted);
  t.equal(lost.families[4], 'broken');
  t.match(lost.failures[0]?.message, /^POSTROUTING no longer jumps to VEG-MASQUERADE/);
  t.equal((await run(wanted, false)).families[4], 'broken', 'nor do later looks take it for whole');
  gone.clear();
  t.equal((await run(wanted)).families[4], 'held');
  trouble.unreadable = { 4: new Map(), 6: new Map() };
  model.tables[4].set('nat', nat);
  t.equal((await run(wanted)).families[4], 'applied');
});

t.test(
  'a preview shows what a reconcile would try, and changes nothing for the next observation',
  async (t) => {
    const { model, refusals, run, reconciler, added, announced } = pod();
    const [old, newest] = [policy('10.18.0.0/16'), policy('10.18.0.0/16', '10.19.0.0/16')];
    await run(old);
    t.equal(countChanges((await reconciler.preview(old)).changes), 0);
    refusals.push(['10.19.0.0/16', errno('EINVAL')]);
    const held = await run(newest);
    t.equal(held.families[4], 'held');
    const before = await reconciler.observe(newest, NONE, false);
    const preview = await reconciler.preview(newest);
    t.match(changeLines(preview.changes).join('\n'), '10.19.0.0/16', 'what was refused is to be tried again');
    const after = await reconciler.observe(newest, NONE, false);
    t.same(
      changeLines(after.changes),
      changeLines(before.changes),
      'the family stays where it was brought to',
    );
    t.same(after.desiredNat, before.desiredNat);
    const again = await reconciler.apply(after);
    t.same(told(again), told(held), 'what stands refused is still known');
    t.same(blocks(model), ['10.18.0.0/16']);
    t.same([added, announced], [[], []]);
  },
);

t.test('a preview probes for no address, and takes one that no host is known to have as free', async (t) => {
  const asked: Address[] = [];
  const { reconciler } = pod({
    probe: (links) => {
      asked.push(...links.keys());
      return new Set();
    },
    conflicts: () => [{ address: REFUSED, holder: '02:00:00:00:00:99' }],
  });
  const eips = [FREE, REFUSED].map((externalIP) => ({ externalIP, internalIP: address('10.16.0.9') }));
  const lines = changeLines((await reconciler.preview({ ...policy('10.18.0.0/16'), eips })).changes);
  t.same(asked, []);
  t.same(
    lines.filter((line) => line.startsWith('ip addr')).map((line) => /[\d.]{7,}/.exec(line)?.[0]),
    [FREE],
  );
});
