import t from 'tap';
import { decodeEcho, encodeEcho } from '../../../agent/uplink/icmp.ts';
import { checksum } from '../../../lib/checksum.ts';

const ECHO = { identifier: 0x1234, sequence: 7, data: Buffer.from('probe') };
/** An IPv4 header of ICMP with `words` words of options. */
const ipv4 = (words = 0): Buffer => {
  const header = Buffer.alloc(20 + 4 * words);
  header.writeUInt8(0x45 + words, 0);
  header.writeUInt8(1, 9);
  return header;
};
const reply = (bytes: Buffer, type: number): Buffer => {
  const copy = Buffer.from(bytes);
  copy.writeUInt8(type, 0);
  return copy;
};

t.test('a request is what RFC 792 and RFC 4443 say', async (t) => {
  t.equal(encodeEcho(4, ECHO).toString('hex'), '0800a0ef1234000770726f6265');
  t.equal(checksum(encodeEcho(4, ECHO)), 0);
  t.match(encodeEcho(6, ECHO).toString('hex'), /^8000000012340007/, 'IPv6: the kernel fills the checksum in');
});

t.test('a reply is read as a raw socket gives it', async (t) => {
  t.match(decodeEcho(4, Buffer.concat([ipv4(), reply(encodeEcho(4, ECHO), 0)])), ECHO);
  t.match(decodeEcho(4, Buffer.concat([ipv4(3), reply(encodeEcho(4, ECHO), 0)])), ECHO, 'IP options');
  t.match(decodeEcho(6, reply(encodeEcho(6, ECHO), 129)), ECHO);
});

t.test('anything else is nothing', async (t) => {
  t.equal(decodeEcho(4, Buffer.concat([ipv4(), encodeEcho(4, ECHO)])), undefined, 'a request');
  t.equal(decodeEcho(6, encodeEcho(6, ECHO)), undefined, 'a request in IPv6');
  t.equal(decodeEcho(4, Buffer.alloc(19)), undefined, 'no whole IP header');
  t.equal(decodeEcho(4, Buffer.concat([ipv4(), Buffer.alloc(7)])), undefined, 'no whole ICMP header');
  const udp = Buffer.concat([ipv4(), reply(encodeEcho(4, ECHO), 0)]);
  udp.writeUInt8(17, 9);
  t.equal(decodeEcho(4, udp), undefined, 'another protocol');
  const code = reply(encodeEcho(6, ECHO), 129);
  code.writeUInt8(1, 1);
  t.equal(decodeEcho(6, code), undefined, 'a code');
});
