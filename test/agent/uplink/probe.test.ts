/** The sockets of probes over system calls of their own: what goes out, what counts as an answer, what fails. */
import t from 'tap';
import { type Origin, openProber, type ProbeSystem } from '../../../agent/uplink/probe.ts';
import { ARP_REPLY, ARP_REQUEST, decodeArp, encodeArp } from '../../../lib/arp.ts';
import { checksum } from '../../../lib/checksum.ts';
import { EAGAIN } from '../../../lib/linux.ts';
import { encodeAdvertisement } from '../../../lib/ndp.ts';
import { address } from '../../../lib/prefix.ts';

const FD = 42;
const ROUTER = '02:00:00:00:00:01';
const OWN = '02:00:00:00:00:0b';
const GATEWAY = address('172.17.0.1');
const ORIGIN: Origin = { ifindex: 3, interface: 'net1', mac: OWN, source: address('172.17.0.11') };
const ORIGIN6: Origin = { ...ORIGIN, source: address('fd00:172:17::11') };

/** System calls that record and answer, with the faults of the test. */
function system(faults: { bind?: string; send?: number } = {}) {
  const calls: string[] = [];
  const sent: { packet: Buffer; to: Buffer }[] = [];
  const waiting: (Buffer | number)[] = [];
  const made: ProbeSystem = {
    socket: () => FD,
    attachFilter: () => void calls.push('filter'),
    bind() {
      calls.push('bind');
      if (faults.bind) throw new Error(faults.bind);
    },
    bindToDevice: (_fd, device) => void calls.push(`device ${device}`),
    setsockopt: () => void calls.push('option'),
    signalReadable: () => void calls.push('signal'),
    sendto(_fd, packet, to) {
      sent.push({ packet: Buffer.from(packet), to: Buffer.from(to ?? []) });
      return faults.send ?? packet.length;
    },
    recv(_fd, buffer) {
      const next = waiting.shift() ?? -EAGAIN;
      if (typeof next === 'number') return next;
      buffer.set(next);
      return next.length;
    },
    close: (fd) => void calls.push(`close ${fd}`),
  };
  return { made, calls, sent, waiting };
}

const arp = (operation: number, senderMac: string, targetAddress = ORIGIN.source) =>
  encodeArp({ operation, senderMac, senderAddress: GATEWAY, targetMac: OWN, targetAddress });

t.test('ARP goes to the whole link, or to one Ethernet address', async (t) => {
  const { made, sent } = system();
  const prober = openProber('neighbour', ORIGIN, GATEWAY, made);
  prober.send(GATEWAY, undefined);
  prober.send(GATEWAY, ROUTER);
  t.match(decodeArp(sent[0]!.packet), {
    ...{ operation: ARP_REQUEST, senderMac: OWN, senderAddress: ORIGIN.source, targetAddress: GATEWAY },
  });
  t.same(
    sent.map(({ to }) => to.subarray(12, 18).toString('hex')),
    ['ffffffffffff', '020000000001'],
  );
});

t.test('only a reply to the own address is solicited; requests and other replies are not', async (t) => {
  const { made, waiting } = system();
  const prober = openProber('neighbour', ORIGIN, GATEWAY, made);
  waiting.push(
    arp(ARP_REPLY, ROUTER),
    arp(ARP_REQUEST, ROUTER),
    arp(ARP_REPLY, ROUTER, address('172.17.0.99')),
    Buffer.from('not ARP'),
  );
  t.same(prober.read(), [
    { from: GATEWAY, mac: ROUTER, solicited: true },
    { from: GATEWAY, mac: ROUTER, solicited: false },
    { from: GATEWAY, mac: ROUTER, solicited: false },
  ]);
});

t.test('an error of the link ends no read, and a flood is read in parts', async (t) => {
  const { made, waiting } = system();
  const prober = openProber('neighbour', ORIGIN, GATEWAY, made);
  // ENETDOWN comes once, between packets.
  waiting.push(arp(ARP_REPLY, ROUTER), -100, arp(ARP_REPLY, ROUTER));
  t.equal(prober.read().length, 2);
  waiting.push(...Array.from({ length: 300 }, () => arp(ARP_REPLY, ROUTER)));
  t.equal(prober.read().length, 256);
  t.equal(prober.read().length, 44);
});

t.test('a socket that cannot be prepared is closed', async (t) => {
  const { made, calls } = system({ bind: 'bind: ENODEV' });
  t.throws(() => openProber('neighbour', ORIGIN, GATEWAY, made), /ENODEV/);
  t.same(calls, ['filter', 'bind', `close ${FD}`]);
});

t.test('a full queue (ENOBUFS) is the result of the send', async (t) => {
  const { made } = system({ send: -105 });
  t.equal(openProber('neighbour', ORIGIN, GATEWAY, made).send(GATEWAY, undefined), -105);
});

t.test('a trusted Ethernet address changes the filter', async (t) => {
  const { made, calls } = system();
  openProber('neighbour', ORIGIN, GATEWAY, made).trust(ROUTER);
  t.same(calls, ['filter', 'bind', 'signal', 'filter']);
});

t.test(
  'a link without Ethernet addresses is not probed with ARP, nor one without addresses with ICMP',
  async (t) => {
    const { made } = system();
    t.throws(() => openProber('neighbour', { ...ORIGIN, mac: '' }, GATEWAY, made), TypeError);
    t.throws(() => openProber('icmp', { ...ORIGIN, source: address('0.0.0.0') }, GATEWAY, made), TypeError);
  },
);

t.test('a solicited Neighbor Advertisement to the own address is an answer', async (t) => {
  const gateway = address('fd00:172:17::1');
  const { made, waiting, sent } = system();
  const prober = openProber('neighbour', ORIGIN6, gateway, made);
  prober.send(gateway, undefined);
  prober.send(gateway, ROUTER);
  t.same(
    sent.map(({ to }) => to.subarray(12, 18).toString('hex')),
    ['3333ff000001', '020000000001'],
    'the solicited-node group, or the router',
  );
  waiting.push(Buffer.from(encodeAdvertisement(gateway, ROUTER)));
  t.match(prober.read(), [{ from: gateway, mac: ROUTER, solicited: false }], 'to all nodes: unsolicited');
});

t.test('an ICMP echo reply counts with the data of this socket, and for the target in it', async (t) => {
  const { made, waiting, sent, calls } = system();
  const target = address('192.0.2.1');
  const prober = openProber('icmp', ORIGIN, GATEWAY, made);
  t.same(calls, ['option', 'device net1', 'bind', 'signal']);
  prober.send(target, undefined);
  const reply = (change: (icmp: Buffer) => void = () => {}) => {
    const icmp = Buffer.from(sent[0]!.packet);
    icmp.writeUInt8(0, 0);
    icmp.writeUInt16BE(0, 2);
    change(icmp);
    icmp.writeUInt16BE(checksum(icmp), 2);
    const header = Buffer.alloc(20);
    header.writeUInt8(0x45, 0);
    header.writeUInt8(1, 9);
    return Buffer.concat([header, icmp]);
  };
  waiting.push(
    reply(),
    reply((icmp) => icmp.writeUInt8(icmp[8]! ^ 1, 8)),
    reply((icmp) => icmp.writeUInt8(8, 0)),
  );
  t.same(prober.read(), [{ from: target, solicited: true }], 'not with other data, nor a request');
});
