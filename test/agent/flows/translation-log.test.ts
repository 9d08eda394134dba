/** The translation log in its thread, on a clock, a reader and a store of the test. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { TranslationLog, type TranslationLogParts } from '../../../agent/flows/translation-log.ts';
import type { FromWorker, Snapshot, WorkerSettings } from '../../../agent/flows/translations-messages.ts';
import { address, prefix } from '../../../lib/prefix.ts';
import type { TranslationStore } from '../../../nat/conntrack/store.ts';
import type { Tracker } from '../../../nat/conntrack/tracker.ts';
import type { ConntrackEntry } from '../../../nat/conntrack/wire.ts';
import { policyMark } from '../../../nat/policy-marks.ts';
import { entry } from '../../nat/conntrack/entries.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'veg-log-'));
t.teardown(() => rmSync(ROOT, { recursive: true }));

const SETTINGS: WorkerSettings = {
  log: {
    events: ['start', 'end'],
    rateLimit: { recordsPerSecond: 1e6, burst: 1e6 },
    filters: { include: [], exclude: [] },
  },
  rules: [{ name: 'web', snat: true, ipBlocks: [prefix('10.17.0.0/16')] }],
  identity: { namespace: 'default', name: 'gateway1', pod: 'pod1', node: 'node1' },
};
const START = 1_800_000_000_000;

const flow = (port: number) =>
  entry({ flow: `10.17.0.9 ${port} 1.1.1.1 443`, snat: `172.17.0.11 ${port}`, id: port });

function setUp({ directory = mkdtempSync(join(ROOT, 'd')), ...parts }: Partial<TranslationLogParts> = {}) {
  const dir = join(directory, 'translations');
  mkdirSync(dir, { recursive: true });
  const sent: FromWorker[] = [];
  const calls: string[] = [];
  let time = START;
  let due: (() => void) | undefined;
  let tracker!: Tracker;
  let onDump = (_began: number): void => {};
  const log = new TranslationLog(
    {
      directory: dir,
      post: (message) => void sent.push(structuredClone(message)),
      now: () => time,
      clock: () => time,
      schedule(work) {
        due = work;
        return () => {
          due = undefined;
        };
      },
      openReader(made, dumped) {
        [tracker, onDump] = [made, dumped];
        const call = (name: string) => () => void calls.push(name);
        return { turn: () => false, drain: call('drain'), dump: call('dump'), close: call('close') };
      },
      ownAddresses: () => ['172.17.0.11', '10.16.0.12'],
      insertFailures: () => 0,
      ...parts,
    },
    SETTINGS,
  );
  return {
    ...{ log, sent, calls, directory },
    tracker: () => tracker,
    /** A dump that shows these entries ends. */
    dump(...entries: ConntrackEntry[]) {
      tracker.beginDump();
      tracker.applyPart(entries, time);
      tracker.endDump(time);
      onDump(time);
    },
    /** Time passes, and the thread has its turn. */
    pass(ms: number) {
      time += ms;
      due?.();
    },
    logged: (level: string) =>
      sent.flatMap((message) => (message.type === 'log' && message.level === level ? [message.message] : [])),
    records: () => sent.flatMap((message) => (message.type === 'records' ? message.lines : [])),
    snapshot: (): Snapshot =>
      sent.findLast((message): message is FromWorker & { type: 'snapshot' } => message.type === 'snapshot')!
        .snapshot,
  };
}

t.test('a flow has a record at its begin and its end, and can be looked up alive and ended', async (t) => {
  const own = setUp();
  own.dump();
  own.tracker().began(flow(2000), START);
  own.pass(50);
  const lookup = { from: 0, to: Number.MAX_SAFE_INTEGER, limit: 10 };
  t.match((await own.log.find(lookup)).flows, [{ policy: 'web', sourcePort: 2000, end: undefined }]);
  own.tracker().ended(flow(2000), START + 900);
  own.pass(500);
  t.match(
    own.records().map((line) => JSON.parse(line).event),
    ['start', 'end'],
  );
  t.match((await own.log.find(lookup)).flows, [{ sourcePort: 2000, end: START + 900 }]);
  own.log.stop();
});

t.test('a flow from before the policy belongs to the one of its mark, and so do its packets', async (t) => {
  const own = setUp();
  own.log.configure({ ...SETTINGS, marked: new Map([[7, 'legacy']]) });
  const old = (packets: number) =>
    entry({
      ...{ flow: '10.18.0.9 1 1.1.1.1 443', id: 1, mark: policyMark(7, { inbound: false, forwarded: true }) },
      counters: [packets, 100 * packets, 0, 0],
    });
  own.dump(old(10));
  own.dump(old(15));
  t.match(own.snapshot().totals, [
    { policy: 'legacy', verdict: 'forwarded', inbound: false, counters: [5, 500, 0, 0] },
  ]);
  own.log.stop();
});

t.test('the end reads what is queued, then the table, keeps both, and closes', async (t) => {
  const own = setUp();
  own.log.stop();
  t.same(own.calls, ['drain', 'dump', 'close']);
});

