import t from 'tap';
import type { Failure } from '../../../agent/reconcile/failures.ts';
import type { Observation, ObserveFailure } from '../../../agent/reconcile/observation.ts';
import { failureText, obstacles, planDocument } from '../../../agent/show/plan-document.ts';

const failure: ObserveFailure = {
  ...{ object: 'listing', family: 6, name: 'nat', reason: 'locked', kind: 'locked', verdict: 'unknown' },
  message: 'another program holds the xtables lock',
};

/** The parts of an observation that a document tells: IPv4 is blocked, IPv6 is as the policy says. */
const observation = (parts: Partial<Observation> = {}) =>
  ({
    plan: {
      families: [
        { family: 4, state: 'blocked', reason: 'the external interface net1 does not exist' },
        { family: 6, state: 'programmed' },
      ],
      interfaces: { internal: 'eth0', external: 'net1' },
    },
    changes: { nat: [], counters: [], fastPath: [], routing: [], sysctl: [], shaping: [] },
    ...{ failed: [], notes: [], conflicts: [] },
    ...parts,
  }) as unknown as Observation;

t.test('a blocked family is an obstacle, in words; one that is programmed or unused is none', async (t) => {
  t.strictSame(obstacles(observation()), ['IPv4: the external interface net1 does not exist']);
  const plan = {
    families: [
      { family: 4, state: 'programmed', pending: 'the gateway does not answer yet' },
      { family: 6, state: 'unused', reason: 'the policy has no IPv6' },
    ],
  };
  t.strictSame(obstacles(observation({ plan: plan as unknown as Observation['plan'] })), []);
});

t.test(
  'what another program or host has in its way is told: a qdisc is an obstacle, an address is not',
  async (t) => {
    const conflict = (object: Failure['object'], name: string): Failure => ({
      ...{ object, name, reason: 'in_use', message: `${name} is in use` },
    });
    const seen = observation({ conflicts: [conflict('address', '172.17.0.60'), conflict('qdisc', 'net1')] });
    t.match(obstacles(seen), [/^IPv4/, 'qdisc net1: in_use: net1 is in use']);
    t.strictSame(planDocument(seen).notes, ['172.17.0.60 is in use'], 'it may be given up');
  },
);

t.test('a kernel counts as observed despite a listing that changes nothing', async (t) => {
  const observed = (...verdicts: ObserveFailure['verdict'][]) =>
    planDocument(observation({ failed: verdicts.map((verdict) => ({ ...failure, verdict })) })).observed;
  t.ok(observed());
  t.ok(observed('harmless'));
  t.notOk(observed('harmless', 'unknown'));
  t.notOk(observed('unusable'));
});

t.test('a failure is one line: the object, why, and what happened', async (t) => {
  t.equal(failureText(failure), 'listing nat: locked: another program holds the xtables lock');
});

t.test(
  'a plan names its changes as commands, and after blocked families what cannot be observed',
  async (t) => {
    const line = 'sysctl -w net.ipv4.ip_forward=1';
    const seen = observation({
      changes: {
        nat: [],
        counters: [],
        fastPath: [],
        routing: [],
        sysctl: [{ path: 'net/ipv4/ip_forward', value: '1', line }],
        shaping: [],
      },
      failed: [failure],
      notes: ['a note'],
    });
    t.strictSame(planDocument(seen), {
      schemaVersion: 'v1',
      changes: [line],
      observed: false,
      families: seen.plan.families,
      interfaces: { internal: 'eth0', external: 'net1' },
      notes: ['a note'],
      obstacles: [
        'IPv4: the external interface net1 does not exist',
        'listing nat: locked: another program holds the xtables lock',
      ],
    });
  },
);
