import t from 'tap';
import { KEPT_NAMES, MAX_NAMES, OTHERS } from '../../../nat/conntrack/names.ts';
import type { Flow } from '../../../nat/conntrack/table.ts';
import { type Gap, type Total, Tracker } from '../../../nat/conntrack/tracker.ts';
import { type ConntrackEntry, IPS_DYING } from '../../../nat/conntrack/wire.ts';
import { type EntrySpec, entry } from './entries.ts';

interface Told {
  started: { port: number; start: number }[];
  ended: { port: number; at: number; estimated: boolean; packets: number }[];
  gaps: Gap[];
}

function tracker(capacity = 1000): { tracker: Tracker; told: Told } {
  const told: Told = { started: [], ended: [], gaps: [] };
  const made: Tracker = new Tracker(capacity, {
    classify(flow: Flow) {
      flow.verdict = 'translated';
      flow.policy = made.policyNumber('web');
    },
    started: ({ sourcePort: port, start }) => told.started.push({ port, start }),
    ended: (flow, at, estimated) =>
      told.ended.push({ port: flow.sourcePort, at, estimated, packets: flow.counter(0) }),
    repaired: (gap) => told.gaps.push(gap),
  });
  return { tracker: made, told };
}

const of = (port: number, more: Partial<EntrySpec> = {}): ConntrackEntry =>
  entry({ flow: `10.17.0.9 ${port} 1.1.1.1 443`, snat: `172.17.0.11 ${port}`, id: port, ...more });

function dump(tracker: Tracker, entries: ConntrackEntry[], now: number): void {
  tracker.beginDump();
  tracker.applyPart(entries, now);
  tracker.endDump(now);
}

const sum = (totals: Iterable<Total>) => {
  const all = { started: 0, ended: 0, packets: 0, bytes: 0 };
  for (const { started, ended, counters } of totals) {
    all.started += started;
    all.ended += ended;
    all.packets += counters[0] + counters[2];
    all.bytes += counters[1] + counters[3];
  }
  return all;
};

t.test('a flow that begins and ends is told once each, and counted by what the kernel counted', async (t) => {
  const { tracker: one, told } = tracker();
  dump(one, [], 1000);
  one.began(of(1), 2000);
  one.ended(of(1, { counters: [3, 300, 2, 200] }), 3000);
  t.same(told.started, [{ port: 1, start: 2000 }]);
  t.same(told.ended, [{ port: 1, at: 3000, estimated: false, packets: 3 }]);
  t.same(sum(one.totals), { started: 1, ended: 1, packets: 5, bytes: 500 });
  t.equal(one.table.size, 0);
});

t.test("the kernel's own times come first", async (t) => {
  const { tracker: one, told } = tracker();
  one.began(of(1, { eventTime: 1500 }), 1000);
  one.ended(of(1, { startTime: 1500.5, stopTime: 2500, eventTime: 2501 }), 9000);
  t.equal(told.started[0]!.start, 1500);
  t.equal(told.ended[0]!.at, 2500);
});

t.test('a dump adds what is new, and the end only the rest', async (t) => {
  const { tracker: one } = tracker();
  dump(one, [], 0);
  one.began(of(1), 0);
  dump(one, [of(1, { counters: [10, 1000, 0, 0] })], 1000);
  t.equal(sum(one.totals).packets, 10);
  dump(one, [of(1, { counters: [10, 1000, 0, 0] })], 2000);
  t.equal(sum(one.totals).packets, 10, 'the same dump again adds nothing');
  one.ended(of(1, { counters: [12, 1200, 1, 100] }), 3000);
  t.same(sum(one.totals), { started: 1, ended: 1, packets: 13, bytes: 1300 });
});

