/** The BFD process around its engine: faults at fork, at the IPC channel and of the clock, on a clock of its own. */
import { EventEmitter } from 'node:events';
import t, { type Test } from 'tap';
import type { ForkedProcess } from '../../agent/agent-child.ts';
import { CANNOT_START } from '../../agent/messages.ts';
import { Supervisor } from '../../agent/supervisor.ts';
import { WATCHDOG } from '../../agent/watchdog.ts';
import type { EngineReport } from '../../bfd/intent.ts';
import { ManualClock } from '../support/clock.ts';

const REPORT = { sessions: [{ id: 1 }], discards: {}, draining: false } as unknown as EngineReport;

/** A forked process without a process. `pid` undefined: the fork failed. */
class FakeProcess extends EventEmitter {
  readonly pid: number | undefined;
  connected = true;
  readonly sent: { type: string }[] = [];
  readonly signals: (string | number)[] = [];
  /** Whether SIGKILL ends it; not one that waits for a disk. */
  mortal = true;

  constructor(pid: number | undefined) {
    super();
    this.pid = pid;
  }

  send(message: { type: string }, done: (error: Error | null) => void): boolean {
    this.sent.push(message);
    done(null);
    return false;
  }

  kill(signal: string | number): boolean {
    this.signals.push(signal);
    if (signal === 'SIGKILL' && this.mortal) this.exit(null, 'SIGKILL');
    return true;
  }

  disconnect(): void {
    this.connected = false;
  }

  exit(code: number | null, signal: string | null = null): void {
    this.connected = false;
    this.emit('exit', code, signal);
  }
}

function setUp(t: Test, faults: { fork?: (n: number) => FakeProcess | Error; stop?: Error } = {}) {
  const clock = new ManualClock();
  const processes: FakeProcess[] = [];
  let forks = 0;
  const done: string[] = [];
  const lines: string[] = [];
  const log = (_fields: object, message: string) => void lines.push(message);
  let stateDirError: Error | undefined;
  const supervisor = new Supervisor({
    options: { drainTimeout: 5000, onExit: 'keep' },
    engine: {
      abandon: () => void done.push('abandon'),
      configure: () => void done.push('configure'),
      drain: () => void done.push('drain'),
      undrain: () => void done.push('undrain'),
      gate: ({ ready }) => void done.push(ready ? 'open' : 'shut'),
      report: () => REPORT,
      stop: async () => {
        done.push('stop');
        if (faults.stop) throw faults.stop;
      },
    },
    bfddControl: { execute: (words) => ({ ok: true, text: words.join(' ') }) },
    fork() {
      const made = faults.fork?.(forks++) ?? new FakeProcess(1000 + processes.length);
      if (made instanceof Error) throw made;
      processes.push(made);
      return made as unknown as ForkedProcess;
    },
    onStart: () => {},
    onAgentIntent: () => void lines.push('the agent process knows'),
    ensureStateDir() {
      if (stateDirError) throw stateDirError;
    },
    logger: { debug: log, info: log, warn: log, error: log },
    clock,
  });
  let code: number | undefined;
  void supervisor.run().then((exitCode) => {
    code = exitCode;
  });
  t.teardown(() => supervisor.signalHandlers.SIGUSR2());
  return {
    ...{ supervisor, clock, processes, done, lines },
    forks: () => forks,
    code: () => code,
    loseStateDir: (error: Error | undefined) => {
      stateDirError = error;
    },
    /** Lets time pass while the last process sends a pulse each second. */
    async pulse(seconds: number, watchedAgo: number | null) {
      for (let i = 0; i < seconds; i++) {
        processes.at(-1)!.emit('message', { type: 'pulse', watchedAgo });
        await clock.advance(1000);
      }
    },
  };
}

const errno = (code: string) => Object.assign(new Error(`fork ${code}`), { code });

t.test('a fork that throws (EMFILE), or fails later (EAGAIN), is retried with a growing delay', async (t) => {
  const { clock, processes, forks, lines } = setUp(t, {
    fork: (n) => (n < 2 ? errno('EMFILE') : new FakeProcess(n < 4 ? undefined : 1234)),
  });
  await clock.advance(100);
  t.equal(forks(), 2);
  await clock.advance(200);
  t.equal(forks(), 3);
  processes[0]!.emit('error', errno('EAGAIN'));
  t.equal(processes[0]!.connected, false, 'its channel is closed');
  await clock.advance(400);
  processes[1]!.emit('error', errno('EAGAIN'));
  await clock.advance(800);
  t.equal(forks(), 5);
  t.equal(processes[2]!.sent[0]?.type, 'report', 'the one that runs gets a report');
  t.equal(lines.filter((line) => line === 'the agent process cannot be started').length, 4);
});

