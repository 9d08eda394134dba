/** Engines talking to each other, and to a raw socket, over loopback. No privilege is needed. */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { BfddControl } from '../../bfd/bfdd-control.ts';
import type { EarlyPacket } from '../../bfd/early-packet.ts';
import { Engine, type EngineOptions } from '../../bfd/engine.ts';
import type { BfdIntent, PeerIntent, SessionReport } from '../../bfd/intent.ts';
import { decode, encode, type Packet } from '../../bfd/packet.ts';
import type { Endpoint } from '../../bfd/receive-filter.ts';
import { Transport } from '../../bfd/transport.ts';
import { rememberingLog } from './silent.ts';

const READY: BfdIntent['readiness'] = { 4: { ready: true }, 6: { ready: true } };
const NOT_READY = { ready: false, diagnostic: 6, reason: 'the uplink is down' } as const;

// Addresses of our own, so that test runs beside each other do not meet.
const NET = `127.${1 + (process.pid % 250)}.${(process.pid >> 8) % 250}`;
let host = 0;
const address = () => `${NET}.${++host}`;

const peer = (local: string, remote: string, changes: Partial<PeerIntent> = {}): PeerIntent => ({
  local,
  remote,
  desiredMinTx: 50_000,
  requiredMinRx: 50_000,
  detectMult: 5,
  role: 'passive',
  minTTL: 254,
  multihop: false,
  adoptDiscriminator: true,
  ...changes,
});

/** An engine that ends with its test, the lines that it logs, and `bfdd-control` for it. */
function engine(t: Test, options: Partial<EngineOptions> = {}) {
  const log = rememberingLog();
  const made = new Engine({ logger: log, ...options });
  t.teardown(() => made.abandon());
  const control = new BfddControl(made, '1');
  return Object.assign(made, {
    lines: log.lines,
    command: (words: string[]) => control.execute(words),
  });
}

const directory = (t: Test): string => {
  const path = mkdtempSync(join(tmpdir(), 'bfd-test-'));
  t.teardown(() => rmSync(path, { recursive: true }));
  return path;
};

/** The first packet of a session, but for its discriminator. */
const DOWN: Omit<Packet, 'myDiscriminator'> = {
  diagnostic: 0,
  state: 'Down',
  poll: false,
  final: false,
  controlPlaneIndependent: false,
  authenticationPresent: false,
  demand: false,
  detectMult: 5,
  length: 24,
  yourDiscriminator: 0,
  desiredMinTx: 50_000,
  requiredMinRx: 50_000,
  requiredMinEchoRx: 0,
};

/** Waits, at most 15 s. */
async function until(what: string, condition: () => boolean): Promise<void> {
  const end = performance.now() + 15_000;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`not within 15 s: ${what}`);
    await sleep(5);
  }
}

const only = (e: Engine): SessionReport => e.report().sessions[0]!;
const isUp = (e: Engine) =>
  e.report().sessions.length > 0 && e.report().sessions.every((s) => s.state === 'Up');
/** Transitions out of Up, the count that must not grow. */
const lost = (e: Engine): number =>
  e
    .report()
    .sessions.flatMap((s) => s.transitions)
    .filter((transition) => transition.from === 'Up')
    .reduce((sum, { count }) => sum + count, 0);

/** A passive engine and an active one, Up. */
async function pair(t: Test, options: Partial<EngineOptions> = {}, changes: Partial<PeerIntent> = {}) {
  const [a, b] = [address(), address()];
  const passive = engine(t, options);
  const active = engine(t);
  const intents = [peer(a, b, changes), peer(b, a, { ...changes, role: 'active' })] as const;
  passive.configure({ peers: [intents[0]], readiness: READY });
  active.configure({ peers: [intents[1]], readiness: READY });
  await until('both Up', () => isUp(passive) && isUp(active));
  return { a, b, passive, active, intents };
}

/** A raw peer: what it hears, and a way to say something. */
async function raw(t: Test, local: string, remote: string) {
  const socket: Socket = createSocket('udp4');
  const heard: (Packet | string)[] = [];
  const ports = new Set<number>();
  socket.on('message', (payload, from) => {
    heard.push(decode(payload));
    ports.add(from.port);
  });
  socket.bind(3784, local);
  await once(socket, 'listening');
  socket.setTTL(255);
  t.teardown(() => socket.close());
  const packet: Packet = { ...DOWN, myDiscriminator: 0x77 };
  return {
    socket,
    heard,
    ports,
    packets: () => heard.filter((p) => typeof p !== 'string'),
    say: (changes: Partial<Packet> = {}) => socket.send(encode({ ...packet, ...changes }), 3784, remote),
    sayBytes: (bytes: Uint8Array) => socket.send(bytes, 3784, remote),
  };
}

