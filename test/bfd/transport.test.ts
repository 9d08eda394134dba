/** Sockets that cannot be opened, bound or sent through, and what becomes of them: over sockets in memory. */
import { mock } from 'node:test';
import t, { type Test } from 'tap';
import type { Endpoint } from '../../bfd/receive-filter.ts';
import { Transport } from '../../bfd/transport.ts';
import { PortInUseError, type ReceiveHandlers, type Udp } from '../../bfd/udp.ts';
import { SystemError } from '../../lib/libc.ts';
import { rememberingLog } from './silent.ts';

const [EPERM, EADDRINUSE, EADDRNOTAVAIL, ENOBUFS, ENETUNREACH] = [1, 98, 99, 105, 101];
/** The interval between retries. */
const RETRY = 250;

/** A socket of the fake system. */
interface Made {
  endpoint: Endpoint;
  handlers: ReceiveHandlers;
  open: boolean;
  dropped: number;
}

/** Sockets that fail as they are told to. */
class FakeUdp implements Udp {
  bindError: Error | undefined;
  filterError: Error | undefined;
  unguarded: Error | undefined;
  unbound: Error | undefined;
  ifindexes: Record<string, number> = { eth0: 2 };
  readonly received: Made[] = [];
  readonly usedPorts = new Set<number>();
  senderError: Error | undefined;
  sendError = 0;
  readonly sent: Uint8Array[] = [];
  /** Ports that senders asked for. */
  readonly asked: number[] = [];

  receive(endpoint: Endpoint, handlers: ReceiveHandlers) {
    if (this.bindError !== undefined) throw this.bindError;
    const made: Made = { endpoint, handlers, open: true, dropped: 0 };
    this.received.push(made);
    return {
      ifindex: this.ifindex(endpoint.interface ?? ''),
      unguarded: this.unguarded,
      unbound: this.unbound,
      filter: (changed: Endpoint) => {
        if (this.filterError !== undefined) throw this.filterError;
        made.endpoint = changed;
      },
      drops: () => made.dropped,
      close: () => {
        made.open = false;
      },
    };
  }

  send(_local: string, port: number) {
    this.asked.push(port);
    if (this.senderError !== undefined) throw this.senderError;
    if (this.usedPorts.has(port)) throw new SystemError('bind', EADDRINUSE);
    return {
      send: (payload: Uint8Array) => {
        if (this.sendError < 0) return this.sendError;
        this.sent.push(payload);
        return payload.length;
      },
      close: () => {},
    };
  }

  ifindex(device: string): number {
    return this.ifindexes[device] ?? 0;
  }

  get open(): Made[] {
    return this.received.filter(({ open }) => open);
  }
}

const endpoint = (changes: Partial<Endpoint> = {}): Endpoint => ({
  ...{ local: '10.16.0.12', multihop: false, interface: undefined, minTTL: 254 },
  guard: { remotes: [], macs: [] },
  ...changes,
});

function setUp(t: Test) {
  mock.timers.enable({ apis: ['setInterval'] });
  t.teardown(() => mock.timers.reset());
  const udp = new FakeUdp();
  const log = rememberingLog();
  const heard: string[] = [];
  const transport = new Transport(
    (_, from) => heard.push(from),
    log,
    () => 0,
    udp,
  );
  t.teardown(() => transport.close());
  const warnings = () =>
    log.lines
      .filter(({ level }) => level === 'warn')
      .map(({ message, fields }) => `${message}: ${(fields.err as Error).message}`);
  return { udp, transport, heard, warnings };
}

t.test('one socket for each local address and port, closed when it is no longer wanted', async (t) => {
  const { udp, transport, heard } = setUp(t);
  transport.listen([endpoint(), endpoint({ multihop: true }), endpoint({ local: 'fd00::12' })]);
  transport.listen([endpoint(), endpoint({ multihop: true }), endpoint({ local: 'fd00::12' })]);
  t.equal(udp.received.length, 3);
  udp.open[0]!.handlers.message(Buffer.alloc(24), '10.255.255.255');
  t.same(heard, ['10.255.255.255']);
  transport.listen([endpoint()]);
  t.equal(udp.open.length, 1);
  transport.close();
  t.equal(udp.open.length, 0);
});

