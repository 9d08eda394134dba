/** The codec against the netlink package, which is used nowhere else, and against damage. */
import * as rt from 'netlink/dist/rt/structs.js';
import * as oracle from 'netlink/dist/structs.js';
import t from 'tap';
import {
  Attributes,
  attribute,
  formatDatagram,
  Messages,
  messagesIn,
  nest,
  u8,
  u16Be,
  u32,
  u32Be,
  zeroEnded,
} from '../../lib/netlink-codec.ts';
import { address, addressBytes, prefix } from '../../lib/prefix.ts';
import { formatRoute, formatRule } from '../../routing/parse.ts';
import { mutateOctets, randomFrom } from '../support/fuzz.ts';

const datagram = (...payloads: Uint8Array[]): Buffer =>
  formatDatagram(
    payloads.map((data, i) => ({ type: 16 + i, flags: 0x301, data })),
    7,
    4242,
  );

t.test('messages are those of the netlink package, both ways', async (t) => {
  const payloads = [Buffer.from('abc'), Buffer.alloc(0), Buffer.from('12345678')];
  const bytes = datagram(...payloads);
  t.strictSame(messagesIn(bytes), oracle.parseMessages(bytes));
  t.strictSame(
    formatDatagram([{ type: 20, flags: 5, data: Buffer.from('abcd') }], 1, 9),
    Buffer.concat(oracle.formatMessage({ type: 20, flags: 5, seq: 1, port: 9, data: Buffer.from('abcd') })),
  );
  // The package leaves the padding between messages to its caller.
  const messages = payloads.flatMap((data, i) => [
    ...oracle.formatMessage({ type: 16 + i, flags: 0x301, seq: 7 + i, port: 4242, data }),
    Buffer.alloc(-data.length & 3),
  ]);
  t.strictSame(bytes, Buffer.concat(messages), 'many in one buffer');
});

t.test('attributes are those of the netlink package, both ways', async (t) => {
  const out = new oracle.AttrStream();
  out.push(1, oracle.putU8(200));
  out.push(2, oracle.putU16be(0xfffe));
  out.push(3, oracle.putU32(0xdeadbeef));
  out.push(4, oracle.putU32be(0xdeadbeef));
  out.push(5, oracle.putString('eth0'));
  out.push(6, Buffer.from([1, 2, 3, 4, 5]));
  out.push(7, Buffer.from('000001f400000001', 'hex'));
  const bytes = Buffer.concat([...out.bufs]);
  const ours = Buffer.concat([
    attribute(1, u8(200)),
    attribute(2, u16Be(0xfffe)),
    attribute(3, u32(0xdeadbeef)),
    attribute(4, u32Be(0xdeadbeef)),
    attribute(5, zeroEnded('eth0')),
    attribute(6, Buffer.of(1, 2), Buffer.of(3, 4, 5)),
    attribute(7, u32Be(500), u32Be(1)),
  ]);
  t.strictSame(ours.subarray(0, bytes.length), bytes);

  const list = new Attributes(bytes);
  const read = <T>(type: number, value: () => T): T => {
    t.equal(list.next() && list.type, type);
    return value();
  };
  t.equal(
    read(1, () => list.u8),
    200,
  );
  t.equal(
    read(2, () => list.u16Be),
    0xfffe,
  );
  t.equal(
    read(3, () => list.u32),
    0xdeadbeef,
  );
  t.equal(list.i32, 0xdeadbeef | 0);
  t.equal(
    read(4, () => list.u32Be),
    0xdeadbeef,
  );
  t.equal(
    read(5, () => list.string),
    'eth0',
  );
  t.strictSame(
    read(6, () => [...list.content]),
    [1, 2, 3, 4, 5],
  );
  t.equal(
    read(7, () => list.u64Be),
    500 * 2 ** 32 + 1,
  );
  t.notOk(list.next());
});

t.test('routes and rules are written as the netlink package writes them', async (t) => {
  const data = { family: 10, dstLen: 64, table: 0, protocol: 178, scope: 0, type: 1 };
  const attrs = {
    table: 1000,
    dst: Buffer.from(addressBytes(address('fd55::'))),
    gateway: Buffer.from(addressBytes(address('fd00::1'))),
    oif: 3,
    priority: 77,
  };
  const out = new oracle.AttrStream();
  rt.formatRouteMessage({ kind: 'route', data, attrs }, out);
  const route = formatRoute(
    {
      ...{ family: 6, table: 1000, destination: prefix('fd55::/64'), gateway: address('fd00::1') },
      ...{ dev: 'd0', protocol: 178, scope: 0, type: 1, metric: 77, foreign: false },
    },
    3,
  );
  t.strictSame(sorted(route, 12), sorted(Buffer.concat([...out.bufs]), 12));

  const rule = new oracle.AttrStream();
  const selectors = { priority: 1003, table: 254, src: Buffer.of(10, 0, 0, 2), iifname: 'lo' };
  rt.formatRuleMessage(
    { kind: 'rule', data: { family: 2, srcLen: 32, table: 254, action: 1 }, attrs: selectors },
    rule,
  );
  const ours = formatRule({
    ...{ family: 4, priority: 1003, from: prefix('10.0.0.2/32'), iif: 'lo', table: 254, foreign: false },
  });
  t.strictSame(sorted(ours, 12), sorted(Buffer.concat([...rule.bufs]), 12));
});

