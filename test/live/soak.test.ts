/**
 * A long life, squeezed: random events from a seed, and after each the kernel is what the policy says, the peer is
 * Up and the gateway ready.
 *
 *     VEG_EVENTS=10000 VEG_SEED=7 TAP_TIMEOUT=100000 node test/live/soak.test.ts
 *
 * More than 1000 events also compare the memory at the end with that after the first 500. VEG_RESTARTS=0 leaves
 * restarts out, so that it is the memory of one long life.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { Agent, BFD, DIRECT, type GatewaySpec, PolicyDirectory, WEB } from '../support/agent.ts';
import { kernelState } from '../support/kernel.ts';
import { run, until } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';

const EVENTS = Number(process.env.VEG_EVENTS ?? 60);
const SEED = Number(process.env.VEG_SEED ?? 20261121);
const RESTARTS = process.env.VEG_RESTARTS !== '0';

let x = SEED;
const random = (): number => {
  x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
  return x / 2 ** 32;
};
const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;

const forward = (count: number, n: number) => ({
  name: 'more',
  snat: false,
  ipBlocks: [
    ...Array.from({ length: count }, (_, i) => `10.${100 + n}.${i}.0/24`),
    ...Array.from({ length: count }, (_, i) => `fd00:${100 + n}:${i.toString(16)}::/64`),
  ],
});
const POLICIES: GatewaySpec[] = [
  [DIRECT, WEB],
  [{ ...DIRECT, snat: true }, WEB],
  ...[1, 7, 31, 32, 33, 40, 200].map((count, n) => [DIRECT, forward(count, n), WEB]),
  // No hold-down: this gateway flaps all its life.
].map((policies) => ({ bfd: BFD, policies, uplink: { recovery: '0s' } }));

t.test(`${EVENTS} events from seed ${SEED}`, async (t) => {
  const scope = scopeOf(t);
  const { gateway, router, server } = topology(scope);
  const policy = new PolicyDirectory(scope);
  const state = {
    policyDir: policy.dir,
    stateDir: scope.directory('state'),
    // Without bounds V8 takes what the machine has before it collects anything.
    env: { NODE_OPTIONS: '--max-old-space-size=64 --max-semi-space-size=1', MALLOC_ARENA_MAX: '1' },
  };
  let current = 0;
  policy.set(POLICIES[current]);
  let agent = new Agent(gateway, state);
  const sessions = [{ local: ADDRESS.bfdPort[4], remote: ADDRESS.gatewayInternal[4] }];
  let frr = await startFrr(scope, router, { sessions });
  const child = () => run('pgrep', ['-P', `${agent.daemon.pid}`]).stdout.split('\n')[0];
  const both = (line: (tool: string, family: 4 | 6) => string) => {
    gateway.run('sh', ['-c', `${line('iptables', 4)}; ${line('ip6tables', 6)}`]);
  };

  const edits = {
    edit: () => {
      current = Math.floor(random() * POLICIES.length);
      policy.set(POLICIES[current]);
    },
    'two edits at once': async () => {
      policy.set(pick(POLICIES));
      await sleep(random() * 100);
      edits.edit();
    },
  };
  const damages: Record<string, () => unknown> = {
    'nat flushed': () => both((tool) => `${tool} -t nat -F`),
    'raw flushed': () => both((tool) => `${tool} -t raw -F`),
    'chain emptied': () => both((tool) => `${tool} -t nat -F VEG-MASQUERADE`),
    'hook deleted': () => both((tool) => `${tool} -t nat -D POSTROUTING -j VEG-MASQUERADE`),
    'sets emptied': () => gateway.run('ipset', ['flush']),
    'a rule deleted': () => {
      const priority = pick([1001, 1002, 1003, 1004]);
      both((_, family) => `ip -${family} rule del priority ${priority}`);
    },
    'a rule too many': () =>
      gateway.run('ip', ['rule', 'add', 'priority', '1002', 'to', '192.0.2.0/24', 'lookup', '7']),
    'table 1000 flushed': () => both((_, family) => `ip -${family} route flush table 1000`),
    'our routes flushed': () => both((_, family) => `ip -${family} route flush proto 178`),
    'default route deleted': () => both((_, family) => `ip -${family} route del default`),
    'forwarding off': () => gateway.sysctl({ 'net.ipv4.ip_forward': 0 }),
  };
  const outside: Record<string, () => unknown> = {
    'carrier lost': async () => {
      server.ip('link set eth0 down');
      await sleep(random() * 300);
      server.ip('link set eth0 up\naddr replace fd00:172:17::1/64 dev eth0 nodad');
      server.ip('route replace fd00:10:18::/64 via fd00:172:17::11');
    },
    'gateway deaf': async () => {
      server.sysctl({ 'net.ipv4.conf.all.arp_ignore': 8 });
      await sleep(random() * 900);
      server.sysctl({ 'net.ipv4.conf.all.arp_ignore': 0 });
    },
    'peer stops': async () => {
      frr.daemon.signal('SIGSTOP');
      await sleep(random() * 900);
      frr.daemon.signal('SIGCONT');
    },
    'peer restarts': async () => {
      await frr.daemon.stop('SIGKILL');
      frr = await startFrr(scope, router, { sessions });
    },
  };
  const restarts: Record<string, () => unknown> = {
    'agent process killed': () => process.kill(Number(child()), 'SIGKILL'),
    'restart in place': async () => {
      await agent.stop('SIGUSR2');
      agent = new Agent(gateway, state);
    },
    'everything killed': async () => {
      agent.daemon.signal('SIGKILL');
      await agent.daemon.ended();
      await until(() => gateway.pids().length === 0, { what: 'nothing is left' });
      agent = new Agent(gateway, state);
    },
  };
  const groups: [weight: number, events: Record<string, () => unknown>][] = [
    [8, edits],
    [8, damages],
    [2, outside],
    [RESTARTS ? 1 : 0, restarts],
  ];

  /** The kernel for each policy, as it was when an independent look found nothing to do. */
  const wanted = new Map<number, string>();
  const settled = async (what: string) => {
    const known = wanted.get(current);
    let found = '';
    await until(
      async () => {
        if (known === undefined) {
          await agent.synced();
          if (agent.cli('plan').code !== 0) return false;
        }
        found = kernelState(gateway).join('\n');
        return known === undefined || found === known;
      },
      { what: `the kernel as policy ${current} says after: ${what}`, everyMs: 10 },
    ).catch((error: Error) => {
      t.equal(found, known, error.message);
      throw error;
    });
    wanted.set(current, found);
    await peerUp(frr);
    await agent.statusUntil(`ready after: ${what}`, ({ ready }) => ready);
  };
  /** Anonymous memory of the BFD process and of the agent process, MiB. */
  const memory = () =>
    [`${agent.daemon.pid}`, child()!].map(
      (pid) => Number(/RssAnon:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024,
    );

  await settled('the start');
  const counts: Record<string, number> = {};
  const samples: number[] = [];
  const began = performance.now();
  for (let i = 1; i <= EVENTS; i++) {
    let ticket = random() * groups.reduce((sum, [weight]) => sum + weight, 0);
    const [, events] = groups.find(([weight]) => {
      ticket -= weight;
      return ticket < 0;
    })!;
    const [what, event] = pick(Object.entries(events));
    counts[what] = (counts[what] ?? 0) + 1;
    await event();
    await settled(`event ${i}, ${what}`);
    const used = memory();
    samples.push(used[0]! + used[1]!);
    if (i % 100 === 0) t.comment(`${i} events, ${used.map(Math.round).join(' + ')} MiB`);
  }
  t.comment(`${Math.round((performance.now() - began) / EVENTS)} ms an event; ${JSON.stringify(counts)}`);
  t.pass('the kernel was as the policy says after every event');
  if (EVENTS <= 1000) return;
  const middle = (list: number[]) => list.sort((a, b) => a - b)[list.length >> 1]!;
  const [early, late] = [middle(samples.slice(250, 500)), middle(samples.slice(-250))];
  t.comment(`memory: ${early.toFixed(1)} MiB after 500 events, ${late.toFixed(1)} MiB at the end`);
  t.ok(late < early * 1.1, 'memory does not grow');
});
