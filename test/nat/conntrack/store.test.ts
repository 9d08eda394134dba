import { execFileSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import t from 'tap';
import * as files from '../../../lib/files.ts';
import { address, addressBytes, addressFromBytes } from '../../../lib/prefix.ts';
import type { FlowView } from '../../../nat/conntrack/flow.ts';
import { type Lookup, matches } from '../../../nat/conntrack/lookup.ts';
import { TranslationStore } from '../../../nat/conntrack/store.ts';
import { Flow } from '../../../nat/conntrack/table.ts';
import { counters, type EntrySpec, entry } from './entries.ts';

const DAY = 24 * 3600 * 1000;
const ROOT = mkdtempSync(join(tmpdir(), 'veg-store-'));
t.teardown(() => rmSync(ROOT, { recursive: true }));
const directory = () => mkdtempSync(join(ROOT, 'd'));

interface Opened {
  store: TranslationStore;
  anew: string[];
  clock: { now: number };
}

function open(
  dir: string,
  options: { maxBytes?: number; maxAge?: number } = {},
  now = 1_790_000_000_000,
): Opened {
  const anew: string[] = [];
  const clock = { now };
  const store = new TranslationStore({
    directory: dir,
    maxBytes: 64 << 20,
    maxAge: 7 * DAY,
    ...options,
    now: () => clock.now,
    onAnew: (reason) => anew.push(reason),
    files,
  });
  return { store, anew, clock };
}

function flow(spec: EntrySpec, start: number): Flow {
  const made = new Flow();
  made.set(entry(spec));
  Object.assign(made, { start, verdict: made.snat || made.dnat ? 'translated' : 'forwarded' });
  return made;
}

const at = (text: string, port?: number) => ({
  address: addressBytes(address(text)),
  ...(port !== undefined && { port }),
});
const ask = (lookup: Partial<Lookup> = {}): Lookup => ({
  from: 0,
  to: Number.MAX_SAFE_INTEGER,
  limit: 100,
  ...lookup,
});
const sources = (views: FlowView[]): string[] =>
  views.map(({ source, sourcePort }) => `${addressFromBytes(source)} ${sourcePort}`);

t.test('a flow is found by what the outside saw, with all that is known of it', async (t) => {
  const { store } = open(directory());
  const one = flow({ flow: '10.17.0.9 42136 203.0.113.10 443', snat: '172.17.0.11 39449', zone: 3 }, 1000.5);
  one.counters = counters([8, 624, 2 ** 40, 591]);
  store.add(one, 'web', 2000.5, false);
  store.commit();
  const [found] = store.find(
    ask({ external: at('172.17.0.11', 39449), protocols: [6], from: 1500, to: 1500 }),
  );
  t.same(found, {
    ...{ family: 4, protocol: 6, zone: 3, verdict: 'translated', natType: ['snat'], policy: 'web' },
    ...{ source: Uint8Array.of(10, 17, 0, 9), sourcePort: 42136 },
    ...{ destination: Uint8Array.of(203, 0, 113, 10), destinationPort: 443 },
    ...{ translatedSource: Uint8Array.of(172, 17, 0, 11), translatedSourcePort: 39449 },
    ...{ translatedDestination: Uint8Array.of(203, 0, 113, 10), translatedDestinationPort: 443 },
    ...{ start: 1000, end: 2001, counters: counters([8, 624, 2 ** 40, 591]) },
  });
  store.close();
});

t.test('IPv6, DNAT, forwarded flows, and an end that nobody saw', async (t) => {
  const { store } = open(directory());
  store.add(flow({ flow: 'fd00:10:17::9 1 2001:db8::1 2', snat: 'fd00::11 3' }, 1000), 'web', 2000, true);
  store.add(flow({ flow: '1.1.1.1 9 172.17.0.60 80', dnat: '10.17.0.9 8080' }, 1000), 'web', 2000, false);
  store.add(flow({ flow: '10.18.0.9 5 1.1.1.1 80' }, 1000), 'direct', 2000, false);
  const [v6] = store.find(ask({ external: at('fd00::11', 3) }));
  t.match(v6, { family: 6, endEstimated: true, counters: undefined });
  const [dnat] = store.find(ask({ external: at('172.17.0.60', 80) }));
  t.match(dnat, {
    natType: ['dnat'],
    translatedDestination: Uint8Array.of(10, 17, 0, 9),
    translatedDestinationPort: 8080,
  });
  t.same(
    sources(store.find(ask({ internal: at('10.17.0.9') }))),
    ['1.1.1.1 9'],
    'the pod behind a DNAT is inside',
  );
  const [forwarded] = store.find(ask({ external: at('10.18.0.9', 5) }));
  t.match(
    forwarded,
    { verdict: 'forwarded', natType: [], policy: 'direct' },
    'unchanged, the outside sees it itself',
  );
  store.close();
});

t.test('what was committed survives a crash, and a new start goes on with the same file', async (t) => {
  const dir = directory();
  const first = open(dir);
  first.store.add(flow({ flow: '10.17.0.9 1 1.1.1.1 2', snat: '2.2.2.2 3' }, 1000), 'web', 2000, false);
  t.equal(first.store.commit(), 1);
  first.store.add(flow({ flow: '10.17.0.9 2 1.1.1.1 2', snat: '2.2.2.2 4' }, 1000), 'web', 2000, false);
  // The files as kill -9 would leave them.
  const left = directory();
  cpSync(dir, left, { recursive: true });
  const second = open(left);
  t.same(second.anew, []);
  t.same(sources(second.store.find(ask())), ['10.17.0.9 1']);
  second.store.add(flow({ flow: '10.17.0.9 3 1.1.1.1 2', snat: '2.2.2.2 5' }, 1000), 'web', 2000, false);
  second.store.close();
  const third = open(left);
  t.same(sources(third.store.find(ask({ internal: at('10.17.0.9') }))).sort(), [
    '10.17.0.9 1',
    '10.17.0.9 3',
  ]);
  third.store.close();
  first.store.close();
});

t.test(
  'a file that is not a database, cut off, or of another layout is begun anew, and that is told',
  async (t) => {
    const spoil: [string, (file: string) => void][] = [
      ['not a database', (file) => writeFileSync(file, Buffer.alloc(50_000, 0x5a))],
      ['cut off', (file) => truncateSync(file, 5000)],
      [
        'another layout',
        (file) => {
          const db = new DatabaseSync(file);
          db.exec('PRAGMA user_version = 99');
          db.close();
        },
      ],
    ];
    for (const [what, how] of spoil) {
      const dir = directory();
      const { store } = open(dir);
      for (let i = 0; i < 500; i++) {
        store.add(flow({ flow: `10.17.0.9 ${i} 1.1.1.1 2`, snat: `2.2.2.2 ${i}` }, 1000), 'web', 2000, false);
      }
      store.close();
      how(join(dir, 'flows.db'));
      const { store: again, anew } = open(dir);
      const add = () => {
        again.add(flow({ flow: '10.17.0.9 1 1.1.1.1 2', snat: '2.2.2.2 3' }, 1000), 'web', 2000, false);
        again.commit();
      };
      // Damage inside the file is found when it is come upon.
      try {
        again.find(ask());
        add();
      } catch {
        add();
      }
      t.equal(anew.length, 1, what);
      t.same(sources(again.find(ask({ external: at('2.2.2.2', 3) }))), ['10.17.0.9 1'], what);
      again.close();
    }
  },
);

t.test('its size is bounded: the oldest goes, the newest stays', async (t) => {
  const dir = directory();
  const maxBytes = 2 << 20;
  const { store, clock } = open(dir, { maxBytes });
  const count = 40_000;
  for (let i = 0; i < count; i++) {
    const spec = {
      flow: `10.17.${i % 200}.9 ${i % 65_536} 203.0.${i % 250}.10 443`,
      snat: `172.17.0.11 ${i % 65_536}`,
    };
    store.add(flow(spec, clock.now), 'web', clock.now + 10, false);
    clock.now += 5;
    if (i % 500 === 0) store.commit();
  }
  store.commit();
  const size = readdirSync(dir).reduce((sum, name) => sum + statSync(join(dir, name)).size, 0);
  t.ok(size < maxBytes * 1.7, `${size} octets with the write-ahead log`);
  const kept = store.find(ask({ limit: count }));
  t.ok(kept.length > 5000 && kept.length < 20_000, `${kept.length} flows`);
  t.equal(kept[0]!.start, clock.now - 5, 'the newest first');
  const starts = kept.map(({ start }) => start);
  t.equal(starts.at(-1), clock.now - 5 * kept.length, 'without holes');
  store.close();
});

t.test('what is too old goes', async (t) => {
  const { store, clock } = open(directory(), { maxAge: 8 * DAY });
  for (let day = 0; day < 30; day++) {
    store.add(
      flow({ flow: `10.17.0.9 ${day + 1} 1.1.1.1 2`, snat: '2.2.2.2 3' }, clock.now),
      'web',
      clock.now + 1,
      false,
    );
    store.commit();
    clock.now += DAY;
    store.commit();
  }
  const days = store.find(ask()).map(({ sourcePort }) => sourcePort);
  t.same(days.slice(0, 8), [30, 29, 28, 27, 26, 25, 24, 23]);
  t.ok(days.length <= 10, `${days.length} days`);
  store.close();
});

t.test('it knows since when it keeps every flow: its first start, or what retention has left', async (t) => {
  const dir = directory();
  const began = 1_790_000_000_000;
  const options = { maxAge: 8 * DAY };
  const { store, clock } = open(dir, options, began);
  t.equal(store.since, began, 'an empty file');
  for (let day = 0; day < 5; day++) {
    store.add(
      flow({ flow: '10.17.0.9 1 1.1.1.1 2', snat: '2.2.2.2 3' }, clock.now),
      'web',
      clock.now + 1,
      false,
    );
    clock.now += DAY;
    store.commit();
  }
  t.equal(store.since, began, 'nothing is too old yet');
  store.close();
  const { store: again, clock: later } = open(dir, options, clock.now + 30 * DAY);
  t.equal(again.since, began, 'over a restart');
  again.commit();
  t.ok(again.since > began, 'the oldest segments are gone');
  later.now += 1;
  again.add(flow({ flow: '10.17.0.9 1 1.1.1.1 2', snat: '2.2.2.2 3' }, later.now), 'web', later.now, false);
  again.commit();
  const kept = again.find(ask()).map(({ end }) => end!);
  t.ok(
    kept.every((end) => end >= again.since),
    'what is left ended after that',
  );
  again.close();
  writeFileSync(join(dir, 'flows.db'), 'not a database');
  const { store: anew } = open(dir, options, later.now + 5);
  t.equal(anew.since, later.now + 5, 'a file that was begun anew');
  anew.close();
});

t.test('gaps are remembered by time', async (t) => {
  const dir = directory();
  const { store } = open(dir);
  const gap = { foundStarts: 0, foundEnds: 0 };
  store.addGap({ ...gap, from: 1000.5, to: 2000.5, lost: 7 });
  store.addGap({ ...gap, from: 5000, to: 6000, lost: 0 });
  store.close();
  const { store: again } = open(dir);
  t.same(
    again.gaps({ from: 0, to: 9999 }).map((one) => ({ ...one })),
    [
      { from: 5000, to: 6000, lost: 0 },
      { from: 1000, to: 2001, lost: 7 },
    ],
  );
  t.equal(again.gaps({ from: 2001, to: 4999 }).length, 1);
  t.equal(again.gaps({ from: 2002, to: 4999 }).length, 0);
  again.close();
});

t.test('a directory that cannot be had is an exception, not a crash', async (t) => {
  const file = join(directory(), 'file');
  writeFileSync(file, '');
  t.throws(() => open(join(file, 'below')));
  t.ok(existsSync(file));
});

for (const name of ['flows.db', 'flows.db-wal', 'flows.db-shm']) {
  for (const [kind, make] of Object.entries({
    FIFO: (path: string) => execFileSync('mkfifo', [path]),
    'symbolic link': (path: string, target: string) => symlinkSync(target, path),
    directory: (path: string) => mkdirSync(path),
    larger: (path: string) => {
      writeFileSync(path, '');
      truncateSync(path, 2 ** 34);
    },
  })) {
    t.test(`${name} as ${kind} is begun anew, and what a link leads to stays`, async (t) => {
      const dir = directory();
      const target = join(directory(), 'target');
      writeFileSync(target, 'precious');
      const first = open(dir);
      first.store.close();
      rmSync(join(dir, name), { force: true });
      make(join(dir, name), target);
      const { store, anew } = open(dir);
      t.match(anew, [new RegExp(kind)]);
      store.add(flow({ flow: '10.17.0.9 1 1.1.1.1 2', snat: '2.2.2.2 3' }, 1000), 'web', 2000, false);
      t.equal(store.commit(), 1);
      t.same(sources(store.find(ask())), ['10.17.0.9 1']);
      store.close();
      t.equal(readFileSync(target, 'utf8'), 'precious');
    });
  }
}

t.test('a directory that is a link is not followed', async (t) => {
  const elsewhere = directory();
  const dir = join(directory(), 'translations');
  symlinkSync(elsewhere, dir);
  open(dir).store.close();
  t.same(readdirSync(elsewhere), []);
});

for (const [what, sql] of Object.entries({
  'a view in the place of the flows':
    'ALTER TABLE flows_1 RENAME TO other; CREATE VIEW flows_1 AS SELECT * FROM other',
  'a view in the place of the segments':
    'ALTER TABLE segments RENAME TO other; CREATE VIEW segments AS SELECT * FROM other',
  'a trigger': 'CREATE TRIGGER t AFTER INSERT ON policies BEGIN DELETE FROM gaps; END',
  'a table more': 'CREATE TABLE more (x)',
  'a segment that is not there': 'INSERT INTO segments VALUES (7, 0, 0, 0, 0)',
  'a segment with a text for a time': "UPDATE segments SET created = 'x'",
  'a segment without a number': 'UPDATE segments SET n = -1',
})) {
  t.test(`a file with ${what} is begun anew`, async (t) => {
    const dir = directory();
    open(dir).store.close();
    const db = new DatabaseSync(join(dir, 'flows.db'));
    db.exec(sql);
    db.close();
    const { store, anew } = open(dir);
    t.equal(anew.length, 1);
    store.add(flow({ flow: '10.17.0.9 1 1.1.1.1 2', snat: '2.2.2.2 3' }, 1000), 'web', 2000, false);
    t.equal(store.commit(), 1);
    t.same(sources(store.find(ask())), ['10.17.0.9 1']);
    store.close();
  });
}

t.test('rows that cannot be a flow or a gap are left out', async (t) => {
  const dir = directory();
  const first = open(dir);
  for (const port of [1, 2, 3, 4, 5, 6]) {
    const one = flow({ flow: `10.17.0.9 ${port} 1.1.1.1 2`, snat: '2.2.2.2 3' }, 1000);
    first.store.add(one, 'web', 2000, false);
  }
  first.store.commit();
  first.store.close();
  const db = new DatabaseSync(join(dir, 'flows.db'));
  db.exec(`
    UPDATE flows_1 SET source = NULL WHERE source_port = 1;
    UPDATE flows_1 SET outside = x'01' WHERE source_port = 2;
    UPDATE flows_1 SET start = 9e17 WHERE source_port = 3;
    UPDATE flows_1 SET flags = 3 WHERE source_port = 4;
    UPDATE flows_1 SET original_bytes = 'x' WHERE source_port = 5;
    INSERT INTO gaps VALUES (-9e300, 9e300, 1), ('x', 1, 1), (1, 2, 3)`);
  db.close();
  const { store, anew } = open(dir);
  t.same(anew, []);
  t.same(sources(store.find(ask())), ['10.17.0.9 6']);
  t.same(store.gaps({ from: 0, to: Number.MAX_SAFE_INTEGER }), [{ from: 1, to: 2, lost: 3 }]);
  store.close();
});

t.test('the store finds ended flows by the same rules as the table finds those that live', async (t) => {
  let seed = 11;
  const random = (below: number) => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    return (seed >> 8) % below;
  };
  const host = () => ['10.17.0.9', '10.17.0.8', '172.17.0.11', '1.1.1.1', 'fd00::9', 'fd00::11'][random(6)]!;
  const port = () => 1 + random(3);
  const { store } = open(directory());
  const flows: { one: Flow; end: number }[] = [];
  while (flows.length < 400) {
    const [source, destination, seen, led] = [host(), host(), host(), host()];
    if (new Set([source, destination, seen, led].map((text) => text.includes(':'))).size > 1) continue;
    const start = random(1000);
    const one = flow(
      {
        flow: `${source} ${port()} ${destination} ${port()}`,
        ...(random(2) && { snat: `${seen} ${port()}` }),
        ...(random(3) === 0 && { dnat: `${led} ${port()}` }),
        protocol: random(2) ? 6 : 17,
        id: flows.length,
      },
      start,
    );
    const end = start + random(300);
    store.add(one, `p${random(3)}`, end, false);
    flows.push({ one, end });
  }
  for (let i = 0; i < 400; i++) {
    const endpoint = () => at(host(), random(2) ? port() : undefined);
    const from = random(1200);
    const lookup = ask({
      ...(random(3) === 0 && { internal: endpoint() }),
      ...(random(2) === 0 && { external: endpoint() }),
      ...(random(3) === 0 && { dest: endpoint() }),
      ...(random(3) === 0 && { protocols: [random(2) ? 6 : 17] }),
      from,
      to: from + random(200),
      limit: 1000,
    });
    const expected = flows.filter(({ one, end }) => matches(one, lookup, end)).length;
    if (store.find(lookup).length !== expected) t.fail(JSON.stringify(lookup));
    const few = store.find({ ...lookup, limit: 3 });
    if (few.length !== Math.min(3, expected)) t.fail('limit');
  }
  t.pass('400 lookups among 400 flows');
  store.close();
});

