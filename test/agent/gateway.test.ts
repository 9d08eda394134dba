/** The gateway over a model of the kernel (model-kernels.ts), with faults of it, on a clock of its own. */
import t, { type Test } from 'tap';
import { CADENCE } from '../../agent/cadence.ts';
import { Gateway, type GatewayParts } from '../../agent/gateway.ts';
import type { Policy } from '../../agent/policy/model.ts';
import type { LoadedPolicy } from '../../agent/policy/source.ts';
import { changeLines } from '../../agent/reconcile/changes.ts';
import { RENEWAL_PERIOD } from '../../agent/reconcile/fast-path-comparison.ts';
import type { Kernels } from '../../agent/reconcile/observation.ts';
import { WATCHDOG } from '../../agent/watchdog.ts';
import type { BfdIntent } from '../../bfd/intent.ts';
import { address, prefix } from '../../lib/prefix.ts';
import { ManualClock } from '../support/clock.ts';
import { PodModel } from './model-kernels.ts';

const POLICY: Policy = {
  name: 'default/gateway1',
  origin: { file: 'p.yaml', kind: 'GatewayPolicy', name: 'gateway1' },
  internal: { interface: 'eth0', gateways: [address('10.16.0.1')] },
  external: { interface: 'net1', gateways: [address('172.17.0.1')] },
  bfd: {
    ...{ enabled: true, peers: [address('10.255.255.255')], minTX: 100, minRX: 100, multiplier: 5 },
    ...{ mode: 'passive', minTTL: 254, adoptDiscriminator: true, anySource: false },
  },
  rules: [{ name: 'direct', snat: false, ipBlocks: [prefix('10.18.0.0/16')] }],
  warnings: [],
};

/** A gateway in a pod with two interfaces. `faults` replaces parts of the kernel. */
function setUp(
  t: Test,
  faults: (kernels: Kernels) => Partial<Kernels> = () => ({}),
  parts: Partial<GatewayParts> = {},
) {
  const clock = new ManualClock();
  const pod = new PodModel();
  pod.addInterface('eth0', ['10.16.0.12/16']);
  pod.addInterface('net1', ['172.17.0.11/16']);
  const calls: string[] = [];
  /** What was shown after each run. */
  const inSync: boolean[] = [];
  const intents: BfdIntent[] = [];
  const view = {
    policy: { source: '', valid: false, generation: 0, errors: [], warnings: [] },
    kernel: { inSync: false, families: [], notes: [], failed: [], driftRepaired: {} },
  } as unknown as GatewayParts['view'];
  const { kernels } = pod;
  const gateway = new Gateway({
    options: { resync: 3_600_000 },
    view,
    kernels: { ...kernels, ...faults(kernels) },
    uplink: {
      configure: () => void calls.push('uplink configured'),
      observe: () => void calls.push('uplink observed'),
      readiness: () => ({ ready: true }),
      get watchedAt() {
        return clock.now();
      },
    },
    metrics: {
      reconciled: () => {
        calls.push('reconciled');
        inSync.push(view.kernel.inSync);
      },
      repaired: () => {},
    },
    logger: { debug() {}, info() {}, warn() {}, error() {} },
    readEvents: () => {},
    onIntent: (intent: BfdIntent) => void intents.push(intent),
    onInForce: (fresh: unknown) => void calls.push(fresh === undefined ? 'in force' : 'in force, new'),
    lastGood: () => undefined,
    ...{ onApplied: () => {}, onObserved: async () => {}, flows: { follow: () => {} }, clock },
    ...parts,
  } as unknown as GatewayParts);
  t.teardown(() => gateway.stop());
  const take = (policy: Policy) =>
    gateway.takePolicy({
      ...{ source: 'p', result: { ok: true, policy }, content: { files: [] } },
    } as unknown as LoadedPolicy);
  return { gateway, pod, clock, calls, inSync, intents, view, take };
}

