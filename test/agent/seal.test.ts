import t from 'tap';
import { makePlan } from '../../agent/plan/plan.ts';
import { policyFromEnv } from '../../agent/policy/kube-ovn/env.ts';
import type { Policy } from '../../agent/policy/model.ts';
import type { Observation } from '../../agent/reconcile/observation.ts';
import { isIntact, isPlanned, type KernelAnswers, makeSeal, parseSeal } from '../../agent/seal.ts';
import { prefix } from '../../lib/prefix.ts';
import { desiredNat } from '../../nat/desired.ts';
import { RTPROT_VEG_AGENT } from '../../routing/numbers.ts';
import type { Route } from '../../routing/state.ts';
import { on, POD } from './plan/pod.ts';

const INIT = {
  INTERNAL_GATEWAY_IPV4: '10.16.0.1',
  EXTERNAL_GATEWAY_IPV4: '172.17.0.1',
  NO_SNAT_SOURCES_IPV4: '10.18.0.0/16',
};
const SESSIONS = { BFD_PEER_IPS: '10.255.255.255', BFD_MIN_TX: '100' };

function policyOf(env: Record<string, string>): Policy {
  const result = policyFromEnv(env);
  if (!result?.ok) throw new Error('not a policy');
  return result.policy;
}

const route = (destination: string, protocol: number): Route => ({
  ...{ family: 4, table: 254, destination: prefix(destination), protocol, dev: 'eth0' },
  ...{ scope: 0, type: 1, metric: 0, foreign: false },
});

const { links, addresses } = POD;
const KERNEL: KernelAnswers = {
  generation: 7,
  routing: { links, addresses, rules: [], routes: [route('0.0.0.0/0', 3)], proxies: [] },
  sets: [],
  sysctls: ['1\n'],
};

const observation = (policy: Policy, more: Partial<Observation> = {}): Observation => {
  const plan = makePlan(policy, POD, {});
  return {
    ...{ plan, failed: [], desiredNat: desiredNat(plan.nat, () => true), desired: {}, backend: { 4: 'nft' } },
    changes: { nat: [], counters: [], fastPath: [], routing: [], sysctl: [], shaping: [] },
    ...{ notes: [], fastPath: false, assigned: new Map(), conflicts: [] },
    ...more,
  };
};

const seal = (policy = policyOf(INIT), more: Partial<Observation> = {}, before = KERNEL, transactions = 0) =>
  makeSeal('1', policy, observation(policy, more), [before, KERNEL], transactions);

t.test('a seal is on the plan of the same policy, with sessions or without, in the same pod', (t) => {
  const made = seal()!;
  const planned = (env: Record<string, string>, facts = POD, version = '1') => {
    const policy = policyOf(env);
    return isPlanned(made, version, policy, makePlan(policy, facts, {}));
  };
  t.ok(planned(INIT));
  t.ok(planned({ ...INIT, ...SESSIONS }), 'the init container is not told of BFD');
  t.notOk(planned({ ...INIT, NO_SNAT_SOURCES_IPV4: '10.19.0.0/16' }));
  t.notOk(planned({ ...INIT, EXTERNAL_GATEWAY_IPV4: '172.17.0.2' }));
  t.notOk(planned(INIT, POD, '2'), 'another version may plan otherwise');
  const moved = { ...POD, addresses: [...POD.addresses.slice(0, 2), on(3, '172.17.0.12/16')] };
  t.notOk(planned(INIT, moved));
  t.end();
});

t.test('a seal breaks with whatever the kernel answers differently', (t) => {
  const made = seal()!;
  const { routing } = KERNEL;
  t.ok(isIntact(made, structuredClone(KERNEL)));
  t.notOk(isIntact(made, { ...KERNEL, generation: 8 }));
  t.notOk(isIntact(made, { ...KERNEL, sets: ['header'] }));
  t.notOk(isIntact(made, { ...KERNEL, sysctls: ['0\n'] }));
  t.notOk(isIntact(made, { ...KERNEL, routing: { ...routing, routes: [] } }));
  t.notOk(isIntact(made, { ...KERNEL, routing: { ...routing, links: [] } }));
  t.notOk(isIntact(made, { ...KERNEL, routing: { ...routing, addresses: [] } }));
  t.end();
});

t.test(
  'the routes that the daemon adds for its sessions break no seal, and nothing more is let through',
  (t) => {
    const made = seal()!;
    const peer = prefix('10.255.255.255/32');
    const { routing } = KERNEL;
    const withRoutes = (...more: Route[]) => ({
      ...KERNEL,
      routing: { ...routing, routes: [...routing.routes, ...more] },
    });
    const own = route('10.255.255.255/32', RTPROT_VEG_AGENT);
    t.ok(isIntact(made, withRoutes(own), new Set([peer])));
    t.notOk(isIntact(made, { ...withRoutes(own), generation: 8 }, new Set([peer])), 'a transaction');
    t.notOk(isIntact(made, withRoutes(own)), 'a route that was not added');
    t.notOk(isIntact(made, withRoutes({ ...own, protocol: 3 }), new Set([peer])), 'of another program');
    t.notOk(isIntact(made, withRoutes(own, route('10.1.0.0/16', 3)), new Set([peer])));
    t.end();
  },
);

t.test('the transactions that apply has made itself meanwhile are no change, and no other number is', (t) => {
  const before = { ...KERNEL, generation: 5 };
  t.equal(seal(policyOf(INIT), {}, before, 2)?.generation, 7);
  for (const transactions of [0, 1, 3]) t.equal(seal(policyOf(INIT), {}, before, transactions), undefined);
  t.end();
});

t.test('only a kernel that is known whole can be sealed', (t) => {
  const policy = policyOf(INIT);
  t.equal(seal(policy, { backend: { 4: 'legacy' } }), undefined, 'nobody numbers changes of legacy tables');
  t.equal(seal(policy, { backend: { 4: 'nft', 6: 'legacy' } }), undefined);
  t.equal(seal(policy, { backend: {} }), undefined);
  t.equal(seal(policyOf({ ...INIT, ENABLE_BGP: 'true' })), undefined);
  t.equal(seal({ ...policy, origin: { ...policy.origin, kind: 'GatewayPolicy' } }), undefined);
  const changed = { ...KERNEL, generation: 6 };
  t.equal(seal(policy, {}, changed), undefined, 'it changed while it was observed');
  const { plan } = observation(policy);
  const families = plan.families.map((family) => ({ ...family, state: 'blocked' as const }));
  t.equal(seal(policy, { plan: { ...plan, families } }), undefined);
  t.end();
});

t.test('a seal outlives its file, and nothing else is taken for one', (t) => {
  const made = seal()!;
  t.same(parseSeal(JSON.parse(JSON.stringify(made))), made);
  for (const other of [
    null,
    1,
    'x',
    [],
    {},
    { ...made, generation: '7' },
    { ...made, hasSets: 1 },
    { ...made, kernel: undefined },
  ]) {
    t.equal(parseSeal(other), undefined, JSON.stringify(other));
  }
  t.end();
});
