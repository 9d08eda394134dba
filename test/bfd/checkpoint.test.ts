/** The state file: what a next process takes from it, and what happens when it cannot be written. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { mock } from 'node:test';
import t, { type Test } from 'tap';
import { Checkpoint, type CheckpointFiles } from '../../bfd/checkpoint.ts';
import type { SavedSession } from '../../bfd/saved.ts';
import { rememberingLog } from './silent.ts';

const [LOCAL, REMOTE] = ['10.16.0.12', '10.255.255.255'];
const KEY = `${LOCAL} ${REMOTE}`;

const SESSION: SavedSession = {
  ...{ id: 1, origin: 'intent', port: 50_000, localDiscr: 0x11, xmitAuthSeq: 5, rcvAuthSeq: 6 },
  ...{ lastTransmit: 10_000_000, peerDetectionTime: 500_000 },
  intent: {
    ...{ local: LOCAL, remote: REMOTE, desiredMinTx: 100_000, requiredMinRx: 100_000, detectMult: 5 },
    ...{ role: 'passive', minTTL: 254, multihop: false, adoptDiscriminator: true },
  },
  session: {
    ...{ sessionState: 'Up', localDiag: 0, desiredMinTx: 100_000, requiredMinRx: 100_000 },
    ...{ effectiveMinTx: 100_000, effectiveMinRx: 100_000, polling: false, pollAgain: false },
    ...{ remoteSessionState: 'Up', remoteDiscr: 7, remoteDiag: 0, remoteMinTx: 100_000 },
    ...{ remoteMinRx: 100_000, remoteDetectMult: 5, remoteDemandMode: false, authSeqKnown: true },
    ...{ transmitInterval: 100_000, detectionTime: 500_000 },
  },
};

function setUp(t: Test) {
  mock.timers.enable({ apis: ['setTimeout', 'setImmediate'] });
  t.teardown(() => mock.timers.reset());
  const directory = mkdtempSync(join(tmpdir(), 'bfd-checkpoint-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const file = join(directory, 'bfd.json');
  const log = rememberingLog();
  const sessions = [SESSION];
  const open = (files?: CheckpointFiles) => new Checkpoint(file, log, () => sessions, files);
  const messages = () => log.lines.map(({ message }) => message);
  return { file, directory, sessions, open, messages };
}

/** The present turn of the event loop ends. */
const turn = () => mock.timers.tick(10);

t.test('a session that was Up is resumed until its peer times out', async (t) => {
  const { open, messages } = setUp(t);
  const first = open();
  first.changed();
  turn();
  const second = open();
  t.match(second.resumable(10_400_000), [{ localDiscr: 0x11, session: { sessionState: 'Up' } }]);
  t.same(second.resumable(10_500_000), [], 'the peer has timed out');
  t.same(second.resumable(9_000_000), [], 'the clock jumped back: another boot that looks like this one');
  t.equal(second.recall(KEY)!.port, 50_000, 'the port and the discriminator are used all the same');
  t.same(messages(), []);
});

t.test('every packet moves the time, and with authentication the numbers, in place', async (t) => {
  const { file, open } = setUp(t);
  const checkpoint = open();
  checkpoint.changed();
  turn();
  const size = readFileSync(file).length;
  const sent = { id: 1, xmitAuthSeq: 5, rcvAuthSeq: 6, lastTransmit: 20_000_000 };
  checkpoint.packetSent(sent);
  t.match(open().resumable(20_100_000), [{ xmitAuthSeq: 5, lastTransmit: 20_000_000 }]);
  checkpoint.packetSent({ ...sent, xmitAuthSeq: 9, rcvAuthSeq: 10, lastTransmit: 21_000_000 });
  t.match(open().resumable(21_100_000), [{ xmitAuthSeq: 9, rcvAuthSeq: 10 }]);
  t.equal(readFileSync(file).length, size);
});

t.test('changes of one moment are written once', async (t) => {
  const { open, sessions } = setUp(t);
  let writes = 0;
  const checkpoint = open({ replace: () => writes++, write: () => {}, close: () => {} });
  for (let i = 0; i < 100; i++) checkpoint.changed();
  t.equal(writes, 0, 'after the present turn');
  turn();
  t.equal(writes, 1);
  checkpoint.packetSent({ ...SESSION, id: 2 });
  turn();
  t.equal(writes, 2, 'a session that is not in the file yet');
  t.equal(sessions.length, 1);
});

t.test('another network namespace, and another boot, give the discriminators only', async (t) => {
  const { file, open } = setUp(t);
  open().close();
  const text = readFileSync(file, 'utf8');
  for (const [name, value] of [
    ['netns', 'net:[1]'],
    ['bootId', '00000000-0000-0000-0000-000000000000'],
  ] as const) {
    const state = JSON.parse(text.split('\n', 1)[0]!) as Record<string, unknown>;
    state[name] = value;
    writeFileSync(file, [JSON.stringify(state), ...text.split('\n').slice(1)].join('\n'));
    const next = open();
    t.same(next.resumable(10_100_000), [], name);
    t.equal(next.recall(KEY)!.localDiscr, 0x11);
  }
});

t.test('a damaged file is ignored with a warning, and replaced', async (t) => {
  const { file, open, messages } = setUp(t);
  writeFileSync(file, '{"version":1');
  const checkpoint = open();
  t.same(checkpoint.resumable(0), []);
  t.match(messages(), [/^ignoring the saved BFD state/]);
  checkpoint.changed();
  turn();
  t.equal(open().resumable(10_100_000).length, 1);
});

t.test('fault: the file cannot be written: logged once a minute, and written when it can be', async (t) => {
  const { directory, file, open, messages } = setUp(t);
  const checkpoint = open();
  // The place of the directory is taken.
  rmSync(directory, { recursive: true });
  writeFileSync(directory, '');
  for (let i = 0; i < 10; i++) {
    checkpoint.packetSent({ ...SESSION });
    turn();
  }
  t.same(messages(), ['cannot save the BFD state, retrying; the peers would see a restart']);
  rmSync(directory);
  mkdirSync(directory);
  checkpoint.packetSent({ ...SESSION });
  turn();
  t.equal(open().resumable(10_100_000).length, 1);
  t.match(readFileSync(file, 'utf8'), /"localDiscr":17/);
});

t.test('fault: the disk is full: packets are not held up, the next change tries again', async (t) => {
  const { open, messages } = setUp(t);
  const full = Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });
  let fail = false;
  let replaced = 0;
  const written: string[] = [];
  const checkpoint = open({
    replace() {
      replaced++;
      if (fail) throw full;
      return 3;
    },
    write(_fd, text) {
      if (fail) throw full;
      written.push(text);
    },
    close: () => {},
  });
  checkpoint.changed();
  turn();
  fail = true;
  checkpoint.packetSent({ ...SESSION, lastTransmit: 11_000_000 });
  checkpoint.packetSent({ ...SESSION, xmitAuthSeq: 6 });
  checkpoint.changed();
  turn();
  t.equal(messages().length, 1);
  fail = false;
  checkpoint.packetSent({ ...SESSION, lastTransmit: 12_000_000 });
  t.match(written, [/12000000/]);
  checkpoint.changed();
  turn();
  t.equal(replaced, 3);
});