t.test('a passive and an active session come Up and report what they agreed on', async (t) => {
  const { passive, active, a, b } = await pair(t);
  t.match(only(passive), {
    id: 1,
    local: a,
    remote: b,
    role: 'passive',
    remoteState: 'Up',
    localDiagnostic: 0,
    detectionTime: 250_000,
    transmitInterval: 50_000,
    transitions: [
      { from: 'Down', to: 'Init', diagnostic: 0, count: 1 },
      { from: 'Init', to: 'Up', diagnostic: 0, count: 1 },
    ],
  });
  t.equal(only(passive).remoteDiscriminator, only(active).localDiscriminator);
  await until('packets are counted', () => only(passive).packetsIn > 5 && only(passive).packetsOut > 5);
  const { lateness } = passive.report();
  t.ok(lateness.count > 0);
  t.equal(lateness.bounds.length, lateness.buckets.length);
  t.strictSame(
    lateness.buckets.toSorted((x, y) => x - y),
    lateness.buckets,
    'cumulative',
  );
});

t.test('a new session answers at once what its peer has sent before it began', async (t) => {
  const [local, remote] = [address(), address()];
  const stranger = address();
  const payload = encode({ ...DOWN, myDiscriminator: 0x77 });
  const early = (ttl: number, from: string): EarlyPacket => ({
    ...({ local, remote: from, ttl, ifindex: 1, payload: Buffer.from(payload) } as EarlyPacket),
  });
  const waiting = [early(253, remote), early(255, stranger)];
  const listener = {
    closed: 0,
    take: (to: string, from: string) => waiting.filter((one) => one.local === to && one.remote === from),
    close() {
      this.closed++;
    },
  };
  const intent = { peers: [peer(local, remote)], readiness: READY };
  const cautious = engine(t, { early: listener });
  cautious.configure(intent);
  t.match(only(cautious), { state: 'Down', remoteDiscriminator: 0 }, 'not where its TTL is too low');
  cautious.abandon();
  t.equal(listener.closed, 1);

  waiting.push(early(254, remote));
  const made = engine(t, { early: listener });
  const held = engine(t, { early: listener });
  made.configure(intent);
  t.match(only(made), { state: 'Init', remoteDiscriminator: 0x77 });
  held.configure({ ...intent, readiness: { 4: NOT_READY } });
  t.match(only(held), { state: 'AdminDown' }, 'not as long as it may not come Up');
});

t.test('a gate takes every session out of Up whatever the intents, until it opens', async (t) => {
  const { passive, active, intents } = await pair(t);
  passive.gate(NOT_READY);
  t.match(only(passive), { state: 'AdminDown', localDiagnostic: 6 });
  await until('the peer hears of it', () => only(active).state !== 'Up');
  passive.configure({ peers: [intents[0]], readiness: READY });
  t.equal(only(passive).state, 'AdminDown', 'an intent does not open it');
  passive.gate({ ready: true });
  await until('both Up again', () => isUp(passive) && isUp(active));
});

t.test('a resumed session is taken out of Up without any intent', async (t) => {
  const checkpoint = join(directory(t), 'bfd.json');
  const { passive, active } = await pair(t, { checkpoint });
  passive.abandon();
  const next = engine(t, { checkpoint });
  t.ok(isUp(next), 'resumed');
  next.gate(NOT_READY);
  await until('the peer hears of it', () => only(active).state !== 'Up');
  next.gate({ ready: true });
  await until('both Up again', () => isUp(next) && isUp(active));
});

