/** The reader on sockets and a clock of the test: lost events, refusals, and bounds of a turn. */
import t from 'tap';
import { formatDatagram } from '../../../lib/netlink-codec.ts';
import { type ConntrackLibc, ConntrackReader } from '../../../nat/conntrack/reader.ts';
import { type Gap, Tracker } from '../../../nat/conntrack/tracker.ts';
import { VECTORS } from './vectors.ts';

const EAGAIN = 11;
const EINTR = 4;
const EPERM = 1;
const ENOBUFS = 105;
const NLMSG_ERROR = 2;

/** What `recv` returns next on each socket: a datagram, or an errno. An empty queue is EAGAIN. */
type Queue = (Buffer | number)[];

/** The vector of a new flow, as the part of a dump that was asked for with a sequence number. */
function partOf(seq: number, ...vectors: Buffer[]): Buffer {
  const bytes = Buffer.concat(vectors);
  for (let at = 0; at < bytes.length; at += bytes.readUInt32LE(at)) bytes.writeUInt32LE(seq, at + 8);
  return bytes;
}

function setUp({ dumps = (_seq: number): Queue => [], privileged = true } = {}) {
  const events: Queue = [];
  let dump: Queue = [];
  let time = 1_000_000;
  let drops = 0;
  const gaps: Gap[] = [];
  const told = { started: 0, ended: 0, dumps: 0, closed: 0, requests: 0, buffer: 0 };
  const tracker: Tracker = new Tracker(1000, {
    classify(flow) {
      flow.verdict = 'translated';
    },
    started: () => told.started++,
    ended: () => told.ended++,
    repaired: (gap) => gaps.push(gap),
  });
  let opened = 0;
  const libc: ConntrackLibc = {
    socket: () => ++opened,
    bind() {},
    getsockname: (_, address) => Buffer.from(address.buffer).writeUInt32LE(4242, 4),
    setsockopt() {},
    setReceiveBuffer(_, octets) {
      if (!privileged) throw Object.assign(new Error('setsockopt'), { code: 'EPERM' });
      told.buffer = octets;
    },
    sendto(_, data) {
      told.requests++;
      dump = dumps(Buffer.from(data).readUInt32LE(8));
      return data.length;
    },
    recv(fd, data) {
      const next = (fd === 1 ? events : dump).shift();
      if (next === undefined) return -EAGAIN;
      if (typeof next === 'number') return -next;
      data.set(next);
      return next.length;
    },
    close: () => void told.closed++,
  };
  const done = (seq: number, errno = 0): Buffer => {
    const data = Buffer.alloc(4);
    data.writeInt32LE(-errno);
    const type = errno === 0 ? 3 : NLMSG_ERROR;
    return formatDatagram([{ type, flags: 2, data }], seq, 0);
  };
  const reader = new ConntrackReader({
    ...{ libc, tracker, now: () => time, clock: () => time, dropCount: () => drops },
    onDump: () => told.dumps++,
  });
  return {
    ...{ events, gaps, told, tracker, reader, done },
    pass: (ms: number) => {
      time += ms;
    },
    drop: (count: number) => {
      drops += count;
    },
  };
}

/** Dumps that show these flows. */
const showing =
  (...vectors: Buffer[]) =>
  (seq: number): Queue => [
    ...(vectors.length > 0 ? [partOf(seq, ...vectors)] : []),
    formatDatagram([{ type: 3, flags: 2, data: Buffer.alloc(4) }], seq, 0),
  ];

/** Turns until there is nothing more to do at once. */
function settle({ reader }: ReturnType<typeof setUp>): number {
  let turns = 1;
  while (reader.turn()) if (++turns > 1000) throw new Error('the reader never rests');
  return turns;
}

t.test('events and a dump reach the tracker', async (t) => {
  const own = setUp({ dumps: showing(VECTORS.udp4New) });
  own.events.push(VECTORS.tcp4New, VECTORS.tcp4Destroy);
  settle(own);
  t.match(own.told, { started: 1, ended: 1, dumps: 1, requests: 1 });
  t.equal(own.tracker.table.size, 1, 'the flow that only the dump shows');
  own.reader.close();
  t.equal(own.told.closed, 2);
});

t.test('ENOBUFS is a gap from the last empty queue to the next, with the kernel’s count', async (t) => {
  const own = setUp({ dumps: showing() });
  settle(own);
  const before = 1_000_000;
  own.pass(700);
  own.drop(5);
  own.events.push(VECTORS.tcp4New, ENOBUFS, VECTORS.udp4New);
  settle(own);
  t.equal(own.gaps.length, 1, 'the table was read until it could tell');
  t.match(own.gaps[0], { from: before, events: 5 });
  t.ok(own.gaps[0]!.to >= before + 700);
  own.pass(10_000);
  settle(own);
  own.drop(3);
  own.events.push(ENOBUFS);
  settle(own);
  t.match(own.gaps[1], { events: 3 }, 'the counter is the socket’s, and goes on');
  own.drop(2 ** 32 - 10);
  own.events.push(ENOBUFS);
  settle(own);
  own.drop(4 - 2 ** 32);
  own.events.push(ENOBUFS);
  settle(own);
  t.match(own.gaps[3], { events: 4 }, 'also past 2^32');
  t.equal(own.tracker.mustDump, false);
});

t.test('an interrupted call is made again, any other refusal is thrown by name', async (t) => {
  const own = setUp({ dumps: showing() });
  own.events.push(EINTR, VECTORS.tcp4New);
  settle(own);
  t.equal(own.told.started, 1);
  own.events.push(EPERM);
  t.throws(() => own.reader.turn(), {
    message: 'cannot read conntrack events: operation not permitted (EPERM)',
  });
  const refused = setUp({ dumps: (seq) => [own.done(seq, EPERM)] });
  t.throws(() => settle(refused), { message: /cannot read the conntrack table: .*\(EPERM\)/ });
});

t.test('a turn is bounded: what floods the queue does not keep it from ending', async (t) => {
  const own = setUp({ dumps: showing() });
  own.events.push(...Array.from({ length: 5000 }, () => VECTORS.tcp4New));
  t.equal(own.reader.turn(), true);
  t.ok(own.events.length >= 2900, `${own.events.length} events are left for the next turns`);
  settle(own);
  t.equal(own.events.length, 0);
});

t.test('parts that answer another request are ignored', async (t) => {
  const own = setUp({ dumps: (seq) => [partOf(seq - 1, VECTORS.udp4New), ...showing(VECTORS.tcp4New)(seq)] });
  settle(own);
  t.equal(own.tracker.table.size, 1);
});

t.test('the table is read again after two seconds, not before', async (t) => {
  const own = setUp({ dumps: showing() });
  settle(own);
  const { requests } = own.told;
  own.pass(1900);
  settle(own);
  t.equal(own.told.requests, requests);
  own.pass(200);
  settle(own);
  t.equal(own.told.requests, requests + 1);
});

t.test('the socket has a large buffer before events come, or there is no reader', async (t) => {
  t.equal(setUp({ dumps: showing() }).told.buffer, 8 << 20);
  t.throws(() => setUp({ privileged: false }), { code: 'EPERM' });
});
