// Replication between two members without a network: messages are handed over, or lost.
import t from 'tap';
import type { Message } from '../../../agent/group/codec.ts';
import type { FlowChange, GroupFlow } from '../../../agent/group/model.ts';
import { encodeFlow, keySize } from '../../../agent/group/records.ts';
import {
  CAPACITY,
  DIGEST_PERIOD,
  MAX_PENDING,
  type Outbox,
  Replication,
} from '../../../agent/group/replication.ts';
import { slotOf } from '../../../agent/group/slices.ts';
import { address } from '../../../lib/prefix.ts';
import { flowOf, SHARED } from './flows.ts';

const A = address('10.16.0.12');
const B = address('10.16.0.13');
/** Ports of their slices. */
const PORT = { [A]: 49_408, [B]: 53_440 };

class Pair {
  readonly a: Replication;
  readonly b: Replication;
  now = 0;
  readonly changes: Record<string, FlowChange[]> = { [A]: [], [B]: [] };
  readonly boxes: Outbox[] = [];
  /** False: messages are lost. */
  hears = true;

  constructor(capacity = CAPACITY) {
    this.a = new Replication(4, A, capacity);
    this.b = new Replication(4, B, capacity);
    this.a.configure([B], [SHARED[4]]);
    this.b.configure([A], [SHARED[4]]);
  }

  connect(instanceA = 1, instanceB = 2): this {
    this.a.connect(B, instanceB, this.now);
    this.b.connect(A, instanceA, this.now);
    return this.settle();
  }

  /** Hands messages over until there are none. */
  settle(): this {
    for (let round = 0; round < 1000; round++) {
      let sent = 0;
      for (const [self, one, other] of [
        [A, this.a, this.b],
        [B, this.b, this.a],
      ] as const) {
        one.flush(this.now);
        const box = one.flushOutbox();
        this.boxes.push(box);
        this.changes[self]!.push(...box.changes);
        sent += box.sends.length;
        if (this.hears) for (const { message } of box.sends) other.receive(self, message, this.now);
      }
      if (sent === 0) return this;
    }
    throw new Error('messages without an end');
  }

  sum(what: (box: Outbox) => number): number {
    return this.boxes.reduce((all, box) => all + what(box), 0);
  }
}

const keyOf = (flow: GroupFlow): string => encodeFlow(flow).toString('latin1', 0, keySize(4));
const update = (flow: GroupFlow) => [{ type: 'update' as const, flow }];
const flowsOf = (count: number, port: number) =>
  Array.from({ length: count }, (_, i) => flowOf(4, i + 1, port + (i % 4000)));

t.test('flows are told, changed and removed; a replica is never told on', async (t) => {
  const pair = new Pair().connect();
  const flow = flowOf(4, 1, PORT[A]!);
  pair.a.report(update(flow), 0);
  pair.settle();
  t.match(pair.changes[B], [{ type: 'insert', flow: { sharedPort: flow.sharedPort } }]);
  t.same([pair.a.own, pair.b.own, pair.b.replicas], [1, 0, 1]);
  pair.a.report(update({ ...flow, mark: 7 }), 0);
  pair.settle();
  t.match(pair.changes[B], [{ type: 'insert' }, { type: 'insert', flow: { mark: 7 } }]);
  pair.a.report([{ type: 'end', flow }], 0);
  pair.settle();
  t.match(pair.changes[B]!.at(-1), { type: 'remove' });
  t.same([pair.a.own, pair.b.replicas], [0, 0]);
  t.same(pair.changes[A], [], 'nothing came back');
});

t.test(
  'whoever connects takes the whole table over, and a comparison of equal tables sends no flow',
  async (t) => {
    const pair = new Pair();
    pair.a.report(
      flowsOf(3000, PORT[A]!).flatMap((flow) => update(flow)),
      0,
    );
    pair.connect();
    t.equal(pair.b.replicas, 3000);
    t.ok(pair.boxes.some(({ synced }) => synced.includes(A)));
    t.ok(pair.b.isInSync(A) && pair.a.isInSync(B));
    const sent = pair.sum((box) => box.sent);
    pair.now += DIGEST_PERIOD;
    pair.settle();
    t.equal(
      pair.sum((box) => box.sent),
      sent,
    );
  },
);

