// What BFD, a drain and a former process mean for the exchange of a group, with a thread that only remembers.
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { mock } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import t from 'tap';
import { Group, HANDOVER_TIMEOUT } from '../../../agent/group/group.ts';
import type { LookupAnswer } from '../../../agent/group/lookups.ts';
import type { GroupSettings } from '../../../agent/group/messages.ts';
import {
  type GroupConfig,
  type GroupReport,
  type GroupView,
  groupFacts,
} from '../../../agent/group/model.ts';
import { portSlice, slotOf } from '../../../agent/group/slices.ts';
import type { EngineReport, SessionReport, SessionStateName } from '../../../bfd/intent.ts';
import { address, type Family } from '../../../lib/prefix.ts';

const [A, B, C] = [address('10.16.0.12'), address('10.16.0.13'), address('10.16.0.14')];
const [A6, B6] = [address('fd00:16::12'), address('fd00:16::13')];
const X = address('172.17.0.50');
/** A peer of BFD that is no member. */
const OVN = '10.16.0.1';

const CONFIG: Record<Family, GroupConfig> = {
  4: { family: 4, self: A, members: [A, B, C], external: address('172.17.0.12'), shared: [X] },
  6: {
    ...{ family: 6, self: A6, members: [A6, B6], external: address('fd00:172::12') },
    shared: [address('fd00:172::50')],
  },
};
const settingsOf = (...families: Family[]): GroupSettings => ({
  configs: families.map((family) => CONFIG[family]),
  port: 4700,
  credentials: { keyFile: '/key' },
});

/** A live member that holds the shared address and forwards the slice of another one. */
const VIEW: GroupView = {
  ...{ family: 4, self: A, state: 'live', slice: portSlice(slotOf(A)), ready: true, flows: 0, replicas: 0 },
  ...{ peers: [], holders: [{ address: X, holder: A }], held: [X] },
  forward: [{ slice: portSlice(slotOf(B)), via: address('172.17.0.13') }],
};

/** A group whose process starts `uptime` seconds after the machine. */
function groupIn(stateDir: string, uptime = 1000) {
  const calls: unknown[][] = [];
  const facts: unknown[][] = [];
  const log: string[] = [];
  const note = (_: object, message: string) => void log.push(message);
  let report: (report: GroupReport) => void = () => {};
  const group = new Group({
    ...{ stateDir, log: { error: note, warn: note, info: note, debug: note }, uptime: () => uptime },
    onFacts: (...given) => void facts.push(given),
    onAnnounce: () => {},
    answer: async (): Promise<LookupAnswer> => ({ status: 200, body: '' }),
    thread: (options) => {
      report = options.report;
      return {
        configure: async (settings) => void calls.push(['configure', settings]),
        setPath: (...given) => void calls.push(['setPath', ...given]),
        drain: (limitMs) => void calls.push(['drain', limitMs]),
        undrain: () => void calls.push(['undrain']),
        stop: async () => void calls.push(['stop']),
        lookup: async () => [],
        counts: () => undefined,
      };
    },
  });
  return { group, calls, facts, log, report: (given: GroupReport) => report(given) };
}

/** One that has a group in these families; what it called before is forgotten. */
function configured(stateDir: string, ...families: Family[]) {
  const made = groupIn(stateDir);
  made.group.configure(settingsOf(...families));
  made.calls.length = 0;
  made.facts.length = 0;
  return made;
}

/** Keeps `VIEW`, as a process does at this time; the path of the file. */
function keptAt(stateDir: string, uptime: number): string {
  const { group, report } = groupIn(stateDir, uptime);
  group.configure(settingsOf(4));
  report({ type: 'view', view: VIEW });
  return join(stateDir, 'group.json');
}