t.test('a state change is logged with session, event, old and new state, diagnostic', async (t) => {
  const { passive, a, b } = await pair(t);
  const line = passive.lines.find(({ fields }) => fields.to === 'Up');
  t.match(line, {
    level: 'info',
    fields: { session: { id: 1, local: a, remote: b }, event: 'received Up', from: 'Init', diagnostic: 0 },
  });
  const held = () => passive.lines.filter(({ fields }) => fields.to === 'AdminDown').at(-1)?.fields;
  passive.gate(NOT_READY);
  t.match(held(), { diagnostic: 6, reason: 'the uplink is down' }, 'and why it is held');
  passive.gate({ ready: true });
  passive.drain();
  t.match(held(), { diagnostic: 7, reason: undefined }, 'a drain is no reason of the gateway');
});

t.test('onChange comes with every change of state', async (t) => {
  const states: string[] = [];
  const { passive } = await pair(t, { onChange: (report) => states.push(report.sessions[0]!.state) });
  passive.drain();
  t.strictSame(states, ['Init', 'Up', 'AdminDown']);
});

t.test('6.8.3 minTX, minRX and multiplier edited while Up reach the peer, and lose no session', async (t) => {
  const { passive, active, intents } = await pair(t, {}, { detectMult: 30 });
  const edits: Partial<PeerIntent>[] = [
    { desiredMinTx: 120_000 },
    { desiredMinTx: 20_000 },
    { requiredMinRx: 200_000 },
    { requiredMinRx: 20_000 },
    { detectMult: 15 },
    { desiredMinTx: 200_000, requiredMinRx: 200_000, detectMult: 6 },
    { desiredMinTx: 50_000, requiredMinRx: 50_000, detectMult: 40 },
  ];
  for (const edit of edits) {
    const intent = { ...intents[0], ...edit };
    passive.configure({ peers: [intent], readiness: READY });
    const detection = intent.detectMult * Math.max(50_000, intent.desiredMinTx);
    await until('the peer’s Detection Time follows', () => only(active).detectionTime === detection);
    const interval = Math.max(50_000, intent.requiredMinRx);
    await until('the peer’s interval follows', () => only(active).transmitInterval === interval);
  }
  t.equal(lost(passive) + lost(active), 0);
});

t.test('6.8.16 drain: AdminDown at once, and undrain: Up again with the same discriminators', async (t) => {
  const { passive, active } = await pair(t);
  const { localDiscriminator } = only(passive);
  passive.drain();
  t.equal(only(passive).state, 'AdminDown');
  t.equal(passive.report().draining, true);
  await until(
    'the peer is told',
    () => only(active).state === 'Down' && only(active).remoteState === 'AdminDown',
  );
  t.equal(only(active).localDiagnostic, 3);
  const heard = only(active).packetsIn;
  await until('a further AdminDown', () => only(active).packetsIn > heard);
  t.equal(only(active).state, 'Down');
  passive.undrain();
  await until('Up again', () => isUp(passive) && isUp(active));
  t.equal(only(passive).localDiscriminator, localDiscriminator);
});

t.test('an unconditional session goes on during a drain, and gets AdminDown at the end', async (t) => {
  const { passive, active } = await pair(t, {}, { unconditional: true });
  passive.drain();
  t.equal(passive.report().draining, true);
  const heard = only(active).packetsIn;
  await until('two further packets', () => only(active).packetsIn > heard + 1);
  t.ok(isUp(passive) && isUp(active));
  await passive.stop();
  t.match(only(active), { state: 'Down', remoteState: 'AdminDown', localDiagnostic: 3 });
});

t.test('6.8.17 readiness lost: AdminDown with the diagnostic; found: Up', async (t) => {
  const { passive, active, intents } = await pair(t);
  passive.configure({ peers: [intents[0]], readiness: { ...READY, 4: NOT_READY } });
  t.match(only(passive), { state: 'AdminDown', localDiagnostic: 6 });
  await until('the peer is told why', () => only(active).remoteDiagnostic === 6);
  passive.configure({ peers: [intents[0]], readiness: { 4: { ready: true }, 6: NOT_READY } });
  await until('Up again', () => isUp(passive) && isUp(active));
});

t.test('a family that an intent says nothing of stays as it was', async (t) => {
  const { passive, active, intents } = await pair(t);
  const other = { peers: [], readiness: { 6: { ready: true } } } as const satisfies BfdIntent;
  const [a, b] = [address(), address()];
  passive.configure(other);
  passive.command(['allow', b]);
  t.ok(isUp(passive), 'its sessions too');
  passive.configure({ peers: [intents[0]], readiness: { 4: NOT_READY } });
  passive.configure(other);
  passive.command(['allow', a]);
  t.match(only(passive), { state: 'AdminDown', localDiagnostic: 6 }, 'and what was said of it');
  passive.configure({ peers: [intents[0]], readiness: { 4: { ready: true } } });
  await until('Up again', () => isUp(passive) && isUp(active));
  passive.configure({ peers: [], readiness: { 4: { ready: true } } });
  await until('the session goes', () => passive.report().sessions.length === 0);
});

