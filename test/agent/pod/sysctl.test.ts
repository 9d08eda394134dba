import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { desiredSysctls, isOwnChange } from '../../../agent/pod/desired-sysctls.ts';
import { createSysctls } from '../../../agent/pod/sysctl.ts';
import type { Family } from '../../../lib/prefix.ts';

/** A /proc/sys of files, and the settings over it. */
function fixture(t: Test, values: { forward?: string; all?: string; eth0?: string; v6?: string } = {}) {
  const { forward = '0\n', all = '0\n', eth0 = '1\n', v6 = '0\n' } = values;
  const dir = t.testdir({
    sys: {
      net: {
        ipv4: {
          ip_forward: forward,
          icmp_errors_use_inbound_ifaddr: '1\n',
          conf: { all: { rp_filter: all }, 'eth0.7': { rp_filter: eth0 } },
        },
        ipv6: {
          conf: {
            all: { forwarding: v6 },
            'eth0.7': { use_oif_addrs_only: '1\n' },
            net1: { use_oif_addrs_only: '1\n' },
          },
        },
      },
    },
  });
  const stateFile = `${dir}/state/sysctl.json`;
  return {
    dir,
    stateFile,
    sysctls: createSysctls(`${dir}/sys`, stateFile),
    value: (path: string) => readFileSync(`${dir}/sys/${path}`, 'utf8').trim(),
    put: (path: string, text: string) => writeFileSync(`${dir}/sys/${path}`, text),
  };
}
const FORWARD = 'net/ipv4/ip_forward';
const wanted = (...families: Family[]) =>
  desiredSysctls(families, { internal: 'eth0.7', external: 'net1' }, false);

t.test('each family asks for its own settings', async (t) => {
  const paths = (families: (4 | 6)[]) =>
    desiredSysctls(families, { internal: 'eth0', external: 'net1' }, false).map(
      ({ path, value }) => `${path}=${value}`,
    );
  t.strictSame(paths([4]), [
    'net/ipv4/ip_forward=1',
    'net/ipv4/conf/all/rp_filter=0',
    'net/ipv4/conf/eth0/rp_filter=0',
    'net/ipv4/icmp_errors_use_inbound_ifaddr=1',
  ]);
  t.strictSame(paths([6]), [
    'net/ipv6/conf/all/forwarding=1',
    'net/ipv6/conf/eth0/use_oif_addrs_only=1',
    'net/ipv6/conf/net1/use_oif_addrs_only=1',
  ]);
  t.strictSame(paths([]), []);
});

t.test(
  'where flows are counted conntrack has to count, and a note names what is missing otherwise',
  async (t) => {
    const { dir, sysctls } = fixture(t);
    const settings = desiredSysctls([], { internal: 'eth0', external: 'net1' }, true);
    const names = ['acct', 'timestamp', 'events'].map((name) => `net/netfilter/nf_conntrack_${name}`);
    t.strictSame(
      settings.map(({ path, value }) => `${path}=${value}`),
      names.map((name) => `${name}=1`),
    );
    mkdirSync(`${dir}/sys/net/netfilter`);
    for (const name of names.slice(1)) writeFileSync(`${dir}/sys/${name}`, '2\n');
    const { steps, notes, problems } = await sysctls.observe(settings);
    t.strictSame(
      steps.map(({ path }) => path),
      names.slice(1),
    );
    t.match(notes, [
      /^sysctl net\.netfilter\.nf_conntrack_acct has to be 1, or flows have no packet and byte counts, but /,
    ]);
    t.strictSame(problems, {}, 'no family stops for it');
  },
);

t.test('what is wrong is set, once, also for an interface with a dot in its name', async (t) => {
  const { sysctls, value } = fixture(t);
  const { steps, notes } = await sysctls.observe(wanted(4, 6));
  t.strictSame(notes, []);
  t.strictSame(
    steps.map(({ line }) => line),
    [
      'sysctl -w net/ipv4/ip_forward=1',
      'sysctl -w net/ipv4/conf/eth0.7/rp_filter=0',
      'sysctl -w net/ipv6/conf/all/forwarding=1',
    ],
  );
  await sysctls.apply(steps);
  t.equal(value(FORWARD), '1');
  t.equal(value('net/ipv4/conf/eth0.7/rp_filter'), '0');
  t.strictSame(await sysctls.observe(wanted(4, 6)), { steps: [], problems: {}, notes: [] });
});

t.test('the larger rp_filter counts, so the common one is set as well', async (t) => {
  const { sysctls } = fixture(t, { all: '2\n', eth0: '0\n', forward: '1\n' });
  t.strictSame(
    (await sysctls.observe(wanted(4))).steps.map(({ line }) => line),
    ['sysctl -w net/ipv4/conf/all/rp_filter=0'],
  );
});

