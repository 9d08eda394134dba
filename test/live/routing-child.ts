/**
 * What routing.test.ts runs inside a namespace: `reconcile` reads an `Input` on stdin, `links` steps, `watch` prints
 * what happens until it is ended, `overrun` blocks while others make more changes than its buffer holds.
 */

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { watchKernel } from '../../agent/events.ts';
import { desiredSysctls } from '../../agent/pod/desired-sysctls.ts';
import { createSysctls } from '../../agent/pod/sysctl.ts';
import { NetlinkListener, NetlinkSocket, Protocol } from '../../lib/netlink.ts';
import { desiredRouting, type RoutingIntent } from '../../routing/desired.ts';
import { diffRouting } from '../../routing/diff.ts';
import { ROUTING_GROUPS } from '../../routing/events.ts';
import { createRoutingKernel } from '../../routing/kernel.ts';
import type { LinkStep } from '../../routing/links.ts';
import { diffProxies, type ProxyNeighbour } from '../../routing/proxies.ts';
import { renderStep } from '../../routing/render.ts';

const print = (value: unknown): void => console.log(JSON.stringify(value));

/** What `reconcile` reads. */
export interface Input {
  intent: RoutingIntent;
  proxies: ProxyNeighbour[];
}

async function reconcile(): Promise<void> {
  const { intent, proxies } = JSON.parse(readFileSync(0, 'utf8')) as Input;
  const desired = desiredRouting(intent);
  const kernel = createRoutingKernel(new NetlinkSocket(Protocol.ROUTE));
  const stepsNow = async () => {
    const observed = await kernel.observe();
    return [...diffRouting(observed, desired), ...diffProxies(observed, proxies)];
  };
  const steps = await stepsNow();
  const failures = await kernel.apply(steps);
  const left = await stepsNow();
  print({
    steps: steps.map(renderStep),
    failures: failures.map(({ message }) => message),
    left: left.map(renderStep),
  });
}

/** Applies the steps that stdin has, each by itself, and prints what was refused and what devices are there then. */
async function links(): Promise<void> {
  const kernel = createRoutingKernel(new NetlinkSocket(Protocol.ROUTE));
  const failures: string[] = [];
  for (const step of JSON.parse(readFileSync(0, 'utf8')) as LinkStep[]) {
    failures.push(...(await kernel.apply([step])).map(({ message }) => message));
  }
  const { links } = await kernel.observe();
  print({ failures, links: links.filter(({ device }) => device !== undefined) });
}

async function watch(): Promise<void> {
  const netlink = new NetlinkSocket(Protocol.ROUTE);
  const before = process.cpuUsage();
  const keepAlive = setInterval(() => {}, 60_000);
  const kernelWatch = watchKernel(netlink, (event) => {
    print(event);
    if (!event.what.includes('10.99.0.0/16')) return;
    // Its own answer to what it saw: not an event.
    createRoutingKernel(netlink)
      .apply(diffRouting({ routes: [], rules: [] }, desiredRouting([])))
      .catch(print);
  });
  print({ watching: kernelWatch.netfilterError?.message ?? 'all' });
  process.once('SIGTERM', () => {
    kernelWatch.close();
    clearInterval(keepAlive);
    print({ cpu: process.cpuUsage(before) });
  });
}

async function overrun(): Promise<void> {
  let messages = 0;
  let overruns = 0;
  const handlers = { onMessage: () => messages++, onOverrun: () => overruns++ };
  const listener = new NetlinkListener(Protocol.ROUTE, ROUTING_GROUPS, handlers, { receiveBuffer: 8192 });
  const lines = Array.from(
    { length: 300 },
    (_, i) => `route replace 10.200.${i % 250}.0/24 dev lo metric ${i + 1}`,
  );
  spawnSync('ip', ['-batch', '-'], { input: lines.join('\n') });
  const quiet = async () => {
    for (let before = -1; before !== messages; await sleep(50)) before = messages;
  };
  await quiet();
  const lost = overruns;
  const before = messages;
  spawnSync('ip', ['route', 'add', '10.201.0.0/16', 'dev', 'lo']);
  await quiet();
  print({ lost, heardAfterwards: messages - before });
  listener.close();
}

async function sysctls(): Promise<void> {
  const settings = createSysctls('/proc/sys', '/nonexistent/sysctl.json');
  print(await settings.observe(desiredSysctls([4, 6], { internal: 'eth0', external: 'net1' }, false)));
}

const commands: Record<string, () => Promise<void>> = { reconcile, links, watch, overrun, sysctls };
await commands[process.argv[2]!]!();