t.test('a lookup by external address and port, by destination and by pod goes by an index', async (t) => {
  const dir = directory();
  const { store } = open(dir);
  store.close();
  const db = new DatabaseSync(join(dir, 'flows.db'));
  const plan = (where: string) =>
    db
      .prepare(`EXPLAIN QUERY PLAN SELECT * FROM flows_1 WHERE start <= 9 AND end >= 1 AND (${where})`)
      .all()
      .map(({ detail }) => detail)
      .join('; ');
  const address = "x'01'";
  t.match(
    plan(
      `(outside = ${address} AND outside_port = 1) OR (destination = ${address} AND destination_port = 1 AND inside IS NOT NULL)`,
    ),
    /outside_1.*destination_1/,
  );
  t.match(plan(`(source = ${address}) OR (inside = ${address})`), /source_1.*inside_1/);
  t.match(plan(`(destination = ${address}) OR (inside = ${address})`), /destination_1.*inside_1/);
  db.close();
});

t.test('the name of a policy goes with the last flow that had it, over restarts too', async (t) => {
  const dir = directory();
  const { store: first, clock } = open(dir, { maxAge: 8000 }, 0);
  const names = () => {
    const db = new DatabaseSync(join(dir, 'flows.db'));
    const found = db
      .prepare('SELECT name FROM policies ORDER BY id')
      .all()
      .map(({ name }) => name);
    db.close();
    return found;
  };
  let store = first;
  const add = (policy: string) => {
    store.add(
      flow({ flow: '10.17.0.9 1 1.1.1.1 443', snat: '172.17.0.11 1' }, clock.now),
      policy,
      clock.now,
      false,
    );
    store.commit();
  };
  for (let second = 1; second <= 30; second++) {
    clock.now = second * 1000;
    add('always');
    add(`web-${second}`);
    if (second % 7 === 0) {
      store.close();
      ({ store } = open(dir, { maxAge: 8000 }, clock.now));
    }
  }
  t.ok(names().length < 20, `${names().length} names`);
  t.ok(['always', 'web-30', 'web-25'].every((name) => names().includes(name)));
  t.notOk(names().includes('web-1'));
  const found = store.find(ask({ internal: at('10.17.0.9') }));
  t.notOk(
    found.some(({ policy }) => policy === ''),
    'no flow has lost the name of its policy',
  );
  store.close();
});

t.test('a file of a version that forgot no policy is used, and forgets them from now on', async (t) => {
  const dir = directory();
  const { store } = open(dir);
  store.add(flow({ flow: '10.17.0.9 1 1.1.1.1 443', snat: '172.17.0.11 1' }, 1000), 'web', 2000, false);
  store.close();
  const db = new DatabaseSync(join(dir, 'flows.db'));
  db.exec('ALTER TABLE policies DROP COLUMN last');
  db.close();
  const { store: again, anew } = open(dir, {}, 1_790_000_999_000);
  t.same(anew, []);
  t.equal(again.since, 1_790_000_000_000, 'it knows its beginning');
  again.add(flow({ flow: '10.17.0.9 2 1.1.1.1 443', snat: '172.17.0.11 2' }, 3000), 'new', 4000, false);
  again.commit();
  t.same(
    again.find(ask({ internal: at('10.17.0.9') })).map(({ policy }) => policy),
    ['new', 'web'],
  );
  again.close();
});