/** The header, and the attributes in the order of their types. */
function sorted(payload: Uint8Array, header: number): string[] {
  const bytes = Buffer.from(payload);
  const found = [bytes.subarray(0, header).toString('hex')];
  const list = new Attributes(bytes, header);
  const attributes: [number, string][] = [];
  while (list.next()) attributes.push([list.type, list.content.toString('hex')]);
  attributes.sort(([a], [b]) => a - b);
  return [...found, ...attributes.map(([type, content]) => `${type} ${content}`)];
}

t.test('nested attributes are marked, and read one by one', async (t) => {
  const bytes = nest(3, attribute(1, u8(7)), nest(2, attribute(9, zeroEnded('inner'))));
  t.equal(bytes.readUInt16LE(2), 0x8003);
  const outer = new Attributes(bytes);
  t.ok(outer.next());
  t.equal(outer.type, 3, 'without the flag');
  const inner = outer.nested;
  t.ok(inner.next());
  t.equal(inner.u8, 7);
  t.ok(inner.next());
  const innermost = inner.nested;
  t.ok(innermost.next());
  t.equal(innermost.string, 'inner');
  t.notOk(innermost.next() || inner.next() || outer.next());
});

t.test('what an integer has no octets for is 0, not what follows it', async (t) => {
  const list = new Attributes(
    Buffer.concat([attribute(1), attribute(2, u8(0xff)), attribute(3, u32(0xffffffff))]),
  );
  t.ok(list.next());
  t.strictSame(
    [list.u8, list.u16Be, list.u32, list.i32, list.u32Be, list.u64Be, list.string],
    [0, 0, 0, 0, 0, 0, ''],
  );
  t.ok(list.next());
  t.strictSame([list.u8, list.u16Be, list.u32, list.u32Be, list.u64Be], [0xff, 0, 0, 0, 0]);
  t.ok(list.next());
  t.strictSame([list.i32, list.u64Be], [-1, 0]);
});

t.test('an attribute that its length cannot say is refused', async (t) => {
  t.equal(attribute(1, Buffer.alloc(65_531)).readUInt16LE(0), 65_535);
  t.throws(() => attribute(1, Buffer.alloc(65_532)), { name: 'RangeError' });
});

t.test('lengths that lead nowhere or outside end the reading', async (t) => {
  const bytes = Buffer.concat([attribute(1, u32(1)), attribute(2, u32(2))]);
  for (const [length, found] of [
    [0, 1],
    [3, 1],
    [4, 2],
    [8, 2],
    [9, 1],
    [0xffff, 1],
  ] as const) {
    bytes.writeUInt16LE(length, 8);
    const list = new Attributes(bytes);
    let count = 0;
    while (list.next()) count++;
    t.equal(count, found, `an attribute of ${length} octets`);
  }
  const nested = nest(1, attribute(2, u32(2)));
  nested.writeUInt16LE(100, 4);
  const outer = new Attributes(Buffer.concat([nested, Buffer.alloc(200)]));
  t.ok(outer.next());
  t.notOk(outer.nested.next(), 'an inner one does not lead out of the outer one');
  for (const size of [0, 15, 200, 0xffffffff]) {
    const message = datagram(Buffer.from('abcd'));
    message.writeUInt32LE(size, 0);
    t.notOk(new Messages(message).next(), `a message of ${size} octets`);
  }
});

t.test('damaged datagrams never throw, never loop, and never show what lies outside', async (t) => {
  const random = randomFrom(7);
  const whole = datagram(
    Buffer.concat([nest(1, attribute(2, u32(3)), nest(4, attribute(5, zeroEnded('x'))))]),
    Buffer.concat([attribute(1, u8(1)), attribute(2, u16Be(2)), attribute(3, Buffer.alloc(8))]),
  );
  const walk = (list: Attributes, depth: number): void => {
    while (list.next()) {
      const sum = list.u8 + list.u16Be + list.u32 + list.i32 + list.u32Be + list.u64Be + list.string.length;
      if (!Number.isFinite(sum) || list.content.length !== list.length) t.fail('a value that is none');
      if (depth < 5) walk(list.nested, depth + 1);
    }
  };
  for (let i = 0; i < 20_000; i++) {
    const damaged = mutateOctets(whole, random);
    const messages = new Messages(damaged);
    while (messages.next()) walk(new Attributes(damaged, messages.start, messages.end), 0);
  }
  t.pass('20 000 datagrams');
});