t.test('nothing is read or changed before there is a policy', async (t) => {
  const { gateway, pod, clock, calls, intents } = setUp(t);
  gateway.request('timer');
  gateway.takeEvent({ object: 'route', portid: 300, what: 'a route' });
  await clock.advance(120_000);
  t.same([pod.applied, calls, intents], [[], [], []]);
  t.equal(gateway.neglected, 0);
  t.equal(await gateway.plan(), undefined);
});

t.test('a new policy is handed on once it is in the kernel, as new only the first time', async (t) => {
  const { gateway, clock, calls, take } = setUp(t);
  take(POLICY);
  await clock.advance(1000);
  t.same(calls.slice(0, 3), ['in force, new', 'uplink configured', 'reconciled']);
  calls.length = 0;
  await Promise.all([gateway.reconcileNow(), clock.advance(1000)]);
  t.same(calls, ['in force', 'uplink configured', 'reconciled']);
});

t.test('an event of a link reaches the uplink before the reconcile', async (t) => {
  const { gateway, clock, calls, take } = setUp(t);
  take(POLICY);
  await clock.advance(1000);
  calls.length = 0;
  gateway.takeEvent({ object: 'link', portid: 0, what: 'link net1 is down' });
  t.same(calls, ['uplink observed']);
  await clock.advance(CADENCE.settle + CADENCE.pause);
  t.equal(calls.at(-1), 'reconciled');
});

t.test('a kernel that cannot be read leaves the sessions as they are, and is retried', async (t) => {
  const fault = { error: undefined as Error | undefined };
  const { gateway, clock, intents, view, take } = setUp(t, ({ routing }) => ({
    routing: {
      ...routing,
      observe: async () => {
        if (fault.error) throw fault.error;
        return routing.observe();
      },
    },
  }));
  take(POLICY);
  await clock.advance(1000);
  const before = intents.length;
  fault.error = Object.assign(new Error('netlink: ENOBUFS'), { code: 'ENOBUFS' });
  gateway.request('sighup');
  await clock.advance(1000);
  t.equal(intents.length, before, 'nothing is said of the sessions');
  t.match(view.kernel, { inSync: false, last: { ok: false, error: /ENOBUFS/ } });
  fault.error = undefined;
  await clock.advance(CADENCE.retryLongest);
  t.match(view.kernel, { inSync: true, failed: [], last: { ok: true } });
});

t.test('the kernel is not in sync from the moment a policy is loaded until it is in force', async (t) => {
  const gate = Promise.withResolvers<void>();
  let gated = false;
  const { clock, view, inSync, take } = setUp(t, ({ nat }) => ({
    nat: {
      ...nat,
      apply: async (...args: Parameters<typeof nat.apply>) => {
        if (gated) await gate.promise;
        return nat.apply(...args);
      },
    },
  }));
  take(POLICY);
  await clock.advance(1000);
  t.equal(view.kernel.inSync, true);
  gated = true;
  inSync.length = 0;
  take({ ...POLICY, name: 'default/other', rules: [] });
  t.equal(view.kernel.inSync, false);
  await clock.advance(100);
  take({ ...POLICY, name: 'default/another' });
  gate.resolve();
  await clock.advance(1000);
  t.same(
    inSync.slice(0, 2),
    [false, true],
    'the run of the one before says nothing of the one that came during it',
  );
});

t.test('an observation that hangs is not watching: the gateway is neglected until it ends', async (t) => {
  const hang = Promise.withResolvers<void>();
  let hangs = false;
  const { gateway, clock, take } = setUp(t, ({ routing }) => ({
    routing: {
      ...routing,
      observe: async () => {
        if (hangs) await hang.promise;
        return routing.observe();
      },
    },
  }));
  take(POLICY);
  await clock.advance(1000);
  t.ok(gateway.neglected < 1000);
  hangs = true;
  gateway.request('sighup');
  await clock.advance(WATCHDOG.unwatched + 1000);
  t.ok(gateway.neglected > WATCHDOG.unwatched);
  hangs = false;
  hang.resolve();
  await clock.advance(1000);
  t.ok(gateway.neglected < 1000);
});

