/** The agent process without a process: what it does when it cannot start, and the order in which it ends. */
import { EventEmitter } from 'node:events';
import pino from 'pino';
import t, { type Test } from 'tap';
import type { Channel } from '../../agent/bfd-link.ts';
import type { OpenKernels } from '../../agent/kernels.ts';
import { CANNOT_START } from '../../agent/messages.ts';
import type { Options } from '../../agent/options.ts';
import { type ProcessEffects, runAgent } from '../../agent/process.ts';
import type { HandledSignal } from '../../lib/signals.ts';
import { ManualClock } from '../support/clock.ts';
import { until } from '../support/netns.ts';

/** The effects of a process over a kernel that is never read, with the faults of the test. */
function effects(t: Test, faults: { open?: Error; serve?: Error; listenError?: Error } = {}) {
  const story: string[] = [];
  const lines: string[] = [];
  const exits: number[] = [];
  const sent: string[] = [];
  const clock = new ManualClock();
  const channel = Object.assign(new EventEmitter(), {
    connected: true,
    send: (message: { type: string }) => sent.push(message.type) > 0,
  });
  const handlers: Partial<Record<HandledSignal, () => void>> = {};
  const kernels = {
    claims: { listen: () => void story.push('claims') },
    watch: () => ({
      netfilterError: faults.listenError,
      read: () => {},
      close: () => void story.push('events closed'),
    }),
  } as unknown as OpenKernels;
  const netlink = { dump: () => [], ask: () => {}, change: () => {} };
  const made: ProcessEffects = {
    logger: pino({}, { write: (line: string) => void lines.push(JSON.parse(line).msg) }),
    exit: (code) => void exits.push(code),
    onSignals: (set) => void Object.assign(handlers, set),
    channel: channel as unknown as Channel,
    clock,
    openKernels() {
      if (faults.open) throw faults.open;
      return { kernels, netlink: netlink as never };
    },
    async serveControl() {
      if (faults.serve) throw faults.serve;
      story.push('control');
      return { close: async () => void story.push('control closed') };
    },
  };
  const dir = t.testdir({ policy: {}, state: {} });
  const options = {
    ...{ policyDir: `${dir}/policy`, stateDir: `${dir}/state`, resync: 30_000, drainTimeout: 100 },
    ...{ onExit: 'keep', listen: [{ host: '127.0.0.1', port: 0 }] },
  } as unknown as Options;
  return { made, options, story, lines, exits, sent, channel, handlers, clock };
}

/** Asks the process to end, and waits until it has. */
async function shutDown({ channel, clock, exits }: ReturnType<typeof effects>): Promise<void> {
  const before = exits.length;
  channel.emit('message', { type: 'shutdown', remove: false });
  await until(
    async () => {
      await clock.advance(100);
      return exits.length > before;
    },
    { what: 'its end' },
  );
}

const errno = (code: string) => Object.assign(new Error(`netlink: ${code}`), { code });

t.test(
  'netlink that is never permitted ends with 78, and any other error with 1, to be retried',
  async (t) => {
    for (const [code, exit] of [
      ['EPERM', CANNOT_START],
      ['EPROTONOSUPPORT', CANNOT_START],
      ['EMFILE', 1],
      ['ENOBUFS', 1],
    ] as const) {
      const { made, options, exits, sent } = effects(t, { open: errno(code) });
      await runAgent(options, made);
      t.same([exits, sent], [[exit], []], code);
    }
  },
);

t.test('a control socket that another program serves ends with 78, before any policy is read', async (t) => {
  const { made, options, exits, story, sent } = effects(t, { serve: new Error('another daemon answers') });
  await runAgent(options, made);
  t.same([exits, story, sent], [[CANNOT_START], [], []]);
});

t.test('it is up when it handles signals and serves the control socket, without any policy', async (t) => {
  const agent = effects(t);
  const { made, options, story, sent, handlers } = agent;
  await runAgent(options, made);
  t.same(story, ['control', 'claims']);
  t.same(sent, ['up'], 'and nothing is said of the sessions');
  t.same(Object.keys(handlers).sort(), ['SIGHUP', 'SIGUSR1']);
  await shutDown(agent);
});

t.test('nf_tables that cannot be listened to is logged, and no reason not to start', async (t) => {
  const agent = effects(t, { listenError: errno('EPERM') });
  const { made, options, lines, sent } = agent;
  await runAgent(options, made);
  t.ok(lines.some((line) => line.startsWith('cannot listen for nf_tables changes')));
  t.same(sent, ['up']);
  await shutDown(agent);
});

t.test(
  'a shutdown during the start waits for it, then ends the parts in order, and exits with 0',
  async (t) => {
    const agent = effects(t);
    const { made, options, exits, story } = agent;
    const running = runAgent(options, made);
    const ended = shutDown(agent);
    await running;
    t.same(exits, []);
    await ended;
    t.same(exits, [0]);
    t.same(story, ['control', 'claims', 'events closed', 'control closed']);
  },
);

t.test('a parent that is gone ends it with 1', async (t) => {
  const agent = effects(t);
  await runAgent(agent.options, agent.made);
  agent.channel.emit('disconnect');
  t.same(agent.exits, [1]);
  await shutDown(agent);
});
