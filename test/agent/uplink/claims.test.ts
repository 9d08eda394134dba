/** Announcing, defending and probing for addresses, over sockets and a clock of their own. */
import t, { type Test } from 'tap';
import { CLAIM } from '../../../agent/uplink/claim.ts';
import type { ClaimPacket } from '../../../agent/uplink/claim-packets.ts';
import type { ClaimSockets, Listened, ReceivedClaim } from '../../../agent/uplink/claim-sockets.ts';
import { Claims, type LinkIdentity } from '../../../agent/uplink/claims.ts';
import { ARP_REPLY, decodeArp } from '../../../lib/arp.ts';
import { type Address, address } from '../../../lib/prefix.ts';
import { ManualClock } from '../../support/clock.ts';

const OWN = '02:00:00:00:00:0b';
const OTHER = '02:00:00:00:00:99';
const LINK: LinkIdentity = { ifindex: 3, mac: OWN, carrierChanges: 1 };
const VIRTUAL = address('172.17.0.50');
const SECOND = address('172.17.0.51');

/** What a packet about an address is: `probe`, `announce` (both ARP forms), or a Neighbor Discovery packet. */
function kindOf({ packet }: ClaimPacket): string {
  const arp = decodeArp(Buffer.from(packet));
  if (arp === undefined) return 'nd';
  if (arp.operation === ARP_REPLY) return 'reply';
  return arp.senderAddress === address('0.0.0.0') ? 'probe' : 'announce';
}

function setUp(t: Test, faults: { listen?: string; send?: Error } = {}) {
  const clock = new ManualClock();
  const sent: string[] = [];
  const packets: ClaimPacket[] = [];
  const received: ReceivedClaim[] = [];
  const changes: Address[] = [];
  const lines: string[] = [];
  let conflicts = 0;
  let listened: readonly Listened[] = [];
  let arrive = () => {};
  const sockets: ClaimSockets = {
    listen(addresses) {
      listened = addresses;
      return faults.listen;
    },
    receive: () => received.splice(0),
    send(to, _ifindex, packet) {
      if (faults.send) throw faults.send;
      packets.push(packet);
      sent.push(`${kindOf(packet)} ${to}`);
    },
    onArrival(run) {
      arrive = run;
      return () => {
        arrive = () => {};
      };
    },
  };
  const claims = new Claims({ sockets, clock, random: () => 0 });
  claims.listen({
    logger: { debug() {}, info() {}, error() {}, warn: (_fields, message) => void lines.push(message) },
    onChange: (one) => void changes.push(one),
    onConflict: (count) => {
      conflicts += count;
    },
  });
  t.teardown(() => claims.close());
  return {
    ...{ claims, clock, sent, packets, changes, lines, faults },
    conflicts: () => conflicts,
    listened: () => listened,
    /** Another host sends something about an address. */
    hear(about: Address, kind: 'claim' | 'probe', mac = OTHER, ifindex = LINK.ifindex) {
      received.push({ address: about, message: { kind, mac }, ifindex });
      arrive();
    },
  };
}

const wanted = (...addresses: Address[]) => new Map(addresses.map((one) => [one, LINK]));

t.test(
  'an address that does not answer three probes is free, and announced once it is assigned',
  async (t) => {
    const { claims, clock, sent, changes } = setUp(t);
    t.same(claims.probe(wanted(VIRTUAL)), new Set());
    await clock.advance(CLAIM.probes * CLAIM.probeInterval);
    t.same(
      sent,
      Array.from({ length: CLAIM.probes }, () => `probe ${VIRTUAL}`),
    );
    t.same(changes, [VIRTUAL], 'the reconcile is asked for');
    t.same(claims.probe(wanted(VIRTUAL)), new Set([VIRTUAL]));
    t.ok(claims.isFree(VIRTUAL));
    sent.length = 0;
    claims.assigned(VIRTUAL);
    await clock.advance(5000);
    t.equal(sent.filter((line) => line === `announce ${VIRTUAL}`).length, CLAIM.announcements.length);
  },
);