t.test('changes that take long are watched, changes that do not come to an end are not', async (t) => {
  const change = Promise.withResolvers<void>();
  const { gateway, clock, take } = setUp(t, ({ nat }) => ({ nat: { ...nat, apply: () => change.promise } }));
  take(POLICY);
  await clock.advance(WATCHDOG.unwatched + 1000);
  t.ok(gateway.neglected < 1000, 'a slow one is watched');
  await clock.advance(WATCHDOG.longestChange);
  t.ok(gateway.neglected > 0);
  const { watchedAt } = gateway;
  await clock.advance(WATCHDOG.unwatched + 1000);
  t.equal(gateway.watchedAt, watchedAt, 'an endless one is not');
  t.ok(gateway.neglected > WATCHDOG.unwatched);
  change.resolve();
  await clock.advance(1000);
  t.ok(gateway.neglected < 1000, 'its end is');
});

t.test('a plan is made between two runs, and changes nothing', async (t) => {
  const { gateway, pod, clock, take } = setUp(t);
  take(POLICY);
  await clock.advance(1000);
  pod.applied.length = 0;
  pod.run('iptables -t nat -F POSTROUTING');
  const plan = gateway.plan();
  await clock.advance(10);
  t.match(changeLines((await plan)!.changes), [/-A POSTROUTING/, /-A POSTROUTING/, /-A POSTROUTING/]);
  t.same(pod.applied, []);
});

t.test('stop ends reconciling, and remove takes everything of the agent away', async (t) => {
  const { gateway, pod, clock, take } = setUp(t);
  const before = pod.nat.saveRules(4);
  take(POLICY);
  await clock.advance(1000);
  t.not(pod.nat.saveRules(4), before);
  await gateway.stop();
  pod.applied.length = 0;
  gateway.takeEvent({ object: 'netfilter', portid: 300, what: 'a change' });
  await clock.advance(60_000);
  t.same(pod.applied, []);
  t.equal(clock.armed, 0);
  await gateway.remove();
  t.equal(pod.nat.saveRules(4), before);
  t.same([pod.routing.rules, pod.routing.routes], [[], []]);
});

t.test('an invalid policy is reported, and the one in force stays', async (t) => {
  const errors: unknown[] = [];
  const logger = {
    ...{ debug() {}, info() {}, warn() {} },
    error: ({ inForce }: { inForce: string | null }, text: string) => errors.push([inForce, text]),
  } as unknown as GatewayParts['logger'];
  const { gateway, pod, clock, view, take } = setUp(t, undefined, { logger });
  const error = { file: 'p.yaml', line: 1, col: 2, path: 'spec', message: 'must be there' };
  const invalid = { source: 'p', result: { ok: false, errors: [error] } } as unknown as LoadedPolicy;
  gateway.takePolicy(invalid);
  t.same(errors.splice(0), [[null, 'invalid policy; nothing is programmed']]);
  take(POLICY);
  await clock.advance(1000);
  pod.applied.length = 0;
  gateway.takePolicy(invalid);
  t.same(errors, [[POLICY.name, 'invalid policy; the policy in force stays in force']]);
  await clock.advance(1000);
  t.match(view.policy, { valid: false, errors: [error], name: POLICY.name, generation: 1 });
  t.same(pod.applied, []);
  take(POLICY);
  t.match(view.policy, { valid: true, errors: [], generation: 1 }, 'the same policy is no new generation');
});

t.test(
  'the fast path waits until it is counted, and is out of force in a drain and while flows are removed',
  async (t) => {
    let counts = false;
    const { gateway, pod, clock, view, take } = setUp(t, undefined, { countsFastPath: () => counts });
    const inForce = () => pod.nftables.objects !== undefined;
    take({ ...POLICY, fastPath: true });
    await clock.advance(1000);
    t.same([inForce(), view.kernel.fastPath, view.kernel.inSync], [false, false, true], 'not counted yet');
    counts = true;
    gateway.fastPathCounted();
    await clock.advance(1000);
    t.same([inForce(), view.kernel.fastPath], [true, true]);
    gateway.withdraw(true);
    await clock.advance(1000);
    t.same([inForce(), view.kernel.fastPath], [false, false], 'a drain');
    gateway.withdraw(false);
    await clock.advance(1000);
    t.ok(inForce());
    const seen: boolean[] = [];
    const work = gateway.withoutFastPath(async () => {
      seen.push(inForce());
      throw new Error('of the work');
    });
    await Promise.all([t.rejects(work, /of the work/), clock.advance(1000)]);
    t.same(seen, [false]);
    await clock.advance(1000);
    t.ok(inForce(), 'also after work that failed');
    t.same(view.kernel.driftRepaired, {}, 'none of it is a repair');
    take(POLICY);
    await clock.advance(1000);
    t.same([inForce(), view.kernel.fastPath], [false, undefined]);
  },
);

