/**
 * A long life of three gateways with one address, squeezed: random events from a seed, and after each every open connection
 * goes on with the source that it had, each address has one holder, no two members have a slice, and every member has every
 * flow.
 *
 *     VEG_EVENTS=10000 VEG_SEED=7 TAP_TIMEOUT=100000 node test/live/group-soak.test.ts
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { DIRECT, WEB } from '../support/agent.ts';
import { type AgentPod, stopForwarding } from '../support/agent-pod.ts';
import { GatewayGroup } from '../support/gateway-group.ts';
import { CLIENT, FAMILIES, GroupNetwork, SERVER, SHARED, type Side } from '../support/group-network.ts';
import { until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { type Report, startEchoServer, Traffic } from '../support/traffic.ts';

const EVENTS = Number(process.env.VEG_EVENTS ?? 5);
const SEED = Number(process.env.VEG_SEED ?? 20261128);
const GATEWAYS = 3;
const CONNECTIONS_PER_FAMILY = 8;
/** A connection goes on when so many heartbeats were answered since. */
const GOES_ON = 3;
/** How long the group may take to be whole again after an event, ms: BFD, an uplink and a table are waited for. */
/** Addresses that a policy may share beside `SHARED`. */
const MORE = { 4: '172.17.0.51', 6: 'fd00:172:17::51' };

let x = SEED;
const random = (): number => {
  x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
  return x / 2 ** 32;
};
const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;

const POLICIES = [
  [WEB],
  [DIRECT, WEB],
  [{ name: 'more', snat: false, ipBlocks: ['10.19.0.0/16', 'fd00:10:19::/64'] }, WEB],
];

