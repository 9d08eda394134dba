/** kill -9 at any moment: forwarding never stops, nothing leaks, and the next start converges. */
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { Agent, BFD, DIRECT, PolicyDirectory, WEB } from '../support/agent.ts';
import { kernelState } from '../support/kernel.ts';
import { until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { type Report, startEchoServer, Traffic } from '../support/traffic.ts';

const ROUNDS = 25;

/** Numbers from 0 to 1 that are the same in every run (a linear congruential generator). */
function generator(seed: number): () => number {
  let x = seed;
  return () => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    return x / 2 ** 32;
  };
}

t.test('kill -9 at moments all over start and change', async (t) => {
  const scope = scopeOf(t);
  const { client, client2, gateway, server } = topology(scope);
  const policy = new PolicyDirectory(scope);
  const state = { policyDir: policy.dir, stateDir: scope.directory('state') };
  const policies = [
    { bfd: BFD, policies: [DIRECT, WEB] },
    { bfd: BFD, policies: [DIRECT, { name: 'more', snat: false, ipBlocks: ['10.44.0.0/16'] }, WEB] },
    {
      bfd: BFD,
      policies: [
        DIRECT,
        { name: 'many', snat: false, ipBlocks: Array.from({ length: 60 }, (_, i) => `10.45.${i}.0/24`) },
        WEB,
      ],
    },
  ];

  // What each policy looks like when nothing disturbs.
  const wanted: string[][] = [];
  for (const spec of [...policies].reverse()) {
    policy.set(spec);
    const agent = new Agent(gateway, state);
    await agent.synced();
    t.equal(await agent.stop('SIGUSR2'), 0);
    wanted.unshift(kernelState(gateway));
  }

  await startEchoServer(server);
  const kinds = ['tcp', 'udp', 'new'].flatMap((kind) => [
    `${kind}:${ADDRESS.server[4]}`,
    `${kind}:${ADDRESS.server[6]}`,
  ]);
  const translated = await Traffic.open(client, kinds);
  const forwarded = await Traffic.open(client2, kinds);

  const random = generator(20260801);
  let last = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const agent = new Agent(gateway, state);
    // Half of the time within the start, half of it around a change of the policy.
    if (random() < 0.5) {
      await sleep(random() * 500);
    } else {
      await agent.synced();
      last = (last + 1 + Math.floor(random() * 2)) % policies.length;
      policy.set(policies[last]);
      await sleep(random() * 150);
    }
    agent.daemon.signal('SIGKILL');
    await agent.daemon.ended();
    await until(() => gateway.pids().length === 0, { what: 'no process of the killed agent is left' });
  }

  const agent = new Agent(gateway, state);
  await agent.synced();
  t.same(kernelState(gateway), wanted[last], 'the next start converges');
  t.match(agent.cli('plan'), { code: 0, stdout: '' });

  const check = (reports: Report[], sources: Record<4 | 6, string>, who: string) => {
    for (const { path, sources: seen, sent, received, broken } of reports) {
      t.equal(broken, undefined, `${who} ${path} goes on`);
      t.equal(received, sent, `${who} ${path} loses nothing`);
      t.same(seen, [path.includes('fd00') ? sources[6] : sources[4]], `${who} ${path} keeps its source`);
    }
  };
  check(await translated.close(), ADDRESS.gatewayExternal, 'translated');
  check(await forwarded.close(), ADDRESS.client2, 'forwarded');
});
