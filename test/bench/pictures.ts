/**
 * Makes the pictures of docs/page.md again: `node test/bench/pictures.ts` (root, Chromium, FRR) runs an agent in the
 * VPC of the tests with traffic of several sources, and writes what the page and the terminal show to docs/images.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { AGENT, Agent, BFD, DIRECT, PolicyDirectory, WEB } from '../support/agent.ts';
import { Browser } from '../support/browser.ts';
import { type Namespace, NODE, ROOT, Scope, until } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { topology } from '../support/topology.ts';

const IMAGES = join(ROOT, 'docs/images');
/** How long all is well before and after the outage, s. */
const BEFORE = 50;
const AFTER = 70;
/** A picture in the documents has at most so many octets. */
const LARGEST = 150_000;
/** The terminal. */
const COLUMNS = 118;
const ROWS = 44;

/** A server that sends as many octets as the path says. */
const SERVER = `
  require('node:http').createServer((request, response) => {
    response.end(Buffer.alloc(Number(request.url.slice(1))));
  }).listen(80, '::')`;

/** Downloads again and again: source, octets, seconds between. */
function download(ns: Namespace, source: string, octets: number, pause: number): void {
  const host = source.includes(':') ? '[fd00:172:17::1]' : '172.17.0.1';
  const loop = `while :; do curl -s -o /dev/null --interface ${source} http://${host}/${octets}; sleep ${pause}; done`;
  ns.spawn('sh', ['-c', loop], { name: `download-${source.replaceAll(':', '-')}` });
}

const scope = new Scope();
const { client, client2, router, gateway, server } = topology(scope);
client.ip(
  ['10.17.3.21', '10.17.3.57', '10.17.8.104', '10.17.12.6']
    .map((ip) => `addr add ${ip}/16 dev eth0`)
    .join('\n'),
);
client2.ip('addr add 10.18.2.33/16 dev eth0');

const policy = new PolicyDirectory(scope);
const SPEC = {
  bfd: BFD,
  policies: [
    { ...WEB, ipBlocks: ['10.17.0.0/21', 'fd00:10:17::/64'] },
    { name: 'batch', snat: true, ipBlocks: ['10.17.8.0/21'] },
    { ...DIRECT, name: 'legacy' },
  ],
  translationLog: { enabled: true },
};
policy.set(SPEC);
const directories = { policyDir: policy.dir, stateDir: scope.directory('state') };
const agent = new Agent(gateway, {
  ...directories,
  args: ['--translation-log', join(scope.directory('log'), 'translations')],
  env: { POD_NAMESPACE: 'default', POD_NAME: 'gateway1-7c9b8f8db7-r9x8m', NODE_NAME: 'worker-1' },
});
await agent.synced();
server.spawn(NODE, ['-e', SERVER], { name: 'server' });
const peers = {
  sessions: [
    { local: '10.255.255.255', remote: '10.16.0.12' },
    { local: 'fd00:ffff::1', remote: 'fd00:10:16::12' },
  ],
};
await peerUp(await startFrr(scope, router, peers));

download(client, '10.17.0.9', 150_000, 0.2);
download(client, '10.17.3.21', 40_000, 0.1);
download(client, '10.17.3.57', 2000, 0.3);
download(client, '10.17.8.104', 900_000, 0.5);
download(client, '10.17.12.6', 12_000, 1);
download(client, 'fd00:10:17::9', 60_000, 0.4);
download(client2, '10.18.0.9', 25_000, 0.3);
download(client2, '10.18.2.33', 5000, 0.7);

// An edit, a repair and an outage of the uplink, so that there is something in the timeline.
await sleep(BEFORE * 1000);
policy.set({ ...SPEC, mssClamp: true });
await sleep(15_000);
gateway.sh('ip rule del priority 1002');
await sleep(15_000);
server.ip('link set eth0 down');
await sleep(9000);
server.ip(`
  link set eth0 up
  addr add fd00:172:17::1/64 dev eth0 nodad
  route add 10.18.0.0/16 via 172.17.0.11`);
