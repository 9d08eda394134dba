/**
 * A group behind real OVN: three gateways share an egress address, under 64 TCP connections and a UDP flow. No connection
 * breaks when the pod that holds the address dies, when another one takes its place, nor when all three drain and are replaced,
 * one after the other.
 */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { WEB } from '../support/agent.ts';
import { Scope, until } from '../support/netns.ts';
import { type AgentPod, Ovn, SERVER_ADDRESSES, stopForwarding } from '../support/ovn.ts';
import { startEchoServer, Traffic } from '../support/traffic.ts';

const SHARED = '172.17.0.50';
/** The address that the server answers UDP from. */
const SERVER = '172.17.0.1';
const CONNECTIONS_PER_ADDRESS = 4;

t.test(
  'behind OVN no open connection breaks when the holder of a group dies, nor in a rolling replacement of all three',
  async (t) => {
    const scope = new Scope();
    t.teardown(() => scope.dispose());
    const ovn = await Ovn.start(scope, { gateways: 3 });
    const key = join(scope.directory('key'), 'group');
    writeFileSync(key, 'd'.repeat(64));
    chmodSync(key, 0o400);
    const group = { members: ovn.gateways.map(({ internal }) => internal[4]), keyFile: key };
    const pods = ovn.gateways.map((gateway): AgentPod => {
      const pod = ovn.agentPod(gateway);
      const policies = [{ ...WEB, egressIP: { address: [SHARED], shared: true } }];
      pod.policy.set({ ...ovn.policy(), policies, group });
      return pod;
    });
    const inUse = async (pod: AgentPod) => {
      await pod.agent.statusUntil('ready', ({ ready }) => ready, 30_000);
      await ovn.reaches('up', [pod.pod]);
    };
    for (const pod of pods) pod.start();
    await Promise.all(pods.map(inUse));
    await startEchoServer(ovn.server);
    const hosts = Array.from({ length: CONNECTIONS_PER_ADDRESS }, () => SERVER_ADDRESSES[4]).flat();
    const traffic = await Traffic.open(ovn.client, [...hosts.map((host) => `tcp:${host}`), `udp:${SERVER}`]);
    const began = await traffic.report();
    t.same([...new Set(began.flatMap(({ sources }) => sources))], [SHARED], 'the server sees one address');

    const goesOn = async (what: string) => {
      const before = await traffic.report();
      await until(
        async () => (await traffic.report()).every((r, i) => r.received > before[i]!.received + 100),
        {
          what: `every connection goes on ${what}`,
          timeoutMs: 30_000,
        },
      );
      const after = await traffic.report();
      t.same(
        after.filter(({ broken, seen }, i) => broken !== undefined || seen !== began[i]!.seen),
        [],
        `every connection has the source that it had ${what}`,
      );
    };
    const replace = async (pod: AgentPod) => {
      pod.clean();
      pod.startFresh();
      await inUse(pod);
    };
    await goesOn('at the start');

    const holder = pods.find(({ pod }) => pod.ns.sh('ip neigh show proxy').includes(SHARED))!;
    await holder.die();
    await goesOn('when the holder has died');
    await replace(holder);
    await goesOn('when another pod has taken its place');

    const next = pods.find(({ pod }) => pod.ns.sh('ip neigh show proxy').includes(SHARED))!;
    for (const pod of [next, ...pods.filter((other) => other !== next)]) {
      await pod.agent.stop('SIGTERM', 30_000);
      stopForwarding(pod.pod);
      await goesOn(`when ${pod.pod.name} has drained`);
      await replace(pod);
      await goesOn(`when ${pod.pod.name} has been replaced`);
    }
    await traffic.close();
  },
);
