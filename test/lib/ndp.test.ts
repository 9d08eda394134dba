import t from 'tap';
import { checksum } from '../../lib/checksum.ts';
import { multicastMac } from '../../lib/mac.ts';
import {
  decodeAdvertisement,
  decodeSolicitation,
  encodeAdvertisement,
  encodeDuplicateQuestion,
  encodeSolicitation,
  solicitedNode,
} from '../../lib/ndp.ts';
import { address } from '../../lib/prefix.ts';

const SOURCE = address('fd00:172:17::11');
const GATEWAY = address('fd00:172:17::1');
const SOURCE_HEX = 'fd000172001700000000000000000011';
const GATEWAY_HEX = 'fd000172001700000000000000000001';

t.test('a neighbour is asked for at its solicited-node address', async (t) => {
  t.equal(solicitedNode(address('fd00::1:2345:6789')), 'ff02::1:ff45:6789');
  t.equal(multicastMac(solicitedNode(address('fd00::1:2345:6789'))), '33:33:ff:45:67:89');
});

t.test('a solicitation is what RFC 4861 4.3 says, octet for octet', async (t) => {
  const solicit = (destination: ReturnType<typeof address>) =>
    encodeSolicitation({ source: SOURCE, sourceMac: '02:42:ac:11:00:0b', destination, target: GATEWAY });
  const alone = solicit(GATEWAY).toString('hex');
  const header = '6000000000203aff';
  const body = `8700cd9400000000${GATEWAY_HEX}01010242ac11000b`;
  t.equal(alone, header + SOURCE_HEX + GATEWAY_HEX + body);
  const everybody = solicit(solicitedNode(GATEWAY)).toString('hex');
  t.match(everybody, `${header}${SOURCE_HEX}ff0200000000000000000001ff000001`);
});

t.test('an announcement goes to all nodes, unsolicited, and replaces what they knew', async (t) => {
  const packet = encodeAdvertisement(GATEWAY, '02:42:ac:11:00:0b');
  t.match(packet.toString('hex'), `${GATEWAY_HEX}ff020000000000000000000000000001`);
  t.equal(packet[44], 0xa0, 'from a router, override');
  t.strictSame(decodeAdvertisement(packet), {
    destination: address('ff02::1'),
    target: GATEWAY,
    solicited: false,
    targetMac: '02:42:ac:11:00:0b',
  });
});

/** An advertisement for the gateway as the kernel sends one, with a valid checksum. */
function advertisement(
  change: { at?: number; value?: number; options?: string; destination?: string } = {},
): Buffer {
  const options = Buffer.from(change.options ?? '02010242ac110001', 'hex');
  const message = Buffer.concat([Buffer.from(`8800000060000000${GATEWAY_HEX}`, 'hex'), options]);
  const header = Buffer.from(`6000000000003aff${GATEWAY_HEX}${change.destination ?? SOURCE_HEX}`, 'hex');
  header.writeUInt16BE(message.length, 4);
  const packet = Buffer.concat([header, message]);
  if (change.at !== undefined) packet[change.at] = change.value ?? 0;
  const pseudo = Buffer.concat([packet.subarray(8, 40), Buffer.from([0, 0, 0, message.length, 0, 0, 0, 58])]);
  packet.writeUInt16BE(checksum(pseudo, packet.subarray(40)), 42);
  return packet;
}

t.test('an advertisement is read, with and without its option', async (t) => {
  const expected = { destination: SOURCE, target: GATEWAY, solicited: true };
  t.strictSame(decodeAdvertisement(advertisement()), { ...expected, targetMac: '02:42:ac:11:00:01' });
  t.strictSame(decodeAdvertisement(advertisement({ options: '' })), expected);
  t.strictSame(
    decodeAdvertisement(advertisement({ options: '0e01000000000000' })),
    expected,
    'an option of another kind',
  );
  const padded = Buffer.concat([advertisement(), Buffer.alloc(6)]);
  t.match(decodeAdvertisement(padded), expected, 'padding behind the packet');
});

t.test('each rule of RFC 4861 7.1.2 discards', async (t) => {
  const discarded: [string, Buffer][] = [
    ['too short', advertisement().subarray(0, 63)],
    ['another next header', advertisement({ at: 6, value: 17 })],
    ['a hop limit that a router may have made', advertisement({ at: 7, value: 254 })],
    ['another type', advertisement({ at: 40, value: 135 })],
    ['a code', advertisement({ at: 41, value: 1 })],
    ['a multicast target', advertisement({ at: 48, value: 0xff })],
    ['solicited, to a multicast address', advertisement({ at: 24, value: 0xff })],
    ['an option of length 0', advertisement({ options: '0200000000000000' })],
  ];
  for (const [what, bytes] of discarded) t.equal(decodeAdvertisement(bytes), undefined, what);
  const corrupt = advertisement();
  corrupt[50]! ^= 1;
  t.equal(decodeAdvertisement(corrupt), undefined, 'a wrong checksum');
  t.equal(decodeAdvertisement(advertisement().subarray(0, 66)), undefined, 'shorter than its header says');
});

t.test('an unsolicited one is told from an answer', async (t) => {
  t.match(decodeAdvertisement(advertisement({ at: 44, value: 0x20 })), { solicited: false });
});

t.test(
  'the question whether an address is free comes from nowhere, and says nothing of who asks',
  async (t) => {
    const packet = encodeDuplicateQuestion(GATEWAY);
    t.equal(packet.length, 64, 'without an option (RFC 4861 4.3)');
    t.strictSame(decodeSolicitation(packet), { source: address('::'), target: GATEWAY });
    t.match(packet.toString('hex'), `${'0'.repeat(32)}ff0200000000000000000001ff000001`);
  },
);

t.test('a solicitation is read, and each rule of RFC 4861 7.1.1 discards', async (t) => {
  const solicitation = (source = SOURCE, destination = GATEWAY) =>
    encodeSolicitation({ source, sourceMac: '02:42:ac:11:00:0b', destination, target: GATEWAY });
  t.strictSame(decodeSolicitation(solicitation()), { source: SOURCE, target: GATEWAY });
  const unspecified = address('::');
  t.equal(
    decodeSolicitation(solicitation(unspecified, solicitedNode(GATEWAY))),
    undefined,
    'from nowhere, with an option',
  );
  t.equal(decodeSolicitation(solicitation(unspecified)), undefined, 'from nowhere, to the target');
  for (const [what, at, value] of [
    ['another next header', 6, 17],
    ['a hop limit that a router may have made', 7, 254],
    ['another type', 40, 136],
    ['a code', 41, 1],
    ['a wrong checksum', 50, 0x77],
    ['an option of length 0', 65, 0],
  ] as const) {
    const packet = solicitation();
    packet[at] = value;
    if (at === 65) {
      packet.writeUInt16BE(0, 42);
      const pseudo = Buffer.concat([packet.subarray(8, 40), Buffer.from([0, 0, 0, 32, 0, 0, 0, 58])]);
      packet.writeUInt16BE(checksum(pseudo, packet.subarray(40)), 42);
    }
    t.equal(decodeSolicitation(packet), undefined, what);
  }
  t.equal(decodeSolicitation(solicitation().subarray(0, 63)), undefined, 'too short');
});