t.test('a reader that hangs costs records, not memory: 8192 wait at most', async (t) => {
  const own = setUp();
  own.dump();
  for (let port = 1; port <= 9000; port++) own.tracker().began(flow(port), START);
  own.pass(50);
  t.equal(own.records().length, 8192);
  own.dump();
  t.match(own.snapshot(), { lost: { queue_full: 808 }, records: { start: 8192 } });
  own.log.written(8192);
  own.tracker().began(flow(9001), START);
  own.pass(50);
  t.equal(own.records().length, 8193, 'it goes on when they are written');
  own.log.stop();
});

t.test('a full disk: flows are counted as lost, it is logged once, and the end of it too', async (t) => {
  let full = true;
  let pending = 0;
  const store = {
    get pending() {
      return pending;
    },
    add() {
      pending++;
    },
    commit() {
      const added = pending;
      pending = 0;
      if (full) throw new Error('database or disk is full');
      return added;
    },
    gaps: () => [],
    addGap() {},
    close() {},
    *findInParts() {},
  } as unknown as TranslationStore;
  // What a failed commit had is gone with it.
  const own = setUp({ openStore: () => store });
  own.dump();
  for (const port of [1, 2]) {
    own.tracker().began(flow(port), START);
    own.tracker().ended(flow(port), START + 1);
    own.pass(600);
  }
  t.same(own.logged('error'), ['cannot store ended flows for lookups, retrying']);
  full = false;
  own.tracker().began(flow(3), START);
  own.tracker().ended(flow(3), START + 1);
  own.pass(600);
  t.same(own.logged('info'), ['storing ended flows again']);
  own.dump();
  t.equal(own.snapshot().lost.store, 2);
  t.equal(own.records().length, 6, 'records do not depend on the store');
  own.log.stop();
});

t.test('a store that cannot be opened is opened again after ten seconds', async (t) => {
  let opened = 0;
  const own = setUp({
    openStore() {
      opened++;
      throw new Error('read-only file system');
    },
  });
  own.pass(9000);
  t.equal(opened, 1);
  own.pass(2000);
  t.equal(opened, 2);
  t.same(own.logged('error'), ['cannot store ended flows for lookups, retrying'], 'logged once');
  t.same(await own.log.find({ from: 0, to: 1, limit: 1 }), { flows: [], more: false, gaps: [] });
  own.log.stop();
});

t.test('counters go on after a restart, and start at 0 from a checkpoint that is damaged', async (t) => {
  const first = setUp();
  first.dump();
  first.tracker().began(flow(1), START);
  first.dump();
  const { directory } = first;
  first.log.stop();

  const second = setUp({ directory });
  second.dump();
  second.dump();
  t.match(second.snapshot(), { records: { start: 1 }, events: { new: 1 } });
  second.log.stop();

  const file = join(directory, 'translations/checkpoint');
  t.ok(existsSync(file));
  writeFileSync(file, 'damaged\n');
  const third = setUp({ directory });
  t.same(third.logged('warn'), ['ignoring the saved counters, starting at 0']);
  third.dump();
  t.match(third.snapshot(), { records: { start: 0 } });
  third.log.stop();
});

t.test('of a shared address the ports of one slice run out', async (t) => {
  let failures = 0;
  const own = setUp({ insertFailures: () => failures });
  const egressIP = { addresses: [address('172.17.0.11')], shared: true };
  own.log.configure({ ...SETTINGS, rules: SETTINGS.rules.map((rule) => ({ ...rule, egressIP })) });
  own.dump();
  const flows = Array.from({ length: 3300 }, (_, i) => flow(1024 + i));
  for (const one of flows) own.tracker().began(one, START);
  failures = 2;
  own.dump(...flows);
  t.match(own.snapshot().ports, [{ externalIP: '172.17.0.11', used: 3300, of: 4032, lacking: 2 }]);
  t.same(own.logged('warn'), [
    'no port was left for new connections, they were dropped',
    'ports of an external address are running out',
  ]);
  own.log.stop();
});

t.test('connections without a port count for the address whose range is full', async (t) => {
  let failures = 7;
  const own = setUp({ insertFailures: () => failures });
  own.dump();
  const flows = Array.from({ length: 424 }, (_, i) => flow(600 + i));
  for (const one of flows) own.tracker().began(one, START);
  failures = 7 + 12;
  own.dump(...flows);
  t.match(own.snapshot().ports, [{ externalIP: '172.17.0.11', protocol: 'tcp', used: 424, lacking: 12 }]);
  t.same(own.logged('warn'), ['no port was left for new connections, they were dropped']);
  failures += 5;
  own.dump(...flows);
  t.equal(own.logged('warn').length, 1, 'not again within a minute');
  own.pass(61_000);
  failures += 1;
  own.dump(...flows);
  const last = own.sent.findLast((message) => message.type === 'log');
  t.match(last, { fields: { connections: 6 } }, 'with those in between');
  own.log.stop();
});
