// Which packets of a link wake the agent.
import t from 'tap';
import {
  claimsFilter,
  gatewayAdvertisements,
  gatewayArp,
  neighbourNotices,
} from '../../../agent/uplink/filters.ts';
import { neighbourEntry } from '../../../agent/uplink/neighbours.ts';
import { ARP_REPLY, ARP_REQUEST, encodeArp } from '../../../lib/arp.ts';
import {
  encodeAdvertisement,
  encodeDuplicateQuestion,
  encodeSolicitation,
  solicitedNode,
} from '../../../lib/ndp.ts';
import { type Address, address } from '../../../lib/prefix.ts';
import { accepts } from '../../support/bpf.ts';

const GATEWAY = { 4: address('172.17.0.1'), 6: address('fd00:172:17::1') };
const OWN = { 4: address('172.17.0.11'), 6: address('fd00:172:17::11') };
const ROUTER = '02:00:00:00:00:01';
const OTHER = '02:00:00:00:00:02';

const arp = (operation: number, senderMac: string, senderAddress: string, targetAddress: string = OWN[4]) =>
  encodeArp({
    ...{ operation, senderMac, senderAddress: address(senderAddress) },
    ...{ targetMac: '00:00:00:00:00:00', targetAddress: address(targetAddress) },
  });

t.test('of a gateway that is known its requests are left out, and nothing else', async (t) => {
  const cases: [boolean, boolean, Buffer][] = [
    [true, true, arp(ARP_REPLY, ROUTER, GATEWAY[4])],
    [true, true, arp(ARP_REPLY, OTHER, GATEWAY[4])],
    [true, false, arp(ARP_REQUEST, ROUTER, GATEWAY[4])],
    [true, true, arp(ARP_REQUEST, OTHER, GATEWAY[4])],
    [true, true, arp(ARP_REQUEST, '06:00:00:00:00:01', GATEWAY[4])],
    [false, false, arp(ARP_REPLY, ROUTER, '172.17.0.2')],
  ];
  for (const [unknown, known, packet] of cases) {
    t.equal(accepts(gatewayArp(GATEWAY[4], undefined), packet), unknown);
    t.equal(accepts(gatewayArp(GATEWAY[4], ROUTER), packet), known);
  }
  t.ok(accepts(gatewayAdvertisements(GATEWAY[6]), encodeAdvertisement(GATEWAY[6], OTHER)));
  t.notOk(accepts(gatewayAdvertisements(GATEWAY[6]), encodeAdvertisement(OWN[6], OTHER)));
});

/** A question for an address by somebody who has one. */
const solicitation = (source: Address, target: Address) =>
  encodeSolicitation({ source, sourceMac: OTHER, destination: solicitedNode(target), target });

t.test('claims of an address and probes for it are accepted, those of others are not', async (t) => {
  for (const others of [0, 20, 1500]) {
    const more = Array.from({ length: others }, (_, i) => address(`10.9.${i >> 8}.${i & 255}`));
    const filter = claimsFilter(4, [...more, OWN[4]]);
    t.ok(accepts(filter, arp(ARP_REQUEST, OTHER, OWN[4], OWN[4])), 'an announcement');
    t.ok(accepts(filter, arp(ARP_REPLY, OTHER, OWN[4])), 'a reply');
    t.ok(accepts(filter, arp(ARP_REQUEST, OTHER, '0.0.0.0', OWN[4])), 'a probe');
    if (others > 100) continue;
    t.notOk(accepts(filter, arp(ARP_REQUEST, OTHER, '172.17.0.2', OWN[4])), 'a question for it');
    t.notOk(accepts(filter, arp(ARP_REQUEST, OTHER, '0.0.0.0', '172.17.0.2')), 'a probe for another');
    t.notOk(accepts(filter, arp(ARP_REQUEST, OTHER, '172.17.0.2', '172.17.0.2')), 'of another');
  }
  for (const others of [0, 20, 1500]) {
    const more = Array.from({ length: others }, (_, i) => address(`fd00::${(i + 256).toString(16)}`));
    const filter = claimsFilter(6, [...more, OWN[6]]);
    t.ok(accepts(filter, encodeAdvertisement(OWN[6], OTHER)), 'an advertisement');
    t.ok(accepts(filter, encodeDuplicateQuestion(OWN[6])), 'duplicate address detection');
    t.ok(accepts(filter, solicitation(OWN[6], GATEWAY[6])), 'a question from it');
    if (others > 100) continue;
    t.notOk(accepts(filter, solicitation(GATEWAY[6], OWN[6])), 'a question for it');
    t.notOk(accepts(filter, encodeAdvertisement(GATEWAY[6], OTHER)), 'of another');
    t.notOk(accepts(filter, encodeDuplicateQuestion(GATEWAY[6])), 'for another');
  }
});

t.test(
  'a filter has room in a socket beside the one that it replaces, for any number of addresses',
  async (t) => {
    /** net.core.optmem_max before Linux 6.8, and the most that the kernel needs for an instruction of these. */
    const [most, each] = [20_480, 16];
    for (const many of [100, 101, 1000]) {
      const hosts = Array.from({ length: many }, (_, i) => i);
      const four = claimsFilter(
        4,
        hosts.map((i) => address(`172.17.${i >> 8}.${i & 255}`)),
      );
      const six = claimsFilter(
        6,
        hosts.map((i) => address(`fd00:172:17::${i.toString(16)}`)),
      );
      t.ok(2 * each * four.length < most, `IPv4, ${many} addresses`);
      t.ok(2 * each * six.length < most, `IPv6, ${many} addresses`);
    }
  },
);

t.test(
  'notices about the entries of the gateways are accepted, those about other neighbours are not',
  async (t) => {
    const notice = (of: Address) =>
      Buffer.concat([Buffer.alloc(16), neighbourEntry(of, 7, { mac: ROUTER, permanent: false })]);
    const filter = neighbourNotices([GATEWAY[4], GATEWAY[6]]);
    t.ok(accepts(filter, notice(GATEWAY[4])));
    t.ok(accepts(filter, notice(GATEWAY[6])));
    t.notOk(accepts(filter, notice(OWN[4])));
    t.notOk(accepts(filter, notice(OWN[6])));
  },
);
