/**
 * What OVN does with BFD, for a router in a namespace: `node ecmp.ts CONTROL_SOCKET TABLE`. The table's default route
 * of each family is spread over the gateways whose session with the `veg-bfdd` of that socket is Up.
 */
import { execFileSync } from 'node:child_process';
import { request } from 'node:http';
import { isIPv6 } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const POLL_MS = 20;

const [socketPath, table] = process.argv.slice(2);

function status(): Promise<string> {
  return new Promise((resolve, reject) => {
    const call = request({ socketPath: socketPath!, method: 'POST', path: '/v1/bfdd' }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part) => {
        text += part;
      });
      response.on('end', () => resolve(text));
    });
    call.on('error', reject);
    call.end('status');
  });
}

const shown = new Map<4 | 6, string>();
for (; ; await sleep(POLL_MS)) {
  const text = await status();
  const up = [...text.matchAll(/remote=(\S+) state=Up$/gm)].map(([, remote]) => remote!).sort();
  for (const family of [4, 6] as const) {
    const gateways = up.filter((address) => isIPv6(address) === (family === 6));
    if (shown.get(family) === gateways.join()) continue;
    shown.set(family, gateways.join());
    const hops = gateways.flatMap((address) => ['nexthop', 'via', address]);
    const route = ['default', 'table', table!, ...hops];
    const words = hops.length > 0 ? route : ['unreachable', ...route];
    execFileSync('ip', [`-${family}`, 'route', 'replace', ...words]);
    process.stdout.write(`${new Date().toISOString()} IPv${family}: ${gateways.join(' ') || 'none'}\n`);
  }
}