t.test(
  'flows that were there before a fresh start are no beginnings, and their past is not counted',
  async (t) => {
    const { tracker: one, told } = tracker();
    t.ok(one.mustDump);
    one.ended(of(9, { counters: [50, 5000, 0, 0] }), 10);
    dump(one, [of(1, { counters: [100, 9999, 0, 0] })], 1000);
    t.notOk(one.mustDump);
    t.same(told.started, []);
    t.same(sum(one.totals), { started: 0, ended: 1, packets: 0, bytes: 0 });
    one.ended(of(1, { counters: [101, 10_000, 0, 0] }), 2000);
    t.same(sum(one.totals), { started: 0, ended: 2, packets: 1, bytes: 1 });
    t.equal(told.ended.length, 2, 'their ends are told');
  },
);

t.test('an entry of a dump whose event comes later is told when it comes', async (t) => {
  const { tracker: one, told } = tracker();
  dump(one, [], 0);
  dump(one, [of(1, { counters: [1, 10, 0, 0] })], 1000);
  t.same(told.started, []);
  one.began(of(1), 1000);
  one.began(of(1), 1000);
  t.equal(told.started.length, 1);
});

t.test('what ended between the receipt of a part and its use does not come back', async (t) => {
  const { tracker: one, told } = tracker();
  dump(one, [], 0);
  one.began(of(1), 0);
  one.beginDump();
  one.ended(of(1, { counters: [1, 10, 0, 0] }), 500);
  one.applyPart([of(1, { counters: [1, 10, 0, 0] }), of(2, { status: IPS_DYING })], 500);
  one.endDump(500);
  t.equal(one.table.size, 0, 'nor one that is about to go');
  t.equal(sum(one.totals).packets, 1);
  t.equal(told.ended.length, 1);
});

t.test('after a gap the table is read twice: beginnings and ends that were lost are found', async (t) => {
  const { tracker: one, told } = tracker();
  dump(one, [], 0);
  for (const port of [1, 2, 3]) one.began(of(port), 0);
  dump(
    one,
    [1, 2, 3].map((port) => of(port, { counters: [5, 50, 0, 0] })),
    1000,
  );
  one.lost(1500, 2000, 7);
  t.ok(one.mustDump);
  const after = [of(3, { counters: [6, 60, 0, 0] }), of(4, { counters: [2, 20, 0, 0], startTime: 1700 })];
  dump(one, after, 2100);
  t.same(told.gaps, [], 'one dump may skip an entry');
  t.ok(one.mustDump);
  dump(one, after, 2200);
  t.notOk(one.mustDump);
  t.same(told.gaps, [{ from: 1500, to: 2000, events: 7, foundStarts: 1, foundEnds: 2, lost: 4 }]);
  t.same(told.started.at(-1), { port: 4, start: 1700 });
  t.same(
    told.ended.map(({ port, at, estimated }) => ({ port, at, estimated })),
    [1, 2].map((port) => ({ port, at: 2200, estimated: true })),
  );
  t.same(sum(one.totals), { started: 4, ended: 2, packets: 5 + 5 + 6 + 2, bytes: 180 });
});

t.test('a second gap during the repair of the first makes one of them', async (t) => {
  const { tracker: one, told } = tracker();
  dump(one, [], 0);
  one.lost(100, 200, 3);
  dump(one, [of(1)], 300);
  one.lost(300, 400, 2);
  dump(one, [of(1)], 500);
  t.same(told.gaps, []);
  dump(one, [of(1)], 600);
  t.match(told.gaps, [{ from: 100, to: 400, events: 5, foundStarts: 1, lost: 4 }]);
});

t.test('the end of a flow whose beginning was lost counts in full, as a connection too', async (t) => {
  const { tracker: one, told } = tracker();
  dump(one, [], 0);
  one.ended(of(1, { counters: [4, 40, 0, 0], startTime: 100 }), 500);
  t.same(sum(one.totals), { started: 1, ended: 1, packets: 4, bytes: 40 });
  t.equal(told.started.length, 0);
});

