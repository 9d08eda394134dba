/** The way out over sockets, netlink and a clock of its own: verdicts, their timing, and faults of the watching. */
import t, { type Test } from 'tap';
import { DEFAULT_UPLINK, type UplinkPolicy } from '../../../agent/policy/model.ts';
import type { ConntrackObservation } from '../../../agent/uplink/conntrack-health.ts';
import type { Answer, Method, Origin, Prober } from '../../../agent/uplink/probe.ts';
import { Uplink } from '../../../agent/uplink/uplink.ts';
import type { WayOut } from '../../../agent/uplink/way-out.ts';
import { type Address, address, familyOf } from '../../../lib/prefix.ts';
import { MessageType } from '../../../routing/parse.ts';
import type { InterfaceAddress, Link } from '../../../routing/state.ts';
import { ManualClock } from '../../support/clock.ts';

const ROUTER = '02:00:00:00:00:01';
const THIEF = '02:00:00:00:66:66';
const GATEWAY = address('172.17.0.1');
const GATEWAY6 = address('fd00:172:17::1');
const TARGET = address('192.0.2.1');
const POLICY: UplinkPolicy = { ...DEFAULT_UPLINK, interval: 200, failures: 3, recovery: 1000 };

const way = (policy: Partial<UplinkPolicy> = {}, gateway: Address = GATEWAY): WayOut => ({
  ...{ gateway, interface: 'net1', gatewayMacs: [], masquerades: true, policy: { ...POLICY, ...policy } },
});

/** The neighbours that answer, what the kernel says, and what can go wrong. */
function setUp(t: Test) {
  const clock = new ManualClock();
  const link: Link = {
    ...{ index: 3, name: 'net1', up: true, carrier: true, mtu: 1500, mac: '02:00:00:00:00:0b' },
  };
  const own = (text: string, prefixLength: number): InterfaceAddress => ({
    ...{
      family: familyOf(address(text)),
      ifindex: 3,
      address: address(text),
      prefixLength,
      scope: 0,
      flags: 0,
    },
  });
  const state = {
    links: [link],
    addresses: [own('172.17.0.11', 16), own('fd00:172:17::11', 64)],
    /** Who answers, by address: the Ethernet address. */
    answering: new Map<Address, string>([
      [GATEWAY, ROUTER],
      [GATEWAY6, ROUTER],
      [TARGET, ''],
    ]),
    conntrack: undefined as ConntrackObservation | undefined,
    netlinkError: undefined as Error | undefined,
    openError: undefined as Error | undefined,
    listenError: undefined as Error | undefined,
    sendResult: 0,
    /** Whether answers are delivered late, with the next step. */
    late: false,
  };
  const sent: string[] = [];
  const opened: { method: Method; origin: Origin; closed: boolean }[] = [];
  const changes: string[] = [];
  const lines: string[] = [];
  const roundTrips: string[] = [];
  /** When links, and when the connection tracking table were read. */
  const reads = { links: [] as number[], table: [] as number[] };
  let arrive = () => {};
  const prober = (method: Method, origin: Origin): Prober => {
    if (state.openError) throw state.openError;
    const socket = { method, origin, closed: false };
    opened.push(socket);
    const answers: Answer[] = [];
    return {
      send(target, mac) {
        if (state.sendResult < 0) return state.sendResult;
        sent.push(`${method} ${target} ${mac ?? 'all'}`);
        const from = state.answering.get(target);
        if (from === undefined) return 0;
        answers.push({ from: target, ...(method === 'neighbour' && { mac: from }), solicited: true });
        if (!state.late) clock.after(1, arrive);
        return 0;
      },
      read: () => answers.splice(0),
      trust: () => {},
      close: () => {
        socket.closed = true;
      },
    };
  };
  const log = (_fields: object, message: string) => void lines.push(message);
  const uplink: Uplink = new Uplink({
    netlink: {
      dump(type: number) {
        if (state.netlinkError) throw state.netlinkError;
        if (type === MessageType.GETLINK) {
          reads.links.push(clock.now());
          return state.links as never[];
        }
        return (type === MessageType.GETADDR ? state.addresses : []) as never[];
      },
      ask() {
        throw new Error('ENOENT');
      },
      change: () => {},
    },
    conntrack() {
      reads.table.push(clock.now());
      return state.conntrack;
    },
    logger: { debug: log, info: log, warn: log, error: log },
    onChange: () => void changes.push(JSON.stringify(uplink.readiness(4)?.ready)),
    onConflict: () => {},
    onRoundTrip: (family, ms) => void roundTrips.push(`IPv${family} ${ms}`),
    sockets: {
      openProber: prober,
      listenNeighbours() {
        if (state.listenError) throw state.listenError;
        return { close: () => {} };
      },
      onArrival(run) {
        arrive = run;
        return () => {
          arrive = () => {};
        };
      },
    },
    clock,
  });
  t.teardown(() => uplink.close());
  return { uplink, clock, state, sent, opened, changes, lines, roundTrips, reads };
}

