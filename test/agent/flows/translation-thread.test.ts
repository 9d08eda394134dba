/** The main thread’s side of the translation log, with threads that die, hang and answer late. */
import { EventEmitter } from 'node:events';
import { mock } from 'node:test';
import t from 'tap';
import { type Thread, TranslationThread } from '../../../agent/flows/translation-thread.ts';
import type {
  Found,
  FromWorker,
  ToWorker,
  WorkerSettings,
} from '../../../agent/flows/translations-messages.ts';

const SETTINGS = { log: {}, rules: [], identity: {} } as unknown as WorkerSettings;
const FOUND: Found = { flows: [], more: false, gaps: [], since: undefined };

/** A thread that does what its test says, and remembers what it was told. */
class FakeThread extends EventEmitter implements Thread {
  readonly received: ToWorker[] = [];
  terminated = false;
  readonly #onMessage: (thread: FakeThread, message: ToWorker) => void;

  constructor(onMessage: (thread: FakeThread, message: ToWorker) => void) {
    super();
    this.#onMessage = onMessage;
  }

  postMessage(message: ToWorker): void {
    this.received.push(message);
    this.#onMessage(this, message);
  }

  async terminate(): Promise<void> {
    this.terminated = true;
    this.emit('exit');
  }

  types(): string[] {
    return this.received.map(({ type }) => type);
  }
}

/** Ends when it is told to. */
const obedient = (thread: FakeThread, { type }: ToWorker): void => {
  if (type === 'stop') queueMicrotask(() => thread.emit('exit'));
};

function setUp(onMessage = obedient) {
  let now = 0;
  const threads: FakeThread[] = [];
  const seen = { ends: 0, restarts: [] as number[], errors: [] as string[], messages: [] as FromWorker[] };
  const keeper = new TranslationThread({
    directory: '/nowhere',
    onMessage(message, done) {
      seen.messages.push(message);
      if (message.type === 'records') done(message.lines.length);
    },
    onEnd: () => seen.ends++,
    onRestart: (ms) => seen.restarts.push(ms),
    onError: ({ message }) => seen.errors.push(message),
    fork() {
      const thread = new FakeThread(onMessage);
      threads.push(thread);
      return thread;
    },
    clock: () => now,
  });
  const run = (ms: number) => {
    now += ms;
    mock.timers.tick(ms);
  };
  return { keeper, threads, seen, run };
}

t.beforeEach(() => mock.timers.enable({ apis: ['setTimeout'] }));
t.afterEach(() => mock.timers.reset());

t.test('settings start it once, and then follow it', async (t) => {
  const { keeper, threads } = setUp();
  keeper.configure(SETTINGS);
  keeper.configure(SETTINGS);
  t.equal(threads.length, 1);
  t.same(threads[0]!.types(), ['settings', 'settings']);
});

t.test('one that dies is started again, later each time, until it has run for a minute', async (t) => {
  const { keeper, threads, seen, run } = setUp();
  keeper.configure(SETTINGS);
  for (const delay of [1000, 2000, 4000]) {
    const count = threads.length;
    threads.at(-1)!.emit('error', new Error('out of memory'));
    threads.at(-1)!.emit('exit');
    run(delay - 1);
    t.equal(threads.length, count, 'not yet');
    run(1);
    t.equal(threads.length, count + 1);
    t.same(threads.at(-1)!.types(), ['settings'], 'with its settings');
  }
  run(61_000);
  threads.at(-1)!.emit('exit');
  t.same(seen.restarts, [1000, 2000, 4000, 1000]);
  t.equal(seen.ends, 4, 'its figures are void each time');
  t.equal(seen.errors.length, 3);
});

t.test('a lookup without an answer ends after its time, and a late answer harms nothing', async (t) => {
  const { keeper, threads, run } = setUp();
  keeper.configure(SETTINGS);
  const first = keeper.find({ from: 0, to: 1, limit: 1 });
  run(4000);
  t.equal(await first, undefined);
  const id = (threads[0]!.received.at(-1) as { id: number }).id;
  const second = keeper.find({ from: 0, to: 1, limit: 1 });
  threads[0]!.emit('message', { type: 'answer', id, answer: FOUND });
  threads[0]!.emit('message', { type: 'answer', id: id + 1, answer: FOUND });
  t.equal(await second, FOUND);
});

t.test('a lookup while it is dead ends after its time', async (t) => {
  const { keeper, threads, run } = setUp();
  keeper.configure(SETTINGS);
  threads[0]!.emit('exit');
  const answer = keeper.sources();
  run(4000);
  t.equal(await answer, undefined);
});

t.test('written records are acknowledged to the thread that made them', async (t) => {
  const { keeper, threads, run } = setUp();
  keeper.configure(SETTINGS);
  const [first] = threads;
  first!.emit('exit');
  run(1000);
  first!.emit('message', { type: 'records', lines: ['{}\n', '{}\n'] });
  t.same(first!.received.at(-1), { type: 'written', records: 2 });
  t.same(threads[1]!.types(), ['settings'], 'the next one has made none');
});

t.test('the end waits for it, and for one that hangs not longer than 1.5 s', async (t) => {
  const obeys = setUp();
  obeys.keeper.configure(SETTINGS);
  await obeys.keeper.stop();
  t.same(obeys.threads[0]!.types(), ['settings', 'stop']);
  t.equal(obeys.seen.restarts.length, 0, 'an end that was asked for is no death');

  const hangs = setUp(() => {});
  hangs.keeper.configure(SETTINGS);
  const stopped = hangs.keeper.stop();
  hangs.run(1499);
  t.equal(hangs.threads[0]!.terminated, false);
  hangs.run(1);
  await stopped;
  t.equal(hangs.threads[0]!.terminated, true);
});

t.test('no thread is started again after the end, whatever was due', async (t) => {
  const { keeper, threads, run } = setUp();
  keeper.configure(SETTINGS);
  threads[0]!.emit('exit');
  await keeper.stop();
  run(60_000);
  t.equal(threads.length, 1);
});

t.test('one that is configured while the last one ends is started when that is over', async (t) => {
  const { keeper, threads, run } = setUp(() => {});
  keeper.configure(SETTINGS);
  const stopped = keeper.stop();
  keeper.configure(SETTINGS);
  run(1500);
  await stopped;
  t.equal(threads.length, 2);
  t.same(threads[1]!.types(), ['settings']);
});