t.test(
  'fault: bind fails; it is a problem until it works, logged once for each cause, and retried',
  async (t) => {
    const { udp, transport, warnings } = setUp(t);
    udp.bindError = new SystemError('bind', EADDRNOTAVAIL);
    transport.listen([endpoint()]);
    mock.timers.tick(10 * RETRY);
    t.match(warnings(), [/^cannot bind the BFD socket, retrying: bind: .*\(EADDRNOTAVAIL\)$/]);
    udp.bindError = new PortInUseError('another process is bound to UDP port 3784 of 10.16.0.12');
    mock.timers.tick(10 * RETRY);
    t.equal(warnings().length, 2);
    t.match(warnings()[1], /retrying: another process is bound/);
    t.same(transport.problems, [
      'BFD packets cannot be received on 10.16.0.12 port 3784: another process is bound to UDP port 3784 of 10.16.0.12',
    ]);
    udp.bindError = undefined;
    mock.timers.tick(RETRY);
    t.equal(udp.open.length, 1);
    t.same(transport.problems, []);
    udp.bindError = new SystemError('bind', EADDRNOTAVAIL);
    udp.open[0]!.handlers.error(new Error('the interface is gone'));
    t.equal(udp.open.length, 0);
    t.match(transport.problems, [/10\.16\.0\.12 port 3784: the interface is gone$/]);
    mock.timers.tick(RETRY);
    t.equal(warnings().length, 4, 'after it has worked the same cause is news');
    transport.listen([]);
    t.same(transport.problems, [], 'what is no longer wanted is none');
  },
);

t.test('an interface that was recreated gets a new socket; one that is away keeps the old one', async (t) => {
  const { udp, transport } = setUp(t);
  transport.listen([endpoint({ interface: 'eth0' })]);
  udp.ifindexes = {};
  transport.check(RETRY);
  t.equal(udp.received.length, 1);
  udp.ifindexes = { eth0: 7 };
  transport.check(2 * RETRY - 1);
  t.equal(udp.received.length, 1, 'checked four times a second at most');
  transport.check(2 * RETRY);
  t.equal(udp.received.length, 2);
  t.equal(udp.open.length, 1);
  transport.check(10 * RETRY);
  t.equal(udp.received.length, 2);
});

t.test('no timer runs while every socket is open', async (t) => {
  const { udp, transport } = setUp(t);
  transport.listen([endpoint({ interface: 'eth0' })]);
  udp.ifindexes = { eth0: 7 };
  mock.timers.tick(10 * RETRY);
  t.equal(udp.received.length, 1);
  udp.bindError = new SystemError('bind', EADDRNOTAVAIL);
  udp.open[0]!.handlers.error(new Error('the interface is gone'));
  udp.bindError = undefined;
  mock.timers.tick(RETRY);
  t.equal(udp.open.length, 1, 'one runs until the socket is open again');
  udp.ifindexes = { eth0: 9 };
  mock.timers.tick(10 * RETRY);
  t.equal(udp.received.length, 2);
});

t.test(
  'a change replaces the filter, and the socket where its interface changes or there is no room',
  async (t) => {
    const { udp, transport } = setUp(t);
    transport.listen([endpoint()]);
    transport.listen([endpoint({ minTTL: 255 })]);
    t.equal(udp.received.length, 1);
    t.equal(udp.open[0]!.endpoint.minTTL, 255);
    transport.listen([endpoint({ minTTL: 255, interface: 'eth0' })]);
    t.equal(udp.received.length, 2);
    udp.filterError = new SystemError('setsockopt', 12);
    transport.listen([endpoint({ minTTL: 1, interface: 'eth0' })]);
    t.equal(udp.received.length, 3);
    t.equal(udp.open[0]!.endpoint.minTTL, 1);
  },
);

t.test('what a socket does without is logged', async (t) => {
  const { udp, transport, warnings } = setUp(t);
  udp.unbound = new SystemError('setsockopt', EPERM);
  udp.unguarded = new SystemError('setsockopt', 12);
  transport.listen([endpoint({ interface: 'eth0' })]);
  t.match(warnings(), [/^not permitted to bind to the interface/, /^no room .* raise net\.core\.optmem_max/]);
});

