import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import t from 'tap';
import { onArrival } from '../../lib/arrivals.ts';
import { PATIENCE } from '../support/machine.ts';

const signal = () => process.emit('SIGURG', 'SIGURG');

t.test(
  'the signals of one turn are one call of each reader, and those of another turn another',
  async (t) => {
    const calls: string[] = [];
    const stops = ['first', 'second'].map((name) => onArrival(() => calls.push(name)));
    for (let i = 0; i < 3; i++) signal();
    t.same(calls, [], 'not among the signals');
    await turn();
    t.same(calls, ['first', 'second']);
    signal();
    await turn();
    t.same(calls.length, 4);
    for (const stop of stops) stop();
  },
);

t.test('what arrives while it is read is read again', async (t) => {
  let calls = 0;
  const stop = onArrival(() => {
    calls++;
    if (calls === 1) signal();
  });
  signal();
  await turn();
  await turn();
  t.equal(calls, 2);
  stop();
});

t.test('a reader that has stopped is not called, be it by another one', async (t) => {
  const calls: string[] = [];
  const stops: (() => void)[] = [];
  stops.push(
    onArrival(() => {
      calls.push('first');
      for (const stop of stops) stop();
    }),
    onArrival(() => calls.push('second')),
  );
  signal();
  await turn();
  t.same(calls, ['first']);
  t.equal(process.listenerCount('SIGURG'), 0);
});

t.test('the signal itself calls, and does no harm after the last reader', async (t) => {
  const { promise, resolve } = Promise.withResolvers<string>();
  const stop = onArrival(() => resolve('called'));
  // A signal that is awaited keeps no process alive.
  const limit = setTimeout(resolve, PATIENCE, 'not called');
  process.kill(process.pid, 'SIGURG');
  t.equal(await promise, 'called');
  clearTimeout(limit);
  stop();
  stop();
  process.kill(process.pid, 'SIGURG');
  await sleep(20);
  t.equal(process.listenerCount('SIGURG'), 0);
});
