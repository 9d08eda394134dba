/**
 * Every file of the state directory, damaged in thousands of ways: whoever reads it goes on without it or with values
 * that it can hold, tells what is wrong, and keeps the next good state.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import pino from 'pino';
import t from 'tap';
import { readPolicyCounters, writePolicyCounters } from '../../agent/flows/policy-counters-file.ts';
import { RetentionClock } from '../../agent/flows/retention-clock.ts';
import { Translations } from '../../agent/flows/translations.ts';
import { ObserverCounts } from '../../agent/kube-ovn/observer-counts.ts';
import { createSysctls } from '../../agent/pod/sysctl.ts';
import { keepPolicy, readLastPolicy } from '../../agent/policy/last-policy.ts';
import { HistoryFile } from '../../agent/show/plots/history-file.ts';
import { Checkpoint } from '../../bfd/checkpoint.ts';
import { Engine } from '../../bfd/engine.ts';
import { FORMAT, type SavedSession } from '../../bfd/saved.ts';
import { uptime } from '../../lib/clock.ts';
import * as stateFiles from '../../lib/files.ts';
import { parseJson } from '../../lib/json.ts';
import { readCheckpoint, writeCheckpoint } from '../../nat/conntrack/checkpoint.ts';
import { viewFlow } from '../../nat/conntrack/flow.ts';
import { recordLine } from '../../nat/conntrack/records.ts';
import { TranslationStore } from '../../nat/conntrack/store.ts';
import { Flow, FlowTable } from '../../nat/conntrack/table.ts';
import { Tracker } from '../../nat/conntrack/tracker.ts';
import { CounterTotals, type SavedTotals } from '../../nat/counters/totals.ts';
import { entry } from '../nat/conntrack/entries.ts';
import { mutateOctets, mutateValue, randomFrom } from '../support/fuzz.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'veg-state-'));
t.teardown(() => rmSync(ROOT, { recursive: true }));
const directory = () => mkdtempSync(join(ROOT, 'd'));
const ROUNDS = 1500;
const files = { ...stateFiles, parseJson };

/** A logger that remembers what it was told. */
function listening(): { logger: pino.Logger; told: string[] } {
  const told: string[] = [];
  return { logger: pino({ level: 'warn', base: null }, { write: (line) => void told.push(line) }), told };
}

/** JSON with a value of it changed, or its octets, or lists in lists. */
function* damaged(value: unknown, rounds = ROUNDS): Generator<Buffer> {
  const random = randomFrom(1);
  const good = Buffer.from(JSON.stringify(value));
  for (let i = 0; i < rounds; i++) {
    yield i % 3 === 0
      ? mutateOctets(good, random)
      : Buffer.from(JSON.stringify(mutateValue(value, random)) ?? 'undefined');
  }
  for (const junk of [
    '',
    '\0',
    '[',
    'null',
    '{}',
    '"',
    '['.repeat(100_000),
    '{"a":'.repeat(50_000),
    '1e999',
  ]) {
    yield Buffer.from(junk);
  }
}

