/** What the commands of `bfdd-control` do to the sessions. Their words are those of control-text.test.ts. */
import t, { type Test } from 'tap';
import { BfddControl } from '../../bfd/bfdd-control.ts';
import { Engine } from '../../bfd/engine.ts';
import { rememberingLog } from './silent.ts';

// Nothing answers there, and packets do not leave the machine.
const [LOCAL, REMOTE, OTHER] = ['127.0.5.1', '127.0.5.2', '127.0.5.3'];

function setUp(t: Test) {
  const log = rememberingLog();
  const engine = new Engine({ logger: log });
  t.teardown(() => engine.abandon());
  let stops = 0;
  const control = new BfddControl(engine, '0.5.4', () => stops++);
  const run = (command: string) => control.execute(command.split(' '));
  const connect = (remote: string) => run(`connect local ${LOCAL} remote ${remote}`);
  const configs = () => engine.sessions.map(({ session }) => session.config);
  return { engine, log, run, connect, configs, stops: () => stops };
}

t.test('set changes the parameters of the sessions that are named, and of no other', async (t) => {
  const { run, connect, configs } = setUp(t);
  connect(REMOTE);
  connect(OTHER);
  for (const [words, change] of [
    ['set mintx 300 ms', { desiredMinTx: 300_000 }],
    ['set minrx 50 ms', { requiredMinRx: 50_000 }],
    ['set multi 7', { detectMult: 7 }],
    ['set cpi yes', { controlPlaneIndependent: true }],
    ['set admin_up_poll no', { adminUpPoll: false }],
  ] as const) {
    const untouched = configs()[1];
    t.match(run(`session 1 ${words}`), { ok: true });
    t.match(configs()[0], change);
    t.equal(configs()[1], untouched);
    t.match(run(`session local ${LOCAL} remote ${OTHER} ${words}`), { ok: true });
    t.match(configs()[1], change);
  }
});

t.test('session new set: every parameter counts for the sessions that come', async (t) => {
  const { run, connect, configs } = setUp(t);
  connect(REMOTE);
  const before = configs()[0];
  t.match(before, { adminUpPoll: true, controlPlaneIndependent: false });
  for (const words of ['mintx 300 ms', 'minrx 50 ms', 'multi 7', 'cpi yes', 'admin_up_poll no']) {
    t.match(run(`session new set ${words}`), { ok: true });
  }
  connect(OTHER);
  t.match(configs()[1], {
    desiredMinTx: 300_000,
    requiredMinRx: 50_000,
    detectMult: 7,
    controlPlaneIndependent: true,
    adminUpPoll: false,
  });
  t.equal(configs()[0], before);
  t.match(run('session new kill'), { ok: false, text: /'new' can only be used with 'set'/ });
});

t.test('state holds a session, and up releases it', async (t) => {
  const { run, connect, engine } = setUp(t);
  connect(REMOTE);
  const [managed] = engine.sessions;
  run('session all state admin 6');
  t.match(managed!.session, { sessionState: 'AdminDown', localDiag: 6 });
  run('session all state down');
  t.match(managed!.session, { sessionState: 'Down', localDiag: 5 });
  t.match(managed!.session.hold, { state: 'Down' });
  run('session all state up');
  t.equal(managed!.session.hold, undefined);
});

t.test('suspend, resume, reset, kill', async (t) => {
  const { run, connect, engine } = setUp(t);
  connect(REMOTE);
  run('session 1 suspend');
  t.equal(engine.sessions[0]!.session.suspended, true);
  run('session 1 resume');
  t.equal(engine.sessions[0]!.session.suspended, false);
  run('session 1 suspend');
  run('session 1 set multi 9');
  run('session 1 reset');
  t.match(engine.sessions, [{ id: 2, session: { suspended: false, config: { detectMult: 3 } } }]);
  run('session 2 kill');
  t.same(engine.sessions, []);
});

t.test('a session that is not there, an address that cannot be local', async (t) => {
  const { run, connect } = setUp(t);
  t.same(run('status'), { ok: true, text: 'There are 0 sessions:' });
  t.match(run('status 9'), { ok: false, text: 'No session with id=9.' });
  t.match(run('session 9 reset'), { ok: false, text: /^Attempting to reset session\(s\)\.\nNo session/ });
  t.match(run('session all reset'), { ok: true });
  t.match(run(`connect local 0.0.0.0 remote ${REMOTE}`), { ok: false });
  t.match(connect('fd00::1'), { ok: false, text: /can not mix/ });
});

t.test('log level, type and timing select the lines, and the status is not one of them', async (t) => {
  const { run, log } = setUp(t);
  const commands = () => log.lines.filter(({ message }) => message === 'bfdd-control').length;
  run('version');
  run('status');
  t.equal(commands(), 1);
  t.equal(run('log type command no').text, 'Log type command set to no, was yes');
  run('version');
  t.equal(commands(), 2, 'that one, and none after it');
  t.equal(run('log level all').text, 'Log level set to all.');
  run('log timing yes');
  run('version');
  t.type(log.lines.at(-1)!.fields.monotonicUs, 'number');
});

t.test('stop calls the function that stops the daemon', async (t) => {
  const { run, stops } = setUp(t);
  t.match(run('stop'), { ok: true, text: 'stopping' });
  t.equal(stops(), 1);
});