t.test(
  'a flow that took the place of another is told from it, by its time stamp or by smaller counters',
  async (t) => {
    const { tracker: one, told } = tracker();
    dump(one, [], 0);
    one.began(of(1), 0);
    dump(one, [of(1, { counters: [9, 900, 0, 0], startTime: 10 })], 1000);
    one.lost(1100, 1200, 2);
    dump(one, [of(1, { counters: [20, 2000, 0, 0], startTime: 1150 })], 1300);
    t.equal(told.ended.length, 1);
    t.equal(told.started.length, 2);
    t.equal(sum(one.totals).packets, 29);
    one.ended(of(1, { counters: [21, 2100, 0, 0], startTime: 1150 }), 1400);
    t.equal(sum(one.totals).packets, 30);

    const { tracker: two, told: toldTwo } = tracker();
    dump(two, [], 0);
    two.began(of(1), 0);
    dump(two, [of(1, { counters: [9, 900, 5, 500] })], 1000);
    two.ended(of(1, { counters: [2, 200, 0, 0] }), 1100);
    t.equal(toldTwo.ended.length, 2);
    t.equal(sum(two.totals).packets, 16);
  },
);

t.test('counters that another program resets decrease no total', async (t) => {
  const { tracker: one } = tracker();
  dump(one, [], 0);
  dump(one, [of(1, { counters: [9, 900, 0, 0], startTime: 10 })], 1000);
  dump(one, [of(1, { counters: [1, 100, 0, 0], startTime: 10 })], 2000);
  dump(one, [of(1, { counters: [3, 300, 0, 0], startTime: 10 })], 3000);
  t.same(sum(one.totals).packets, 9 + 0 + 2);
});

t.test('what has no room is told and counted all the same', async (t) => {
  const { tracker: one, told } = tracker(2);
  dump(one, [], 0);
  for (const port of [1, 2, 3]) one.began(of(port), 0);
  t.equal(one.untracked, 1);
  t.equal(told.started.length, 3);
  for (const port of [1, 2, 3]) one.ended(of(port, { counters: [2, 20, 1, 10] }), 10);
  t.same(sum(one.totals), { started: 3, ended: 3, packets: 9, bytes: 90 });
});

t.test('an entry without counters counts nothing, and says so', async (t) => {
  const { tracker: one } = tracker();
  one.began(of(1), 0);
  dump(one, [of(1)], 0);
  for (const flow of one.table) t.equal(flow.counters, undefined);
  one.ended(of(1), 10);
  t.equal(sum(one.totals).packets, 0);
});

t.test(
  'a tracker that goes on from a saved state counts nothing twice, and tells nothing twice',
  async (t) => {
    const { tracker: before } = tracker();
    dump(before, [], 0);
    for (const port of [1, 2]) before.began(of(port), 0);
    dump(
      before,
      [1, 2].map((port) => of(port, { counters: [10, 100, 0, 0], startTime: 5 })),
      1000,
    );
    const state = JSON.parse(JSON.stringify(before.save(1000)));
    const flows = Buffer.concat(before.table.save());

    const { tracker: after, told } = tracker();
    after.load(state, flows, 5000);
    t.same(sum(after.totals), sum(before.totals));
    t.ok(after.mustDump);
    const seen = [
      of(2, { counters: [12, 120, 0, 0], startTime: 5 }),
      of(3, { counters: [1, 10, 0, 0], startTime: 3000 }),
    ];
    dump(after, seen, 5100);
    dump(after, seen, 5200);
    t.same(
      told.started.map(({ port }) => port),
      [3],
      'only what began meanwhile',
    );
    t.same(
      told.ended.map(({ port, estimated }) => ({ port, estimated })),
      [{ port: 1, estimated: true }],
    );
    t.same(sum(after.totals), { started: 3, ended: 1, packets: 10 + 12 + 1, bytes: 230 });
    t.same(told.gaps, [{ from: 1000, to: 5200 - 200, foundStarts: 1, foundEnds: 1, lost: 0 }]);
    t.equal(after.policyName(after.table.find(of(3))!), 'web');
  },
);

/**
 * A kernel with a table, an event queue that overruns as netlink's does, and dumps in parts, at random. What began,
 * ended and was counted is known.
 */
