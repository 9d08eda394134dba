import { setImmediate as turn } from 'node:timers/promises';
import pino from 'pino';
import t from 'tap';
import { FlowCleaner } from '../../../agent/flows/flow-cleaner.ts';
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
  return { cleaner: new FlowCleaner(logger, remove), log };
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
