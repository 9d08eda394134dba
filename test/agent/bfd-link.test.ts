/** The agent process's end of the IPC channel: in processes of its own, and over a channel with faults. */
import { fork } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { BfdLink, type Channel } from '../../agent/bfd-link.ts';
import { ManualClock } from '../support/clock.ts';

const LINK = join(import.meta.dirname, '../../agent/bfd-link.ts');
const GONE = 3;

/** A process that makes its end of the line after `wait`, and ends with GONE when it hears that its parent is gone. */
function child(t: Test, wait: string) {
  const script = `import { BfdLink } from ${JSON.stringify(LINK)};
process.send('loading');
${wait}
setTimeout(() => process.exit(1), 5000);
new BfdLink({ onDisconnect: () => process.exit(${GONE}), watchedAgo() {}, onReport() {}, onShutdown() {} });
process.send?.('there', undefined, undefined, () => {});
`;
  return fork(join(t.testdir({ 'child.mjs': script }), 'child.mjs'));
}

t.test('a parent that dies while the process loads is missed', async (t) => {
  const process = child(
    t,
    'while (process.connected) await new Promise((resolve) => setTimeout(resolve, 5));',
  );
  await once(process, 'message');
  process.disconnect();
  t.strictSame(await once(process, 'exit'), [GONE, null]);
});

t.test('so is one that dies later', async (t) => {
  const process = child(t, '');
  for (let said: unknown; said !== 'there'; ) [said] = await once(process, 'message');
  process.disconnect();
  t.strictSame(await once(process, 'exit'), [GONE, null]);
});

/** A link over a channel that records what is sent. */
function link() {
  const clock = new ManualClock();
  const sent: { type: string; id?: number }[] = [];
  const calls: string[] = [];
  const channel = Object.assign(new EventEmitter(), {
    connected: true,
    send: (message: { type: string }) => {
      sent.push(message);
      // A full pipe: Node keeps the message and says so.
      return false;
    },
  });
  let watchedAgo: number | undefined;
  const made = new BfdLink(
    {
      watchedAgo: () => watchedAgo,
      onReport: () => void calls.push('report'),
      onShutdown: (remove) => void calls.push(`shutdown ${remove}`),
      onDisconnect: () => void calls.push('disconnect'),
    },
    channel as unknown as Channel,
    clock,
  );
  return {
    ...{ clock, sent, calls, channel, link: made },
    watched: (ago: number) => {
      watchedAgo = ago;
    },
  };
}

t.test('a pulse goes out each second, with the age of the last observation', async (t) => {
  const { clock, sent, watched } = link();
  await clock.advance(1000);
  watched(250);
  await clock.advance(1000);
  t.same(sent, [
    { type: 'pulse', watchedAgo: null },
    { type: 'pulse', watchedAgo: 250 },
  ]);
});

t.test('a clock that jumps sends one pulse, not one for each missed second', async (t) => {
  const { clock, sent } = link();
  clock.jump(60_000);
  await clock.advance(500);
  t.equal(sent.length, 1);
});

t.test('silence counts from the last message of whatever kind', async (t) => {
  const { clock, channel, link: made, calls } = link();
  await clock.advance(5000);
  t.equal(made.silence, 5000);
  channel.emit('message', { type: 'report', report: {} });
  await clock.advance(100);
  t.equal(made.silence, 100);
  channel.emit('message', { type: 'shutdown', remove: true });
  t.same(calls, ['report', 'shutdown true']);
});

t.test('replies find their commands, in whatever order they come', async (t) => {
  const { channel, link: made } = link();
  const [first, second] = [made.command(['status']), made.command(['version'])];
  channel.emit('message', { type: 'reply', id: 2, ok: true, text: 'two' });
  channel.emit('message', { type: 'reply', id: 1, ok: false, text: 'one' });
  t.match(await first, { ok: false, text: 'one' });
  t.match(await second, { ok: true, text: 'two' });
});

t.test(
  'a command whose reply is lost ends after its timeout, and a late reply changes nothing',
  async (t) => {
    const { clock, channel, link: made } = link();
    const command = made.command(['status']);
    await clock.advance(4000);
    t.match(await command, { ok: false, text: /does not answer/ });
    channel.emit('message', { type: 'reply', id: 1, ok: true, text: 'late' });
    channel.emit('message', { type: 'reply', id: 99, ok: true, text: 'of nobody' });
  },
);

t.test('a closed channel takes no message, and is reported once', async (t) => {
  const { clock, sent, channel, link: made, calls } = link();
  channel.connected = false;
  channel.emit('disconnect');
  made.configure({ peers: [], readiness: {} });
  made.drain();
  const command = made.command(['status']);
  await clock.advance(5000);
  t.same(sent, []);
  t.same(calls, ['disconnect']);
  t.match(await command, { ok: false });
});