t.test('a fast path that is old is made anew, which is no repair', async (t) => {
  const { gateway, pod, clock, view, take } = setUp(t);
  take({ ...POLICY, fastPath: true });
  await clock.advance(1000);
  const made = pod.nftables.attempts;
  await clock.advance(RENEWAL_PERIOD - 2000);
  await Promise.all([gateway.reconcileNow(), clock.advance(1000)]);
  t.equal(pod.nftables.attempts, made);
  await clock.advance(2000);
  for (const what of ['made anew', 'once']) {
    await Promise.all([gateway.reconcileNow(), clock.advance(1000)]);
    t.equal(pod.nftables.attempts, made + 1, what);
  }
  t.match(view.kernel, { fastPath: true, inSync: true, driftRepaired: {} });
});

t.test('a virtual address that another program deletes is a repair, and hides no other one', async (t) => {
  let free = false;
  const repairs: object[] = [];
  const warn = (fields: object, message: string) => message === 'repairing drift' && repairs.push(fields);
  const { gateway, pod, clock, view, take } = setUp(
    t,
    ({ claims }) => ({
      claims: { ...claims, probe: (links) => (free ? claims.probe(links) : new Set()) },
    }),
    { logger: { debug() {}, info() {}, warn, error() {} } as unknown as GatewayParts['logger'] },
  );
  const { kernel } = view;
  const probed = async () => {
    await clock.advance(1000);
    free = true;
    gateway.request('address');
    await clock.advance(1000);
    free = false;
  };
  const eips = [{ externalIP: address('172.17.0.60'), internalIP: address('10.17.0.9') }];
  take({ ...POLICY, eips });
  await probed();
  t.match(pod.applied.at(-1), 'ip addr add 172.17.0.60/32 dev net1');
  t.same(kernel.driftRepaired, {}, 'the first time it is none');

  const other = (command: string) => gateway.takeEvent(pod.run(command)!);
  other('ip addr del 172.17.0.60/32 dev net1');
  await probed();
  t.same(kernel.driftRepaired, { address: 1 });
  t.match(repairs, [{ writer: 'pid 4711 (ip addr del 172.17.0.60/32 dev net1)' }]);

  other('ip addr del 172.17.0.60/32 dev net1');
  other('ip route del 10.18.0.0/16');
  await clock.advance(1000);
  t.same(kernel.driftRepaired, { address: 1, route: 1 }, 'what need not be probed for');
  await probed();
  t.same(kernel.driftRepaired, { address: 2, route: 1 });

  take(POLICY);
  await probed();
  take({ ...POLICY, eips });
  await probed();
  t.same(kernel.driftRepaired, { address: 2, route: 1 }, 'one that was removed by the policy is new again');

  pod.addInterface('net2', ['172.17.0.12/16']);
  take({ ...POLICY, external: { ...POLICY.external, interface: 'net2' }, eips });
  await probed();
  t.match(pod.applied.at(-1), 'ip addr add 172.17.0.60/32 dev net2');
  t.same(kernel.driftRepaired, { address: 2, route: 1 }, 'and so is one on another interface');
});

