import { setImmediate as turn } from 'node:timers/promises';
import pino from 'pino';
import t from 'tap';
import { deleteEntries, FlowCleaner } from '../../../agent/flows/flow-cleaner.ts';
import type { Plan } from '../../../agent/plan/plan.ts';
import type { ConntrackEntry } from '../../../nat/conntrack/wire.ts';
import { entry } from '../../nat/conntrack/entries.ts';

/** A plan that forwards 10.18.0.0/16, or translates everything. */
const plan = (forward: string[]): Plan =>
  ({
    routing: [],
    nat: [{ family: 4, internalInterface: 'eth0', forward, notrackBfd: false }],
    internalNetworks: [],
  }) as unknown as Plan;

/** A UDP flow that leaves untranslated. */
const FLOW = entry({ flow: '10.18.0.9 5000 1.1.1.1 53', protocol: 17 });

function setUp(remove: (isStale: (entry: ConntrackEntry) => boolean) => Promise<number>) {
  const log: { msg: string }[] = [];
  const logger = pino({ base: null }, { write: (line: string) => void log.push(JSON.parse(line)) });
  return { cleaner: new FlowCleaner(logger, (work) => work(), remove), log };
}

t.test('flows that contradict the plan are removed, and counted in the log', async (t) => {
  const stale: boolean[] = [];
  const { cleaner, log } = setUp(async (isStale) => {
    stale.push(isStale(FLOW));
    return 3;
  });
  cleaner.follow(plan([]));
  await turn();
  await turn();
  t.same(stale, [true]);
  t.match(log, [{ flows: 3, msg: 'removed flows that contradict the policy' }]);
  cleaner.follow(plan(['10.18.0.0/16']));
  await turn();
  await turn();
  t.same(stale, [true, false], 'each pass goes by its own plan');
});

t.test('plans that come during a pass are one more pass, by the last of them', async (t) => {
  const passes: boolean[] = [];
  const first = Promise.withResolvers<number>();
  const { cleaner, log } = setUp((isStale) => {
    passes.push(isStale(FLOW));
    return passes.length === 1 ? first.promise : Promise.resolve(0);
  });
  cleaner.follow(plan(['10.18.0.0/16']));
  await turn();
  cleaner.follow(plan(['10.18.0.0/16']));
  cleaner.follow(plan([]));
  t.same(passes, [false], 'one pass at a time');
  first.resolve(0);
  await turn();
  t.same(passes, [false, true]);
  t.same(log, [], 'nothing was removed');
});

t.test('a table that cannot be read is logged, and the next plan is followed', async (t) => {
  let fail = true;
  const { cleaner, log } = setUp(async () => {
    if (fail) throw new Error('operation not permitted (EPERM)');
    return 1;
  });
  cleaner.follow(plan([]));
  await turn();
  await turn();
  t.match(log, [{ reason: /EPERM/, msg: 'cannot remove flows that contradict the policy' }]);
  fail = false;
  cleaner.follow(plan([]));
  await turn();
  await turn();
  t.match(log[1], { flows: 1 });
});

/** A kernel that answers these codes to each attempt in turn; empty: deleted. */
function deletions(...attempts: string[][]) {
  const calls: string[] = [];
  const requests = attempts[0]!.map((_, i) => ({ type: i, data: new Uint8Array() }));
  const transact = async (asked: readonly { type: number }[]) => {
    calls.push(asked.map(({ type }) => type).join());
    return attempts
      .shift()!
      .map((code) => (code === '' ? undefined : Object.assign(new Error(code), { code })));
  };
  const without = async (work: () => Promise<void>) => {
    calls.push('no fast path');
    await work();
    calls.push('fast path');
  };
  const result = deleteEntries(requests, transact, without, async () => void calls.push('wait'));
  return { calls, result };
}

t.test('entries are deleted at once where the kernel lets them go', async (t) => {
  const { calls, result } = deletions(['', 'ENOENT', '']);
  t.equal(await result, 2);
  t.same(calls, ['0,1,2']);
});

t.test('those that are held by the fast path are deleted while there is none', async (t) => {
  const { calls, result } = deletions(['', 'EBUSY', 'EBUSY'], ['EBUSY', ''], ['']);
  t.equal(await result, 3);
  t.same(calls, ['0,1,2', 'no fast path', '1,2', 'wait', '1', 'fast path']);
});

t.test('an entry that stays there, and any other refusal, is an error', async (t) => {
  const held = deletions(...Array.from({ length: 41 }, () => ['EBUSY']));
  await t.rejects(held.result, { code: 'EBUSY' });
  t.equal(held.calls.at(-1), 'fast path', 'the fast path is back all the same');
  await t.rejects(deletions(['', 'EPERM']).result, { code: 'EPERM' });
});