const session = (local: string, remote: string, state: SessionStateName): SessionReport => ({
  ...{ id: 1, local, remote, role: 'active', state, remoteState: state, localDiagnostic: 0 },
  ...{ remoteDiagnostic: 0, localDiscriminator: 1, remoteDiscriminator: 2, since: 0, transmitInterval: 0 },
  ...{ detectionTime: 0, packetsIn: 0, packetsOut: 0, transitions: [] },
});
const reportOf = (sessions: SessionReport[], draining = false): EngineReport => ({
  ...{ sessions, discards: {}, draining },
  lateness: { bounds: [], buckets: [], count: 0, sum: 0 },
});

t.test(
  'a BFD process that drains starts the handover once, and one that no longer does ends it',
  async (t) => {
    const { group, calls } = configured(t.testdir(), 4);
    group.takeReport(reportOf([]));
    t.same(calls, [], 'it does not drain');
    group.takeReport(reportOf([], true));
    group.takeReport(reportOf([], true));
    t.same(calls, [['drain', HANDOVER_TIMEOUT]]);
    group.takeReport(reportOf([]));
    group.takeReport(reportOf([]));
    t.same(calls, [['drain', HANDOVER_TIMEOUT], ['undrain']]);
  },
);

t.test('a session between members sets the path and is not in the report', async (t) => {
  const { group, calls } = configured(t.testdir(), 4);
  const others = [session(A, OVN, 'Up'), session('172.17.0.12', B, 'Up'), session(A6, B6, 'Up')];
  const report = reportOf([session(A, B, 'Up'), ...others, session(A, C, 'Init')]);
  t.same(group.takeReport(report), { ...report, sessions: others });
  t.same(calls, [
    ['setPath', B, true],
    ['setPath', C, false],
  ]);
  group.configure(undefined);
  t.same(group.takeReport(report), report, 'without a group every session stays');
});

t.test('a drain is over when every family has handed over', async (t) => {
  const { group, calls, log, report } = configured(t.testdir(), 4, 6);
  let over = false;
  const drained = group.drain(60_000).finally(() => {
    over = true;
  });
  t.same(calls, [['drain', 60_000]]);
  report({ type: 'handed-over', family: 4, complete: true });
  await setImmediate();
  t.notOk(over, 'IPv6 has not');
  t.same(log, []);
  report({ type: 'handed-over', family: 6, complete: false });
  t.equal(await drained, true);
  t.same(log, ['the group does not have every flow of this member']);
});

t.test('a report of BFD, which drains after the handover, does not end it', async (t) => {
  const { group, calls, report } = configured(t.testdir(), 4);
  const drained = group.drain(60_000);
  group.takeReport(reportOf([]));
  report({ type: 'handed-over', family: 4, complete: true });
  t.equal(await drained, true);
  t.same(calls, [['drain', 60_000]]);
});

t.test('a drain is over at its limit when the thread does not answer', async (t) => {
  t.equal(await configured(t.testdir(), 4).group.drain(1), true);
});

t.test('a drain without a group is over at once', async (t) => {
  const { group, calls } = groupIn(t.testdir());
  t.equal(await group.drain(60_000), true);
  t.same(calls, []);
});

t.test('an undrain ends a drain, which then says so', async (t) => {
  const { group, calls } = configured(t.testdir(), 4);
  const drained = group.drain(60_000);
  group.undrain();
  t.equal(await drained, false);
  t.same(calls, [['drain', 60_000], ['undrain']]);
});

t.test('a view that a process keeps is used by the next one in the 10 s after', async (t) => {
  for (const [uptime, isUsed] of [
    [1000, true],
    [1009.9, true],
    [1010, false],
    [999, false],
  ] as const) {
    const dir = t.testdir();
    keptAt(dir, 1000);
    const { group, calls, facts, log } = groupIn(dir, uptime);
    group.start();
    t.same(facts, isUsed ? [[4, groupFacts(VIEW)]] : [], `at ${uptime} s`);
    group.configure(settingsOf(4));
    t.match(calls, [['configure', { resumes: isUsed ? [4] : [] }]]);
    t.same(log, []);
  }
});

