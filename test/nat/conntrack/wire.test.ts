import t from 'tap';
import { NLMSG_DONE } from '../../../lib/linux.ts';
import { Messages } from '../../../lib/netlink-codec.ts';
import { addressFromBytes } from '../../../lib/prefix.ts';
import {
  type ConntrackEntry,
  CT_DELETE,
  CT_NEW,
  countRequest,
  decodeEntry,
  deleteRequest,
  dumpRequest,
  IPS_DYING,
  isReplica,
} from '../../../nat/conntrack/wire.ts';
import { mutateOctets, randomFrom } from '../../support/fuzz.ts';
import { VECTORS } from './vectors.ts';

interface Decoded {
  type: number;
  entry: ConntrackEntry | undefined;
}

function decode(datagram: Buffer): Decoded[] {
  const found: Decoded[] = [];
  const messages = new Messages(datagram);
  while (messages.next()) {
    found.push({ type: messages.type, entry: decodeEntry(datagram, messages.start, messages.end) });
  }
  return found;
}

const only = (datagram: Buffer): ConntrackEntry => {
  const [{ entry } = {}] = decode(datagram);
  if (entry === undefined) throw new Error('no entry');
  return entry;
};

/** Both tuples as text. */
const text = ({ original, reply }: ConntrackEntry): string =>
  [original, reply]
    .map(
      ({ source, sourcePort, destination, destinationPort }) =>
        `${addressFromBytes(source)} ${sourcePort} ${addressFromBytes(destination)} ${destinationPort}`,
    )
    .join(' | ');

t.test('a new TCP flow: tuples, id, status and when it began', async (t) => {
  const [{ type, entry } = {}] = decode(VECTORS.tcp4New);
  t.equal(type, CT_NEW);
  t.match(entry, { family: 4, protocol: 6, id: 0xbbb7e274, zone: 0, status: 0x198, tcpState: 1 });
  t.equal(text(entry!), '10.1.0.9 49160 10.2.0.2 9 | 10.2.0.2 9 10.2.0.1 15602');
  t.equal(entry!.counters, undefined, 'only dumps and ends have counters');
  t.equal(Math.round(entry!.eventTime!), 1795226877668);
  t.equal(entry!.startTime, undefined);
});

t.test('the end of a TCP flow: counters and times', async (t) => {
  const [{ type, entry } = {}] = decode(VECTORS.tcp4Destroy);
  t.equal(type, CT_DELETE);
  t.ok(entry!.status & IPS_DYING);
  t.same(entry!.counters, { originalPackets: 1, originalBytes: 60, replyPackets: 1, replyBytes: 40 });
  t.ok(entry!.startTime! < entry!.stopTime!);
  t.equal(entry!.stopTime! - entry!.startTime! < 1, true, 'microseconds are kept');
  t.equal(entry!.tcpState, 8);
});

t.test('begin and end of a replica have the mark that makes it one', async (t) => {
  for (const vector of [VECTORS.replicaNew, VECTORS.replicaDestroy]) {
    const entry = only(vector);
    t.equal(entry.mark, 0xa700_0007);
    t.ok(isReplica(entry));
  }
  t.equal(only(VECTORS.tcp4New).mark, 0, 'a flow without a mark');
  t.notOk(isReplica(only(VECTORS.tcp4New)));
  t.notOk(isReplica({ mark: 0xa800_0007 }));
});

t.test('IPv6', async (t) => {
  t.equal(text(only(VECTORS.udp6New)), 'fd01::9 35160 fd02::2 53 | fd02::2 53 fd02::1 42045');
  t.equal(only(VECTORS.udp6New).family, 6);
  t.same(only(VECTORS.tcp6Destroy).counters, {
    originalPackets: 1,
    originalBytes: 80,
    replyPackets: 1,
    replyBytes: 60,
  });
});

t.test('ICMP: the identifier stands for both ports', async (t) => {
  const icmp = only(VECTORS.icmpNew);
  t.equal(text(icmp), '10.1.0.9 7777 10.2.0.2 7777 | 10.2.0.2 47409 10.2.0.1 47409');
  t.match(icmp.original, { icmpType: 8, icmpCode: 0 });
  t.match(icmp.reply, { icmpType: 0, icmpCode: 0 });
  const icmpv6 = only(VECTORS.icmpv6New);
  t.equal(text(icmpv6), 'fd01::9 8888 fd02::2 8888 | fd02::2 65150 fd02::1 65150');
  t.match(icmpv6.original, { icmpType: 128, icmpCode: 0 });
});

