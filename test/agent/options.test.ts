import t from 'tap';
import {
  type Flags,
  matchesDaemon,
  parseListen,
  plainRunFlags,
  planQuery,
  resolveOptions,
  variableOf,
} from '../../agent/options.ts';

t.strictSame(parseListen('127.0.0.1:10669'), { host: '127.0.0.1', port: 10_669 });
t.strictSame(parseListen('[::1]:80'), { host: '::1', port: 80 });
t.strictSame(parseListen(':80'), { host: '::', port: 80 }, 'without an address: every address');
t.equal(parseListen('::1:80'), undefined, 'an IPv6 address needs brackets');
for (const wrong of [
  '127.0.0.1:70000',
  '127.0.0.1',
  '127.1:80',
  '256.0.0.1:80',
  '1.2.3.4.5:80',
  '[127.0.0.1]:80',
  '[::1:80',
  '[:::1]:80',
  '[]:80',
  'localhost:80',
  ':80:80',
  ':-1',
  '80',
  '',
]) {
  t.equal(parseListen(wrong), undefined, wrong);
}

t.equal(variableOf('policy-dir'), 'VEG_AGENT_POLICY_DIR');

t.test('a flag beats its variable, a variable beats the default', async (t) => {
  const env = { VEG_AGENT_POLICY_DIR: '/env', VEG_AGENT_RESYNC: '5s' };
  t.equal(resolveOptions({}, {}, false).policyDir, '/etc/veg-agent/policy');
  t.equal(resolveOptions({}, env, false).policyDir, '/env');
  t.equal(resolveOptions({ 'policy-dir': '/flag' }, env, false).policyDir, '/flag');
  t.equal(resolveOptions({}, env, false).resync, 5000);
});

t.equal(resolveOptions({}, {}, true).logFormat, 'pretty', 'logs are pretty on a terminal');
t.equal(resolveOptions({}, {}, false).logFormat, 'json', 'and JSON elsewhere');

t.test(
  'flags of run with a value each are read without the command line library, others with it',
  async (t) => {
    const flags = { 'policy-dir': '/p', listen: ':1', 'internal-interface': 'eth0' };
    const words = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]);
    t.strictSame(plainRunFlags(['run', ...words]), flags);
    t.strictSame(plainRunFlags(['run']), {});
    t.strictSame(
      plainRunFlags(['run', '--listen', ':1', '--listen', ':2']),
      { listen: ':2' },
      'the last counts',
    );
    for (const others of [
      [],
      ['plan'],
      ['run', '--help'],
      ['run', '--listen'],
      ['run', '--listen=:1'],
      ['run', '--listen', '--resync'],
      ['run', '--unknown', 'x'],
      ['run', '--toString', 'x'],
      ['run', 'listen', ':1'],
      ['--policy-dir', '/p', 'run'],
    ]) {
      t.equal(plainRunFlags(others), undefined, others.join(' '));
    }
  },
);

t.test('a value that cannot be used names the flag or variable and says what it may be', async (t) => {
  const wrong = (flags: object, env: Record<string, string>, message: RegExp) =>
    t.throws(() => resolveOptions(flags, env, false), { message }, String(message));
  wrong({ resync: 'soon' }, {}, /^--resync must be a time such as .*"soon"$/);
  wrong({ resync: '1ms' }, {}, /at least 100ms/);
  wrong({}, { VEG_AGENT_ON_EXIT: 'burn' }, /^VEG_AGENT_ON_EXIT must be keep or remove, is "burn"$/);
  wrong({ 'log-level': 'loud' }, {}, /--log-level must be one of trace, debug/);
  wrong({ 'internal-interface': 'eth0; rm' }, {}, /--internal-interface must be the name of an interface/);
  wrong({ listen: 'here' }, {}, /--listen must be ADDR:PORT/);
});

t.test('a daemon answers for a plan that names nothing, or what it goes by itself', async (t) => {
  const daemon = resolveOptions({ 'policy-dir': '/p', 'external-interface': 'net2' }, {}, false);
  const answers = (flags: Flags, env: Record<string, string> = {}) =>
    matchesDaemon(daemon, new URLSearchParams(planQuery(flags, env)));
  t.ok(answers({}));
  t.ok(answers({ 'policy-dir': '/p' }, { VEG_AGENT_EXTERNAL_INTERFACE: 'net2', VEG_AGENT_RESYNC: '1s' }));
  t.ok(
    answers({ 'policy-dir': '/p' }, { VEG_AGENT_POLICY_DIR: '/other' }),
    'a flag comes before the variable',
  );
  t.notOk(answers({ 'policy-dir': '/other' }));
  t.notOk(answers({}, { VEG_AGENT_POLICY_DIR: '/other' }));
  t.notOk(answers({ 'internal-interface': 'eth0' }), 'which the daemon was not told');
});
