/**
 * The codec of the exchange: every message comes back as it was, every bound is kept, and a million damaged and random
 * messages are either refused or read as something that can be written again.
 */
import t from 'tap';
import {
  decode,
  encode,
  FrameReader,
  MAX_ANSWER,
  MAX_FLOWS,
  MAX_MESSAGE,
  MAX_QUERY,
  MAX_SHARED,
  type Message,
} from '../../../agent/group/codec.ts';
import { encodeFlow, keySize } from '../../../agent/group/records.ts';
import { address, FAMILIES, type Family } from '../../../lib/prefix.ts';
import { mutateOctets, randomFrom } from '../../support/fuzz.ts';
import { flowOf, SHARED } from './flows.ts';

const tcp = { state: 3, originalScale: 7, replyScale: 9, originalFlags: 8, replyFlags: 8 };

/** One of each kind, and the largest of those that have lists. */
function messages(family: Family): Message[] {
  const records = Array.from({ length: MAX_FLOWS }, (_, i) =>
    encodeFlow(i % 2 === 0 ? flowOf(family, i, 2000 + i) : flowOf(family, i, 2000 + i, { protocol: 6, tcp })),
  );
  const keys = records.map((record) => Buffer.from(record.subarray(0, keySize(family))));
  const from = address(family === 4 ? '10.16.0.12' : 'fd00:10:16::12');
  const to = address(family === 4 ? '10.16.0.13' : 'fd00:10:16::13');
  return [
    {
      type: 'hello',
      minVersion: 1,
      maxVersion: 3,
      capabilities: 0xffff_ffff,
      from,
      to,
      instance: 7,
      uptime: 99,
    },
    { type: 'state', state: 'live', external: from, claims: [{ address: SHARED[family], term: 4 }] },
    { type: 'state', state: 'left', external: to, claims: [] },
    {
      type: 'changes',
      sequence: 0xffff_ffff,
      changes: [
        { op: 'update', record: records[0]! },
        { op: 'end', key: keys[1]! },
        { op: 'moved', key: keys[2]!, slot: 15 },
      ],
    },
    { type: 'changes', sequence: 1, changes: records.map((record) => ({ op: 'update' as const, record })) },
    { type: 'bucket', sequence: 2, bucket: 255, last: false, records },
    { type: 'bucket', sequence: 3, bucket: 0, last: true, records: [] },
    { type: 'ack', sequence: 9 },
    {
      type: 'digest',
      number: 1,
      sums: Array.from({ length: 256 }, (_, bucket) => ({
        bucket,
        count: 1 + bucket,
        sum: 0xffff_0000 + bucket,
      })),
    },
    { type: 'digest', number: 2, sums: [] },
    { type: 'want', number: 1, buckets: [0, 255] },
    { type: 'active', keys: keys.slice(0, 3) },
    { type: 'lookup', number: 5, query: 'external=172.17.0.50:2000&protocol=udp' },
    { type: 'answer', number: 5, last: true, status: 200, body: Buffer.alloc(MAX_ANSWER, 'x') },
  ];
}

t.test('every message comes back as it was, of both families', async (t) => {
  for (const family of FAMILIES) {
    for (const message of messages(family)) {
      const frame = encode(message, family);
      t.equal(frame.readUInt32BE(), frame.length - 4);
      t.ok(frame.length - 4 <= MAX_MESSAGE);
      t.same(decode(frame.subarray(4), family), message, message.type);
    }
  }
});

t.test('what is cut short, goes on, or is of the other family is malformed', async (t) => {
  for (const message of messages(4)) {
    const body = encode(message, 4).subarray(4);
    t.equal(decode(body.subarray(0, -1), 4), 'malformed', `${message.type}, an octet short`);
    t.equal(decode(Buffer.concat([body, Buffer.of(0)]), 4), 'malformed', `${message.type}, an octet long`);
  }
  t.equal(decode(encode(messages(4)[0]!, 4).subarray(4), 6), 'malformed');
  t.equal(decode(Buffer.alloc(0), 4), 'malformed', 'nothing');
  t.equal(decode(Buffer.of(0), 4), 'malformed', 'type 0');
  t.equal(decode(Buffer.of(99), 4), 'malformed', 'a type that there is not');
  t.equal(decode(Buffer.alloc(MAX_MESSAGE + 1, 1), 4), 'too_long');
});

/** A message with octets of its body, counted from the type, replaced. */
const patched = (message: Message, at: number, ...octets: number[]) => {
  const body = Buffer.from(encode(message, 4).subarray(4));
  body.set(octets, at);
  return decode(body, 4);
};