t.test('what was lost is made up for by the next comparison, in both directions', async (t) => {
  const pair = new Pair().connect();
  const flows = flowsOf(200, PORT[A]!);
  pair.a.report(
    flows.flatMap((flow) => update(flow)),
    0,
  );
  pair.settle();
  pair.hears = false;
  pair.a.report([{ type: 'end', flow: flows[0]! }], 0);
  pair.a.report(update(flowOf(4, 999, PORT[A]!)), 0);
  pair.a.report(update({ ...flows[1]!, mark: 9 }), 0);
  pair.a.flush(0);
  pair.a.flushOutbox();
  pair.hears = true;
  pair.now += DIGEST_PERIOD;
  pair.settle();
  pair.now += DIGEST_PERIOD;
  pair.settle();
  t.equal(pair.b.replicas, 200);
  t.ok(pair.b.isInSync(A));
  t.equal(pair.changes[B]!.filter(({ type }) => type === 'remove').length, 1);
});

t.test('what does not fit into the queue is dropped, counted, and caught up with', async (t) => {
  const pair = new Pair().connect();
  const count = MAX_PENDING + 500;
  pair.a.report(
    Array.from({ length: count }, (_, i) => flowOf(4, i + 1, PORT[A]! + (i % 4000))).flatMap((flow) =>
      update(flow),
    ),
    0,
  );
  pair.settle();
  t.equal(
    pair.sum((box) => box.rejected.member_slow ?? 0),
    500,
  );
  t.equal(pair.b.replicas, count);
  t.ok(pair.b.isInSync(A));
});

t.test('no more than the window is under way', async (t) => {
  const pair = new Pair().connect();
  pair.a.report(
    flowsOf(4000, PORT[A]!).flatMap((flow) => update(flow)),
    0,
  );
  pair.a.flush(0);
  const isFlows = ({ type }: Message) => type === 'changes' || type === 'bucket';
  t.equal(pair.a.flushOutbox().sends.filter(({ message }) => isFlows(message)).length, 8);
  pair.a.flush(0);
  t.same(pair.a.flushOutbox().sends, [], 'nothing more without an acknowledgement');
  pair.a.receive(B, { type: 'ack', sequence: 2 }, 5);
  const { lags } = pair.a.flushOutbox();
  t.same(lags, [
    { lag: 5, flows: 256 },
    { lag: 5, flows: 256 },
  ]);
});

t.test('a full table takes no more replicas, says so, and the exchange goes on', async (t) => {
  const pair = new Pair(100).connect();
  pair.a.report(
    flowsOf(100, PORT[A]!).flatMap((flow) => update(flow)),
    0,
  );
  pair.b.report(
    flowsOf(50, PORT[B]!).flatMap((flow) => update({ ...flow, destinationPort: 99 })),
    0,
  );
  pair.settle();
  t.equal(pair.b.own + pair.b.replicas, 100);
  t.ok(pair.sum((box) => box.rejected.table_full ?? 0) > 0);
  t.ok(
    pair.boxes.some(({ synced }) => synced.includes(A)),
    'the table counts as taken over',
  );
});

t.test('a flow to an address that is not shared is refused', async (t) => {
  const pair = new Pair().connect();
  pair.b.receive(
    A,
    {
      type: 'bucket',
      sequence: 1,
      bucket: 0,
      last: true,
      records: [],
    },
    0,
  );
  pair.b.configure([A], []);
  pair.a.report(update(flowOf(4, 1, PORT[A]!)), 0);
  pair.settle();
  t.equal(pair.b.replicas, 0);
  t.ok(pair.sum((box) => box.rejected.not_shared ?? 0) > 0);
});