t.test('an address that another host uses is a conflict until that host is silent', async (t) => {
  const { claims, clock, hear } = setUp(t);
  claims.probe(wanted(VIRTUAL));
  hear(VIRTUAL, 'claim');
  t.same(claims.conflicts(), [{ address: VIRTUAL, holder: OTHER }]);
  t.notOk(claims.isFree(VIRTUAL));
  t.same(claims.notes(), [`${VIRTUAL} is not taken: ${OTHER} has it`]);
  await clock.advance(CLAIM.conflictInterval);
  hear(VIRTUAL, 'claim');
  await clock.advance(CLAIM.conflictInterval + CLAIM.probes * CLAIM.probeInterval);
  t.same(claims.conflicts(), []);
  t.ok(claims.isFree(VIRTUAL));
});

t.test('a claim that arrives between the comparison and the assignment is seen in time', async (t) => {
  const { claims, clock, hear } = setUp(t);
  claims.probe(wanted(VIRTUAL));
  await clock.advance(1000);
  t.ok(claims.isFree(VIRTUAL));
  hear(VIRTUAL, 'claim');
  t.notOk(claims.isFree(VIRTUAL));
});

t.test('an assigned address is announced at once, and defended with a growing pause', async (t) => {
  const { claims, clock, sent, hear, conflicts, lines } = setUp(t);
  claims.setAssigned(wanted(VIRTUAL));
  await clock.advance(10_000);
  sent.length = 0;
  for (let i = 0; i < 500; i++) {
    hear(VIRTUAL, 'claim');
    await clock.advance(20);
  }
  const answers = sent.filter((line) => line === `announce ${VIRTUAL}`).length;
  t.ok(answers >= 10 && answers <= 20, `${answers} announcements in 10 s`);
  t.equal(conflicts(), 500, 'every claim is counted');
  t.equal(lines.length, 1, 'one line');
  t.match(claims.notes(), [/claimed 172\.17\.0\.50 within the last minute, which this gateway holds/]);
});

t.test('claims on another link, and those of the own Ethernet address, do not count', async (t) => {
  const { claims, hear, conflicts } = setUp(t);
  claims.setAssigned(wanted(VIRTUAL));
  hear(VIRTUAL, 'claim', OTHER, 9);
  hear(VIRTUAL, 'claim', OWN);
  hear(SECOND, 'claim');
  t.equal(conflicts(), 0);
});

t.test('a new link, or a carrier that came back, is announced again', async (t) => {
  const { claims, clock, sent } = setUp(t);
  claims.setAssigned(wanted(VIRTUAL));
  await clock.advance(10_000);
  sent.length = 0;
  claims.setAssigned(wanted(VIRTUAL));
  await clock.advance(10_000);
  t.same(sent, [], 'the same link: nothing');
  claims.setAssigned(new Map([[VIRTUAL, { ...LINK, carrierChanges: 3 }]]));
  await clock.advance(0);
  t.ok(sent.includes(`announce ${VIRTUAL}`));
});

t.test('hundreds of addresses are announced in bursts, all within a second', async (t) => {
  const { claims, clock, sent } = setUp(t);
  const many = Array.from({ length: 300 }, (_, i) => address(`172.18.${i >> 8}.${i & 255}`));
  claims.setAssigned(wanted(...many));
  const first = new Set(sent).size;
  t.ok(first < 100, `${first} at once`);
  await clock.advance(900);
  t.equal(new Set(sent.filter((line) => line.startsWith('announce'))).size, 300);
});

t.test('a socket that cannot be opened is a note, and nothing waits for it', async (t) => {
  const { claims, clock } = setUp(t, { listen: 'socket: EPERM', send: new Error('socket: EPERM') });
  claims.setAssigned(wanted(SECOND));
  claims.probe(wanted(VIRTUAL));
  await claims.settled();
  t.same(claims.notes(), [
    `${VIRTUAL} is not taken: cannot probe for it: socket: EPERM`,
    'addresses are neither announced nor defended: socket: EPERM',
  ]);
  await clock.advance(10_000);
  t.notOk(claims.isFree(VIRTUAL), 'it is never assigned unprobed');
});

