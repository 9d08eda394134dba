import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { makePlan } from '../../agent/plan/plan.ts';
import { readFacts } from '../../agent/pod/facts.ts';
import { policyFromEnv } from '../../agent/policy/kube-ovn/env.ts';
import type { Policy } from '../../agent/policy/model.ts';
import type { Observation } from '../../agent/reconcile/observation.ts';
import type { KernelAnswers } from '../../agent/seal.ts';
import { readSeal, type SealKernel } from '../../agent/seal-kernel.ts';
import { SealedStart } from '../../agent/sealed-start.ts';
import { observeAndSeal } from '../../agent/sealing.ts';
import type { UplinkParts } from '../../agent/uplink/uplink.ts';
import type { BfdIntent, FamilyReadiness } from '../../bfd/intent.ts';
import { prefix } from '../../lib/prefix.ts';
import { desiredNat } from '../../nat/desired.ts';
import { commandLines } from '../../nat/render.ts';
import { desiredRules, eachDesiredRoute } from '../../routing/desired.ts';
import { ManualClock } from '../support/clock.ts';
import { POD } from './plan/pod.ts';

const INIT = { INTERNAL_GATEWAY_IPV4: '10.16.0.1', EXTERNAL_GATEWAY_IPV4: '172.17.0.1' };
const PEER = '10.255.255.255';

function policyOf(env: Record<string, string>): Policy {
  const result = policyFromEnv(env);
  if (!result?.ok) throw new Error('not a policy');
  return result.policy;
}

/** A kernel that has what the plan of the init container wants. */
class FakeKernel implements SealKernel {
  readonly netlink = undefined as unknown as SealKernel['netlink'];
  answers: KernelAnswers;
  closed = 0;
  event: () => void = () => {};
  /** Called after each answer. */
  meanwhile: () => void = () => {};

  constructor(plan: ReturnType<typeof makePlan>) {
    const { links, addresses } = POD;
    this.answers = {
      generation: 7,
      routing: {
        ...{ links, addresses, proxies: [], rules: desiredRules(plan.routing) },
        routes: [...eachDesiredRoute(plan.routing)],
      },
      sets: [],
      sysctls: plan.sysctls.map(({ value }) => `${value}\n`),
    };
  }

  async ask({ sysctls }: { sysctls: readonly unknown[] }): Promise<KernelAnswers> {
    const answers = structuredClone(this.answers);
    this.meanwhile();
    return sysctls.length === 0 ? { ...answers, sysctls: [] } : answers;
  }

  async apply(steps: Parameters<SealKernel['apply']>[0]): Promise<Error[]> {
    for (const step of steps) if (step.kind === 'addRoute') this.answers.routing.routes.push(step.route);
    return [];
  }

  watch(onEvent: () => void): void {
    this.event = onEvent;
  }

  close(): void {
    this.closed++;
  }
}

/** A pod whose init container has run, and the start of its daemon. */
async function setUp(t: Test) {
  const directory = t.testdir({ state: {}, policy: {} });
  const options = {
    ...{ stateDir: join(directory, 'state'), policyDir: join(directory, 'policy') },
    networkStatus: join(directory, 'none'),
  };
  const file = join(directory, 'seal');
  const policy = policyOf(INIT);
  const bare = new FakeKernel(makePlan(policy, POD, {}));
  const plan = makePlan(policy, await readFacts(bare.answers.routing, options.networkStatus), {});
  const kernel = new FakeKernel(plan);
  const observation: Observation = {
    ...{ plan, failed: [], desiredNat: desiredNat(plan.nat, () => true), desired: {}, backend: { 4: 'nft' } },
    changes: { nat: [], counters: [], fastPath: [], routing: [], sysctl: [], shaping: [] },
    ...{ notes: [], fastPath: false, assigned: new Map(), conflicts: [] },
  };
  const complaints: string[] = [];
  /** What `apply` has made of rules for sessions, and what the kernel answers to that. */
  const rules = { made: [] as string[], answer: (): void => {} };
  const seal = (observe = async () => observation, to: string | undefined = file) =>
    observeAndSeal(to, {
      ...{ policy, applied: observation, observe },
      async apply(steps) {
        rules.answer();
        rules.made.push(...commandLines(steps));
        kernel.answers = { ...kernel.answers, generation: kernel.answers.generation + 1 };
      },
      complain: (reason) => void complaints.push(reason),
      open: () => kernel,
    });
  const clock = new ManualClock();
  const intents: BfdIntent[] = [];
  const messages: string[] = [];
  const log = (fields: { reason?: string }, message: string) =>
    void messages.push(`${message}${fields.reason === undefined ? '' : `: ${fields.reason}`}`);
  const uplink = {
    state: undefined as FamilyReadiness | undefined,
    changed: (): void => {},
    closed: false,
  };
  const begin = (env: Record<string, string> = { BFD_PEER_IPS: PEER }) =>
    SealedStart.begin({
      ...{ options, file, clock, policy: policyOf({ ...INIT, ...env }) },
      logger: { debug: log, info: log, warn: log, error: log },
      onIntent: (intent) => void intents.push(intent),
      openKernel: () => kernel,
      openUplink({ onChange }: UplinkParts) {
        uplink.changed = onChange;
        return {
          configure() {},
          readiness: () => uplink.state,
          close: () => {
            uplink.closed = true;
          },
        };
      },
    });
  return {
    ...{ options, file, kernel, observation, complaints, rules, seal },
    ...{ clock, intents, messages, uplink, begin },
  };
}