t.test(
  'flows of a member that comes back without them are adopted, and those it still has are its own',
  async (t) => {
    const pair = new Pair().connect();
    const [lost, kept] = [flowOf(4, 1, PORT[A]!), flowOf(4, 2, PORT[A]! + 1)];
    pair.a.report([...update(lost), ...update(kept)], 0);
    pair.settle();
    pair.b.disconnect(A);
    pair.b.orphan(12);
    t.equal(pair.b.orphans(12), 2);
    t.equal(pair.b.adopt(12, 0), 2);
    t.equal(pair.b.own, 2);
    // The same member, another process: it lists what its kernel has.
    const again = new Pair();
    again.a.report([{ type: 'listing' }, ...update(kept), { type: 'listed', deleted: false }], 0);
    pair.a.disconnect(B);
    Object.assign(pair, { a: again.a });
    pair.connect(99);
    t.same([pair.a.own, pair.a.replicas], [1, 1]);
    t.same([pair.b.own, pair.b.replicas], [1, 1]);
    t.ok(
      pair.changes[B]!.some(({ type }) => type === 'release'),
      'the port is in the slice of the other',
    );
  },
);

t.test('events that the kernel dropped are counted', async (t) => {
  const pair = new Pair();
  pair.a.report([{ type: 'overrun' }, { type: 'listing' }, { type: 'listed', deleted: false }], 0);
  t.same(pair.a.flushOutbox().rejected, { events_lost: 1 });
});

t.test('what is not listed any more has ended', async (t) => {
  const pair = new Pair().connect();
  const flows = flowsOf(3, PORT[A]!);
  pair.a.report(
    flows.flatMap((flow) => update(flow)),
    0,
  );
  pair.settle();
  pair.a.report([{ type: 'listing' }, ...update(flows[0]!), { type: 'listed', deleted: false }], 0);
  pair.settle();
  t.same([pair.a.own, pair.b.replicas], [1, 1]);
});

t.test('what another program deletes is restored, and is reported to no member as ended', async (t) => {
  const pair = new Pair().connect();
  const flows = flowsOf(3, PORT[A]!);
  pair.a.report(
    flows.flatMap((flow) => update(flow)),
    0,
  );
  const replica = flowOf(4, 9, PORT[B]!);
  pair.b.report(update(replica), 0);
  pair.settle();
  const sent = pair.sum((box) => box.sent);
  pair.changes[A] = [];
  pair.a.report(
    [flows[0]!, replica, flowOf(4, 10, PORT[A]!)].map((flow) => ({ type: 'deleted', flow })),
    0,
  );
  pair.settle();
  t.match(pair.changes[A], [
    { type: 'restore', flow: { sharedPort: flows[0]!.sharedPort } },
    { type: 'insert', flow: { sharedPort: replica.sharedPort }, again: true },
  ]);
  t.equal(pair.changes[A]!.length, 2, 'a flow that was never established is not');

  pair.changes[A] = [];
  pair.a.report([{ type: 'listing' }, ...update(flows[0]!), { type: 'listed', deleted: true }], 0);
  pair.a.restore();
  pair.settle();
  const restored = pair.changes[A]!.map(({ type, flow }) => `${type} ${flow.sharedPort}`).sort();
  t.same(restored, [
    `insert ${replica.sharedPort}`,
    `restore ${flows[1]!.sharedPort}`,
    `restore ${flows[2]!.sharedPort}`,
  ]);
  t.same([pair.a.own, pair.b.replicas, pair.a.replicas], [3, 3, 1]);
  t.ok(pair.sum((box) => box.sent) <= sent + 1, 'no more than the flow that was listed');
});