t.test('a probe that fails is retried, and the address is free when probes go out again', async (t) => {
  const { claims, clock, faults, changes } = setUp(t, { send: new Error('send: ENETDOWN') });
  claims.probe(wanted(VIRTUAL));
  await clock.advance(2000);
  t.notOk(claims.isFree(VIRTUAL));
  t.equal(changes.length, 1, 'the problem is reported once');
  delete faults.send;
  await clock.advance(CLAIM.conflictInterval + CLAIM.probes * CLAIM.probeInterval);
  t.ok(claims.isFree(VIRTUAL));
});

t.test('a clock that jumps does not make an unprobed address free', async (t) => {
  const { claims, clock, sent } = setUp(t);
  claims.probe(wanted(VIRTUAL));
  clock.jump(60_000);
  await clock.advance(10);
  t.equal(sent.length, 2, 'one probe was due, not all of them');
  t.notOk(claims.isFree(VIRTUAL));
});

t.test(
  'a contested address is announced when it is assigned, and not defended until it is contested no more',
  async (t) => {
    const { claims, clock, sent, hear, conflicts } = setUp(t);
    claims.setAssigned(new Map([[VIRTUAL, { ...LINK, contested: true as const }]]));
    await clock.advance(10_000);
    t.ok(sent.length > 0, 'announced');
    sent.length = 0;
    hear(VIRTUAL, 'claim');
    await clock.advance(10_000);
    t.same([sent, conflicts(), claims.notes()], [[], 0, []], 'the other one has it too');
    claims.setAssigned(wanted(VIRTUAL));
    await clock.advance(10_000);
    t.same(sent, [], 'it is not a new address then');
    hear(VIRTUAL, 'claim');
    await clock.advance(10_000);
    t.ok(sent.length > 0, 'defended');
    t.equal(conflicts(), 1);
  },
);

t.test('a probe for an IPv4 address with a proxy entry is answered, to the host that probes', async (t) => {
  const six = address('fd00:172:17::50');
  for (const more of [{}, { contested: true as const }]) {
    const { claims, clock, packets, hear, conflicts } = setUp(t);
    const link = { ...LINK, proxied: true as const, ...more };
    claims.setAssigned(
      new Map([
        [VIRTUAL, link],
        [SECOND, LINK],
        [six, link],
      ]),
    );
    await clock.advance(10_000);
    packets.length = 0;
    for (const one of [VIRTUAL, SECOND, six]) hear(one, 'probe');
    await clock.advance(10_000);
    t.equal(packets.length, 1, 'the kernel answers the others');
    const [{ packet, to }] = packets as [ClaimPacket];
    t.same(
      [to, decodeArp(Buffer.from(packet))],
      [
        OTHER,
        {
          ...{ operation: ARP_REPLY, senderMac: OWN, senderAddress: VIRTUAL },
          ...{ targetMac: OTHER, targetAddress: address('0.0.0.0') },
        },
      ],
    );
    t.equal(conflicts(), 0);
  }
});

t.test('one that was probed for and got its proxy entry answers probes from then on', async (t) => {
  const { claims, clock, sent, hear } = setUp(t);
  claims.probe(new Map([[VIRTUAL, { ...LINK, proxied: true as const }]]));
  await clock.advance(CLAIM.probes * CLAIM.probeInterval);
  claims.assigned(VIRTUAL);
  await clock.advance(10_000);
  sent.length = 0;
  hear(VIRTUAL, 'probe');
  t.same(sent, [`reply ${VIRTUAL}`]);
});

t.test('what is no longer wanted or assigned is forgotten, and closing stops everything', async (t) => {
  const { claims, clock, listened } = setUp(t);
  claims.probe(wanted(VIRTUAL, SECOND));
  claims.probe(wanted(SECOND));
  t.same(
    listened().map(({ address }) => address),
    [SECOND],
  );
  claims.setAssigned(wanted(VIRTUAL));
  claims.removed(VIRTUAL);
  claims.close();
  t.same(listened(), []);
  t.equal(clock.armed, 0);
});