t.test('a resumed session stays until an intent says something of its family', async (t) => {
  const checkpoint = join(directory(t), 'bfd.json');
  const { passive, active, a } = await pair(t, { checkpoint }, { detectMult: 20 });
  passive.abandon();
  const next = engine(t, { checkpoint });
  next.command(['allow', a]);
  next.configure({ peers: [], readiness: { 6: { ready: true } } });
  t.ok(isUp(next));
  t.equal(lost(next), 0);
  t.equal(lost(active), 0);
  next.configure({ peers: [], readiness: READY });
  t.equal(only(next).state, 'AdminDown');
});

t.test('a session that was never ready says nothing and never enters Init', async (t) => {
  const [a, b] = [address(), address()];
  const e = engine(t);
  const peerSocket = await raw(t, b, a);
  e.configure({ peers: [peer(a, b)], readiness: { ...READY, 4: NOT_READY } });
  // Nothing is to come, and nothing shows that it does not.
  await sleep(100);
  t.strictSame(peerSocket.heard, []);
  for (let i = 0; i < 5; i++) {
    peerSocket.say();
    await sleep(20);
  }
  await until('AdminDown is all that it says', () => peerSocket.packets().length > 0);
  t.ok(peerSocket.packets().every((packet) => packet.state === 'AdminDown' && packet.diagnostic === 6));
  t.equal(only(e).state, 'AdminDown');
  e.configure({ peers: [peer(a, b)], readiness: READY });
  await until('ready: Down is said', () => peerSocket.packets().some(({ state }) => state === 'Down'));
});

t.test('a peer that is no longer configured gets AdminDown, and its session is removed', async (t) => {
  const { passive, active } = await pair(t);
  passive.configure({ peers: [], readiness: READY });
  t.match(passive.command(['status']).text, 'There are 0 sessions:');
  await until('the peer is told', () => only(active).remoteState === 'AdminDown');
  await until('the session goes', () => passive.report().sessions.length === 0);
});

t.test('a peer that is configured again before its session is removed keeps it', async (t) => {
  const { passive, active, intents } = await pair(t);
  const { localDiscriminator } = only(passive);
  passive.configure({ peers: [], readiness: READY });
  passive.configure({ peers: [intents[0]], readiness: READY });
  await until('Up again', () => isUp(passive) && isUp(active));
  t.equal(only(passive).localDiscriminator, localDiscriminator);
});

t.test('5881 4 one source port in 49152–65535 for the life of a session', async (t) => {
  const [a, b] = [address(), address()];
  const e = engine(t);
  const peerSocket = await raw(t, b, a);
  e.configure({ peers: [peer(a, b)], readiness: READY });
  await until('a knock', () => peerSocket.heard.length > 0);
  t.strictSame(peerSocket.heard, ['empty']);
  peerSocket.say();
  await until('Init', () => peerSocket.packets().length > 0);
  e.drain();
  e.undrain();
  await until('more', () => peerSocket.packets().length > 2);
  t.equal(peerSocket.ports.size, 1);
  const [port] = [...peerSocket.ports];
  t.ok(port! >= 49152 && port! <= 65535);
});

t.test('a stale discriminator of a configured peer is adopted, counted and logged', async (t) => {
  const [a, b] = [address(), address()];
  const e = engine(t);
  const peerSocket = await raw(t, b, a);
  e.configure({ peers: [peer(a, b)], readiness: READY });
  peerSocket.say({ yourDiscriminator: 0xabcdef });
  await until('the first is discarded', () => e.report().discards['unknown-discriminator'] === 1);
  peerSocket.say({ yourDiscriminator: 0xabcdef });
  await until('adopted', () => only(e).localDiscriminator === 0xabcdef);
  await until('Init', () =>
    peerSocket.packets().some((p) => p.state === 'Init' && p.myDiscriminator === 0xabcdef),
  );
  t.equal(e.report().adoptedDiscriminators, 1);
  peerSocket.say({ state: 'Init', yourDiscriminator: 0xabcdef });
  await until('Up', () => isUp(e));
});