t.test('every field has its range', async (t) => {
  const [hello, state, , changes, , , bucket, , , , want] = messages(4);
  t.equal(patched(hello!, 1, 0, 0, 0, 0), 'malformed', 'another protocol');
  t.equal(patched(hello!, 5, 0), 'malformed', 'version 0');
  t.equal(patched(hello!, 5, 4), 'malformed', 'a range of versions that ends before it begins');
  t.equal(patched(state!, 1, 4), 'malformed', 'a state that there is not');
  t.equal(patched(state!, 6, 0, MAX_SHARED + 1), 'malformed', 'too many claims');
  t.equal(patched(changes!, 5, 0xff, 0xff), 'malformed', 'too many changes');
  t.equal(patched(changes!, 7, 3), 'malformed', 'an operation that there is not');
  t.equal(patched(bucket!, 5, 1, 0), 'malformed', 'bucket 256');
  t.equal(patched(bucket!, 7, 2), 'malformed', 'a flag that is 2');
  t.equal(patched(want!, 7, 1, 0), 'malformed', 'bucket 256');
  const digest: Message = {
    type: 'digest',
    number: 1,
    sums: [
      { bucket: 1, count: 1, sum: 1 },
      { bucket: 2, count: 1, sum: 1 },
    ],
  };
  t.equal(patched(digest, 17, 0, 1), 'malformed', 'a bucket twice');
  t.equal(patched(digest, 9, 0, 0, 0, 0), 'malformed', 'an empty bucket');
});

t.test('what is beyond a bound is not written', async (t) => {
  const claims = Array.from({ length: MAX_SHARED + 1 }, () => ({ address: SHARED[4], term: 1 }));
  t.throws(() => encode({ type: 'state', state: 'live', external: SHARED[4], claims }, 4), RangeError);
  t.throws(() => encode({ type: 'state', state: 'live', external: SHARED[6], claims: [] }, 4), RangeError);
  t.throws(() => encode({ type: 'lookup', number: 1, query: 'x'.repeat(MAX_QUERY + 1) }, 4), RangeError);
});

t.test('frames are cut the same however the octets arrive', async (t) => {
  const all = messages(6);
  const stream = Buffer.concat(all.map((message) => encode(message, 6)));
  for (const size of [1, 3, 1000, 16_384, stream.length]) {
    const reader = new FrameReader();
    const found: unknown[] = [];
    for (let at = 0; at < stream.length; at += size) {
      reader.push(Buffer.from(stream.subarray(at, at + size)));
      for (let frame = reader.next(); frame instanceof Buffer; frame = reader.next()) {
        found.push(decode(frame, 6));
      }
    }
    t.same(found, all, `in pieces of ${size}`);
  }
  const reader = new FrameReader(64);
  reader.push(Buffer.of(0, 0, 0, 65));
  t.equal(reader.next(), 'too_long', 'refused by its length alone');
});

t.test('a million damaged and random messages', async (t) => {
  const random = randomFrom(10_667);
  const bodies = FAMILIES.map((family) =>
    messages(family)
      .map((message) => encode(message, family).subarray(4))
      // What is large is damaged in the same places, and slowly.
      .filter((body) => body.length < 300),
  );
  const read: Record<string, number> = {};
  const noise = Buffer.alloc(300);
  for (let i = 0; i < 1_000_000; i++) {
    const family: Family = i % 2 === 0 ? 4 : 6;
    let body: Buffer;
    if (i % 4 < 3) {
      const list = bodies[i % 2]!;
      body = mutateOctets(list[Math.floor(random() * list.length)]!, random);
    } else {
      body = noise.subarray(0, Math.floor(random() * 300));
      for (let at = 0; at < body.length; at += 4)
        noise.writeInt32LE((random() * 2 ** 32) | 0, at & ~3 & 0xfc);
      if (body.length > 0) body[0] = 1 + Math.floor(random() * 13);
    }
    const message = decode(body, family);
    const kind = typeof message === 'string' ? message : message.type;
    read[kind] = (read[kind] ?? 0) + 1;
    // What was read can be written, and is the same octets: nothing was overlooked.
    if (typeof message !== 'string' && message.type !== 'lookup') {
      if (!encode(message, family).subarray(4).equals(body))
        t.fail(`message ${i} is not what was read of it`);
    }
  }
  t.ok(read.malformed! > 500_000, 'most are refused');
  t.ok(Object.keys(read).length > 8, 'some of each kind are still messages');
});