t.test(`${EVENTS} events from seed ${SEED} break no connection of a group`, async (t) => {
  const scope = scopeOf(t);
  const network = new GroupNetwork(scope, GATEWAYS);
  await network.startRouter();
  const group = new GatewayGroup(scope, network, { connections: 0 });
  await startEchoServer(network.server);
  const { pods } = network;
  await group.start();
  let shared: string[] = Object.values(SHARED);

  const hosts = FAMILIES.flatMap((family) => Array(CONNECTIONS_PER_FAMILY).fill(SERVER[family]) as string[]);
  const paths = [
    ...hosts.map((host) => `tcp:${host}@50`),
    ...FAMILIES.map((family) => `udp:${SERVER[family]}@50`),
  ];
  const traffic = await Traffic.open(network.client, paths);
  const seen = (await traffic.report()).map((report) => report.seen);

  // Events -------------------------------------------------------------------------------------------------

  const back = async (...gone: AgentPod[]) => {
    for (const pod of gone) pod.start();
  };
  const children = ({ pod }: AgentPod) =>
    pod.ns
      .pids()
      .filter((pid) => / \(node\) | \(MainThread\) /.test(readFileSync(`/proc/${pid}/stat`, 'utf8')));
  const briefly = async (side: Side, how: 'cut' | 'unplug', pod: AgentPod) => {
    network[how](pod.pod, side);
    await sleep(random() * 3000);
    network.connect(pod.pod, side);
  };
  /** The policy reaches one gateway after the other. */
  const edit = async (policies: object[], addresses = shared) => {
    shared = addresses;
    const egressIP = { address: addresses, shared: true };
    for (const { policy } of pods) {
      const spec = {
        ...group.policy(),
        policies: policies.map((one) => (one === WEB ? { ...WEB, egressIP } : one)),
      };
      policy.set(spec);
      await sleep(random() * 500);
    }
  };
  const both = (line: (tool: string, family: 4 | 6) => string) => (pod: AgentPod) =>
    void pod.pod.ns.run('sh', ['-c', `${line('iptables', 4)}; ${line('ip6tables', 6)}`]);
  const one = (act: (pod: AgentPod) => unknown) => () => act(pick(pods));
  const two = (act: (a: AgentPod, b: AgentPod) => unknown) => () => {
    const first = pick(pods);
    return act(first, pick(pods.filter((pod) => pod !== first)));
  };

  const events: Record<string, () => unknown> = {
    'an agent process killed': one((pod) => {
      const [, child] = children(pod);
      if (child !== undefined) process.kill(child, 'SIGKILL');
    }),
    'everything of one killed': one(async (pod) => {
      await pod.kill();
      await back(pod);
    }),
    'everything of two killed': two(async (a, b) => {
      await Promise.all([a.kill(), b.kill()]);
      await sleep(random() * 2000);
      await back(a, b);
    }),
    'everything of all killed': async () => {
      await Promise.all(pods.map((pod) => pod.kill()));
      await back(...pods);
    },
    'all restart in place at once': async () => {
      await Promise.all(pods.map((pod) => pod.agent.stop('SIGUSR2')));
      await back(...pods);
    },
    'one restarts in place': one(async (pod) => {
      await pod.agent.stop('SIGUSR2');
      await back(pod);
    }),
    'one stops and starts': one(async (pod) => {
      await pod.agent.stop('SIGTERM');
      await back(pod);
    }),
    'a pod dies and is replaced': one(async (pod) => {
      await pod.die();
      await network.unused(pod);
      pod.clean();
      pod.startFresh();
    }),
    'a pod dies while another one restarts': two(async (a, b) => {
      await Promise.all([a.die(), b.agent.stop('SIGUSR2')]);
      await back(b);
      await network.unused(a);
      a.clean();
      a.startFresh();
    }),
    'a pod drains and is replaced': one(async (pod) => {
      await pod.agent.stop('SIGTERM');
      stopForwarding(pod.pod);
      pod.clean();
      pod.startFresh();
    }),
    'drained and used again': one(async ({ agent }) => {
      await agent.ask('POST', '/v1/drain?timeout=1');
      await agent.ask('POST', '/v1/undrain');
    }),
    'cut off inside': one((pod) => briefly('inside', 'cut', pod)),
    'cut off outside': one((pod) => briefly('outside', 'cut', pod)),
    'unplugged outside': one((pod) => briefly('outside', 'unplug', pod)),
    'other policies': () => edit(pick(POLICIES)),
    'another shared address': async () => {
      await edit([WEB], [...Object.values(SHARED), ...Object.values(MORE)]);
      await sleep(random() * 2000);
      await edit([WEB], Object.values(SHARED));
    },
    'nat flushed': one(both((tool) => `${tool} -t nat -F`)),
    'raw flushed': one(both((tool) => `${tool} -t raw -F`)),
    'rule 1000 deleted': one(both((_, family) => `ip -${family} rule del priority 1000`)),
    'slices deleted': one(both((_, family) => `nft delete table ip${family === 6 ? 6 : ''} VEG-PORT-BLOCKS`)),
    'the whole ruleset flushed': one(({ pod }) => pod.ns.run('nft', ['flush', 'ruleset'])),
    'connections flushed': one(({ pod }) => pod.ns.run('conntrack', ['-F'])),
    'UDP connections deleted': one(
      both((_, family) => `conntrack -D -f ipv${family} -p udp >/dev/null 2>&1`),
    ),
    'proxies deleted': one(
      both((_, family) => `ip -${family} neigh del proxy ${SHARED[family]} dev net1 2>/dev/null`),
    ),
  };

  // What holds after each ----------------------------------------------------------------------------------

  const inSync = ({ agent }: AgentPod, what: string) =>
    agent.statusUntil(
      what,
      ({ ready, kernel, group: families }) =>
        ready &&
        kernel.inSync &&
        families.length === FAMILIES.length &&
        families.every(({ members }) => members.length === GATEWAYS - 1 && members.every((m) => m.inSync)),
    );
  /** How many gateways answer for each shared address. */
  const holders = () => {
    const proxies = pods.map(({ pod }) => pod.ns.sh('ip neigh show proxy'));
    return shared.map((address) => proxies.filter((text) => text.includes(`${address} `)).length);
  };
  /** First ports of what a gateway may allocate of the shared addresses. */
  const slices = ({ pod }: AgentPod, family: 4 | 6): string[] => {
    const map = pod.ns.sh(`nft list map ip${family === 6 ? 6 : ''} VEG-PORT-BLOCKS slices`);
    return [...map.matchAll(/\. (\d+)-\d+/g)].map(([, port]) => port!);
  };
  /** Ports of the open TCP connections that a gateway has no entry for. */
  const missing = ({ pod }: AgentPod): string[] =>
    FAMILIES.flatMap((family) => {
      const table = pod.ns.sh(`conntrack -L -f ipv${family} -p tcp -s ${CLIENT[family]}`);
      return seen
        .filter((_, i) => paths[i]!.startsWith(`tcp:${SERVER[family]}`))
        .filter((source) => !table.includes(`dst=${source.replace(' ', ' sport=8000 dport=')} `));
    });
  /** The connections that broke, or have another source. */
  const changed = (reports: readonly Report[]): string[] =>
    reports.flatMap(({ path, broken, seen: now }, i) =>
      broken === undefined && now === seen[i] ? [] : [`${path} ${broken ?? now} was ${seen[i]}`],
    );
  const settled = async (what: string) => {
    const before = await traffic.report();
    for (const pod of pods) await inSync(pod, `${pod.pod.name} has the others' flows after ${what}`);
    await until(() => holders().every((count) => count === 1), {
      what: `one holder of each address after ${what}`,
    });
    await network.used(pods);
    /** Those that have not gone on, or not with their source: a flow whose entry was deleted may have another port for a moment. */
    const late = async (): Promise<string[]> => {
      const now = await traffic.report();
      const waiting = now.flatMap(({ path, received }, i) =>
        received > before[i]!.received + GOES_ON ? [] : [`${path} waits`],
      );
      return [...waiting, ...changed(now)];
    };
    let last: string[] = [];
    await until(
      async () => {
        last = await late();
        return last.length === 0;
      },
      { what: `every connection goes on after ${what}` },
    ).catch(() => {});
    t.same(last, [], `every connection goes on, with the source that it had, after ${what}`);
    for (const family of FAMILIES) {
      const all = pods.flatMap((pod) => [...new Set(slices(pod, family))]);
      t.equal(new Set(all).size, GATEWAYS, `no two members have a slice of IPv${family} after ${what}`);
    }
    await until(() => pods.every((pod) => missing(pod).length === 0), {
      what: `every member has every connection after ${what}`,
    });
  };

  await settled('the start');
  const began = performance.now();
  const counts: Record<string, number> = {};
  for (let i = 1; i <= EVENTS && t.passing(); i++) {
    const [what, event] = pick(Object.entries(events));
    counts[what] = (counts[what] ?? 0) + 1;
    await event();
    await settled(`event ${i}, ${what}`);
    if (i % 20 === 0) t.comment(`${i} events, ${Math.round((performance.now() - began) / i)} ms each`);
  }
  await traffic.close();
  t.comment(`${Math.round((performance.now() - began) / EVENTS)} ms an event; ${JSON.stringify(counts)}`);
});