t.test('bfd.json', async (t) => {
  const file = join(directory(), 'bfd.json');
  const intent = { desiredMinTx: 100_000, requiredMinRx: 100_000, detectMult: 5, minTTL: 254 };
  const negotiated = { desiredMinTx: 100_000, requiredMinRx: 100_000, effectiveMinTx: 100_000 };
  const remote = { remoteSessionState: 'Up', remoteDiscr: 7, remoteDiag: 0, remoteMinTx: 100_000 } as const;
  const session = (id: number, local: string, peer: string): SavedSession => ({
    ...{ id, origin: 'intent', port: 50_000 + id, localDiscr: 100 + id, xmitAuthSeq: 5, rcvAuthSeq: 6 },
    ...{ lastTransmit: 1000, peerDetectionTime: 500_000 },
    intent: { local, remote: peer, ...intent, role: 'passive', multihop: false, adoptDiscriminator: true },
    session: {
      ...{ sessionState: 'Up', localDiag: 0, effectiveMinRx: 100_000, polling: false, pollAgain: false },
      ...{ ...negotiated, ...remote, remoteMinRx: 100_000, remoteDetectMult: 3, remoteDemandMode: false },
      ...{ authSeqKnown: false, transmitInterval: 100_000, detectionTime: 300_000 },
    },
  });
  const sessions = [session(1, '127.0.0.1', '127.0.0.2'), session(2, '::1', 'fd00::2')];
  const here = new Checkpoint(file, listening().logger, () => sessions);
  here.close();
  const good = readFileSync(file);
  const end = good.indexOf('\n');
  const state = JSON.parse(good.toString('utf8', 0, end));
  t.equal(state.version, FORMAT);
  t.equal(new Checkpoint(file, listening().logger, () => []).resumable(2000).length, 2, 'undamaged');
  let kept = 0;
  let engines = 0;
  for (const first of damaged(state)) {
    writeFileSync(file, Buffer.concat([first, good.subarray(end)]));
    const { logger, told } = listening();
    const read = new Checkpoint(file, logger, () => sessions);
    const resumable = read.resumable(2000);
    if (told.length > 0) {
      t.same(resumable, []);
      continue;
    }
    kept++;
    for (const saved of resumable) {
      t.ok(isIP(saved.intent.local) && isIP(saved.intent.remote.split('%')[0]!), 'addresses');
      t.ok(saved.localDiscr > 0 && saved.localDiscr < 2 ** 32 && saved.port < 65_536);
    }
    if (kept % 60 !== 0) continue;
    engines++;
    const engine = new Engine({ logger, checkpoint: file });
    engine.report();
    engine.configure({ peers: [], readiness: { 4: { ready: true }, 6: { ready: true } } });
    engine.abandon();
  }
  t.ok(kept > 50 && engines > 0, `${kept} had something of use`);
  writeFileSync(file, 'junk');
  const after = new Checkpoint(file, listening().logger, () => sessions);
  after.close();
  t.equal(
    new Checkpoint(file, listening().logger, () => []).resumable(2000).length,
    2,
    'the next good state',
  );
});

t.test('sysctl.json', async (t) => {
  const dir = t.testdir({ sys: { net: { ipv4: { ip_forward: '1\n', other: '1\n' } } }, state: {} });
  const file = join(dir, 'state', 'sysctl.json');
  const sysctls = createSysctls(join(dir, 'sys'), file);
  const good = {
    'net/ipv4/ip_forward': { before: '0', ours: '1' },
    'net/ipv4/other': { before: '0', ours: '1' },
  };
  for (const content of damaged(good, 500)) {
    writeFileSync(file, content);
    await sysctls.observe([]);
    for (const step of await sysctls.planCleanup()) {
      t.equal(step.path, 'net/ipv4/ip_forward');
      t.match(step.value, /^[02]$/);
    }
  }
  writeFileSync(file, 'null');
  writeFileSync(join(dir, 'sys/net/ipv4/ip_forward'), '0\n');
  const forward = { path: 'net/ipv4/ip_forward', value: '1' };
  await sysctls.apply((await sysctls.observe([forward])).steps);
  t.match(await sysctls.planCleanup(), [{ path: forward.path, value: '0' }], 'the next good state');
});