t.test('an agent process that dies is restarted, the sessions stay', async (t) => {
  const { clock, processes, done } = setUp(t);
  processes[0]!.exit(null, 'SIGSEGV');
  await clock.advance(WATCHDOG.restartFirst);
  t.equal(processes.length, 2);
  t.same(done, []);
});

t.test('exit code 78 before any process was up ends the daemon with 1, after that it does not', async (t) => {
  const first = setUp(t);
  first.processes[0]!.exit(CANNOT_START);
  await first.clock.advance(0);
  t.equal(first.code(), 1);
  t.same(first.done, ['abandon']);

  const second = setUp(t);
  second.processes[0]!.emit('message', { type: 'up' });
  second.processes[0]!.exit(CANNOT_START);
  await second.clock.advance(WATCHDOG.restartFirst);
  t.equal(second.code(), undefined);
  t.equal(second.processes.length, 2);
});

t.test('a silent process is killed after 30 s; one that sends pulses is not', async (t) => {
  const { clock, processes, pulse } = setUp(t);
  await pulse(40, 0);
  t.same(processes[0]!.signals, []);
  await clock.advance(WATCHDOG.hung + 1000);
  t.same(processes[0]!.signals, ['SIGKILL']);
  t.equal(processes.length, 2);
});

t.test('a hung process that SIGKILL does not end is not started twice', async (t) => {
  const { clock, processes } = setUp(t);
  processes[0]!.mortal = false;
  await clock.advance(WATCHDOG.hung + 5000);
  t.ok(processes[0]!.signals.length > 1, 'it is killed again');
  t.equal(processes.length, 1);
});

t.test(
  'sessions leave Up when no observation completes for 60 s, over restarts, until one does',
  async (t) => {
    const { clock, processes, done, pulse } = setUp(t);
    await pulse(30, null);
    processes[0]!.exit(1);
    await clock.advance(WATCHDOG.restartFirst);
    await pulse(29, null);
    t.same(done, []);
    await pulse(3, null);
    t.same(done, ['shut']);
    await pulse(1, 200);
    t.same(done, ['shut', 'open']);
  },
);

t.test('an old observation that is reported again does not keep the gateway watched', async (t) => {
  const { done, processes, clock } = setUp(t);
  for (let ago = 0; ago <= 62; ago++) {
    processes[0]!.emit('message', { type: 'pulse', watchedAgo: ago * 1000 });
    await clock.advance(1000);
  }
  t.same(done, ['shut']);
});

t.test(
  'a clock that jumps two minutes (a stopped machine) shuts the gate until the next pulse',
  async (t) => {
    const { done, clock, pulse, processes } = setUp(t);
    await pulse(5, 0);
    processes[0]!.mortal = false;
    clock.jump(120_000);
    await clock.advance(1000);
    t.same(done, ['shut']);
    await pulse(1, 0);
    t.same(done, ['shut', 'open']);
  },
);

t.test('signals wait until the agent process handles them', async (t) => {
  const { supervisor, processes, clock } = setUp(t);
  supervisor.signalHandlers.SIGHUP();
  supervisor.signalHandlers.SIGHUP();
  t.same(processes[0]!.signals, []);
  processes[0]!.exit(1);
  await clock.advance(WATCHDOG.restartFirst);
  processes[1]!.emit('message', { type: 'up' });
  t.same(processes[1]!.signals, ['SIGHUP'], 'once, and for the process that is up');
  supervisor.signalHandlers.SIGUSR1();
  t.same(processes[1]!.signals, ['SIGHUP', 'SIGUSR1']);
});

t.test('a message read after its sender has ended counts until there is another process', async (t) => {
  const { processes, done, clock, lines } = setUp(t);
  const [first] = processes as [FakeProcess];
  first.exit(1);
  first.emit('message', { type: 'up' });
  first.emit('message', { type: 'intent', intent: { peers: [] } });
  t.same(done, ['configure']);
  t.ok(lines.includes('the agent process knows'), 'what began before it ends');
  await clock.advance(WATCHDOG.restartFirst);
  first.emit('message', { type: 'drain' });
  t.same(done, ['configure'], 'the next process decides');
  processes[1]!.emit('message', { type: 'drain' });
  t.same(done, ['configure', 'drain']);
});