t.test('an absent replica is tried again until it is there, has ended or is an own flow', async (t) => {
  const pair = new Pair().connect();
  const [one, ended, adopted, unknown] = flowsOf(4, PORT[B]!) as [GroupFlow, GroupFlow, GroupFlow, GroupFlow];
  pair.b.report([one, ended, adopted].flatMap(update), 0);
  pair.settle();
  const absent = (flow: GroupFlow) => pair.a.report([{ type: 'absent', flow }], 0);
  const tried = () => {
    pair.a.insertAbsent();
    return pair.a.flushOutbox().changes;
  };
  for (const flow of [one, ended, unknown]) absent(flow);
  t.match(tried(), [
    { type: 'insert', flow: { sharedPort: one.sharedPort, source: one.source }, ifFree: true },
    { type: 'insert', flow: { source: ended.source }, ifFree: true },
  ]);
  t.same(tried(), [], 'what is not reported once more is there');
  for (const flow of [one, ended, adopted]) absent(flow);
  pair.b.report([{ type: 'end', flow: ended }], 0);
  pair.settle();
  pair.a.report(update(adopted), 0);
  pair.settle();
  t.equal(pair.a.own, 0, 'it is in the slice of the other');
  pair.a.disconnect(B);
  pair.a.orphan(slotOf(B));
  pair.a.adopt(slotOf(B), 0);
  pair.a.flushOutbox();
  t.same(tried(), [], 'a flow that has ended or is our own is not inserted');
});

t.test(
  'many absent replicas are tried a bounded number at once, and all are inserted if they were too many',
  async (t) => {
    const pair = new Pair(12_000).connect();
    const flows = flowsOf(9000, PORT[B]!);
    pair.b.report(flows.flatMap(update), 0);
    for (let i = 0; i < 3; i++) {
      pair.now += DIGEST_PERIOD;
      pair.settle();
    }
    t.equal(pair.a.replicas, 9000);
    pair.a.flushOutbox();
    pair.a.report(
      flows.map((flow) => ({ type: 'absent', flow })),
      0,
    );
    const taken = new Set(flows.slice(0, 100).map(keyOf));
    const inserted = (): FlowChange[] => {
      pair.a.insertAbsent();
      pair.a.restore();
      const { changes } = pair.a.flushOutbox();
      // The places of some are never free.
      const refused = changes.filter(({ flow }) => taken.has(keyOf(flow)));
      pair.a.report(
        refused.map(({ flow }) => ({ type: 'absent', flow })),
        0,
      );
      return changes;
    };
    t.equal(inserted().length, 64);
    const whole = new Set<string>();
    for (let i = 0; i < 200; i++) {
      for (const change of inserted())
        if (change.type === 'insert' && !change.ifFree) whole.add(keyOf(change.flow));
    }
    t.equal(whole.size, 9000);
  },
);

t.test('a large table is restored in steps, and what ends meanwhile is not', async (t) => {
  const { a } = new Pair();
  a.report(
    flowsOf(3000, PORT[A]!).flatMap((flow) => update(flow)),
    0,
  );
  a.report([{ type: 'listing' }, { type: 'listed', deleted: true }], 0);
  const restore = () => {
    a.restore();
    return a.flushOutbox().changes.length;
  };
  const first = restore();
  t.ok(first >= 1024 && first < 1100, `${first} at once`);
  a.report([{ type: 'listing' }, { type: 'listed', deleted: false }], 0);
  t.equal(a.own, 3000, 'a listing meanwhile ends nothing');
  let all = 0;
  for (let count = restore(); count > 0; count = restore()) all += count;
  t.equal(all, 3000);
  t.equal(restore(), 0);
});

t.test('replicas of an address that is not shared any more come again with it', async (t) => {
  const pair = new Pair().connect();
  const flow = flowOf(4, 1, PORT[A]!);
  pair.a.report(update(flow), 0);
  pair.settle();
  pair.b.configure([A], []);
  t.equal(pair.b.replicas, 0);
  pair.now += DIGEST_PERIOD;
  pair.settle();
  t.equal(pair.b.replicas, 0);
  pair.b.configure([A], [SHARED[4]]);
  pair.now += DIGEST_PERIOD;
  pair.settle();
  t.match(pair.changes[B], [{ type: 'insert' }, { type: 'insert', flow: { sharedPort: flow.sharedPort } }]);
  t.equal(pair.b.replicas, 1);
});

