// Where packets to an external gateway go, with the kernel's neighbour table modelled.
import pino from 'pino';
import t from 'tap';
import { CONFLICTS } from '../../../agent/uplink/conflicts.ts';
import { NEW_NEIGHBOUR, neighbourEntry, parseNeighbour } from '../../../agent/uplink/neighbours.ts';
import { NextHop } from '../../../agent/uplink/next-hop.ts';
import type { NetlinkRequest } from '../../../lib/netlink.ts';
import { address } from '../../../lib/prefix.ts';

const GATEWAY = address('172.17.0.1');
const ROUTER = '02:00:00:00:00:01';
const THIEF = '02:00:00:00:66:66';
const LINK = 7;
/** Octets of the attribute that says who has written an entry. */
const PROTOCOL = 5;

/** A kernel with one entry, or none, that refuses changes when it is told to. */
function kernel(pins: string[] = []) {
  let entry: Buffer | undefined;
  let refusal: Error | undefined;
  const hop = new NextHop(GATEWAY, pins, {
    netlink: {
      ask() {
        if (entry === undefined) throw new Error('ENOENT');
        return entry;
      },
      change({ type, data }: NetlinkRequest) {
        if (refusal !== undefined) throw refusal;
        t.equal(type, NEW_NEIGHBOUR);
        entry = Buffer.from(data);
      },
    },
    logger: pino({ enabled: false }),
    onConflict: () => {},
  });
  return {
    hop,
    /** What the kernel learned, or somebody wrote; not the agent. */
    learn(mac: string, permanent = false) {
      entry = Buffer.from(neighbourEntry(GATEWAY, LINK, { mac, permanent })).subarray(0, -PROTOCOL);
      return parseNeighbour(entry);
    },
    leave(mac: string) {
      entry = Buffer.from(neighbourEntry(GATEWAY, LINK, { mac, permanent: true }));
    },
    refuse(error: Error | undefined) {
      refusal = error;
    },
    there: () => {
      const found = entry && parseNeighbour(entry);
      return found && `${found.mac} ${found.state}`;
    },
    answer: (mac: string, now: number) =>
      hop.receive({ from: GATEWAY, mac, solicited: true }, 'all', false, now),
  };
}

t.test('an entry that the kernel learned is left alone, and put back when it was turned aside', async (t) => {
  const { hop, learn, there, answer } = kernel();
  hop.observe(LINK, 0);
  t.ok(answer(ROUTER, 0));
  t.equal(there(), undefined, 'the kernel asks when it has a packet');
  learn(ROUTER);
  t.notOk(hop.observe(LINK, 1));
  t.ok(hop.update(learn(THIEF)), 'that is told');
  t.equal(there(), `${THIEF} reachable`, 'until the router has answered');
  t.ok(answer(ROUTER, 2));
  t.equal(there(), `${ROUTER} permanent`);
  answer(ROUTER, 2 + CONFLICTS.contested);
  t.equal(there(), `${ROUTER} reachable`, 'given back when nobody claims it any more');
  t.match(hop.notes(3).join(), `${THIEF} claimed to be the external gateway ${GATEWAY}`);
  t.match(hop.notes(3).join(), `go to ${ROUTER}`);
  t.same(hop.notes(2 + CONFLICTS.memory), []);
});

t.test('what a process that died held is given back, and a pin is kept', async (t) => {
  const free = kernel();
  free.leave(ROUTER);
  free.hop.observe(LINK, 0);
  t.equal(free.there(), `${ROUTER} reachable`);
  t.equal(free.hop.mac, ROUTER, 'and packets go on there');
  const pinned = kernel([ROUTER]);
  pinned.leave(ROUTER);
  pinned.hop.observe(LINK, 0);
  pinned.hop.release();
  t.equal(pinned.there(), `${ROUTER} permanent`);
  const held = kernel();
  held.hop.observe(LINK, 0);
  held.answer(ROUTER, 0);
  held.hop.update(held.learn(THIEF));
  held.answer(ROUTER, 1);
  held.hop.release();
  t.equal(held.there(), `${ROUTER} reachable`, 'at the end of the process');
});

t.test('when the entry cannot be put right, packets are known to go elsewhere', async (t) => {
  const { hop, learn, refuse, answer } = kernel();
  hop.observe(LINK, 0);
  answer(ROUTER, 0);
  refuse(new Error('EPERM'));
  hop.update(learn(THIEF));
  answer(ROUTER, 1);
  t.match(
    hop.diversion,
    `go to ${THIEF}, but it answers from ${ROUTER}: the neighbour entry cannot be changed: EPERM`,
  );
  refuse(undefined);
  answer(ROUTER, 2);
  t.equal(hop.diversion, undefined);
  const foreign = kernel();
  foreign.learn(THIEF, true);
  foreign.hop.observe(LINK, 0);
  foreign.hop.lost(1, 1, 0);
  t.equal(foreign.hop.diversion, undefined, 'whoever made it permanent may be right');
  foreign.hop.receive({ from: GATEWAY, mac: ROUTER, solicited: true }, 'all', true, 1);
  t.match(foreign.hop.diversion, `go to ${THIEF}, but it answers from ${ROUTER}: another program made`);
  t.equal(foreign.there(), `${THIEF} permanent`, 'it is not the agent’s to change');
});

t.test('a pinned gateway answers from there alone, and packets go there before it does', async (t) => {
  const { hop, learn, there, answer } = kernel([ROUTER, '02:00:00:00:00:02']);
  learn(THIEF);
  hop.observe(LINK, 0);
  t.equal(there(), `${ROUTER} permanent`);
  t.notOk(answer(THIEF, 1));
  t.notOk(hop.lost(3, 3, 1));
  t.same(hop.claimants, [THIEF]);
  t.notOk(answer('02:00:00:00:00:02', 2));
  t.ok(hop.lost(3, 3, 2), 'another pinned one takes its place');
  t.equal(there(), '02:00:00:00:00:02 permanent');
});

t.test('the whole link is asked once a second while another host claims to be the gateway', async (t) => {
  const { hop, answer } = kernel();
  hop.observe(LINK, 0);
  answer(ROUTER, 0);
  t.notOk(hop.asksAll(1));
  const claim = () => hop.receive({ from: GATEWAY, mac: THIEF, solicited: false }, 'one', false, 2);
  claim();
  t.ok(hop.asksAll(2));
  claim();
  t.notOk(hop.asksAll(3));
  t.ok(hop.asksAll(1002));
});