class Kernel {
  readonly truth = { started: 0, ended: 0, packets: 0, bytes: 0 };
  readonly flows = new Map<number, { id: number; packets: number; startTime: number }>();
  readonly #queue: (() => void)[] = [];
  readonly #room: number;
  readonly #tracker: Tracker;
  readonly #random: (below: number) => number;
  #congested = false;
  #dropped = 0;
  #caughtUp = 0;
  #now = 1000;

  constructor(tracker: Tracker, room: number, random: (below: number) => number) {
    this.#tracker = tracker;
    this.#room = room;
    this.#random = random;
  }

  /** Something happens. */
  act(): void {
    this.#now += 1 + this.#random(5);
    const port = 1 + this.#random(60);
    const flow = this.flows.get(port);
    if (flow === undefined) {
      // Some flows share the low bits of their ids, and so a bucket.
      const id = ++this.truth.started * 1024 + (port % 7);
      this.flows.set(port, { id, packets: 0, startTime: this.#now });
      const told = of(port, { id, eventTime: this.#now });
      this.#send(() => this.#tracker.began(told, this.#caughtUp));
    } else if (this.#random(3) === 0) {
      const told = { ...this.#entry(port), stopTime: this.#now };
      this.flows.delete(port);
      this.truth.ended++;
      this.#send(() => this.#tracker.ended(told, this.#now));
    } else {
      const packets = this.#random(20);
      flow.packets += packets;
      this.truth.packets += packets;
      this.truth.bytes += packets * 100;
    }
  }

  /** The reader takes every event. */
  take(): void {
    for (let event = this.#queue.shift(); event !== undefined; event = this.#queue.shift()) event();
    if (this.#congested) {
      this.#tracker.lost(this.#caughtUp, this.#now, this.#dropped);
      this.#congested = false;
      this.#dropped = 0;
    }
    this.#caughtUp = this.#now;
  }

  /** The reader dumps the table in parts, while at most so much happens between two steps. */
  dump(acts: number): void {
    const goOn = () => {
      for (let left = this.#random(acts); left > 0; left--) this.act();
    };
    const part = (first: number): ConntrackEntry[] =>
      Array.from({ length: 8 }, (_, i) => first + i)
        .filter((port) => this.flows.has(port))
        .map((port) => this.#entry(port));
    this.#tracker.beginDump();
    // The kernel writes the next part when the one before it is fetched.
    let next = part(1);
    for (let first = 1; first <= 60; first += 8) {
      goOn();
      const entries = next;
      next = part(first + 8);
      goOn();
      this.take();
      this.#tracker.applyPart(entries, this.#now);
      goOn();
    }
    // Some ends at a time.
    for (; !this.#tracker.endDump(this.#now, 2); goOn()) this.take();
  }

  #entry(port: number): ConntrackEntry {
    const { id, packets, startTime } = this.flows.get(port)!;
    return of(port, { id, startTime, counters: [packets, packets * 100, 0, 0] });
  }

  #send(event: () => void): void {
    this.#congested ||= this.#queue.length === this.#room;
    if (this.#congested) this.#dropped++;
    else this.#queue.push(event);
  }
}

for (const [name, room] of [
  ['without losses all is counted and told once, whatever the order of events and dumps', Infinity],
  ['with overruns nothing is counted twice or goes back, and each event is told or counted as lost', 6],
] as const) {
  t.test(name, async (t) => {
    for (let seed = 1; seed <= 50; seed++) {
      let state = seed * 7919;
      const random = (below: number) => {
        state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
        return (state >> 8) % below;
      };
      const { tracker: one, told } = tracker();
      const kernel = new Kernel(one, room, random);
      kernel.dump(1);
      let last = sum(one.totals);
      const wentBack: string[] = [];
      for (let round = 0; round < 60; round++) {
        for (let acts = random(12); acts > 0; acts--) kernel.act();
        if (random(3) > 0) kernel.take();
        if (random(4) === 0) kernel.dump(6);
        const now = sum(one.totals);
        for (const key of ['started', 'ended', 'packets', 'bytes'] as const) {
          if (now[key] < last[key]) wentBack.push(key);
        }
        last = now;
      }
      kernel.take();
      do kernel.dump(1);
      while (one.mustDump);

      t.same(wentBack, [], `seed ${seed}`);
      const { truth, flows } = kernel;
      t.same(
        Array.from(one.table, ({ sourcePort }) => sourcePort).sort((a, b) => a - b),
        [...flows.keys()].sort((a, b) => a - b),
        `seed ${seed}: the picture is the kernel's`,
      );
      const lost = told.gaps.reduce((all, gap) => all + gap.lost, 0);
      const records = told.started.length + told.ended.length;
      t.equal(records + lost, truth.started + truth.ended, `seed ${seed}: every event`);
      const total = sum(one.totals);
      if (room === Infinity) {
        t.same(total, truth, `seed ${seed}: the sums are the kernel's`);
        t.same(told.gaps, []);
      } else {
        t.ok(total.packets <= truth.packets && total.started <= truth.started, `seed ${seed}: nothing twice`);
        t.ok(told.gaps.length > 0, `seed ${seed}: gaps are told`);
      }
    }
  });
}

/** A tracker whose flows are of the policy that is in force just then. */
function named(capacity = 1000) {
  const force = { name: '' };
  const made: Tracker = new Tracker(capacity, {
    classify(flow: Flow) {
      flow.verdict = 'translated';
      flow.policy = made.policyNumber(force.name);
    },
    started() {},
    ended() {},
    repaired() {},
  });
  return { one: made, force };
}

/** The policy of each flow that lives. */
const namesOf = (one: Tracker): string[] => Array.from(one.table, (flow) => one.policyName(flow)).sort();

t.test(
  'policies come and go without end: their names are forgotten, and nothing that they counted is lost',
  async (t) => {
    const { one, force } = named();
    dump(one, [], 0);
    force.name = 'long';
    one.began(of(1), 0);
    for (let i = 0; i < 70_000; i++) {
      force.name = `web-${i}`;
      one.began(of(2, { id: 2 + i }), i);
      one.ended(of(2, { id: 2 + i, counters: [1, 100, 1, 100] }), i);
      if (i % 1000 === 999) one.forget(new Set([force.name]));
    }
    const totals = [...one.totals];
    t.same(sum(totals), { started: 70_001, ended: 70_000, packets: 140_000, bytes: 14_000_000 });
    t.ok(totals.length <= KEPT_NAMES + 3, `${totals.length} are told apart`);
    t.same(totals.find(({ policy }) => policy === 'web-69999')?.started, 1, 'the last ones among them');
    t.same(totals.find(({ policy }) => policy === OTHERS)?.started, 70_000 - KEPT_NAMES - 1);
    t.same(namesOf(one), ['long'], 'and the names of those whose flows live');
  },
);

t.test('more policies at a time than there are numbers: those beyond are counted together', async (t) => {
  const { one, force } = named(20_000);
  dump(one, [], 0);
  for (let i = 0; i < MAX_NAMES + 10; i++) {
    force.name = `web-${i}`;
    one.began(of(3, { id: 3 + i }), 0);
  }
  one.forget(new Set());
  t.equal(sum(one.totals).started, MAX_NAMES + 10);
  t.equal([...one.totals].find(({ policy }) => policy === OTHERS)?.started, 11);
});

t.test('a restart keeps the numbers of names that flows have, and those that are free', async (t) => {
  const { one, force } = named();
  dump(one, [], 0);
  for (let i = 0; i < KEPT_NAMES + 50; i++) {
    force.name = `web-${i}`;
    one.began(of(1, { id: 1 + i }), 0);
    if (i % 10 > 0) one.ended(of(1, { id: 1 + i }), 0);
  }
  one.forget(new Set());
  const state = JSON.parse(JSON.stringify(one.save(0)));
  const { one: two, force: later } = named();
  two.load(state, Buffer.concat(one.table.save()), 1);
  t.same(namesOf(two), namesOf(one));
  t.same(sum(two.totals), sum(one.totals));
  later.name = 'new';
  two.began(of(9, { id: 100_000 }), 1);
  t.equal([...two.totals].find(({ policy }) => policy === 'new')?.started, 1);
});

// A member of a group that is not the flow's has it as a replica. What must hold is said of the sum over two members.
const REPLICA = { mark: 0xa600_0000 };

t.test(
  'a replica has no record and is no connection, but the packets that came here are counted',
  async (t) => {
    const { tracker: one, told } = tracker();
    dump(one, [], 0);
    one.began(of(1, REPLICA), 1000);
    dump(one, [of(1, { ...REPLICA, counters: [10, 1000, 0, 0] })], 2000);
    t.equal(one.table.find(of(1))?.verdict, 'replica', 'it can be looked up');
    one.ended(of(1, { ...REPLICA, counters: [12, 1200, 0, 0] }), 3000);
    t.same(told, { started: [], ended: [], gaps: [] });
    t.same(sum(one.totals), { started: 0, ended: 0, packets: 12, bytes: 1200 });
    t.equal(one.table.size, 0);
  },
);

t.test('a replica that two dumps do not show is gone without a record', async (t) => {
  const { tracker: one, told } = tracker();
  dump(one, [], 0);
  one.began(of(1, REPLICA), 1000);
  for (const now of [2000, 4000, 6000]) dump(one, [], now);
  t.equal(one.table.size, 0);
  t.same(told.ended, []);
  t.equal(sum(one.totals).ended, 0);
});

t.test('the one that takes a flow over records its end, and not its begin', async (t) => {
  for (const seen of ['by a dump', 'by its end']) {
    const { tracker: one, told } = tracker();
    dump(one, [], 0);
    one.began(of(1, REPLICA), 1000);
    if (seen === 'by a dump') {
      dump(one, [of(1, { counters: [5, 500, 0, 0] })], 2000);
      t.equal(one.table.find(of(1))?.verdict, 'translated', 'it is a flow of this member');
    }
    one.ended(of(1, { counters: [7, 700, 2, 200] }), 3000);
    t.same(told.started, [], seen);
    t.same(told.ended, [{ port: 1, at: 3000, estimated: false, packets: 7 }], seen);
    t.same(sum(one.totals), { started: 0, ended: 1, packets: 9, bytes: 900 }, seen);
  }
});

t.test('a flow that another member has taken over meanwhile ends there', async (t) => {
  const { tracker: one, told } = tracker();
  dump(one, [], 0);
  one.began(of(1), 1000);
  dump(one, [of(1, { ...REPLICA, counters: [5, 500, 0, 0] })], 2000);
  one.ended(of(1, { ...REPLICA, counters: [6, 600, 0, 0] }), 3000);
  t.equal(told.started.length, 1);
  t.same(told.ended, []);
  t.same(sum(one.totals), { started: 1, ended: 0, packets: 6, bytes: 600 });
});

t.test('begins of replicas that were lost are found, and nothing else is told of them', async (t) => {
  const { tracker: one, told } = tracker();
  dump(one, [], 0);
  one.lost(1000, 2000, 2);
  for (const now of [3000, 5000]) dump(one, [of(1, REPLICA), of(2)], now);
  t.match(told.gaps, [{ events: 2, foundStarts: 2, foundEnds: 0, lost: 0 }]);
  t.same(
    told.started.map(({ port }) => port),
    [2],
  );
  t.equal(sum(one.totals).started, 1);
});

t.test('a full table counts own flows that it has no room for, and no replicas', async (t) => {
  const { tracker: one, told } = tracker(1);
  dump(one, [], 0);
  one.began(of(1), 1000);
  one.began(of(2, REPLICA), 1000);
  one.began(of(3), 1000);
  t.equal(one.untracked, 1);
  t.same(
    told.started.map(({ port }) => port),
    [1, 3],
  );
  one.ended(of(2, { ...REPLICA, counters: [4, 400, 0, 0] }), 2000);
  t.same(sum(one.totals), { started: 1, ended: 0, packets: 4, bytes: 400 }, 'the third counts when it ends');
});