await agent.statusUntil('ready again', ({ ready }) => ready);
await sleep(AFTER * 1000);

mkdirSync(IMAGES, { recursive: true });
const browser = await Browser.start(scope, gateway);
const PAGE = 'http://127.0.0.1:10669/';

/** Waits until the page shows everything, and takes it. */
async function picture(name: string, view: Parameters<Browser['view']>[0], prepare?: string): Promise<void> {
  await browser.view(view);
  await browser.open(PAGE);
  await until(() => browser.value<boolean>("document.querySelectorAll('#flows tr').length > 5"), {
    what: name,
  });
  if (prepare !== undefined) await browser.value(prepare);
  await sleep(2500);
  const png = await browser.screenshot();
  writeFileSync(join(IMAGES, name), png);
  if (png.length > LARGEST) console.error(`${name} has ${png.length} octets`);
}

const FIVE_MINUTES = `{
  const span = document.getElementById('span');
  span.value = '300';
  span.dispatchEvent(new Event('change'));
}`;
const PLOTS = `${FIVE_MINUTES} document.getElementById('plot-part').scrollIntoView();`;
await picture('page-light.png', { width: 1080, height: 1080 }, FIVE_MINUTES);
await picture('page-dark.png', { width: 1080, height: 900, dark: true }, PLOTS);
await picture('page-phone-light.png', { width: 360, height: 680, scale: 2 }, FIVE_MINUTES);
await picture('page-phone-dark.png', { width: 360, height: 740, scale: 2, dark: true }, PLOTS);
await browser.close();
writeFileSync(join(IMAGES, 'status-watch.svg'), terminalPicture(lastFrame()));
scope.dispose();

/** What `status --watch` shows on a terminal of `COLUMNS` x `ROWS`: the lines of its last frame. */
function lastFrame(): string[] {
  const { policyDir, stateDir } = directories;
  const watch = `${NODE} ${AGENT} status --watch --policy-dir ${policyDir} --state-dir ${stateDir}`;
  const command = `stty cols ${COLUMNS} rows ${ROWS}; timeout -s INT 3 ${watch}`;
  const { stdout } = gateway.run('script', ['-qefc', command, '/dev/null'], { env: { TERM: 'xterm' } });
  const frame = stdout.split('\x1b[H').at(-1)!.split('\x1b[J')[0]!;
  return frame.replaceAll('\x1b[K', '').split('\r\n');
}

/** Lines with SGR colours as SVG. */
function terminalPicture(lines: string[]): string {
  const [cell, line, margin] = [7.83, 18, 16];
  const colours: Record<string, string> = {
    ...{ 1: '#ffffff', 2: '#8b949e' },
    ...{ 31: '#ff7b72', 32: '#3fb950', 33: '#d29922' },
  };
  const escaped = (text: string) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  /** Words between wide gaps, each at its column. */
  const words = (part: string, column: number, style: string) =>
    [...part.matchAll(/\S+(?: \S+)*/g)].map(({ 0: word, index }) => {
      const x = (margin + (column + index) * cell).toFixed(1);
      const length = (word.length * cell).toFixed(1);
      return `<tspan x="${x}" textLength="${length}"${style}>${escaped(word)}</tspan>`;
    });
  const rows = lines.map((text, row) => {
    let column = 0;
    const spans: string[] = [];
    for (const [, code = '', part = ''] of text.matchAll(
      /(?:\x1b\[(\d+)m)?([^\x1b]+)(?:\x1b\[(?:22|39)m)?/g,
    )) {
      const weight = code === '1' ? ' font-weight="bold"' : '';
      spans.push(...words(part, column, code === '' ? '' : ` fill="${colours[code]}"${weight}`));
      column += part.length;
    }
    return `<text y="${margin + 13 + row * line}">${spans.join('')}</text>`;
  });
  const [width, height] = [Math.round(2 * margin + COLUMNS * cell), 2 * margin + lines.length * line];
  const font = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace";
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="${font}" font-size="13" fill="#e6edf3">
<rect width="100%" height="100%" rx="8" fill="#0d1117"/>
${rows.join('\n')}
</svg>
`;
}
