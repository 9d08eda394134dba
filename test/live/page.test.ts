/** The page and `status --watch` as a person sees them: Chromium and a terminal beside an agent with traffic. */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import t from 'tap';
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
  const now = new Date().toISOString().slice(0, 19);
  await search({ external, at: now });
  await shows('#found', /^1 translation found\.$/);
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
  t.same(focused, ['span', 'order', 'external', 'internal', 'at', 'submit', 'reset']);
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
    for (const path of ['/', '/data/status', '/data/sources', '/data/translations']) {
      const ns = address === '127.0.0.1' ? gateway : router;
      const { stdout } = ns.run('curl', [
        ...['-s', '-o', '/dev/null', '-w', '%{http_code}', '-H', `Host: ${host}`],
        `http://${address}:10669${path}`,
      ]);
      t.equal(stdout, '403', `${address}${path} as ${host}`);
    }
  }
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
  const ended = new Promise((resolve) => terminal.once('exit', resolve));
  terminal.stdin.write('\x03');
  t.equal(await ended, 0);
  t.match(printed, /\x1b\[\?7h\x1b\[\?25h\x1b\[\?1049l\s*$/, 'the terminal is as it was');
});