t.test('every discard is counted by its reason, and a flood of them is not a flood in the log', async (t) => {
  const [a, b, stranger] = [address(), address(), address()];
  const e = engine(t);
  const peerSocket = await raw(t, b, a);
  const other = await raw(t, stranger, a);
  e.configure({ peers: [peer(a, b, { adoptDiscriminator: false })], readiness: READY });
  await until('listening', () => peerSocket.heard.length > 0);
  for (let i = 0; i < 50; i++) {
    peerSocket.sayBytes(Buffer.from('00c0051800000001', 'hex'));
    peerSocket.say({ detectMult: 0 });
    peerSocket.say({ state: 'Up' });
    peerSocket.say({ yourDiscriminator: 5 });
    other.say();
    other.say({ yourDiscriminator: only(e).localDiscriminator });
    await sleep(1);
  }
  await until('all counted', () =>
    Object.entries(e.report().discards).every(([reason, count]) => count === 50 || reason === 'kernel'),
  );
  t.strictSame(Object.keys(e.report().discards).sort(), [
    'detect-mult-zero',
    'no-session',
    'unknown-discriminator',
    'version',
    'wrong-address',
    'your-discriminator-zero',
  ]);
  t.equal(e.lines.filter(({ level }) => level === 'warn').length, 6);
  t.equal(only(e).state, 'Down');
});

t.test('5881 5 the kernel drops what has a low TTL, and the drops are counted', async (t) => {
  const [a, b] = [address(), address()];
  const e = engine(t);
  const peerSocket = await raw(t, b, a);
  e.configure({ peers: [peer(a, b, { minTTL: 254 })], readiness: READY });
  peerSocket.socket.setTTL(253);
  peerSocket.say();
  peerSocket.say();
  await until('dropped', () => e.report().discards.kernel === 2);
  t.equal(only(e).state, 'Down');
  peerSocket.socket.setTTL(254);
  peerSocket.say();
  await until('254 is let through', () => only(e).state === 'Init');
  e.configure({ peers: [peer(a, b, { minTTL: 255 })], readiness: READY });
  const { packetsIn } = only(e);
  peerSocket.say();
  await until('a live change is in force', () => e.report().discards.kernel === 3);
  t.equal(only(e).packetsIn, packetsIn);
});

t.test('bfdd-control allow: a peer may create a session; block: no more', async (t) => {
  const [a, b, c] = [address(), address(), address()];
  const e = engine(t, { newSession: { desiredMinTx: 50_000, requiredMinRx: 50_000 } });
  e.configure({ peers: [], readiness: READY, listen: [a] });
  const first = await raw(t, b, a);
  const second = await raw(t, c, a);
  first.say();
  await until('not allowed yet', () => e.report().discards['no-session'] === 1);
  t.equal(e.command(['allow', b]).text, `Allowing connections from ${b}`);
  first.say();
  await until('a session', () => only(e)?.state === 'Init');
  t.match(only(e), { role: 'passive', remote: b });
  e.command(['allow', c]);
  e.command(['block', c]);
  second.say();
  await until('blocked', () => e.report().discards['no-session'] === 2);
});

t.test('bfdd-control kill: a session begins anew; while its peer is blocked there is none', async (t) => {
  const [a, b] = [address(), address()];
  const e = engine(t);
  const intent = { peers: [peer(a, b)], readiness: READY };
  e.configure(intent);
  const { id } = only(e);
  e.command(['session', 'all', 'kill']);
  t.match(only(e), { state: 'Down', remote: b });
  t.not(only(e).id, id);
  e.command(['block', b]);
  e.command(['session', 'all', 'kill']);
  const none = 'There are 0 sessions:';
  t.equal(e.command(['status']).text.trim(), none);
  e.configure(intent);
  t.equal(e.command(['status']).text.trim(), none, 'the same configuration brings nothing back');
  e.command(['allow', b]);
  t.match(only(e), { state: 'Down', remote: b });
  e.command(['block', b]);
  e.command(['session', 'all', 'kill']);
  e.configure({ ...intent, peers: [peer(a, b, { detectMult: 7 })] });
  t.match(only(e), { state: 'Down', remote: b }, 'another configuration of it does');
  const other = await raw(t, b, a);
  other.say();
  await until('heard', () => only(e).state === 'Init');
});