t.test('sessions begin when the way out is known, and end with what the agent process says', async (t) => {
  const { seal, begin, kernel, rules, intents, uplink, messages } = await setUp(t);
  await seal();
  const start = (await begin())!;
  t.match(messages.join(), /sessions do not wait for the agent process/);
  t.match(rules.made.join('\n'), /^iptables -t raw .*VEG-NOTRACK/m, 'BFD past connection tracking');
  t.ok(
    rules.made.every((line) => line.startsWith('iptables -t raw ')),
    'and nothing else: the gate stays',
  );
  t.ok(kernel.answers.routing.routes.some(({ destination }) => destination === prefix(`${PEER}/32`)));
  t.same(intents, [], 'nothing is known of the way out');
  uplink.state = { ready: true };
  uplink.changed();
  await start.decided(1e6);
  t.match(intents, [{ peers: [{ local: '10.16.0.12', remote: PEER }], readiness: { 4: { ready: true } } }]);
  uplink.state = { ready: false, diagnostic: 6, reason: 'silent' };
  uplink.changed();
  t.match(intents[1], { readiness: { 4: { ready: false } } });
  start.close();
  start.close();
  t.ok(uplink.closed);
  t.equal(kernel.closed, 2, 'once by each of both programs');
  uplink.changed();
  t.equal(intents.length, 2);
});

t.test('the agent process does not wait long for a silent gateway', async (t) => {
  const { seal, begin, clock, intents } = await setUp(t);
  await seal();
  const start = (await begin())!;
  const decided = start.decided(50);
  await clock.advance(50);
  await decided;
  t.same(intents, []);
  start.close();
});

t.test('a seal that breaks takes sessions out of Up once, by an event or without one', async (t) => {
  for (const hasEvent of [true, false]) {
    const { seal, begin, kernel, clock, intents, uplink } = await setUp(t);
    await seal();
    const start = (await begin())!;
    uplink.state = { ready: true };
    uplink.changed();
    kernel.event();
    await clock.advance(5000);
    t.equal(intents.length, 1, 'an event that changed nothing');
    kernel.answers = { ...kernel.answers, generation: 99 };
    if (hasEvent) {
      kernel.event();
      kernel.event();
      await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
    } else await clock.advance(5000);
    await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
    t.match(intents.slice(1), [{ readiness: { 4: { ready: false, diagnostic: 6 } } }]);
    t.equal(intents.length, 2);
    start.close();
  }
});

t.test(
  'where the environment may not be in force, or the kernel is another one, there is no early start',
  async (t) => {
    const cases: Record<string, (pod: Awaited<ReturnType<typeof setUp>>) => void> = {
      'a policy of documents': ({ options }) => writeFileSync(join(options.policyDir, 'a.yaml'), ''),
      'a last good policy': ({ options }) => writeFileSync(join(options.stateDir, 'last-policy.json.gz'), ''),
      'no seal': ({ file }) => writeFileSync(file, '{'),
      'another kernel': ({ kernel }) => void kernel.answers.routing.rules.pop(),
      'a change since': ({ kernel }) => void kernel.answers.generation++,
      'no route': ({ kernel }) => {
        kernel.apply = async () => [new Error('refused')];
      },
    };
    for (const [what, spoil] of Object.entries(cases)) {
      const pod = await setUp(t);
      await pod.seal();
      spoil(pod);
      t.equal(await pod.begin(), undefined, what);
      t.same(pod.intents, []);
    }
    const pod = await setUp(t);
    await pod.seal();
    t.equal(await pod.begin({}), undefined, 'no sessions');
    t.equal(await pod.begin({ BFD_PEER_IPS: PEER, NO_SNAT_SOURCES_IPV4: '10.9.0.0/16' }), undefined);
    t.match(pod.messages.join(), /sessions wait for the agent process: another plan/);
  },
);

t.test('apply seals what it finds as it should be, and nothing else', async (t) => {
  const { seal, kernel, rules, observation, complaints, file } = await setUp(t);
  const changed = {
    ...observation,
    changes: { ...observation.changes, sysctl: [{ path: 'a', value: '1', line: '' }] },
  };
  t.equal(await seal(async () => changed), changed);
  t.equal(readSeal(file), undefined, 'something is still to do');
  await seal(async () => {
    kernel.answers = { ...kernel.answers, generation: 8 };
    return observation;
  });
  t.equal(readSeal(file), undefined, 'it changed while it was observed');
  rules.answer = () => {
    throw new Error('no CT');
  };
  t.equal(await seal(), observation);
  t.equal(readSeal(file), undefined, 'the rules for sessions are refused');
  t.same(complaints.splice(0), ['no CT']);
  rules.answer = () => {};
  await seal(async () => observation, join(file, 'not a directory'));
  t.equal(complaints.length, 1);
  kernel.ask = async () => {
    throw new Error('EPERM');
  };
  t.equal(await seal(), observation, 'apply does its work all the same');
  t.same(complaints.slice(1), ['EPERM']);
});
