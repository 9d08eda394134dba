import t from 'tap';
import { ARP_REPLY, ARP_REQUEST, type ArpPacket, decodeArp, encodeArp } from '../../lib/arp.ts';
import { address } from '../../lib/prefix.ts';

const REQUEST: ArpPacket = {
  operation: ARP_REQUEST,
  senderMac: '02:42:ac:11:00:0b',
  senderAddress: address('172.17.0.11'),
  targetMac: '00:00:00:00:00:00',
  targetAddress: address('172.17.0.1'),
};
// What tcpdump shows of `arping -I net1 172.17.0.1`, without the Ethernet header.
const REQUEST_BYTES = Buffer.from(
  '0001080006040001' + '0242ac11000bac11000b' + '000000000000ac110001',
  'hex',
);

t.test('a request is what RFC 826 says, octet for octet', async (t) => {
  t.strictSame(encodeArp(REQUEST), REQUEST_BYTES);
  t.strictSame(decodeArp(REQUEST_BYTES), REQUEST);
});

t.test('a reply is read, with Ethernet’s padding behind it', async (t) => {
  const reply: ArpPacket = {
    operation: ARP_REPLY,
    senderMac: '02:42:ac:11:00:01',
    senderAddress: address('172.17.0.1'),
    targetMac: '02:42:ac:11:00:0b',
    targetAddress: address('172.17.0.11'),
  };
  t.strictSame(decodeArp(Buffer.concat([encodeArp(reply), Buffer.alloc(18)])), reply);
});

t.test('what is not ARP for IPv4 on Ethernet is nothing', async (t) => {
  const changed = (offset: number, value: number) => {
    const bytes = Buffer.from(REQUEST_BYTES);
    bytes[offset] = value;
    return decodeArp(bytes);
  };
  t.equal(decodeArp(REQUEST_BYTES.subarray(0, 27)), undefined, 'too short');
  t.equal(changed(1, 6), undefined, 'another hardware type');
  t.equal(changed(2, 0x86), undefined, 'another protocol');
  t.equal(changed(4, 8), undefined, 'another length of hardware addresses');
  t.equal(changed(5, 16), undefined, 'another length of protocol addresses');
});

t.throws(() => encodeArp({ ...REQUEST, senderMac: '' }), TypeError, 'a link without Ethernet address');
