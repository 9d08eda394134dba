/** Authentication sections: layout, digests computed here by the words of the RFC, and every way to be refused. */
import { createHash } from 'node:crypto';
import t from 'tap';
import { type AuthKey, longestSecret, sectionLength, sign, verify } from '../../bfd/auth.ts';
import type { AuthTypeName } from '../../bfd/intent.ts';
import { decode, encode, type Packet } from '../../bfd/packet.ts';

const HEAD = '20c4051c 0a0b0c0d 01020304 000186a0 000493e0 00000000'.replaceAll(' ', '');
const NOTHING_HEARD = { authSeqKnown: false, rcvAuthSeq: 0 };
const key = (type: AuthTypeName, id = 7, secret = 'secret'): AuthKey => ({
  type,
  id,
  secret: Buffer.from(secret),
});

/** A signed packet and its decoding. */
function signed(by: AuthKey, sequence = 100): { payload: Buffer; packet: Packet } {
  const head = Buffer.from(HEAD, 'hex');
  head[3] = 24 + sectionLength(by);
  const payload = sign(
    encode({ ...(decode(Buffer.concat([head, Buffer.alloc(40)])) as Packet) }),
    by,
    sequence,
  );
  return { payload, packet: decode(payload) as Packet };
}

t.test('4.2 Simple Password: type 1, length, Key ID, password', async (t) => {
  const { payload } = signed(key('simple-password'));
  t.equal(payload.toString('hex', 24), `010907${Buffer.from('secret').toString('hex')}`);
});

const DIGESTS: [AuthTypeName, number, 'md5' | 'sha1', number][] = [
  ['keyed-md5', 2, 'md5', 16],
  ['meticulous-keyed-md5', 3, 'md5', 16],
  ['keyed-sha1', 4, 'sha1', 20],
  ['meticulous-keyed-sha1', 5, 'sha1', 20],
];
for (const [type, code, hash, octets] of DIGESTS) {
  t.test(
    `4.3 4.4 ${type}: type ${code}, length ${8 + octets}, the digest over all with the secret in its place`,
    async (t) => {
      const { payload } = signed(key(type), 0x01020304);
      t.equal(payload.length, 32 + octets);
      t.equal(payload.toString('hex', 24, 32), `0${code}${(8 + octets).toString(16)}070001020304`);
      const secret = Buffer.alloc(octets);
      secret.write('secret');
      const whole = Buffer.concat([payload.subarray(0, 32), secret]);
      t.equal(payload.toString('hex', 32), createHash(hash).update(whole).digest('hex'));
    },
  );
}

const TYPES: AuthTypeName[] = ['simple-password', ...DIGESTS.map(([type]) => type)];
for (const type of TYPES) {
  t.test(`6.7 ${type}: what is signed is accepted, and names key and sequence number`, async (t) => {
    const by = key(type);
    const { payload, packet } = signed(by, 100);
    const sequence = type === 'simple-password' ? 0 : 100;
    t.strictSame(verify(payload, packet, [by], NOTHING_HEARD), { key: by, sequence });
  });

  t.test(`6.7 ${type}: another secret of the same length is refused`, async (t) => {
    const { payload, packet } = signed(key(type));
    t.equal(verify(payload, packet, [key(type, 7, 'secreT')], NOTHING_HEARD), 'auth-digest');
  });

  t.test(`6.7 ${type}: another Key ID is refused`, async (t) => {
    const { payload, packet } = signed(key(type));
    t.equal(verify(payload, packet, [key(type, 8)], NOTHING_HEARD), 'auth-key-id');
  });

  t.test(`6.7 ${type}: another configured type is refused`, async (t) => {
    const { payload, packet } = signed(key(type));
    const others = TYPES.filter((other) => other !== type).map((other) => key(other));
    t.equal(verify(payload, packet, others, NOTHING_HEARD), 'auth-type');
  });

  t.test(`6.7 ${type}: an Auth Len that is wrong or leaves the packet is refused`, async (t) => {
    for (const authLength of [0, 2, 3, 255]) {
      const { payload, packet } = signed(key(type));
      payload[25] = authLength;
      t.equal(verify(payload, packet, [key(type)], NOTHING_HEARD), 'auth-length');
    }
  });

  t.test(`6.7 ${type}: every changed octet of the section is refused`, async (t) => {
    const fresh = signed(key(type));
    for (let at = 24; at < fresh.payload.length; at++) {
      // The reserved octet too: it is under the digest.
      const payload = Buffer.from(fresh.payload);
      payload[at] = payload[at]! ^ 0x40;
      t.type(verify(payload, fresh.packet, [key(type)], NOTHING_HEARD), 'string', `octet ${at}`);
    }
  });

  t.test(`6.7 ${type}: the longest secret works`, async (t) => {
    const by = key(type, 1, 'x'.repeat(longestSecret(type)));
    const { payload, packet } = signed(by);
    t.match(verify(payload, packet, [by], NOTHING_HEARD), { key: by });
  });
}