t.test('a gateway that answers is up with its first answer, and probed alone from then on', async (t) => {
  const { uplink, clock, sent, changes } = setUp(t);
  uplink.configure([way()]);
  t.equal(uplink.readiness(4), undefined, 'nothing before the first answer');
  t.equal(uplink.watchedAt, undefined);
  await clock.advance(1);
  t.same(uplink.readiness(4), { ready: true });
  t.same(changes, ['true']);
  t.not(uplink.watchedAt, undefined);
  await clock.advance(1000);
  t.same([sent[0], sent.at(-1)], [`neighbour ${GATEWAY} all`, `neighbour ${GATEWAY} ${ROUTER}`]);
});

t.test('the answer of the gateway measures a round trip, and that of a target only without it', async (t) => {
  const { uplink, clock, state, roundTrips } = setUp(t);
  state.answering.set(TARGET, ROUTER);
  uplink.configure([way({ targets: [TARGET] })]);
  await clock.advance(1);
  t.same(roundTrips, ['IPv4 1'], 'of two answers');
  uplink.configure([way({ probe: 'none', targets: [TARGET] })]);
  await clock.advance(1000);
  t.ok(roundTrips.length > 1, 'a target stands for the family');
  roundTrips.length = 0;
  state.answering.clear();
  await clock.advance(2000);
  t.same(roundTrips, [], 'silence is no round trip');
});

t.test('silence is down after failures × interval, and up again after the hold', async (t) => {
  const { uplink, clock, state, changes } = setUp(t);
  uplink.configure([way()]);
  await clock.advance(1000);
  state.answering.delete(GATEWAY);
  await clock.advance(POLICY.failures * POLICY.interval + 250);
  t.match(uplink.readiness(4), { ready: false, diagnostic: 6, reason: /172\.17\.0\.1 does not answer ARP/ });
  state.answering.set(GATEWAY, ROUTER);
  await clock.advance(POLICY.recovery - 100);
  t.match(uplink.readiness(4), { ready: false });
  await clock.advance(400);
  t.same(uplink.readiness(4), { ready: true });
  t.same(changes, ['true', 'false', 'true']);
});

t.test('answers that came while the process did not run count before probes are lost', async (t) => {
  const { uplink, clock, state, changes } = setUp(t);
  uplink.configure([way()]);
  await clock.advance(1000);
  state.late = true;
  await clock.advance(200);
  clock.jump(5000);
  await clock.advance(300);
  t.same(uplink.readiness(4), { ready: true });
  t.same(changes, ['true']);
});

t.test('a link that is lost is down at once, and its probes start over', async (t) => {
  const { uplink, clock, state, sent } = setUp(t);
  uplink.configure([way()]);
  await clock.advance(500);
  state.links[0]!.carrier = false;
  uplink.observe();
  t.match(uplink.readiness(4), { ready: false, reason: 'the external interface net1 has no carrier' });
  const before = sent.length;
  await clock.advance(1000);
  t.equal(sent.length, before, 'nothing is sent meanwhile');
  state.links[0]!.carrier = true;
  uplink.observe();
  await clock.advance(POLICY.recovery + 300);
  t.same(uplink.readiness(4), { ready: true });
});

t.test('without an address masquerading is down, and an interface that is gone is named', async (t) => {
  const { uplink, state } = setUp(t);
  state.addresses = [];
  uplink.configure([way()]);
  t.match(uplink.readiness(4), { reason: /net1 has no usable IPv4 address/ });
  state.links = [];
  uplink.observe();
  t.match(uplink.readiness(4), { reason: /net1 does not exist/ });
});

t.test('links that cannot be read change no verdict, and are logged once', async (t) => {
  const { uplink, clock, state, lines } = setUp(t);
  uplink.configure([way()]);
  await clock.advance(500);
  const { watchedAt } = uplink;
  state.netlinkError = new Error('ENOBUFS');
  await clock.advance(5000);
  t.same(uplink.readiness(4), { ready: true });
  t.ok(uplink.watchedAt! - watchedAt! < 1000, 'but it is not watched meanwhile');
  t.equal(lines.filter((line) => line.startsWith('the uplink cannot be watched')).length, 1);
});

