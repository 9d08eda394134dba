/**
 * The lab's story with real OVN (`npm run lab -- --peer ovn`): two gateways behind one router, and a client whose
 * traffic moves when a gateway is drained, loses its agent, dies, or loses its uplink.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type AgentPod, stopForwarding } from '../support/agent-pod.ts';
import { type Failover, failover, RATE } from '../support/failover.ts';
import { must, type Scope } from '../support/netns.ts';
import { Ovn } from '../support/ovn.ts';
import type { Story } from './story.ts';
import { writePodTools, writeTool } from './tools.ts';

/** After so long without a change OVN acts at once on what it hears of a session; sooner, up to 5 s later, ms. */
const OVN_REST = 12_000;

/** Tells the story; what it made stays until the scope goes. */
export async function tellOvn(story: Story, scope: Scope): Promise<void> {
  story.step('Real OVN in network namespaces of this machine, with two gateways');
  const began = performance.now();
  const ovn = await Ovn.start(scope);
  const pods = ovn.gateways.map((gateway) => ovn.agentPod(gateway)) as [AgentPod, AgentPod];
  const [first, second] = pods;
  story.say(`
                        ┌─ 10.16.0.102 eth0  gw1  net1 172.17.0.11 ─┐
client 10.17.0.9 ─ ovn-cluster                                      ├─ server 172.17.0.1
                   │    └─ 10.16.0.103 eth0  gw2  net1 172.17.0.12 ─┘
                   bfd@ovn-cluster 10.255.255.255

${must('ovn-controller', ['--version']).split('\n')[0]}, Open vSwitch with the userspace datapath, databases and
daemons of its own. A BFD row for each gateway, and an ECMP route of the client's subnet that it decides on:`);
  const rows = ['--columns=dst_ip,status,min_tx,min_rx,detect_mult', 'list', 'bfd'];
  story.output(`ovn-nbctl ${rows.join(' ')}`, ovn.nbctl(...rows));
  story.output('ovn-nbctl lr-route-list ovn-cluster', ovn.nbctl('lr-route-list', 'ovn-cluster'));
  story.check(true, `up ${ms(performance.now() - began)} after the first command`);
  writeOvnTool(scope, ovn);
  writePodTools(scope, pods);

  story.step('An agent starts in each gateway');
  for (const pod of pods) pod.start();
  const started = performance.now();
  const isUp = ({ agent }: AgentPod) => agent.statusUntil('ready', ({ ready }) => ready);
  await Promise.all(pods.map(isUp));
  story.check(
    true,
    `policy in the kernel, uplink probed, BFD Up ${ms(performance.now() - started)} after the start`,
  );
  story.output('bfdd-control status     (in gw1)', first.agent.bfddControl('status').stdout);
  await ovn.reaches('up');
  const status = ['--columns=dst_ip,status', 'list', 'bfd'];
  story.output(`ovn-nbctl ${status.join(' ')}`, ovn.nbctl(...status));
  story.say(
    `OVN writes what it hears of sessions to its database at most every 5 s, so it may have taken longer there.`,
  );

  const told = (what: string, { lost, longestGapMs, movedMs }: Failover) => {
    const moved =
      movedMs === undefined ? 'traffic did not move' : `through the other gateway after ${movedMs} ms`;
    return `${what}: ${lost} packets lost, longest gap ${longestGapMs} ms, ${moved}`;
  };

  story.step(`A gateway is drained and removed, under ${RATE} packets a second`);
  const drained = await failover(ovn, first.pod, async () => {
    await first.agent.stop();
    stopForwarding(first.pod);
  });
  story.say(
    'SIGTERM: AdminDown to OVN, forwarding goes on until the traffic has moved, then the pod is gone.',
  );
  story.check(drained.lost === 0 && drained.movedMs !== undefined, told('drained', drained));
  await back(first, ovn);

  story.step('Every process of an agent is killed');
  const killed = await failover(ovn, first.pod, () => first.kill());
  story.say('kill -9 of all. The kernel goes on forwarding while OVN finds out and moves the traffic.');
  story.check(killed.lost === 0 && killed.movedMs !== undefined, told('killed', killed));
  await back(first, ovn);

  story.step('A gateway pod dies');
  const died = await failover(ovn, first.pod, () => first.die());
  story.say('Nothing forwards any more. OVN finds out after its Detection Time: 5 x 100 ms.');
  story.check(died.movedMs !== undefined, told('dead', died));
  await back(first, ovn);

  story.step('A gateway loses its uplink');
  await sleep(OVN_REST);
  const cut = await failover(ovn, first.pod, () => ovn.cutUplink(first.pod, 'silent'));
  story.say(`
Behind net1 nothing answers any more, and the link stays up. The agent asks its external gateway every 200 ms
(ARP), believes the third silence, and says AdminDown to OVN:`);
  story.output('bfdd-control status     (in gw1)', first.agent.bfddControl('status').stdout);
  story.output('curl localhost:10669/readyz     (in gw1)', first.agent.http('/readyz').body);
  story.check(cut.movedMs !== undefined, told('uplink lost', cut));
  ovn.restoreUplink(first.pod);
  await ovn.reaches('up');
  story.check(true, 'when its uplink works again, OVN uses it again');

  const sessions = (await second.agent.status()).bfd.sessions.flatMap(({ transitions }) => transitions);
  story.check(
    !sessions.some(({ from }) => from === 'Up'),
    'gw2, to which nothing happened, was Up all the time',
  );
}

/** What to do with a lab that was kept. */
export const ovnTools = (scope: Scope): string => `
  ${scope.dir}/ovn-nbctl list bfd
  ${scope.dir}/veg-agent gw1 status
  ${scope.dir}/bfdd-control gw1 status
  ip netns exec ${scope.prefix}gw1 tcpdump -ni eth0 udp port 3784`;

const ms = (duration: number): string => `${Math.round(duration)} ms`;

/** Starts a gateway's agent again, and waits until OVN uses it. */
async function back(pod: AgentPod, ovn: Ovn): Promise<void> {
  pod.start();
  await ovn.reaches('up');
}

/** `ovn-nbctl` of this OVN. */
function writeOvnTool(scope: Scope, ovn: Ovn): void {
  const variables = Object.entries(ovn.environment).map(([name, value]) => `${name}=${value}`);
  writeTool(scope, 'ovn-nbctl', `exec env ${variables.join(' ')} ovn-nbctl "$@"`);
}