t.test('drops are counted over the sockets that were closed, and over the end of 32 bits', async (t) => {
  const { udp, transport } = setUp(t);
  transport.listen([endpoint()]);
  udp.open[0]!.dropped = 0xffff_fff0;
  t.equal(transport.drops(), 0xffff_fff0);
  udp.open[0]!.dropped = 0x10;
  t.equal(transport.drops(), 0x1_0000_0010);
  udp.open[0]!.dropped = 0x20;
  transport.listen([]);
  t.equal(transport.drops(), 0x1_0000_0020);
  transport.listen([endpoint()]);
  udp.open[0]!.dropped = 5;
  t.equal(transport.drops(), 0x1_0000_0025);
});

const SESSION = { local: '10.16.0.12', remote: '10.255.255.255', multihop: false };

t.test('a sender keeps its port, and takes another one when that is in use', async (t) => {
  const { udp, transport } = setUp(t);
  const sender = transport.sender(SESSION, 50_000);
  t.equal(sender.send(Buffer.of(1)), undefined);
  t.equal(sender.port, 50_000);
  udp.usedPorts.add(50_000);
  const other = transport.sender(SESSION, 50_000);
  t.equal(other.send(Buffer.of(1)), undefined);
  t.equal(other.port, 49_152);
});

t.test('fault: every port is in use: an error after a hundred tries, not an endless search', async (t) => {
  const { udp, transport } = setUp(t);
  udp.usedPorts.add(49_152);
  const sender = transport.sender(SESSION, 0);
  t.match(sender.send(Buffer.of(1)), { code: 'EADDRINUSE' });
  t.equal(udp.asked.length, 100);
  t.equal(sender.port, 0);
  udp.usedPorts.clear();
  t.equal(sender.send(Buffer.of(1)), undefined);
});

t.test(
  'fault: send fails with EPERM, ENOBUFS, ENETUNREACH: an error, and the next packet is tried',
  async (t) => {
    const { udp, transport } = setUp(t);
    const sender = transport.sender(SESSION, 0);
    for (const [errno, code] of [
      [EPERM, 'EPERM'],
      [ENOBUFS, 'ENOBUFS'],
      [ENETUNREACH, 'ENETUNREACH'],
    ] as const) {
      udp.sendError = -errno;
      t.match(sender.send(Buffer.of(1)), { code });
      udp.sendError = 0;
      t.equal(sender.send(Buffer.of(1)), undefined);
    }
    t.equal(udp.sent.length, 3);
    t.equal(udp.asked.length, 1, 'through one socket');
  },
);

t.test('while another process has the port of an address, nothing is sent from it', async (t) => {
  const { udp, transport } = setUp(t);
  const sender = transport.sender(SESSION, 0);
  const other = transport.sender({ ...SESSION, local: '10.16.0.13' }, 0);
  t.equal(sender.send(Buffer.of(1)), undefined, 'before it listens: a resumed session');
  udp.bindError = new PortInUseError('another process is bound to UDP port 3784 of 10.16.0.12');
  transport.listen([endpoint()]);
  t.match(sender.send(Buffer.of(1)), udp.bindError);
  t.equal(other.send(Buffer.of(1)), undefined);
  t.equal(udp.sent.length, 2);
  udp.bindError = new SystemError('bind', EADDRNOTAVAIL);
  mock.timers.tick(RETRY);
  t.equal(sender.send(Buffer.of(1)), undefined, 'no other process any more');
  udp.bindError = undefined;
  mock.timers.tick(RETRY);
  t.equal(sender.send(Buffer.of(1)), undefined);
});

t.test('fault: the sending socket cannot be opened: an error, and the next packet opens it', async (t) => {
  const { udp, transport } = setUp(t);
  const sender = transport.sender(SESSION, 0);
  udp.senderError = new SystemError('bind', EADDRNOTAVAIL);
  t.match(sender.send(Buffer.of(1)), { code: 'EADDRNOTAVAIL' });
  udp.senderError = undefined;
  t.equal(sender.send(Buffer.of(1)), undefined);
  sender.close();
  t.equal(sender.send(Buffer.of(1)), undefined, 'closed: opened again with the same port');
  t.equal(new Set(udp.asked.slice(1)).size, 1);
});
