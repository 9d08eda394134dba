/** Byte vectors for the packet codec: one valid packet, and one for every check that needs no session. */
import t from 'tap';
import { decode, encode, type Packet } from '../../bfd/packet.ts';

/** State Up, Detect Mult 5, 100 ms and 300 ms, as a peer sends it. */
const VALID = '20 c0 05 18 0a0b0c0d 01020304 000186a0 000493e0 00000000';
const octets = (hex: string): Buffer => Buffer.from(hex.replaceAll(' ', ''), 'hex');

/** The valid vector with some octets replaced: `{ 2: 0 }`. */
function vector(changes: Record<number, number>): Buffer {
  const bytes = octets(VALID);
  for (const [at, value] of Object.entries(changes)) bytes[Number(at)] = value;
  return bytes;
}

const PACKET: Packet = {
  diagnostic: 0,
  state: 'Up',
  poll: false,
  final: false,
  controlPlaneIndependent: false,
  authenticationPresent: false,
  demand: false,
  detectMult: 5,
  length: 24,
  myDiscriminator: 0x0a0b0c0d,
  yourDiscriminator: 0x01020304,
  desiredMinTx: 100_000,
  requiredMinRx: 300_000,
  requiredMinEchoRx: 0,
};

t.test('4.1 reads the mandatory section', async (t) => {
  t.strictSame(decode(octets(VALID)), PACKET);
});

t.test('4.1 writes the mandatory section', async (t) => {
  t.equal(encode(PACKET).toString('hex'), octets(VALID).toString('hex'));
});

t.test('4.1 the diagnostic has five bits', async (t) => {
  t.match(decode(vector({ 0: 0x3f })), { diagnostic: 31 });
  t.equal(encode({ ...PACKET, diagnostic: 31 })[0], 0x3f);
});

t.test('4.1 every state and flag has its bit', async (t) => {
  const states = ['AdminDown', 'Down', 'Init', 'Up'] as const;
  states.forEach((state, code) => {
    t.match(decode(vector({ 1: code << 6 })), { state });
    t.equal(encode({ ...PACKET, state })[1], code << 6);
  });
  const flags = { poll: 0x20, final: 0x10, controlPlaneIndependent: 0x08, demand: 0x02 };
  for (const [name, bit] of Object.entries(flags)) {
    t.strictSame(decode(vector({ 1: 0xc0 | bit })), { ...PACKET, [name]: true });
    t.equal(encode({ ...PACKET, [name]: true })[1], 0xc0 | bit);
  }
});

t.test('4.1 discriminators and intervals use all 32 bits', async (t) => {
  const greatest = 0xffffffff;
  const packet = {
    ...PACKET,
    myDiscriminator: greatest,
    yourDiscriminator: greatest,
    desiredMinTx: greatest,
    requiredMinRx: greatest,
    requiredMinEchoRx: greatest,
  };
  t.strictSame(decode(encode(packet)), packet);
});

t.test('4.1 Length counts the authentication section', async (t) => {
  const payload = Buffer.concat([vector({ 1: 0xc4, 3: 28 }), octets('01 04 01 61')]);
  t.match(decode(payload), { authenticationPresent: true, length: 28 });
});

const discards: [name: string, payload: Buffer, reason: string][] = [
  ['an empty datagram (the knock)', Buffer.alloc(0), 'empty'],
  ['a datagram that ends before the Length', octets('20 c0 05'), 'truncated'],
  ['version 0', vector({ 0: 0x00 }), 'version'],
  ['version 2', vector({ 0: 0x40 }), 'version'],
  ['version 0, before the bad Length is seen', vector({ 0: 0x00, 3: 0 }), 'version'],
  ['a Length of 0', vector({ 3: 0 }), 'length-too-small'],
  ['a Length of 23 without the A bit', vector({ 3: 23 }), 'length-too-small'],
  [
    'a Length of 25 with the A bit',
    Buffer.concat([vector({ 1: 0xc4, 3: 25 }), octets('0104')]),
    'length-too-small',
  ],
  ['a Length beyond the UDP payload', vector({ 3: 25 }), 'length-beyond-payload'],
  ['a packet cut off after 20 octets', octets(VALID).subarray(0, 20), 'length-beyond-payload'],
  ['a packet whose Detect Mult is 0', vector({ 2: 0 }), 'detect-mult-zero'],
  ['a Detect Mult of 0, before the M bit is seen', vector({ 1: 0xc1, 2: 0 }), 'detect-mult-zero'],
  ['a packet with the M bit', vector({ 1: 0xc1 }), 'multipoint'],
  ['the M bit, before My Discriminator 0 is seen', vector({ 1: 0xc1, 4: 0, 5: 0, 6: 0, 7: 0 }), 'multipoint'],
  ['a packet whose My Discriminator is 0', vector({ 4: 0, 5: 0, 6: 0, 7: 0 }), 'my-discriminator-zero'],
];
for (const [name, payload, reason] of discards) {
  t.test(`6.8.6 discards ${name}`, async (t) => {
    t.equal(decode(payload), reason);
  });
}

t.test('6.8.6 accepts octets behind the Length', async (t) => {
  t.strictSame(decode(Buffer.concat([octets(VALID), Buffer.alloc(40, 0xff)])), PACKET);
});

t.test('6.8.6 accepts the least Lengths: 24, and 26 with the A bit', async (t) => {
  t.match(decode(vector({ 3: 24 })), { length: 24 });
  t.match(decode(Buffer.concat([vector({ 1: 0xc4, 3: 26 }), Buffer.alloc(2)])), { length: 26 });
});

t.test('a million fuzzed packets: each is discarded for a reason or survives the round trip', async (t) => {
  // xorshift32, so that a failure can be repeated.
  let seed = 0x2545f491;
  const random = () => {
    seed ^= seed << 13;
    seed ^= seed >>> 17;
    seed ^= seed << 5;
    return seed >>> 0;
  };
  const bytes = Buffer.alloc(64);
  const seen = new Set<string>();
  let accepted = 0;
  let wrong = 0;
  for (let i = 0; i < 1_000_000; i++) {
    for (let at = 0; at < 64; at += 4) bytes.writeUInt32LE(random(), at);
    // Half of them are nearly right, so that the later checks are reached.
    if (i % 2 === 0) {
      bytes[0] = 0x20 | (bytes[0]! & 0x1f);
      bytes[1] = bytes[1]! & (i % 4 === 0 ? 0xfa : 0xff);
      bytes[3] = 20 + (bytes[3]! % 16);
      if (i % 64 === 0) bytes[2] = 0;
      if (i % 96 === 0) bytes.writeUInt32BE(0, 4);
    }
    const payload = bytes.subarray(0, random() % 65);
    const packet = decode(payload);
    if (typeof packet === 'string') {
      seen.add(packet);
      continue;
    }
    accepted++;
    if (encode(packet).compare(payload, 0, 24, 0, 24) !== 0) wrong++;
  }
  t.equal(wrong, 0);
  t.ok(accepted > 10_000);
  t.strictSame([...seen].sort(), [...new Set(discards.map(([, , reason]) => reason))].sort());
});
