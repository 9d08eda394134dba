// Traffic control on the wire: what is written is what is read, damaged messages are nothing.
import t from 'tap';
import { attribute, u32 } from '../../lib/netlink-codec.ts';
import { shapingEvent } from '../../shaping/events.ts';
import type { ClassRange } from '../../shaping/state.ts';
import {
  classId,
  formatClass,
  formatLeaf,
  formatRoot,
  parseClass,
  parseQdisc,
  rootRequest,
  TC_H_ROOT,
  TcMessage,
  ticks,
} from '../../shaping/tc-codec.ts';

const RANGE: ClassRange = {
  ...{ first: 0x100, count: 1, parent: 1, rate: 1_250_000, ceil: 12_500_000, burst: 20_000, quantum: 3000 },
};
const nameOf = (index: number) => (index === 3 ? 'net1' : undefined);

/** struct gnet_stats_basic with padding, `more`, and struct gnet_stats_queue. */
function stats(...more: Buffer[]): Buffer {
  const basic = Buffer.alloc(16);
  basic.writeBigUInt64LE(5_000_000_000n, 0);
  basic.writeUInt32LE(7, 8);
  const queue = Buffer.concat([u32(2), u32(3000), u32(4), u32(0), u32(9)]);
  return attribute(7, attribute(1, basic), ...more, attribute(3, queue));
}

t.test('a class is read as it was written, with its counters', async (t) => {
  const found = parseClass(Buffer.concat([formatClass(3, 0x178, RANGE, 0x100), stats()]))!;
  t.strictSame(found, {
    ...{ minor: 0x100, parent: 1, rate: 1_250_000, ceil: 12_500_000, quantum: 3000 },
    ...{ buffer: ticks(20_000, 1_250_000), cbuffer: ticks(20_000, 12_500_000) },
    stats: { bytes: 5_000_000_000, packets: 7, drops: 4, overlimits: 9, backlog: 3000 },
  });
});

t.test('packets beyond 32 bits have an attribute of their own', async (t) => {
  const packets = Buffer.alloc(8);
  packets.writeBigUInt64LE(2n ** 32n + 7n);
  const message = (pkt64: Buffer) =>
    Buffer.concat([formatClass(3, 0x178, RANGE, 0x100), stats(attribute(8, pkt64))]);
  t.match(parseClass(message(packets))!.stats, { packets: 2 ** 32 + 7, bytes: 5_000_000_000, drops: 4 });
  t.match(
    parseClass(message(packets.subarray(0, 4)))!.stats,
    { packets: 7 },
    'one that is cut off is nothing',
  );
});

t.test('rates beyond 32 bits have an attribute of their own', async (t) => {
  const fast = { ...RANGE, rate: 6_000_000_000, ceil: 125_000_000_000 };
  t.match(parseClass(formatClass(3, 0x178, fast, 1)), { rate: 6_000_000_000, ceil: 125_000_000_000 });
});

t.test('a burst is a time, in steps of 64 ns, and never none', async (t) => {
  t.equal(ticks(1_250_000, 125_000_000), 10e6 / 64);
  t.equal(ticks(1, 125_000_000_000), 1);
  t.equal(ticks(1e12, 1000), 0xffff_ffff);
});

t.test('queues are read as they were written', async (t) => {
  const fq = { kind: 'fq_codel', target: 5000, interval: 100_000, flows: 16 } as const;
  const found = parseQdisc(formatLeaf(3, 0x178, 0x100, fq, true), nameOf)!;
  t.match(found, { dev: 'net1', kind: 'fq_codel', parent: classId(0x178, 0x100), leaf: fq });
  t.match(parseQdisc(formatLeaf(3, 0x178, 0x100, fq, false), nameOf)!.leaf, { flows: 0 });
  const fifo = { kind: 'bfifo', limit: 70_000 } as const;
  t.match(parseQdisc(formatLeaf(4, 0x178, 0x100, fifo, true), nameOf), { dev: 'if4', leaf: fifo });
  t.match(parseQdisc(formatRoot(3, 0x178), nameOf), { kind: 'htb', parent: TC_H_ROOT, leaf: undefined });
});

t.test('what is too short, or of another qdisc, is nothing', async (t) => {
  const message = formatClass(3, 0x178, RANGE, 0x100);
  t.equal(parseClass(message.subarray(0, 19)), undefined);
  t.equal(parseQdisc(message.subarray(0, 19), nameOf), undefined);
  t.equal(parseClass(formatLeaf(3, 1, 2, { kind: 'bfifo', limit: 1 }, true)), undefined);
  t.match(parseClass(message.subarray(0, 40)), { rate: 0 });
  const empty = Buffer.concat([
    rootRequest(3, 1),
    attribute(1, Buffer.from('bfifo\0')),
    attribute(2),
    attribute(7),
  ]);
  t.equal(parseQdisc(empty, nameOf)!.leaf, undefined);
});

t.test('changes of a root qdisc, and below the agent’s own, are events', async (t) => {
  const event = (type: number, data: Buffer) => shapingEvent({ type, data }, nameOf)?.what;
  t.equal(event(TcMessage.DELQDISC, formatRoot(3, 0x178)), 'qdisc removed: htb 178: dev net1');
  t.equal(event(TcMessage.NEWQDISC, formatRoot(4, 0x8001)), 'qdisc set: htb 8001: dev if4');
  t.equal(event(TcMessage.NEWTCLASS, formatClass(3, 0x178, RANGE, 0x100)), 'class set: htb 178:100 dev net1');
  t.equal(
    event(TcMessage.DELTCLASS, formatClass(3, 0x178, RANGE, 0x100)),
    'class removed: htb 178:100 dev net1',
  );
  t.equal(event(TcMessage.NEWTCLASS, formatClass(3, 0x8001, RANGE, 0x100)), undefined, 'of another program');
  t.equal(event(16, formatRoot(3, 0x178)), undefined, 'a link');
  t.equal(event(TcMessage.NEWQDISC, Buffer.alloc(3)), undefined);
});