t.test('port-blocks.json', async (t) => {
  const stateDir = directory();
  const file = join(stateDir, 'port-blocks.json');
  const blocks = { policy: 'a', sources: ['10.17.0.0/24'], addresses: ['172.17.0.50'], size: 64 };
  const six = { policy: 'b', sources: ['fd00:10:17::/120'], addresses: ['fd00:172:17::50'], size: 64 };
  const good = {
    version: 1,
    entries: [
      { family: 4, from: 1000, policies: [blocks] },
      { family: 6, from: 1000, policies: [six] },
    ],
  };
  const make = () => {
    const { logger, told } = listening();
    return { made: new Translations({ stateDir, pod: '', node: '', logger }), told };
  };
  const ask = (made: Translations, query: Record<string, string>) => made.find(new URLSearchParams(query));
  let kept = 0;
  for (const content of damaged(good)) {
    writeFileSync(file, content);
    const { made, told } = make();
    const [a, b] = [
      await ask(made, { external: '172.17.0.50:1600' }),
      await ask(made, { internal: 'fd00:10:17::9' }),
    ];
    t.ok([200, 409].includes(a.status) && [200, 409].includes(b.status));
    if (told.length === 0 && a.status === 200) kept++;
  }
  t.ok(kept > 50, `${kept} had something of use`);
  writeFileSync(file, 'junk');
  make().made.onPortBlocks({ 4: [blocks as never] });
  t.match(await ask(make().made, { external: '172.17.0.50:1600' }), { status: 200 }, 'the next good state');
});

t.test('policy-counters.json', async (t) => {
  const file = join(directory(), 'policy-counters.json');
  const carried = { connections: 1, packets: { out: 7, in: 6 }, bytes: { out: 700, in: 6000 } };
  const good: SavedTotals = {
    labels: [{ mark: 0x123456, policy: 'web', inbound: false, forwarded: false }],
    tables: [{ family: 4, handle: 3, counts: [[0x123456, [1, 60, 6, 640, 6, 6000]]] }],
    sums: [{ policy: 'web', family: 4, treatment: 'snat', ...carried }],
    log: [{ policy: 'web', family: 4, treatment: 'snat', ...carried, connections: -1 }],
  };
  writePolicyCounters(file, good);
  const text = readFileSync(file);
  const end = text.indexOf('\n') + 1;
  const rows = text
    .toString('utf8', end)
    .trim()
    .split('\n')
    .map((row) => JSON.parse(row));
  const random = randomFrom(4);
  const contents = [
    ...damaged({ version: 2 }, 100),
    ...[...damaged('', 10)].map((junk) => Buffer.concat([text.subarray(0, end), junk])),
    ...Array.from({ length: 500 }, () => mutateOctets(text, random)),
    ...Array.from({ length: 1000 }, () => {
      const changed = mutateValue(rows, random);
      const lines = Array.isArray(changed) ? changed.map((row) => `${JSON.stringify(row)}\n`) : [];
      return Buffer.from(text.toString('utf8', 0, end) + lines.join(''));
    }),
  ];
  let kept = 0;
  for (const content of contents) {
    writeFileSync(file, content);
    let saved: SavedTotals | undefined;
    try {
      saved = readPolicyCounters(file);
    } catch (error) {
      t.match((error as Error).message, /damaged/);
    }
    if (saved === undefined) continue;
    kept++;
    const totals = new CounterTotals();
    totals.load(saved);
    totals.add([{ family: 4, handle: 3, counts: [] }]);
    const numbers = totals
      .volumes('snat')
      .flatMap(({ packets, bytes }) => Object.values({ ...packets, ...bytes }));
    t.ok(numbers.every((number) => Number.isInteger(number) && number >= 0));
  }
  t.ok(kept > 50, `${kept} had something of use`);
  writePolicyCounters(file, good);
  t.same(readPolicyCounters(file), good);
});

