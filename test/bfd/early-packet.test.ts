import t from 'tap';
import { earlyFilter, parseEarly } from '../../bfd/early-packet.ts';
import { accepts } from '../support/bpf.ts';

const UDP = 'c0000ec8' + '000c' + '0000' + '20c80318';

/** 10.0.0.2 → 10.0.0.1, TTL 255, port 3784, four octets. */
const v4 = (changes: Record<number, number> = {}) =>
  changed(`4500002000004000ff110000${'0a000002'}${'0a000001'}${UDP}`, changes);
/** fd00::2 → fd00::1, Hop Limit 254. */
const v6 = (changes: Record<number, number> = {}) =>
  changed(`60000000000c11fe${`fd00${'0'.repeat(27)}2`}${`fd00${'0'.repeat(27)}1`}${UDP}`, changes);

function changed(hex: string, changes: Record<number, number>): Buffer {
  const packet = Buffer.from(hex, 'hex');
  for (const [at, octet] of Object.entries(changes)) packet[Number(at)] = octet;
  return packet;
}

t.test('datagrams for the single-hop port are kept, and nothing else', async (t) => {
  t.ok(accepts(earlyFilter(4), v4()));
  t.ok(accepts(earlyFilter(4), v4({ 6: 0 })), 'whether or not it may be fragmented');
  t.ok(accepts(earlyFilter(6), v6()));
  const others: [string, 4 | 6, Buffer][] = [
    ['another port', 4, v4({ 22: 0x12 })],
    ['another port', 6, v6({ 42: 0x12 })],
    ['another protocol', 4, v4({ 9: 6 })],
    ['an extension header', 6, v6({ 6: 0 })],
    ['IP options', 4, v4({ 0: 0x46 })],
    ['the first fragment', 4, v4({ 6: 0x20 })],
    ['a later fragment', 4, v4({ 7: 0x10 })],
    ['what is cut off', 4, v4().subarray(0, 21)],
  ];
  for (const [what, family, packet] of others) t.notOk(accepts(earlyFilter(family), packet), what);
});

t.test('a datagram has its addresses, TTL, interface and payload', async (t) => {
  const payload = Buffer.from('20c80318', 'hex');
  t.strictSame(parseEarly(4, v4(), 7), {
    ...{ local: '10.0.0.1', remote: '10.0.0.2', ttl: 255, ifindex: 7, payload },
  });
  t.strictSame(parseEarly(6, Buffer.concat([v6(), Buffer.alloc(6)]), 8), {
    ...{ local: 'fd00::1', remote: 'fd00::2', ttl: 254, ifindex: 8, payload },
  });
});

t.test('what is cut off, or says another length than it has, is nothing', async (t) => {
  for (let length = 0; length < v4().length; length++) {
    t.equal(parseEarly(4, v4().subarray(0, length), 1), undefined);
  }
  t.equal(parseEarly(4, v4({ 25: 7 }), 1), undefined, 'shorter than its own header');
});
