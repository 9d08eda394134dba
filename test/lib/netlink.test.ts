/** The transport against the kernel of this machine, with requests that need no privilege and change nothing. */
import { spawnSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { netfilterEvent } from '../../agent/events.ts';
import {
  acknowledgedError,
  exceptFrom,
  NetlinkError,
  NetlinkListener,
  type NetlinkMessage,
  NetlinkSocket,
  Protocol,
} from '../../lib/netlink.ts';
import { formatDatagram } from '../../lib/netlink-codec.ts';
import { linkDump, MessageType, parseLink, routeDump } from '../../routing/parse.ts';
import { accepts } from '../support/bpf.ts';
import { PATIENCE } from '../support/machine.ts';

const message = (type: number, flags: number, hex: string): NetlinkMessage => ({
  type,
  flags,
  seq: 7,
  port: 1,
  data: Buffer.from(hex.replace(/\s/g, ''), 'hex'),
});

t.test('acknowledgements, as Linux 6.18 sent them', async (t) => {
  const success = message(2, 0x100, '00000000 3c000000180005060700000000000000');
  t.equal(acknowledgedError(success), undefined);
  const exists = acknowledgedError(message(2, 0x100, 'efffffff 3c000000180005060700000000000000'));
  t.ok(exists instanceof NetlinkError);
  t.has(exists, { errno: 17, code: 'EEXIST', message: 'file already exists (EEXIST)' });
  const reason = '20000100 4e657874686f702068617320696e76616c6964206761746577617900';
  t.has(
    acknowledgedError(message(2, 0x300, `9bffffff 3c000000180005060700000000000000 ${reason}`)),
    { errno: 101, code: 'ENETUNREACH', message: 'Nexthop has invalid gateway (ENETUNREACH)' },
    'the kernel’s own words replace those of the number',
  );
  const noTable = '23000100 697076343a20464942207461626c6520646f6573206e6f742065786973740000';
  t.has(
    acknowledgedError(message(3, 0x202, `feffffff ${noTable}`)),
    { code: 'ENOENT', message: 'ipv4: FIB table does not exist (ENOENT)' },
    'the end of a dump can say it as well',
  );
  t.has(acknowledgedError(message(2, 0x100, `${'20feffff'} ${'00'.repeat(16)}`)), { code: 'E480' });
});

t.test('a dump comes back whole', async (t) => {
  const socket = new NetlinkSocket(Protocol.ROUTE);
  t.teardown(() => socket.close());
  t.ok(socket.port > 0);
  const links = socket.dump(MessageType.GETLINK, linkDump(), (data) => parseLink(data)?.name);
  t.ok(links.includes('lo'));
  t.throws(() => socket.dump(MessageType.GETROUTE, routeDump(4, 987_654), parseLink), { code: 'ENOENT' });
  t.ok(socket.dump(MessageType.GETLINK, linkDump(), parseLink).length > 0, 'and goes on after a refusal');
});

t.test('each request of a batch has its own result', async (t) => {
  const socket = new NetlinkSocket(Protocol.ROUTE);
  t.teardown(() => socket.close());
  const getLink = (index: number) => {
    const data = Buffer.alloc(16);
    data.writeInt32LE(index, 4);
    return { type: MessageType.GETLINK, data };
  };
  const asked = Array.from({ length: 300 }, (_, i) => getLink(i % 3 === 0 ? 1 : 2_000_000_000));
  const results = await socket.transact(asked);
  t.equal(results.length, 300);
  t.strictSame(
    results.map((result) => result?.code),
    asked.map((_, i) => (i % 3 === 0 ? undefined : 'ENODEV')),
  );
  t.strictSame(await socket.transact([]), []);
});

t.test('a closed socket says so', async (t) => {
  const socket = new NetlinkSocket(Protocol.ROUTE);
  socket.close();
  t.throws(() => socket.dump(MessageType.GETLINK, linkDump(), parseLink), { code: 'EBADF' });
});

t.test('a listener does not keep the process alive', async (t) => {
  const program = `
    import { NetlinkListener, Protocol } from './lib/netlink.ts';
    new NetlinkListener(Protocol.ROUTE, [1], { onMessage() {}, onOverrun() {} });
    console.log('listening');
  `;
  const ended = spawnSync(process.execPath, ['--input-type=module-typescript', '-e', program], {
    encoding: 'utf8',
    timeout: PATIENCE,
    env: { ...process.env, NODE_OPTIONS: '' },
  });
  t.strictSame([ended.status, ended.signal, ended.stdout.trim()], [0, null, 'listening'], ended.stderr);
});

t.test('after the last listener is closed the signal does no harm', async (t) => {
  const handlers = { onMessage() {}, onOverrun() {} };
  const first = new NetlinkListener(Protocol.ROUTE, [1], handlers);
  const second = new NetlinkListener(Protocol.ROUTE, [1], handlers);
  t.equal(process.listenerCount('SIGURG'), 1);
  first.close();
  first.close();
  t.equal(process.listenerCount('SIGURG'), 1);
  second.close();
  t.equal(process.listenerCount('SIGURG'), 0);
  process.kill(process.pid, 'SIGURG');
  // The signal is handled in a later turn of the event loop, if at all.
  await sleep(20);
  t.throws(() => new NetlinkListener(Protocol.ROUTE, [100_000], handlers), {
    message: 'setsockopt: invalid argument (EINVAL)',
  });
  t.equal(process.listenerCount('SIGURG'), 0, 'one that could not be opened leaves nothing behind');
});

t.test('changes through one netlink address are filtered out, those of others are not', async (t) => {
  const notice = (port: number) => formatDatagram([{ type: 24, flags: 0, data: Buffer.alloc(12) }], 0, port);
  const own = 0xc8_9f_15_c4;
  for (const port of [0, 4711, own - 1, own]) t.equal(accepts(exceptFrom(own), notice(port)), port !== own);
  t.equal(accepts(exceptFrom(4711), notice(4711)), false);
  // Of half of all process ids the operand has its highest bit set.
  for (const port of [1, 0x7f, 0x80, 0xff, own]) {
    const handlers = { onMessage: () => {}, onOverrun: () => {} };
    t.doesNotThrow(() =>
      new NetlinkListener(Protocol.ROUTE, [], handlers, { only: exceptFrom(port) }).close(),
    );
  }
});

t.test('nf_tables says who changed it, once a transaction', async (t) => {
  const end = message(
    2575,
    0,
    '00000003 0800010000000003 0800020000003534 1100030069707461626c65732d6e667400000000',
  );
  t.strictSame(netfilterEvent(end), {
    object: 'netfilter',
    portid: 1,
    what: 'nf_tables changed by iptables-nft (pid 13620)',
  });
  const chain = '02000003 080001006e617400 0a0003005645472d51000000';
  t.equal(netfilterEvent(message(2563, 0, chain)), undefined);
});