t.test('a kept view gives way 5 s after the first one of the exchange, which need not change', async (t) => {
  const dir = t.testdir();
  keptAt(dir, 1000);
  mock.timers.enable({ apis: ['setTimeout'] });
  t.teardown(() => mock.timers.reset());
  const { group, facts, report } = groupIn(dir);
  group.configure(settingsOf(4));
  mock.timers.tick(60_000);
  // The other members died meanwhile.
  const alone: GroupView = { ...VIEW, forward: [] };
  facts.length = 0;
  report({ type: 'view', view: alone });
  mock.timers.tick(4999);
  t.same(facts, [], 'the exchange may hear them yet, however late its thread started');
  mock.timers.tick(1);
  t.same(facts, [[4, groupFacts(alone)]]);
});

t.test('a view of a member that is not ready is not kept', async (t) => {
  const dir = t.testdir();
  const { report } = configured(dir, 4);
  report({ type: 'view', view: { ...VIEW, state: 'joining', ready: false } });
  t.notOk(existsSync(join(dir, 'group.json')));
  report({ type: 'view', view: VIEW });
  t.ok(existsSync(join(dir, 'group.json')));
});

t.test('a view in which only counts have changed is not written again', async (t) => {
  const dir = t.testdir();
  const path = join(dir, 'group.json');
  const { report } = configured(dir, 4);
  report({ type: 'view', view: VIEW });
  rmSync(path);
  report({ type: 'view', view: { ...VIEW, flows: VIEW.flows + 1, replicas: 7 } });
  t.notOk(existsSync(path));
  report({ type: 'view', view: { ...VIEW, held: [] } });
  t.ok(existsSync(path));
});

t.test('a kept view that is damaged is not used', async (t) => {
  const dir = t.testdir();
  const path = keptAt(dir, 1000);
  const text = readFileSync(path, 'utf8');
  const factsOf = (content: string) => {
    writeFileSync(path, content);
    const { group, facts, log } = groupIn(dir);
    group.start();
    return { facts, log };
  };
  t.equal(factsOf(text).facts.length, 1, 'undamaged');
  t.same(factsOf(text.slice(0, -4)), { facts: [], log: ['ignoring the kept view of the group'] });
  for (const [part, other] of [
    [`"self":"${A}"`, `"self":"${A6}"`],
    [`"held":["${X}"]`, '"held":["x"]'],
    [`"slot":${slotOf(B)}`, '"slot":16'],
    ['"uptime":1000', '"uptime":"1000"'],
  ] as const) {
    t.ok(text.includes(part), part);
    t.same(factsOf(text.replace(part, other)).facts, [], other);
  }
});

t.test('a member that stops leaves no view for the next process', async (t) => {
  const dir = t.testdir();
  const path = keptAt(dir, 1000);
  t.ok(existsSync(path));
  const { group, calls } = groupIn(dir);
  await group.stop();
  t.notOk(existsSync(path));
  t.same(calls, [['stop']]);
});

t.test('a member that stops keeps no view of a family that leaves after the other one', async (t) => {
  const dir = t.testdir();
  const { group, report } = configured(dir, 4, 6);
  const view6: GroupView = { ...VIEW, family: 6, self: A6, holders: [], held: [], forward: [] };
  report({ type: 'view', view: VIEW });
  report({ type: 'view', view: view6 });
  const stopped = group.stop();
  report({ type: 'view', view: { ...VIEW, state: 'left', ready: false } });
  await stopped;
  t.notOk(existsSync(join(dir, 'group.json')));
});

t.test('a first plan without a group withdraws what a former process kept', async (t) => {
  const dir = t.testdir();
  keptAt(dir, 1000);
  const { group, calls, facts } = groupIn(dir);
  group.start();
  group.configure(undefined);
  t.same(facts, [
    [4, groupFacts(VIEW)],
    [4, undefined],
    [6, undefined],
  ]);
  t.same(calls, [['configure', undefined]]);
  group.configure(undefined);
  t.equal(calls.length, 1, 'the same plan changes nothing');
});