t.test('nothing is sent over a closed channel, and a full one delays nothing', async (t) => {
  const { processes, clock } = setUp(t);
  const [child] = processes as [FakeProcess];
  await clock.advance(3000);
  t.equal(child.sent.length, 4, 'send returned false each time');
  child.connected = false;
  child.emit('message', { type: 'command', id: 7, words: ['status'] });
  await clock.advance(3000);
  t.equal(child.sent.length, 4);
  child.connected = true;
  child.emit('message', { type: 'command', id: 8, words: ['status'] });
  t.match(child.sent.at(-1), { type: 'reply', id: 8, ok: true, text: 'status' });
});

t.test('SIGTERM drains, waits for the agent process to end, and ends with 0', async (t) => {
  const { supervisor, processes, done, clock, code } = setUp(t);
  supervisor.signalHandlers.SIGTERM();
  t.same(done, ['drain']);
  t.match(processes[0]!.sent.at(-1), { type: 'shutdown', remove: false });
  await clock.advance(4000);
  t.equal(code(), undefined, 'traffic still moves');
  processes[0]!.exit(0);
  await clock.advance(0);
  t.same(done, ['drain', 'stop']);
  t.equal(code(), 0);
  await clock.advance(60_000);
  t.equal(processes.length, 1, 'no other one is started');
});

t.test(
  'a member of a group drains when its agent process has handed over, or the time is over',
  async (t) => {
    const peers = [{ remote: '10.16.0.13', unconditional: true }];
    for (const hangs of [false, true]) {
      const { supervisor, processes, done, clock, code } = setUp(t);
      const [agent] = processes as [FakeProcess];
      agent.emit('message', { type: 'intent', intent: { peers, readiness: {} } });
      supervisor.signalHandlers.SIGTERM();
      await clock.advance(4900);
      t.same(done, ['configure'], 'not before the handover');
      t.ok(agent.sent.some(({ type }) => type === 'shutdown'));
      if (!hangs) {
        agent.emit('message', { type: 'drain' });
        t.same(done, ['configure', 'drain']);
        agent.exit(0);
      }
      await clock.advance(200);
      t.same(done, hangs ? ['configure', 'drain'] : ['configure', 'drain', 'stop']);
      await clock.advance(7000);
      t.same([done.at(-1), code()], ['stop', 0]);
    }
  },
);

t.test('an agent process that does not end is killed, and one that cannot be is left behind', async (t) => {
  const { supervisor, processes, clock, code } = setUp(t);
  processes[0]!.mortal = false;
  supervisor.signalHandlers.SIGINT();
  await clock.advance(11_000);
  t.same(processes[0]!.signals, ['SIGKILL']);
  t.equal(code(), undefined);
  await clock.advance(2000);
  t.equal(code(), 0);
});

t.test('a second SIGTERM kills the agent process at once', async (t) => {
  const { supervisor, processes, clock, code } = setUp(t);
  supervisor.signalHandlers.SIGTERM();
  supervisor.signalHandlers.SIGTERM();
  await clock.advance(0);
  t.same(processes[0]!.signals, ['SIGKILL']);
  t.equal(code(), 0);
});

t.test('SIGTERM between two agent processes ends without starting another', async (t) => {
  const { supervisor, processes, clock, code } = setUp(t);
  processes[0]!.exit(1);
  supervisor.signalHandlers.SIGTERM();
  await clock.advance(60_000);
  t.equal(processes.length, 1);
  t.equal(code(), 0);
});

t.test('SIGUSR2 ends at once, without a drain', async (t) => {
  const { supervisor, processes, done, clock, code } = setUp(t);
  supervisor.signalHandlers.SIGUSR2();
  await clock.advance(0);
  t.same(done, ['abandon']);
  t.same(processes[0]!.signals, ['SIGKILL']);
  t.equal(code(), 0);
});

t.test('an engine that fails to stop ends the daemon with 1', async (t) => {
  const { supervisor, processes, clock, code } = setUp(t, { stop: new Error('no disk') });
  supervisor.signalHandlers.SIGTERM();
  processes[0]!.exit(0);
  await clock.advance(0);
  t.equal(code(), 1);
});

t.test('a lost state directory is logged once, and again when it is lost again', async (t) => {
  const { clock, lines, loseStateDir, pulse } = setUp(t);
  const lost = () => lines.filter((line) => line === 'the state directory is lost').length;
  loseStateDir(new Error('gone'));
  await pulse(3, 0);
  t.equal(lost(), 1);
  loseStateDir(undefined);
  await pulse(1, 0);
  loseStateDir(new Error('gone'));
  await clock.advance(1000);
  t.equal(lost(), 2);
});
