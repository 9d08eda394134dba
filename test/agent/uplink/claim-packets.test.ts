import t from 'tap';
import { announcementPackets, decodeClaims, probePacket } from '../../../agent/uplink/claim-packets.ts';
import { ARP_REPLY, encodeArp } from '../../../lib/arp.ts';
import { MAC_ZERO } from '../../../lib/mac.ts';
import { encodeSolicitation } from '../../../lib/ndp.ts';
import { address } from '../../../lib/prefix.ts';

const MAC = '02:00:00:00:00:01';
const OTHER = '02:00:00:00:00:02';
const V4 = address('172.17.0.50');
const V6 = address('fd00:172:17::50');

t.test('a probe is read as a probe of the host that sent it', async (t) => {
  for (const [own, to] of [
    [V4, 'ff:ff:ff:ff:ff:ff'],
    [V6, '33:33:ff:00:00:50'],
  ] as const) {
    const { packet, to: destination } = probePacket(own, MAC);
    t.equal(destination, to);
    t.strictSame(decodeClaims(Buffer.from(packet), MAC), [
      { address: own, message: { kind: 'probe', mac: MAC } },
    ]);
  }
});

t.test('an announcement is read as a claim, to all on the link', async (t) => {
  for (const [own, to, count] of [
    [V4, 'ff:ff:ff:ff:ff:ff', 2],
    [V6, '33:33:00:00:00:01', 1],
  ] as const) {
    const packets = announcementPackets(own, MAC);
    t.equal(packets.length, count);
    for (const { packet, to: destination } of packets) {
      t.equal(destination, to);
      t.strictSame(decodeClaims(Buffer.from(packet), OTHER), [
        { address: own, message: { kind: 'claim', mac: MAC } },
      ]);
    }
  }
});

t.test('whoever asks from an address claims it; a reply from no address says nothing', async (t) => {
  const target = address('fd00:172:17::1');
  const solicitation = encodeSolicitation({ source: V6, sourceMac: MAC, destination: target, target });
  t.strictSame(decodeClaims(solicitation, MAC), [{ address: V6, message: { kind: 'claim', mac: MAC } }]);
  const reply = encodeArp({
    ...{ operation: ARP_REPLY, senderMac: MAC, senderAddress: address('0.0.0.0') },
    ...{ targetMac: MAC_ZERO, targetAddress: V4 },
  });
  t.strictSame(decodeClaims(reply, MAC), []);
  t.strictSame(decodeClaims(Buffer.from('junk'), MAC), []);
});
