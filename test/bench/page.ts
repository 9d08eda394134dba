/**
 * Makes the pictures of docs/page.md again: `node test/bench/page.ts` (root, Chromium, FRR) runs an agent in the
 * VPC of the tests with traffic of several sources, and writes what the page and the terminal show to docs/images.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, BFD, DIRECT, gatewayPolicy, PolicyDirectory, WEB } from '../support/agent.ts';
import { Browser } from '../support/browser.ts';
import { type Namespace, NODE, ROOT, Scope, until } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { topology } from '../support/topology.ts';

const IMAGES = join(ROOT, 'docs/images');
/** How long traffic runs before the pictures, s. */
const RUN = 25;

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
policy.write({
  'gateway.yaml': gatewayPolicy({
    bfd: BFD,
    policies: [
      { ...WEB, ipBlocks: ['10.17.0.0/21', 'fd00:10:17::/64'] },
      { name: 'batch', snat: true, ipBlocks: ['10.17.8.0/21'] },
      { ...DIRECT, name: 'legacy' },
    ],
    translationLog: { enabled: true },
  }),
});
const agent = new Agent(gateway, {
  policyDir: policy.dir,
  stateDir: scope.directory('state'),
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

// An outage of the uplink, so that there is something in the timeline.
await sleep(6000);
server.ip('link set eth0 down');
await sleep(2500);
server.ip('link set eth0 up');
await agent.statusUntil('ready again', ({ ready }) => ready, 20_000);
await sleep(RUN * 1000);

mkdirSync(IMAGES, { recursive: true });
const browser = await Browser.start(scope, gateway);
const PAGE = 'http://127.0.0.1:10669/';

/** Waits until the page shows everything, and takes it. */
async function picture(name: string, view: Parameters<Browser['view']>[0], prepare?: string): Promise<void> {
  await browser.view(view);
  await browser.open(PAGE);
  if (prepare !== undefined) await browser.value(prepare);
  await until(() => browser.value<boolean>("document.querySelectorAll('#flows tr').length > 5"), {
    what: name,
  });
  await sleep(2500);
  writeFileSync(join(IMAGES, name), await browser.screenshot());
}

const TEN_MINUTES = "document.getElementById('span').value = '600'";
await picture('page-light.png', { width: 1200, height: 1180, scale: 1 }, TEN_MINUTES);
await picture('page-phone-dark.png', { width: 360, height: 780, scale: 2, dark: true }, TEN_MINUTES);
await browser.close();
scope.dispose();