t.test('bfdd-control block: lasts until the configuration of the session changes', async (t) => {
  const [a, b] = [address(), address()];
  const e = engine(t);
  const intent = { peers: [peer(a, b)], readiness: READY };
  e.configure(intent);
  e.command(['block', b]);
  const other = await raw(t, b, a);
  other.say();
  await until('blocked', () => e.report().discards.blocked === 1);
  e.configure(intent);
  other.say();
  await until('still blocked', () => e.report().discards.blocked === 2);
  t.match(only(e), { state: 'Down' });
  e.configure({ ...intent, peers: [peer(a, b, { detectMult: 7 })] });
  other.say();
  await until('heard', () => only(e).state === 'Init');
});

t.test('at most maxSessions sessions', async (t) => {
  const [a, b, c, d] = [address(), address(), address(), address()];
  const e = engine(t, { maxSessions: 2 });
  e.configure({ peers: [peer(a, b), peer(a, c), peer(a, d)], readiness: READY });
  t.equal(e.report().sessions.length, 2);
  const late = await raw(t, d, a);
  e.command(['allow', d]);
  late.say();
  await until('refused', () => e.report().discards['too-many-sessions'] === 1);
});

t.test(
  'bfdd-control session … set, state, suspend, reset work live, until the policy says something new',
  async (t) => {
    const { passive, active, intents } = await pair(t, {}, { detectMult: 20 });
    const configure = (changes: Partial<PeerIntent> = {}) =>
      passive.configure({ peers: [{ ...intents[0], ...changes }], readiness: READY });
    passive.command(['session', '1', 'set', 'mintx', '200', 'ms']);
    await until('set', () => only(active).detectionTime === 4_000_000);
    configure();
    t.equal(only(passive).state, 'Up');
    const heard = only(active).packetsIn;
    await until('further packets', () => only(active).packetsIn > heard + 1);
    t.equal(only(active).detectionTime, 4_000_000, 'the same policy changes nothing');
    configure({ detectMult: 10 });
    await until('a new policy does', () => only(active).detectionTime === 500_000);
    t.equal(lost(passive) + lost(active), 0);

    passive.command(['session', 'all', 'state', 'admin', '7']);
    t.equal(only(passive).state, 'AdminDown');
    t.match(passive.command(['status', '1', 'level', '2']).text, 'AdminDown<Forced: Administratively Down>');
    passive.command(['session', 'all', 'state', 'up']);
    await until('Up', () => isUp(passive) && isUp(active));

    passive.command(['session', 'all', 'suspend']);
    t.match(passive.command(['status']).text, 'state=Up <Suspended>');
    await until('the peer hears nothing', () => only(active).localDiagnostic === 1);
    passive.command(['session', 'all', 'resume']);
    await until('Up', () => isUp(passive) && isUp(active));

    passive.command(['session', 'all', 'reset']);
    t.equal(only(passive).id, 2);
    await until('Up under the next id', () => isUp(passive) && isUp(active));
  },
);

t.test('bfdd-control load is not for the process with the sessions', async (t) => {
  const file = join(directory(t), 'commands');
  writeFileSync(file, 'allow 10.0.0.1\n');
  t.match(engine(t).command(['load', file]), { ok: false, text: /^Failed to load .*commands: / });
});

t.test('bfdd-control log decides what is logged', async (t) => {
  const { passive, active } = await pair(t);
  passive.command(['log', 'level', 'none']);
  passive.lines.length = 0;
  passive.drain();
  t.strictSame(passive.lines, []);
  passive.command(['log', 'type', 'session', 'yes']);
  passive.undrain();
  await until('Up', () => isUp(passive) && isUp(active));
  t.ok(passive.lines.some(({ fields }) => fields.to === 'Up'));
});

t.test('fault: packets that cannot be sent are logged once, and the session continues', async (t) => {
  // No packet leaves a loopback address for the network.
  const e = engine(t);
  e.configure({
    peers: [peer(address(), '203.0.113.1', { role: 'active' })],
    readiness: READY,
  });
  const logged = () => e.lines.filter(({ message }) => /^cannot send to the BFD peer/.test(message));
  await until('the first is logged', () => logged().length === 1);
  e.drain();
  e.undrain();
  for (let i = 0; i < 5; i++) e.command(['session', 'all', 'reset']);
  t.equal(logged().length, 1);
  t.match(logged()[0]!.fields.err, { syscall: 'sendto' });
  t.match(only(e), { state: 'Down', packetsOut: 0 });
});