t.test('history.bin', async (t) => {
  const stateDir = directory();
  const file = join(stateDir, 'history.bin');
  const make = () => {
    const { logger, told } = listening();
    return { made: new HistoryFile(stateDir, logger), told };
  };
  const recorder = make().made.read();
  recorder.sample({ traffic: undefined, entries: 7, lateness: undefined }, uptime());
  recorder.marks.add({ kind: 'repair', text: 'repaired rule', count: 1 }, uptime());
  make().made.write(recorder);
  t.equal(statSync(file).mode & 0o777, 0o600);
  const good = readFileSync(file);
  const line = good.indexOf('\n');
  const head = JSON.parse(good.subarray(0, line).toString());
  let kept = 0;
  const random = randomFrom(3);
  const contents = [...damaged(head, 500)].map((changed) => Buffer.concat([changed, good.subarray(line)]));
  for (const content of [...contents, ...Array.from({ length: 200 }, () => mutateOctets(good, random))]) {
    writeFileSync(file, content);
    const { made, told } = make();
    const document = made.read().document('5m', uptime(), Date.now());
    t.ok(document.connections.every((value) => value === null || value >= 0));
    if (told.length === 0) kept++;
    else t.match(told[0], /ignoring the saved history/);
  }
  t.ok(kept > 5, `${kept} had something of use`);
  writeFileSync(file, 'junk');
  make().made.write(recorder);
  const { made, told } = make();
  t.ok(made.read().document('5m', uptime(), Date.now()).connections.includes(7), 'the next good state');
  t.same(told, []);
});

t.test('last-policy.json.gz', async (t) => {
  const stateDir = directory();
  const kept = { source: '/policy', since: 1000, content: { files: [{ name: 'a.yaml', text: 'a: 1' }] } };
  keepPolicy(stateDir, kept);
  const file = join(stateDir, 'last-policy.json.gz');
  const good = JSON.parse(gunzipSync(readFileSync(file)).toString());
  const random = randomFrom(2);
  for (const content of damaged(good)) {
    const compressed = gzipSync(content, { level: 1 });
    writeFileSync(file, random() < 0.3 ? mutateOctets(compressed, random) : compressed);
    const told: string[] = [];
    const read = readLastPolicy(stateDir, (reason) => told.push(reason));
    if (read === undefined) {
      t.equal(told.length, 1);
      continue;
    }
    t.equal(typeof read.source, 'string');
    t.ok('files' in read.content ? Array.isArray(read.content.files) : read.content.environment);
  }
  writeFileSync(file, gzipSync(Buffer.alloc(64 << 20)));
  t.equal(
    readLastPolicy(stateDir, () => {}),
    undefined,
    'no more is unpacked than a policy can be',
  );
  keepPolicy(stateDir, kept);
  t.same(
    readLastPolicy(stateDir, () => {}),
    kept,
    'the next good state',
  );
});

t.test('clock.json and counts.json', async (t) => {
  const stateDir = directory();
  const clock = () => new RetentionClock(stateDir, { wall: () => 5000, monotonic: () => 1000, boot: 'here' });
  for (const content of damaged({ boot: 'here', offset: 4000 }, 300)) {
    writeFileSync(join(stateDir, 'clock.json'), content);
    t.ok(Number.isFinite(clock().now()));
  }
  writeFileSync(join(stateDir, 'clock.json'), 'junk');
  t.equal(clock().now(), 5000, 'the next good state');
  const file = join(stateDir, 'counts.json');
  for (const content of damaged({ pod: 'here', counts: { success: 3, error: 1 } }, 300)) {
    writeFileSync(file, content);
    const counts = new ObserverCounts(file, ['success', 'error'], 'here');
    t.ok(['success' as const, 'error' as const].every((name) => Number.isSafeInteger(counts.of(name))));
    counts.add('success');
    const next = new ObserverCounts(file, ['success', 'error'], 'here');
    t.equal(next.of('success'), counts.of('success'), 'the next good state');
  }
});