t.test('packets that another member sees start the timeout of the owner again', async (t) => {
  const pair = new Pair().connect();
  const flow = flowOf(4, 1, PORT[A]!);
  pair.a.report(update(flow), 0);
  pair.settle();
  pair.b.report([{ type: 'active', flow }], 0);
  pair.settle();
  t.match(pair.changes[A], [{ type: 'refresh', flow: { sharedPort: flow.sharedPort } }]);
});

t.test(
  'a handshake that is complete changes a replica in the table, and no entry in the kernel',
  async (t) => {
    const pair = new Pair().connect();
    const tcp = { state: 2, originalScale: 7, replyScale: 7, originalFlags: 0x0b, replyFlags: 0x0b };
    const flow = flowOf(4, 1, PORT[A]!, { protocol: 6, timeout: 60, tcp });
    const open = { ...flow, timeout: 432_000, tcp: { ...tcp, state: 3 } };
    for (const one of [flow, open]) {
      pair.a.report(update(one), pair.now);
      pair.settle();
    }
    t.match(pair.changes[B]!.splice(0), [{ type: 'insert', flow: { tcp } }]);
    pair.now += DIGEST_PERIOD;
    pair.settle();
    t.ok(pair.a.isInSync(B) && pair.b.isInSync(A), 'the tables agree');
    t.same(pair.changes[B], []);
    // Adopted, it has what its owner had last.
    pair.b.disconnect(A);
    pair.b.orphan(slotOf(A));
    pair.b.adopt(slotOf(A), pair.now);
    pair.settle();
    t.match(pair.changes[B], [{ type: 'adopt', flow: { timeout: 432_000, tcp: { state: 3 } } }]);
  },
);

t.test('a handshake that another member sees complete is refreshed as one that is under way', async (t) => {
  const pair = new Pair().connect();
  const tcp = { state: 2, originalScale: 7, replyScale: 7, originalFlags: 0x0b, replyFlags: 0x0b };
  const flow = flowOf(4, 1, PORT[A]!, { protocol: 6, timeout: 60, tcp });
  pair.a.report(update(flow), 0);
  pair.settle();
  pair.b.report([{ type: 'active', flow }], 0);
  pair.settle();
  t.match(pair.changes[A], [{ type: 'refresh', flow: { tcp: { state: 2 } } }]);
});

t.test('a handover is over when the other member confirms that it has everything', async (t) => {
  const pair = new Pair().connect();
  pair.a.report(
    flowsOf(2000, PORT[A]!).flatMap((flow) => update(flow)),
    0,
  );
  pair.a.beginHandover(0, [B]);
  pair.a.flush(0);
  t.same(
    pair.boxes.flatMap(({ handedOver }) => handedOver),
    [],
  );
  for (const { message } of pair.a.flushOutbox().sends) pair.b.receive(A, message, 0);
  pair.settle();
  t.same(
    pair.boxes.flatMap(({ handedOver }) => handedOver),
    [B],
  );
  t.equal(pair.b.replicas, 2000);
});

t.test('a flow that moved to a member that the policy does not have is an orphan', async (t) => {
  const pair = new Pair().connect();
  const flow = flowOf(4, 1, 2000);
  pair.a.report(update(flow), 0);
  pair.settle();
  const key = encodeFlow(flow).subarray(0, keySize(4));
  pair.b.receive(A, { type: 'changes', sequence: 99, changes: [{ op: 'moved', key, slot: 0 }] }, 0);
  t.equal(pair.b.orphans(0), 1);
  t.equal(pair.b.adopt(0, 0), 1);
});