t.test('cleanup puts back what still is as we left it, and then forgets', async (t) => {
  const { sysctls, value, put, stateFile } = fixture(t, { all: '1\n' });
  await sysctls.apply((await sysctls.observe(wanted(4))).steps);
  put('net/ipv4/conf/eth0.7/rp_filter', '2\n');
  const steps = await sysctls.planCleanup();
  t.strictSame(
    steps.map(({ line }) => line),
    ['sysctl -w net/ipv4/ip_forward=0', 'sysctl -w net/ipv4/conf/all/rp_filter=1'],
  );
  await sysctls.apply(steps);
  t.equal(value(FORWARD), '0');
  t.equal(value('net/ipv4/conf/eth0.7/rp_filter'), '2', 'somebody else’s value stays');
  t.strictSame(await sysctls.planCleanup(), []);
  put('net/ipv4/conf/eth0.7/rp_filter', '0\n');
  await sysctls.apply(await sysctls.planCleanup());
  t.notOk(existsSync(stateFile), 'with everything back there is nothing to remember');
});

t.test(
  'a state directory that cannot be written does not prevent forwarding; it is written later',
  async (t) => {
    const { dir, sysctls, value, stateFile } = fixture(t);
    // Nobody, root neither, makes a file there.
    symlinkSync('/proc/self', `${dir}/state`);
    await sysctls.apply((await sysctls.observe(wanted(4))).steps);
    t.equal(value(FORWARD), '1');
    t.equal(value('net/ipv4/conf/eth0.7/rp_filter'), '0');
    const note =
      /^cleanup cannot restore sysctls while \S+sysctl\.json cannot be written: E\w+: .*; free space/;
    const { steps, notes, problems } = await sysctls.observe(wanted(4));
    t.strictSame([steps, problems], [[], {}]);
    t.match(notes, [note]);
    t.equal(notes.length, 1);
    rmSync(`${dir}/state`);
    mkdirSync(`${dir}/state`);
    t.strictSame((await sysctls.observe(wanted(4))).notes, [], 'with room it is written');
    const next = createSysctls(`${dir}/sys`, stateFile);
    t.strictSame(
      (await next.planCleanup()).map(({ line }) => line),
      ['sysctl -w net/ipv4/ip_forward=0', 'sysctl -w net/ipv4/conf/eth0.7/rp_filter=1'],
      'with what was there first',
    );
  },
);

t.test('the process that could not write it puts back what it remembers', async (t) => {
  const { dir, sysctls, value } = fixture(t);
  symlinkSync('/proc/self', `${dir}/state`);
  await sysctls.apply((await sysctls.observe(wanted(4))).steps);
  await sysctls.apply(await sysctls.planCleanup());
  t.equal(value(FORWARD), '0');
  t.strictSame(await sysctls.planCleanup(), []);
  t.strictSame((await sysctls.observe([])).notes, [], 'and has nothing left to write');
});

t.test('the first value is the one to put back, however often it is set again', async (t) => {
  const { sysctls, value, put } = fixture(t, { forward: '0\n' });
  for (let n = 0; n < 3; n++) {
    await sysctls.apply((await sysctls.observe(wanted(4))).steps);
    if (n < 2) put(FORWARD, '2\n');
  }
  await sysctls.apply(await sysctls.planCleanup());
  t.equal(value(FORWARD), '0');
});

t.test('where nothing can be set, the note says what to do', async (t) => {
  const { dir, sysctls, stateFile } = fixture(t);
  rmSync(`${dir}/sys/net/ipv6`, { recursive: true });
  t.match((await sysctls.observe(wanted(6))).problems, {
    6: /^sysctl net\.ipv6\.conf\.all\.forwarding has to be 1, but this kernel or pod has no such sysctl$/,
  });
  rmSync(`${dir}/sys/${FORWARD}`);
  mkdirSync(`${dir}/sys/${FORWARD}`);
  const { problems, notes } = await sysctls.observe(wanted(4));
  t.match(problems, { 4: /^sysctl net\.ipv4\.ip_forward has to be 1: EISDIR/ });
  t.strictSame(notes, [], 'what a family cannot forward without is its problem, not a note');
  rmSync(`${dir}/sys/net/ipv4/conf/eth0.7`, { recursive: true });
  t.match((await sysctls.observe(wanted(4))).notes, [
    /^sysctl net\/ipv4\/conf\/eth0\.7\/rp_filter has to be 0/,
  ]);
  t.notOk(existsSync(stateFile), 'looking writes nothing');
});

t.test('the fingerprint changes with a setting, and only then', async (t) => {
  const { dir, sysctls } = fixture(t);
  const before = sysctls.fingerprint(wanted(4));
  t.equal(sysctls.fingerprint(wanted(4)), before);
  writeFileSync(`${dir}/sys/${FORWARD}`, before.startsWith('1') ? '0' : '1');
  t.not(sysctls.fingerprint(wanted(4)), before);
  rmSync(`${dir}/sys/net`, { recursive: true });
  t.equal(typeof sysctls.fingerprint(wanted(4)), 'string', 'settings that are gone are no error');
});