t.test('other protocols: SCTP has ports, GRE keys, the rest nothing', async (t) => {
  t.equal(text(only(VECTORS.sctpNew)), '10.1.0.9 1000 10.2.0.2 2000 | 10.2.0.2 2000 10.2.0.1 988');
  t.match(only(VECTORS.sctpNew), { protocol: 132, tcpState: undefined });
  t.match(only(VECTORS.greNew), { protocol: 47, original: { sourcePort: 0 } });
  t.match(only(VECTORS.otherDestroy), { protocol: 99, original: { sourcePort: 0, destinationPort: 0 } });
});

t.test('a zone, in an event and in a dump', async (t) => {
  t.equal(only(VECTORS.zoneNew).zone, 5);
  const dumped = only(VECTORS.zoneDump);
  t.match(dumped, { zone: 5, counters: { originalPackets: 1, originalBytes: 30 } });
  t.equal(dumped.stopTime, undefined, 'it lives');
  t.equal(dumped.id, only(VECTORS.zoneNew).id, 'the id is that of the event');
});

t.test('the end of a dump is a message without an entry', async (t) => {
  t.same(decode(VECTORS.dumpDone), [{ type: NLMSG_DONE, entry: undefined }]);
});

t.test('several messages in a datagram come one by one, padded to four octets', async (t) => {
  const odd = Buffer.concat([VECTORS.dumpDone.subarray(0, 20), VECTORS.udp4New]);
  odd.writeUInt32LE(18, 0);
  t.same(
    decode(odd).map(({ entry }) => entry?.protocol),
    [undefined, 17],
  );
});

t.test('what is cut off or of no use yields no entry, and no exception', async (t) => {
  const whole = VECTORS.tcp4New;
  const idEnd = whole.indexOf(Buffer.from('08000c00', 'hex')) + 8;
  for (let length = 0; length < whole.length; length++) {
    t.same(decode(whole.subarray(0, length)), [], `a message of ${length} octets that says it is longer`);
  }
  for (let end = 16; end < whole.length; end++) {
    const entry = decodeEntry(whole, 16, end);
    if (entry !== undefined) t.ok(end >= idEnd, 'only what follows the id may be missing');
  }
  const unknownFamily = Buffer.from(whole);
  unknownFamily[16] = 7;
  t.equal(decodeEntry(unknownFamily, 16, whole.length), undefined);
  const noLength = Buffer.from(whole);
  noLength.writeUInt16LE(0, 20);
  t.equal(decodeEntry(noLength, 16, whole.length), undefined, 'an attribute of length 0 does not loop');
});

t.test('mutated messages in a receive buffer never throw and never loop', async (t) => {
  const buffer = Buffer.alloc(65_536);
  const random = randomFrom(1);
  const vectors = Object.values(VECTORS);
  for (let i = 0; i < 20_000; i++) {
    const mutated = mutateOctets(vectors[i % vectors.length]!, random);
    mutated.copy(buffer);
    const messages = new Messages(buffer, mutated.length);
    while (messages.next()) {
      const entry = decodeEntry(buffer, messages.start, messages.end);
      if (entry === undefined) continue;
      const octets = entry.family === 4 ? 4 : 16;
      const { original, reply } = entry;
      const lengths = [original.source, original.destination, reply.source, reply.destination].map(
        (address) => address.length,
      );
      if (lengths.some((length) => length !== octets)) t.fail(`addresses of ${lengths} octets`);
    }
  }
  t.pass('20 000 mutated messages');
});

t.test('the request for a dump of both families', async (t) => {
  t.equal(countRequest(7).toString('hex'), '14000000050101000700000000000000' + '00000000');
  t.equal(dumpRequest(7).toString('hex'), '14000000010101030700000000000000' + '00000000');
});

t.test('a delete request names the entry as the kernel named it, and its id', async (t) => {
  for (const name of ['tcp4New', 'udp6New', 'icmpNew', 'icmpv6New', 'sctpNew', 'zoneNew'] as const) {
    const entry = only(VECTORS[name]);
    const { type, data } = deleteRequest(entry);
    t.equal(type, CT_DELETE);
    // The kernel's own CTA_TUPLE_ORIG, which follows its headers.
    const tuple = VECTORS[name].subarray(20, 20 + VECTORS[name].readUInt16LE(20));
    t.equal(
      Buffer.from(data)
        .subarray(4, 4 + tuple.length)
        .toString('hex'),
      tuple.toString('hex'),
      name,
    );
    const id = `08000c00${entry.id.toString(16).padStart(8, '0')}`;
    t.match(Buffer.from(data).toString('hex'), id);
    t.equal(
      Buffer.from(data).toString('hex').includes('06001200'),
      name === 'zoneNew',
      'a zone only if it has one',
    );
  }
});