t.test('stop: AdminDown is sent before the end', async (t) => {
  const { passive, active } = await pair(t);
  await passive.stop();
  t.match(only(active), { state: 'Down', localDiagnostic: 3 });
});

// Hitless restart ----------------------------------------------------------------------------------------------

t.test('a restart inside the Detection Time is not seen by the peer', async (t) => {
  const checkpoint = join(directory(t), 'bfd.json');
  const { passive, active, intents } = await pair(t, { checkpoint }, { detectMult: 20 });
  const before = only(passive);
  let last: Engine = passive;
  for (let i = 0; i < 3; i++) {
    last.abandon();
    const next = engine(t, { checkpoint });
    t.match(only(next), {
      state: 'Up',
      localDiscriminator: before.localDiscriminator,
      remoteDiscriminator: before.remoteDiscriminator,
    });
    next.configure({ peers: [intents[0]], readiness: READY });
    const { packetsIn } = only(active);
    await until('packets go on', () => only(active).packetsIn > packetsIn + 3 && only(next).packetsIn > 3);
    last = next;
  }
  t.equal(lost(active), 0);
  t.strictSame(only(last).transitions, []);
});

t.test('a restart after the Detection Time starts Down with the same discriminator', async (t) => {
  const checkpoint = join(directory(t), 'bfd.json');
  const { passive, active, intents } = await pair(t, { checkpoint });
  const { localDiscriminator } = only(passive);
  passive.abandon();
  await until('the peer has noticed', () => only(active).state === 'Down');
  const next = engine(t, { checkpoint });
  t.strictSame(next.report().sessions, []);
  next.configure({ peers: [intents[0]], readiness: READY });
  t.match(only(next), { state: 'Down', localDiscriminator });
  await until('Up', () => isUp(next) && isUp(active));
});

t.test('the state file is private, holds no secret, and junk in its place is ignored', async (t) => {
  const checkpoint = join(directory(t), 'bfd.json');
  const keyFile = join(directory(t), 'key');
  writeFileSync(keyFile, 'a-very-secret-key\n');
  const auth = { type: 'meticulous-keyed-sha1', keyId: 3, keyFile } as const;
  const { passive, intents } = await pair(t, { checkpoint }, { auth });
  passive.abandon();
  t.equal(statSync(checkpoint).mode & 0o777, 0o600);
  const text = readFileSync(checkpoint, 'utf8');
  t.notMatch(text, 'a-very-secret-key');
  t.notMatch(JSON.stringify(passive.lines), 'a-very-secret-key');
  const [first = '', ...rest] = text.split('\n');
  const damaged = [
    '',
    '\n',
    'null\n',
    '{}\n',
    text.slice(0, 100),
    text.replace('"version":1', '"version":2'),
    JSON.stringify({ ...JSON.parse(first), sessions: [{ intent: {} }] }),
    [JSON.stringify({ ...JSON.parse(first), netns: 'net:[1]' }), ...rest].join('\n'),
    [JSON.stringify({ ...JSON.parse(first), bootId: 'another' }), ...rest].join('\n'),
  ];
  for (const content of damaged) {
    writeFileSync(checkpoint, content);
    const next = engine(t, { checkpoint });
    t.strictSame(next.report().sessions, []);
    next.configure({ peers: [intents[0]], readiness: READY });
    t.equal(only(next).state, 'Down');
    next.abandon();
  }
});

// Authentication -----------------------------------------------------------------------------------------------