t.test('a damaged memory is as good as none', async (t) => {
  const { sysctls, stateFile, value } = fixture(t);
  const { steps } = await sysctls.observe(wanted(4));
  await sysctls.apply(steps);
  writeFileSync(stateFile, '{ half');
  t.strictSame(await sysctls.planCleanup(), []);
  await sysctls.apply([{ path: FORWARD, value: '0', line: '' }]);
  t.equal(value(FORWARD), '0');
});

t.test('of what the state file names only the settings of the agent are put back', async (t) => {
  const { dir, sysctls, stateFile, value } = fixture(t, { forward: '1\n' });
  mkdirSync(`${dir}/state`);
  writeFileSync(`${dir}/outside`, '1\n');
  writeFileSync(`${dir}/sys/net/ipv4/tcp_syncookies`, '1\n');
  const settings: Record<string, { before: unknown; ours: unknown }> = {
    '../outside': { before: 'owned', ours: '1' },
    'net/ipv4/conf/../../../../outside': { before: '0', ours: '1' },
    'net/ipv4/conf/all/../../tcp_syncookies': { before: '0', ours: '1' },
    'net/ipv4/tcp_syncookies': { before: '0', ours: '1' },
    [`${dir}/outside`]: { before: 'owned', ours: '1' },
    [FORWARD]: { before: '77', ours: '1' },
    'net/ipv4/conf/../rp_filter': { before: '1', ours: '0' },
    'net/ipv4/conf/all/rp_filter': { before: 1, ours: '0' },
  };
  for (const [path, change] of Object.entries(settings)) {
    writeFileSync(stateFile, JSON.stringify({ [path]: change }));
    t.strictSame(await sysctls.planCleanup(), [], path);
    t.match((await sysctls.observe(wanted(4))).notes, [
      /^cleanup will not restore sysctls: .*not the agent's/,
    ]);
  }
  t.equal(readFileSync(`${dir}/outside`, 'utf8'), '1\n');
  await sysctls.apply((await sysctls.observe(wanted(4))).steps);
  t.equal(value('net/ipv4/conf/eth0.7/rp_filter'), '0', 'and the agent goes on');
  t.strictSame((await sysctls.observe(wanted(4))).notes, [], 'with a file of its own');
});

t.test('every setting of a gateway is one that can be put back', async (t) => {
  for (const { path, value } of desiredSysctls([4, 6], { internal: 'eth0.7', external: 'net1' }, true)) {
    t.ok(isOwnChange(path, value === '0' ? '2' : '0', value), path);
    t.notOk(isOwnChange(path, value, value), 'and a change');
    t.notOk(isOwnChange(`${path}/`, '0', value));
    t.notOk(isOwnChange(`${path}\n`, '0', value));
  }
});

for (const [name, content] of Object.entries({
  null: 'null',
  number: '1',
  list: '[{"before":"0","ours":"1"}]',
  'null inside': `{"${FORWARD}":null}`,
  text: `{"${FORWARD}":"0"}`,
  empty: '',
  deep: '['.repeat(60_000),
  large: ' '.repeat(1 << 20),
})) {
  t.test(`a state file of ${name} keeps nobody from being ready`, async (t) => {
    const { dir, sysctls, stateFile, value } = fixture(t);
    mkdirSync(`${dir}/state`);
    writeFileSync(stateFile, content);
    const { steps, problems } = await sysctls.observe(wanted(4, 6));
    t.strictSame(problems, {});
    t.strictSame(await sysctls.planCleanup(), []);
    await sysctls.apply(steps);
    t.equal(value(FORWARD), '1');
    t.strictSame(
      (await sysctls.planCleanup()).map(({ path }) => path),
      steps.map(({ path }) => path),
      'and what is set from now on is put back',
    );
  });
}

t.test('a state file that is a FIFO or a link is not waited for, and not written through', async (t) => {
  const { dir, sysctls, stateFile, value } = fixture(t);
  mkdirSync(`${dir}/state`);
  writeFileSync(`${dir}/outside`, 'precious');
  execFileSync('mkfifo', [stateFile]);
  symlinkSync(`${dir}/outside`, `${stateFile}.new`);
  t.match((await sysctls.observe(wanted(4))).notes, [/is a FIFO, not a regular file; remove it/]);
  await sysctls.apply((await sysctls.observe(wanted(4))).steps);
  t.equal(value(FORWARD), '1');
  t.equal(readFileSync(`${dir}/outside`, 'utf8'), 'precious');
  t.equal((await sysctls.planCleanup()).length, 2);
});
