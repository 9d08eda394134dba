// FRR's sessions as its socket reports them: whole answers, and every way in which none comes.
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { askFrr, FrrSessions } from '../../../agent/bgp/frr-socket.ts';
import { parseSummary } from '../../../agent/bgp/sessions.ts';
import { ManualClock } from '../../support/clock.ts';

const peer = (state: string, more: object = {}) => ({
  ...{ remoteAs: 65000, state, peerUptimeMsec: 61_500, pfxSnt: 3, pfxRcd: 0, ...more },
});
const SUMMARY = JSON.stringify({
  ipv4Unicast: { as: 65001, peers: { '172.17.0.1': peer('Established') } },
  ipv6Unicast: {
    peers: { 'fd00:172:17::1': peer('Active', { pfxSnt: undefined }), '172.17.0.1': peer('Established') },
  },
});

t.test('sessions of both families', async (t) => {
  t.same(parseSummary(SUMMARY), [
    { neighbour: '172.17.0.1', asn: 65000, state: 'Established', seconds: 61, sent: 6, accepted: 0 },
    { neighbour: 'fd00:172:17::1', asn: 65000, state: 'Active', seconds: 61, sent: 0, accepted: 0 },
  ]);
  t.same(parseSummary('{}'), []);
  t.same(parseSummary('{"ipv4Unicast":{"peers":{"router\\u001b":{},"10.0.0.1":{"state":"\\u001b[31m"}}}}'), [
    { neighbour: '10.0.0.1', asn: 0, state: 'unknown', seconds: 0, sent: 0, accepted: 0 },
  ]);
  t.throws(() => parseSummary('% BGP instance not found'));
});

/** A socket that answers in its own way. */
async function serve(t: Test, onData: (socket: Socket, command: string) => void): Promise<string> {
  // The path of a socket has at most 107 octets.
  const directory = mkdtempSync(join(tmpdir(), 'veg-frr-'));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const path = join(directory, 'bgpd.vty');
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.on('data', (data) => onData(socket, data.toString()));
  });
  server.listen(path);
  await once(server, 'listening');
  t.teardown(() => server.close());
  return path;
}

t.test('an answer in pieces is put together', async (t) => {
  const path = await serve(t, (socket, command) => {
    t.equal(command, 'show bgp summary json\0');
    socket.write('{"a":');
    setImmediate(() => socket.write('1}\0\0'));
    setImmediate(() => setImmediate(() => socket.write(Buffer.of(0, 0))));
  });
  t.equal(await askFrr(path), '{"a":1}');
});

t.test('no answer, half an answer, an error and an endless one are rejected', async (t) => {
  const hung = await serve(t, () => {});
  await t.rejects(askFrr(hung, 20), /no answer in 20 ms/);
  await t.rejects(askFrr(await serve(t, (socket) => socket.end('{"a"'))), /closed/);
  await t.rejects(askFrr(await serve(t, (socket) => socket.write(Buffer.of(0, 0, 0, 1)))), /returned 1/);
  const endless = await serve(t, (socket) => socket.write(Buffer.alloc(1 << 20, 0x20)));
  await t.rejects(askFrr(endless), /too long/);
  await t.rejects(askFrr('/nonexistent/bgpd.vty'), { code: 'ENOENT' });
});

t.test('answers grow old, and one that does not come is waited for', async (t) => {
  const clock = new ManualClock();
  let answer = () => Promise.resolve(SUMMARY);
  let asked = 0;
  let wanted = false;
  const frr = new FrrSessions({
    ...{ directory: '/run/frr', wanted: () => wanted, clock },
    ask(path) {
      t.equal(path, '/run/frr/bgpd.vty');
      asked++;
      return answer();
    },
  });
  t.teardown(() => frr.close());
  const pass = async (ms: number) => {
    await clock.advance(ms);
    await new Promise(setImmediate);
  };
  await pass(2000);
  t.same([asked, frr.sessions], [0, undefined], 'without BGP nobody asks');
  wanted = true;
  await pass(2000);
  t.equal(frr.sessions!.length, 2);
  answer = () => Promise.reject(new Error('refused'));
  await pass(2000);
  t.equal(frr.sessions!.length, 2);
  answer = () => new Promise(() => {});
  await pass(2000);
  const before = asked;
  await pass(8000);
  t.same([asked, frr.sessions], [before, undefined]);
});
