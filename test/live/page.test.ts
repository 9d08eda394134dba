/** The page and `status --watch` as a person sees them: Chromium and a terminal beside an agent with traffic. */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import t from 'tap';
import type { HistoryDocument, Values } from '../../agent/show/plots/recorder.ts';
import { AGENT, Agent, BFD, DIRECT, PolicyDirectory, WEB } from '../support/agent.ts';
import { Browser } from '../support/browser.ts';
import { NODE, until } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { startEchoServer, Traffic } from '../support/traffic.ts';

const ORIGIN = 'http://127.0.0.1:10669';
const POD_NAME = `gateway1<img src=x onerror="document.title='pwned'">`;

const scope = scopeOf(t);
const { client, router, gateway, server } = topology(scope);
const policy = new PolicyDirectory(scope);
const SPEC = { bfd: BFD, policies: [WEB, DIRECT], translationLog: { enabled: true } };
policy.set(SPEC);
const options = { policyDir: policy.dir, stateDir: scope.directory('state') };

// Before there is an agent.
const words = [
  NODE,
  AGENT,
  'status',
  '--watch',
  '--policy-dir',
  options.policyDir,
  '--state-dir',
  options.stateDir,
];
const command = `stty cols 120 rows 40; exec ${words.join(' ')}`;
const terminal = spawn('ip', ['netns', 'exec', gateway.name, 'script', '-qefc', command, '/dev/null']);
let printed = '';
terminal.stdout.setEncoding('utf8').on('data', (text: string) => {
  printed += text;
});
t.teardown(() => terminal.kill('SIGKILL'));
/** The lines of the frame that was drawn last. */
const frame = () =>
  printed
    .split('\x1b[H')
    .at(-1)!
    .replace(/\x1b\[[\d?]*[A-Za-z]/g, '');
await until(() => frame().includes('no agent'), { what: 'the terminal says that there is no agent' });

const agent = new Agent(gateway, {
  ...options,
  args: ['--translation-log', `${scope.directory('log')}/translations`],
  env: { POD_NAMESPACE: 'default', POD_NAME, NODE_NAME: 'worker-1' },
});
const starting = Browser.start(scope, gateway);
await agent.synced();
await startEchoServer(server);
const sessions = [
  { local: '10.255.255.255', remote: '10.16.0.12' },
  { local: 'fd00:ffff::1', remote: 'fd00:10:16::12' },
];
const frr = await startFrr(scope, router, { sessions });
const traffic = await Traffic.open(client, [`tcp:${ADDRESS.server[4]}`, `new:${ADDRESS.server[4]}`]);
await peerUp(frr);
await agent.statusUntil('ready', ({ ready }) => ready);
const browser = await starting;
t.teardown(() => browser.close());
await browser.view({ width: 1200, height: 900 });
await browser.open(`${ORIGIN}/`);

/** Waits until an element's text matches; refreshes more often than the page does by itself. */
const shows = (selector: string, pattern: RegExp) =>
  until(
    async () => {
      await browser.value(`document.getElementById('order')?.dispatchEvent(new Event('change'))`);
      return pattern.test(await browser.text(selector));
    },
    { what: `${selector} shows ${pattern}`, everyMs: 100 },
  );
const number = (selector: string) =>
  browser.value<number>(`parseFloat(document.querySelector(${JSON.stringify(selector)})?.textContent)`);

t.test('health, sessions with their changes, rates and sources', async (t) => {
  await shows('#state', /^Ready$/);
  t.match(await browser.text('h1'), 'default/gateway1');
  t.match(await browser.text('#tiles'), /Valid.*In sync.*Up.*2 Up.*of 2 sessions/s);
  t.match(await browser.text('#sessions'), /Up.*10\.255\.255\.255.*100 ms, detected in 500 ms/s);
  t.match(await browser.text('#changes'), /10\.255\.255\.255\s+Init → Up/, 'the change to Up');
  t.match(
    await browser.value(`document.querySelector('#sessions svg').getAttribute('aria-label')`),
    /^10\.255\.255\.255: .*Up \d+s$/,
    'the timeline, for those who do not see it',
  );
  const rate = '#policies tr:first-child [data-label="New/s"]';
  await until(async () => (await number(rate)) > 10, { what: 'a hundred flows a second begin' });
  await shows('#sources', /10\.17\.0\.9/);
  await shows('#flows', /172\.17\.0\.11:\d+/);
});

/** The plots of a range, as `status --watch` gets them. */
const historyOf = async (range: string) =>
  JSON.parse((await agent.ask('GET', `/v1/history?range=${range}`)).body) as HistoryDocument;
const measured = (values: Values) => values.filter((value) => value !== null);
const kinds = async () => new Set((await historyOf('1h')).marks.map(({ kind }) => kind));

t.test('plots show traffic by policy, BFD lateness, and round trips to both gateways', async (t) => {
  const { policies, roundTrips, lateness } = await until(
    async () => {
      const history = await historyOf('5m');
      const web = history.policies.find(({ policy }) => policy === 'web');
      const grown = [web?.out, web?.connections, web?.open].every(
        (values = []) => (measured(values).at(-1) ?? 0) > 0,
      );
      return grown && history;
    },
    { what: 'rates of a policy' },
  );
  const web = policies.find(({ policy }) => policy === 'web')!;
  for (const values of [web.out, web.in, web.connections, web.open]) t.ok(measured(values).at(-1)! > 0);
  t.same(
    roundTrips.map(({ family }) => family),
    [4, 6],
  );
  for (const { mean, worst } of [...roundTrips, lateness]) {
    t.ok(measured(mean).every((value, i) => value! <= measured(worst)[i]! * 1.001));
    t.ok(measured(worst).length > 0);
  }
  await browser.value(`document.getElementById('span').value = '300'`);
  await browser.value(`document.getElementById('span').dispatchEvent(new Event('change'))`);
  await shows('#readout', /web\s+[\d.]+ k?B\/s\s+[\d.]+ k?B\/s\s+[\d.]+\/s\s+\d+/);
  for (const id of ['out', 'in', 'connections', 'open', 'lateness', 'round-trips']) {
    const line = await browser.value<string>(
      `document.querySelector('#plot-${id} path.c0').getAttribute('d')`,
    );
    t.match(line, /^M[\d.]+ [\d.]+/, id);
  }
});

t.test('a key moves the point in time whose numbers are shown', async (t) => {
  const shown = () => browser.text('#point-time');
  const spoken = () =>
    browser.value<string>(`document.getElementById('moment').getAttribute('aria-valuetext')`);
  await browser.value(`document.getElementById('moment').focus()`);
  const then = await shown();
  for (let i = 0; i < 12; i++) await browser.press('ArrowLeft');
  await until(async () => (await shown()) < then, { what: 'an earlier time' });
  t.equal(await spoken(), await shown());
});

t.test('what happened is marked: edits, repairs, drains, sessions out of Up', async (t) => {
  gateway.sh('ip rule del priority 1002');
  await until(async () => (await kinds()).has('repair'), { what: 'the repair' });
  policy.set({ ...SPEC, mssClamp: false });
  await agent.statusUntil('the edit', ({ policy }) => policy.generation > 1);
  agent.cli('drain', '--timeout', '1s');
  agent.cli('undrain');
  const expected = ['start', 'policy', 'repair', 'drain', 'session'] as const;
  await until(
    async () => {
      const seen = await kinds();
      return expected.every((kind) => seen.has(kind));
    },
    { what: 'all marks' },
  );
  await agent.statusUntil('ready', ({ ready }) => ready);
  await shows('#marks', /generation 2[\s\S]*agent started/);
  t.equal(agent.http('/data/history?range=2h').status, 400);
});

t.test('nothing moves when it is refreshed', async (t) => {
  const tops = () =>
    browser.value<number[]>(`[...document.querySelectorAll('h2')].map((h) => h.getBoundingClientRect().top)`);
  const before = await tops();
  const open = '#policies tr:first-child [data-label="Connections"]';
  const then = await browser.text(open);
  await until(async () => (await browser.text(open)) !== then, { what: 'another look' });
  t.same(await tops(), before);
});

t.test('a search finds who was behind an address', async (t) => {
  const [tcp] = await traffic.report();
  const external = tcp!.seen.replace(' ', ':');
  const search = (fields: Record<string, string>) =>
    browser.value(`(() => {
      for (const id of ['external', 'internal', 'at']) document.getElementById(id).value = '';
      for (const [id, value] of Object.entries(${JSON.stringify(fields)})) document.getElementById(id).value = value;
      document.querySelector('#search [type=submit]').click();
    })()`);
  // While the table is read again after the death of the agent process, some may be missing, and the page says so.
  let now = '';
  await until(
    async () => {
      now = new Date().toISOString().slice(0, 19);
      await search({ external, at: now });
      return /^1 translation found\.$/.test(await browser.text('#found'));
    },
    { what: 'one translation is found', everyMs: 500 },
  );
  t.match(
    await browser.text('#flows'),
    new RegExp(`10\\.17\\.0\\.9:\\d+\\s+${external}\\s+172\\.17\\.0\\.1:8000`),
  );
  await search({ internal: '10.17.0.77' });
  await shows('#found', /^0 translations found\. The translation log begins at 20\S+Z\.$/);
  await search({ external: 'somewhere' });
  await shows('#found', /external must be IP or IP:PORT/);
  await browser.value(`document.querySelector('#search [type=reset]').click()`);
  await shows('#found', /^The newest \d+ translations\.$/);
});

t.test('it fits every screen from a telephone to 4K, light and dark, and axe finds nothing', async (t) => {
  await browser.value(readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8'));
  const value = (property: string) => browser.value<string>(`getComputedStyle(document.body).${property}`);
  const colours = new Set<string>();
  for (const width of [3840, 1200, 768, 360]) {
    for (const dark of [false, true]) {
      const screen = `${width} pixels wide, ${dark ? 'dark' : 'light'}`;
      await browser.view({ width, height: 780, dark });
      t.equal(await browser.value('document.documentElement.scrollWidth'), width, screen);
      colours.add(`${dark} ${await value('backgroundColor')}`);
      const violations = await browser.value<string[]>(
        `axe.run().then(({ violations, passes }) => passes.length < 20 ? ['axe saw too little'] :
          violations.flatMap(({ id, nodes }) => nodes.map(({ html }) => id + ': ' + html)))`,
      );
      t.same(violations, [], screen);
    }
  }
  t.equal(colours.size, 2, 'one background when light, another when dark');
  t.equal(new Set([...colours].map((text) => text.replace(/^\w+ /, ''))).size, 2);
  await browser.view({ width: 3840, height: 2160 });
  const small = Number.parseFloat(await value('fontSize'));
  await browser.view({ width: 1200, height: 900 });
  t.ok(small > Number.parseFloat(await value('fontSize')), 'text is larger on a screen of 3840 pixels');
});

t.test('a keyboard reaches every control, in the order of the page', async (t) => {
  const focused = await browser.value<string[]>(`(async () => {
    const controls = [...document.querySelectorAll('select, input, button')];
    return controls.filter((one) => (one.focus(), document.activeElement === one)).map((one) => one.id || one.type);
  })()`);
  t.same(focused, ['span', 'moment', 'order', 'external', 'internal', 'at', 'submit', 'reset']);
});

t.test('text from outside is text', async (t) => {
  policy.set({ ...SPEC, policies: [{ ...WEB, name: '<b>bold</b>' }] });
  await shows('#state', /Not ready/);
  t.match(await browser.text('#reasons'), '<b>bold</b>');
  t.match(await browser.text('#about'), POD_NAME);
  t.equal(await browser.value(`document.querySelectorAll('main b, img').length`), 0);
  t.match(await browser.value('document.title'), 'Not ready');
  policy.set(SPEC);
  await shows('#state', /^Ready$/);
});

t.test('it requests nothing from elsewhere, and could not', async (t) => {
  t.same(
    browser.requests.filter((url) => !url.startsWith(`${ORIGIN}/`) && !url.startsWith('data:')),
    [],
  );
  t.same(
    browser.complaints.filter((text) => !text.includes('400 (Bad Request)')),
    [],
    'nothing went wrong but the search for nonsense',
  );
  t.equal(
    await browser.value(
      `fetch('http://10.16.0.12:10669/livez', { mode: 'no-cors' }).then(() => 'answered', () => 'refused')`,
    ),
    'refused',
    'the page may not even ask the agent by another address',
  );
  for (const [address, host] of [
    ['10.16.0.12', '10.16.0.12'],
    ['127.0.0.1', 'evil.example'],
  ]) {
    for (const path of ['/', '/data/status', '/data/history', '/data/sources', '/data/translations']) {
      const ns = address === '127.0.0.1' ? gateway : router;
      const { stdout } = ns.run('curl', [
        ...['-s', '-o', '/dev/null', '-w', '%{http_code}', '-H', `Host: ${host}`],
        `http://${address}:10669${path}`,
      ]);
      t.equal(stdout, '403', `${address}${path} as ${host}`);
    }
  }
});

t.test('plots continue over the death of the agent process, with a gap', async (t) => {
  const file = join(options.stateDir, 'history.bin');
  await until(() => existsSync(file), { what: 'the file of the plots' });
  t.equal(statSync(file).mode & 0o777, 0o600);
  const saved = statSync(file).mtimeMs;
  const before = await historyOf('1d');
  const [child = ''] = gateway.run('pgrep', ['-P', `${agent.daemon.pid}`]).stdout.split('\n');
  process.kill(Number(child), 'SIGKILL');
  const after = await until(
    async () => {
      const history = await historyOf('5m').catch(() => undefined);
      const starts = history?.marks.filter(({ kind }) => kind === 'start') ?? [];
      return starts.reduce((sum, { count }) => sum + count, 0) > 1 && history;
    },
    { what: 'the next agent process' },
  );
  t.match(
    after.policies.map(({ policy }) => policy),
    ['web'],
  );
  const kept = after.policies[0]!.out.filter(
    (value, i) => value !== null && after.end - (60 - i) * 5000 < saved,
  );
  t.ok(kept.length > 1, 'what was saved is there');
  for (const { kind, text } of before.marks.filter(({ at }) => at < saved - 1000)) {
    t.ok(
      after.marks.some((mark) => mark.kind === kind && mark.text === text),
      text,
    );
  }
  await agent.statusUntil('ready', ({ ready }) => ready);
});

t.test('a terminal shows the same, and Ctrl-C ends it', async (t) => {
  // A frame is up to a second old: it may show the state before this test's.
  const text = await until(
    () => (/web +translated +[1-9]/.test(frame()) && /● ready/.test(frame()) ? frame() : undefined),
    { what: 'a ready gateway and its rates on the terminal' },
  );
  t.match(text, /^default\/gateway1 {2}● ready/);
  t.match(text, POD_NAME);
  t.match(text, /● Up .*10\.255\.255\.255/);
  t.match(text, /10\.17\.0\.9:\d+ +172\.17\.0\.11:\d+/);
  t.match(text, /plots +5 minutes, all policies/);
  const press = (key: string, pattern: RegExp) => {
    terminal.stdin.write(key);
    return until(() => pattern.test(frame()), { what: `${pattern} after ${JSON.stringify(key)}` });
  };
  await press('h', /plots +hour, all policies/);
  await press('p', /plots +hour, web/);
  await press('\t', /^default\/gateway1(?![\s\S]*POLICY)[\s\S]*Out of the VPC +\S+ kB\/s max /);
  await press('\t', /POLICY/);
  const ended = new Promise((resolve) => terminal.once('exit', resolve));
  terminal.stdin.write('\x03');
  t.equal(await ended, 0);
  t.match(printed, /\x1b\[\?7h\x1b\[\?25h\x1b\[\?1049l\s*$/, 'the terminal is as it was');
});