t.test('6.7 a key file that changes on both ends, one after the other, loses no session', async (t) => {
  const [one, two] = [join(directory(t), 'key'), join(directory(t), 'key')];
  for (const file of [one, two]) writeFileSync(file, 'old secret');
  const [a, b] = [address(), address()];
  const [passive, active] = [engine(t), engine(t)];
  const auth = { type: 'meticulous-keyed-md5', keyId: 1 } as const;
  const changes = { detectMult: 20, auth: { ...auth, keyFile: one } };
  passive.configure({ peers: [peer(a, b, changes)], readiness: READY });
  const intent = peer(b, a, { role: 'active', detectMult: 20, auth: { ...auth, keyFile: two } });
  active.configure({ peers: [intent], readiness: READY });
  await until('Up', () => isUp(passive) && isUp(active));
  writeFileSync(one, 'new secret');
  // Key files are read again each second, and nothing shows that they were; then for ten Detection Times.
  await sleep(1500);
  writeFileSync(two, 'new secret');
  await sleep(2500);
  t.ok(isUp(passive) && isUp(active));
  t.equal(lost(passive) + lost(active), 0);
});

t.test('6.7 a missing key file is logged once, and keeps the session silent until it is there', async (t) => {
  const keyFile = join(directory(t), 'key');
  const [a, b] = [address(), address()];
  const e = engine(t);
  const auth = { type: 'keyed-sha1', keyId: 1, keyFile } as const;
  e.configure({ peers: [peer(a, b, { role: 'active', auth })], readiness: READY });
  // Longer than the second after which the file is looked for again.
  await sleep(1200);
  t.equal(only(e).packetsOut, 0);
  const errors = e.lines.filter(({ level }) => level === 'error');
  t.equal(errors.length, 1);
  t.match(errors[0]!.fields.reason, keyFile);
  writeFileSync(keyFile, 'secret');
  await until('it sends', () => only(e).packetsOut > 0);
});

t.test('the counters of a pair of addresses continue when its session was removed and is back', async (t) => {
  const { passive, intents } = await pair(t);
  const before = only(passive);
  passive.configure({ peers: [], readiness: READY });
  await until('gone', () => passive.report().sessions.length === 0);
  passive.configure({ peers: [intents[0]], readiness: READY });
  await until('Up again', () => isUp(passive));
  const after = only(passive);
  t.not(after.id, before.id);
  t.ok(after.packetsIn > before.packetsIn);
  t.ok(after.packetsOut > before.packetsOut);
  const ups = ({ transitions }: SessionReport) =>
    transitions.filter(({ to }) => to === 'Up').reduce((sum, { count }) => sum + count, 0);
  t.equal(ups(after), ups(before) + 1);
});

t.test('a wall clock that is set changes no uptime', async (t) => {
  const { passive } = await pair(t);
  const real = Date.now;
  t.teardown(() => {
    Date.now = real;
  });
  for (const hours of [-1, 1, 200]) {
    Date.now = () => real() + hours * 3_600_000;
    const { since } = only(passive);
    const uptime = (Date.now() - since) / 1000;
    t.ok(uptime >= 0 && uptime < 30, `${hours} h: up for ${uptime} s`);
    t.match(passive.command(['status', 'all', 'level', '4']).text, /Up/);
    t.notMatch(passive.command(['status', 'all', 'level', '5']).text, /-\d+:/);
  }
});

t.test(
  'more guarded peers than a filter has room for: every Ethernet address is accepted, with a warning',
  async (t) => {
    const [local, remote] = [address(), address()];
    const log = rememberingLog();
    const heard: number[] = [];
    const transport = new Transport((payload) => heard.push(payload.length), log, Math.random);
    t.teardown(() => transport.close());
    const other = await raw(t, remote, local);
    const guarded = (peers: number): Endpoint => ({
      ...{ local, multihop: false, interface: undefined, minTTL: 254 },
      guard: {
        remotes: Array.from({ length: peers }, (_, i) => (i === 0 ? remote : `10.0.${i >> 8}.${i & 255}`)),
        macs: ['02:00:00:00:00:01'],
      },
    });
    const hears = async (what: string, octets: number) => {
      heard.length = 0;
      other.say({});
      await until(what, () => heard.length > 0);
      t.equal(heard[0], octets, what);
    };
    const warnings = () => log.lines.filter(({ level }) => level === 'warn').length;
    transport.listen([guarded(1)]);
    await hears('cut, as it comes from another Ethernet address', 1);
    // No kernel takes 4096 instructions.
    transport.listen([guarded(1400)]);
    await hears('whole after the change', 24);
    t.equal(warnings(), 1);
    transport.listen([]);
    transport.listen([guarded(1400)]);
    await hears('whole from the start', 24);
    t.equal(warnings(), 2);
    transport.listen([guarded(1)]);
    await hears('cut when there is room again', 1);
  },
);