t.test('6.7 with several keys of one Key ID the one that fits is found', async (t) => {
  for (const type of TYPES) {
    const former = key(type, 7, 'former');
    const longer = key(type, 7, 'a longer one');
    const { payload, packet } = signed(former);
    t.match(verify(payload, packet, [longer, key(type), former], NOTHING_HEARD), { key: former });
  }
});

t.test('4.1 the digest covers the mandatory section', async (t) => {
  const { payload, packet } = signed(key('keyed-sha1'));
  payload[8] = 0xff;
  t.equal(verify(payload, packet, [key('keyed-sha1')], NOTHING_HEARD), 'auth-digest');
});

t.test('octets behind the Length are not under the digest', async (t) => {
  const by = key('keyed-md5');
  const { payload, packet } = signed(by);
  t.match(verify(Buffer.concat([payload, Buffer.alloc(9, 1)]), packet, [by], NOTHING_HEARD), { key: by });
});

/** Whether a sequence number is accepted after `last` with Detect Mult 5. */
function accepts(type: AuthTypeName, last: number, next: number): boolean {
  const { payload, packet } = signed(key(type), next >>> 0);
  const verdict = verify(payload, packet, [key(type)], { authSeqKnown: true, rcvAuthSeq: last >>> 0 });
  if (typeof verdict === 'string') t.equal(verdict, 'auth-sequence');
  return typeof verdict !== 'string';
}

for (const type of ['keyed-md5', 'keyed-sha1'] as const) {
  t.test(`6.7.3 6.7.4 ${type}: from the last number to 3 × Detect Mult beyond it, circularly`, async (t) => {
    for (const last of [1000, 0xfffffffa]) {
      t.ok(accepts(type, last, last));
      t.ok(accepts(type, last, last + 15));
      t.notOk(accepts(type, last, last + 16));
      t.notOk(accepts(type, last, last - 1));
    }
  });
}

for (const type of ['meticulous-keyed-md5', 'meticulous-keyed-sha1'] as const) {
  t.test(
    `6.7.3 6.7.4 ${type}: a repeated number is refused, up to 3 × Detect Mult beyond is not`,
    async (t) => {
      for (const last of [1000, 0xfffffffa]) {
        t.notOk(accepts(type, last, last));
        t.ok(accepts(type, last, last + 1));
        t.ok(accepts(type, last, last + 15));
        t.notOk(accepts(type, last, last + 16));
      }
    },
  );
}

t.test('6.7.3 any sequence number is accepted while none is known', async (t) => {
  const { payload, packet } = signed(key('meticulous-keyed-md5'), 0xdeadbeef);
  t.match(verify(payload, packet, [key('meticulous-keyed-md5')], NOTHING_HEARD), { sequence: 0xdeadbeef });
});

t.test('a hundred thousand fuzzed sections: none is accepted, none throws', async (t) => {
  let seed = 0x1234567;
  const random = () => {
    seed ^= seed << 13;
    seed ^= seed >>> 17;
    seed ^= seed << 5;
    return seed >>> 0;
  };
  const keys = TYPES.map((type) => key(type, 1));
  const reasons = new Set<unknown>();
  for (let i = 0; i < 100_000; i++) {
    const payload = Buffer.alloc(26 + (random() % 40));
    for (let at = 0; at + 4 <= payload.length; at += 4) payload.writeUInt32LE(random(), at);
    payload[0] = 0x20;
    payload[1] = 0x44;
    payload[2] = 3;
    payload[3] = payload.length;
    payload[24] = random() % 7;
    if (i % 2 === 0) payload[25] = payload.length - 24;
    if (i % 3 === 0) payload[26] = 1;
    const packet = decode(payload);
    if (typeof packet === 'string') continue;
    reasons.add(verify(payload, packet, keys, NOTHING_HEARD));
  }
  t.strictSame([...reasons].sort(), ['auth-digest', 'auth-key-id', 'auth-length', 'auth-type']);
});