t.test('a kernel without flowtables gets everything else, and a note', async (t) => {
  const { gateway, pod, clock, view, take } = setUp(t);
  pod.nftables.refuses = 'ENOENT';
  take({ ...POLICY, fastPath: true });
  await clock.advance(1000);
  t.match(view.kernel, { inSync: true, failed: [], fastPath: false, last: { ok: true } });
  t.match(view.kernel.notes, [/^the fast path is not in force, the rest is: .*; load nf_flow_table, /]);
  await clock.advance(60_000);
  t.match(view.kernel, { fastPath: false, notes: [/nft_flow_offload/], driftRepaired: {} });
  t.equal(pod.nftables.attempts, 2, 'once more when nf_tables may have changed');
  await Promise.all([gateway.reconcileNow(), clock.advance(1000)]);
  t.equal(pod.nftables.attempts, 4, 'a run that is asked for retries');
  t.match(view.kernel, { inSync: true, fastPath: false, driftRepaired: {} }, 'which is no drift');
  pod.nftables.refuses = undefined;
  await Promise.all([gateway.reconcileNow(), clock.advance(1000)]);
  t.match(view.kernel, { fastPath: true, notes: [], driftRepaired: {} });
});

t.test('a fast path and counters that are refused for a moment are retried with a backoff', async (t) => {
  const { gateway, pod, clock, view, take } = setUp(t);
  pod.nftables.refuses = 'ENOMEM';
  pod.counters.refuses = { 4: 'ENOBUFS' };
  take({ ...POLICY, fastPath: true });
  await clock.advance(1000);
  t.match(view.kernel, { inSync: false, fastPath: false, notes: [], driftRepaired: {} });
  t.same(view.kernel.failed.map(({ name }) => name).sort(), ['VEG-COUNTERS', 'VEG-FASTPATH']);
  t.ok(view.kernel.families.every(({ state }) => state !== 'blocked'));
  await clock.advance(60_000);
  const [before, asked] = [pod.nftables.attempts, pod.counters.asked.length];
  for (let i = 0; i < 20; i++) {
    gateway.takeEvent({ object: 'netfilter', portid: 4711, what: 'nf_tables changed' });
    await clock.advance(200);
  }
  t.ok(pod.nftables.attempts - before <= 1, 'events do not retry it');
  t.ok(pod.counters.asked.length - asked <= 1);
  pod.nftables.refuses = undefined;
  pod.counters.refuses = {};
  await clock.advance(CADENCE.retryLongest);
  t.match(view.kernel, { inSync: true, fastPath: true, failed: [], driftRepaired: {} });
});

t.test('a fast path that the kernel refuses to remove is in force until it is gone', async (t) => {
  const { gateway, pod, clock, view, take } = setUp(t);
  take({ ...POLICY, fastPath: true });
  await clock.advance(1000);
  pod.nftables.refuses = 'EPERM';
  gateway.withdraw(true);
  await clock.advance(1000);
  t.match(view.kernel, { fastPath: true, failed: [{ name: 'VEG-FASTPATH', reason: 'not_permitted' }] });
  pod.nftables.refuses = undefined;
  await clock.advance(CADENCE.retryLongest);
  t.match(view.kernel, { fastPath: false, failed: [] });
  gateway.withdraw(false);
  await clock.advance(1000);
  t.equal(view.kernel.fastPath, true);

  pod.nftables.refuses = 'EPERM';
  const seen: boolean[] = [];
  const inForce = () => pod.nftables.objects !== undefined;
  const work = gateway.withoutFastPath(async () => void seen.push(inForce()));
  await clock.advance(500);
  t.same(seen, [], 'the work waits');
  pod.nftables.refuses = undefined;
  await Promise.all([work, clock.advance(5000)]);
  t.same(seen, [false]);
  pod.nftables.refuses = 'EPERM';
  const never = gateway.withoutFastPath(async () => void seen.push(inForce()));
  await Promise.all([t.rejects(never, /refuses to remove the fast path/), clock.advance(10_000)]);
  t.equal(seen.length, 1);

  await Promise.all([take(POLICY), clock.advance(60_000)]);
  t.equal(view.kernel.fastPath, true, 'also of a policy without one');
  pod.nftables.refuses = undefined;
  await clock.advance(CADENCE.retryLongest);
  t.equal(view.kernel.fastPath, undefined);
});