t.test('translations/checkpoint', async (t) => {
  const file = join(directory(), 'checkpoint');
  const table = new FlowTable(100);
  for (let id = 0; id < 20; id++) {
    table.add(entry({ flow: `10.17.0.9 ${id} 1.1.1.1 2`, id, snat: `2.2.2.2 ${id}` }))!.policy = 1;
  }
  const kind = { verdict: 'translated', policy: 'web', family: 4, protocol: 6 } as const;
  const flags = { snat: true, dnat: false, inbound: false };
  const counters: [number, number, number, number] = [1, 2, 3, 4];
  const tracker = {
    at: 5,
    policies: ['', 'web'],
    totals: [{ ...kind, ...flags, started: 1, ended: 1, counters }],
  };
  writeCheckpoint(file, { tracker, extra: { lost: {} } }, table.save(), files);
  const good = readFileSync(file);
  const end = good.indexOf('\n');
  const header = JSON.parse(good.toString('utf8', 0, end));
  const flows = good.subarray(end);
  const random = randomFrom(3);
  const identity = { namespace: '', name: '', pod: '', node: '' };
  let kept = 0;
  for (const first of damaged(header)) {
    const rest = random() < 0.5 ? flows : mutateOctets(flows, random);
    writeFileSync(file, Buffer.concat([random() < 0.3 ? good.subarray(0, end) : first, rest]));
    let read: ReturnType<typeof readCheckpoint>;
    try {
      read = readCheckpoint(file, files);
    } catch (error) {
      t.match((error as Error).message, /is damaged/);
      continue;
    }
    if (read === undefined) continue;
    kept++;
    const fresh = new Tracker(100, { classify() {}, started() {}, ended() {}, repaired() {} });
    fresh.load(read.tracker, read.flows, 10);
    for (const flow of fresh.table) recordLine('end', viewFlow(flow, fresh.policyName(flow), 10), identity);
    t.equal([...fresh.totals].filter(({ counters: sums }) => sums.some((sum) => !(sum >= 0))).length, 0);
    writeCheckpoint(file, { tracker: fresh.save(20), extra: {} }, fresh.table.save(), files);
    t.ok(readCheckpoint(file, files), 'what came of it can be kept');
  }
  t.ok(kept > 100, `${kept} had something of use`);
});

t.test('translations/flows.db', async (t) => {
  const dir = directory();
  const make = () => {
    const anew: string[] = [];
    const store = new TranslationStore({
      ...{ directory: dir, maxBytes: 64 << 20, maxAge: 1e12, now: () => 3000, files },
      onAnew: (reason) => anew.push(reason),
    });
    return { store, anew };
  };
  const flow = new Flow();
  flow.set(entry({ flow: '10.17.0.9 1 1.1.1.1 2', snat: '2.2.2.2 3' }));
  Object.assign(flow, { start: 1000, verdict: 'translated' });
  const fill = (store: TranslationStore) => {
    for (let i = 0; i < 50; i++) store.add(flow, 'web', 2000, false);
    store.addGap({ from: 1, to: 2, lost: 3, foundStarts: 0, foundEnds: 0 });
    return store.commit();
  };
  const first = make().store;
  fill(first);
  first.close();
  const path = join(dir, 'flows.db');
  const good = readFileSync(path);
  const random = randomFrom(4);
  let anewAtOnce = 0;
  for (let i = 0; i < 250; i++) {
    for (const suffix of ['', '-wal', '-shm']) rmSync(path + suffix, { force: true });
    writeFileSync(path, mutateOctets(good, random));
    if (random() < 0.2) writeFileSync(`${path}-wal`, mutateOctets(good, random));
    const { store, anew } = make();
    anewAtOnce += anew.length;
    // What is found wrong later begins anew then, and the next time all is well.
    const use = () => {
      store.find({ from: 0, to: Number.MAX_SAFE_INTEGER, limit: 100 });
      store.gaps({ from: 0, to: Number.MAX_SAFE_INTEGER });
      return fill(store);
    };
    let added = 0;
    for (let attempt = 0; attempt < 3 && added === 0; attempt++) {
      try {
        added = use();
      } catch {}
    }
    t.ok(added >= 50, 'the next good state');
    store.close();
  }
  t.ok(anewAtOnce > 10, `${anewAtOnce} were begun anew at once`);
  t.ok(existsSync(path));
});