t.test('a socket that cannot be opened (EPERM) counts as nothing, and is noted', async (t) => {
  const { uplink, clock, state } = setUp(t);
  state.openError = new Error('socket: EPERM');
  uplink.configure([way()]);
  await clock.advance(3000);
  t.same(uplink.readiness(4), { ready: true });
  t.match(uplink.view().notes, [/172\.17\.0\.1 cannot be probed, so its failure will not be seen: .*EPERM/]);
  state.openError = undefined;
  await clock.advance(1500);
  t.same(uplink.view().notes, []);
});

t.test('a send that fails in the network is a lost probe, and one that fails here is none', async (t) => {
  const { uplink, clock, state } = setUp(t);
  uplink.configure([way()]);
  await clock.advance(500);
  state.sendResult = -105;
  await clock.advance(3000);
  t.same(uplink.readiness(4), { ready: true }, 'ENOBUFS');
  state.sendResult = -113;
  await clock.advance(3000);
  t.match(uplink.readiness(4), { ready: false }, 'EHOSTUNREACH');
});

t.test('all targets silent is down, one that answers is enough', async (t) => {
  const { uplink, clock, state } = setUp(t);
  const second = address('192.0.2.2');
  uplink.configure([way({ targets: [TARGET, second] })]);
  await clock.advance(2000);
  t.same(uplink.readiness(4), { ready: true });
  state.answering.delete(TARGET);
  await clock.advance(2000);
  t.match(uplink.readiness(4), { ready: false, reason: /no target answers ICMP echo/ });
});

t.test('a full connection tracking table takes both families down', async (t) => {
  const { uplink, clock, state } = setUp(t);
  uplink.configure([way(), way({}, GATEWAY6)]);
  await clock.advance(1000);
  for (let refused = 0; refused <= 2000; refused += 1000) {
    state.conntrack = { entries: 1000, limit: 1000, pressure: { refused, evicted: 0 } };
    await clock.advance(1000);
  }
  for (const family of [4, 6] as const) {
    t.match(uplink.readiness(family), { ready: false, reason: /connection tracking table is 100 % full/ });
  }
});

t.test('a gateway that is silent is replaced by another host that answers in its place', async (t) => {
  const { uplink, clock, state } = setUp(t);
  uplink.configure([way()]);
  await clock.advance(1000);
  state.answering.set(GATEWAY, THIEF);
  await clock.advance(2000);
  t.same(uplink.readiness(4), { ready: true });
  t.match(uplink.view().probes, [{ address: GATEWAY, mac: THIEF }]);
});

t.test('another origin opens the sockets again, and closing closes them all', async (t) => {
  const { uplink, clock, state, opened } = setUp(t);
  uplink.configure([way()]);
  await clock.advance(500);
  state.links = [{ ...state.links[0]!, index: 7 }];
  state.addresses = state.addresses.map((one) => ({ ...one, ifindex: 7 }));
  uplink.observe();
  await clock.advance(500);
  t.same(
    opened.map(({ origin, closed }) => [origin.ifindex, closed]),
    [
      [3, true],
      [7, false],
    ],
  );
  uplink.close();
  t.ok(opened.every(({ closed }) => closed));
  // An answer is under way.
  await clock.advance(1);
  t.equal(clock.armed, 0);
});

t.test('the same ways keep what is known; a new gateway is unknown until it answers', async (t) => {
  const { uplink, clock, sent } = setUp(t);
  uplink.configure([way()]);
  await clock.advance(500);
  const before = sent.length;
  uplink.configure([way()]);
  t.equal(sent.length, before);
  uplink.configure([]);
  t.same(uplink.readiness(4), { ready: true }, 'what is not watched is no obstacle');
  t.same(uplink.view().families, []);
});

t.test(
  'links are read every 5 s while the way out works, each second otherwise; the table each second',
  async (t) => {
    const { uplink, clock, state, reads } = setUp(t);
    const readsIn = async (ms: number) => {
      const before = { links: reads.links.length, table: reads.table.length };
      await clock.advance(ms);
      return { links: reads.links.length - before.links, table: reads.table.length - before.table };
    };
    uplink.configure([way()]);
    await clock.advance(1);
    t.same(uplink.readiness(4), { ready: true });
    t.same(await readsIn(20_000), { links: 4, table: 20 });
    state.answering.delete(GATEWAY);
    await clock.advance(1000);
    t.match(uplink.readiness(4), { ready: false });
    t.same(await readsIn(10_000), { links: 10, table: 10 });
  },
);

t.test('without the announcements of neighbour entries links are read each second', async (t) => {
  const { uplink, clock, state, reads } = setUp(t);
  state.listenError = new Error('EPERM');
  uplink.configure([way()]);
  await clock.advance(1);
  const before = reads.links.length;
  await clock.advance(10_000);
  t.same([uplink.readiness(4), reads.links.length - before], [{ ready: true }, 10]);
});
