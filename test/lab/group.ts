/**
 * The lab's story of a group (`npm run lab -- --group 3`): gateways that share one address of each family, under open
 * connections, while one is killed, one is drained, and one is added. Behind a router that plays OVN, or behind OVN.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { AgentPod } from '../support/agent-pod.ts';
import { GatewayGroup, OvnPlace } from '../support/gateway-group.ts';
import { type Cost, costParts } from '../support/group-load.ts';
import { GroupNetwork } from '../support/group-network.ts';
import type { Scope } from '../support/netns.ts';
import type { Story } from './story.ts';
import { writePodTools } from './tools.ts';

/** Open TCP connections. */
const CONNECTIONS = 60;
/** How long the group is watched before anything happens, ms. */
const QUIET = 2000;

/** Tells the story of a group of so many gateways; what it made stays until the scope goes. */
export async function tellGroup(story: Story, scope: Scope, count: number, withOvn: boolean): Promise<void> {
  story.step(`A VPC with ${count} gateways, and one to be added, in network namespaces of this machine`);
  const place = await (withOvn ? OvnPlace.start(scope, { gateways: count + 1 }) : network(scope, count + 1));
  const ends = place.pods.map(
    ({ pod }) => `${pod.internal[4].padStart(11)} eth0  ${pod.name}  net1 ${pod.external[4]}`,
  );
  story.say(`
                         ┌─ ${ends[0]} ─┐
client 10.17.0.9 ─ router┤  …                                        ├─ server 172.17.0.1
                         └─ ${ends[count]} ─┘

The router ${withOvn ? 'is OVN' : 'plays OVN'}: it spreads what the client sends over the gateways whose BFD session is Up.`);

  story.step('Every gateway starts with the same policy: they share one egress address');
  const group = new GatewayGroup(scope, place, { members: count, connections: CONNECTIONS });
  writePodTools(scope, place.pods);
  const [first] = group.members;
  story.output(`cat ${first!.policy.dir}/gateway.yaml`, first!.policy.text());
  await group.start();
  story.check(true, `all ${count} gateways are ready, and the router uses them`);
  showGroup(story, first!);

  story.step(`${CONNECTIONS} connections are opened; UDP packets and new connections go on all the while`);
  await group.load();
  const told = async (what: string, planned: boolean, event: () => unknown): Promise<void> => {
    const before = await group.holder();
    const cost = await group.during(event);
    await check(story, { what, planned, cost, shared: place.shared });
    const now = await group.holder();
    const [address] = place.shared;
    if (now === before) story.say(`${now.pod.name} still answers for ${address}.`);
    else story.output(`the log of ${now.pod.name}`, holderLine(now, address!));
  };
  await told('at rest', true, () => sleep(QUIET));

  const holder = await group.holder();
  story.step(`The pod that holds the address dies: ${holder.pod.name}`);
  await told(`${holder.pod.name} dies`, false, () => group.lose(holder, 'die'));
  showGroup(story, group.members.find((pod) => pod !== holder)!);

  story.step('Another pod takes its place');
  await told(`${holder.pod.name} is replaced`, true, () => group.replace(holder));

  const next = await group.holder();
  story.step(`The pod that holds the address now is drained and removed: ${next.pod.name}`);
  await told(`${next.pod.name} drains`, true, () => group.drain(next));
  await told(`${next.pod.name} is replaced`, true, () => group.replace(next));

  story.step(`A gateway is added: gw${count + 1}`);
  await told(`gw${count + 1} is added`, true, () => group.grow());
  showGroup(story, group.members.at(-1)!);
  await group.close();
}

async function network(scope: Scope, gateways: number): Promise<GroupNetwork> {
  const place = new GroupNetwork(scope, gateways);
  await place.startRouter();
  return place;
}

async function check(
  story: Story,
  { what, planned, cost, shared }: { what: string; planned: boolean; cost: Cost; shared: readonly string[] },
): Promise<void> {
  const { connections, packets, dials } = costParts(cost);
  story.check(cost.broken === 0, `${what}: ${connections}`);
  if (planned) story.check(cost.udpLost === 0, `${what}: ${packets}`);
  else story.say(`  ${packets}`);
  story.say(`  ${dials}`);
  const only = cost.sources.every((address) => shared.includes(address));
  story.check(only, `${what}: the server saw ${cost.sources.join(' and ')} and nothing else`);
}

/** The group as one of its members shows it. */
function showGroup(story: Story, { agent, pod }: AgentPod): void {
  const lines = agent.cli('status').stdout.split('\n');
  const begins = lines.findIndex((line) => line.startsWith('group'));
  const ends = lines.findIndex((line, i) => i > begins && /^(?!group)\S/.test(line));
  story.output(
    `veg-agent status     (in ${pod.name}, the part about the group)`,
    lines.slice(begins, ends).join('\n'),
  );
}

/** What the log says of the last change of an address's holder. */
function holderLine({ agent }: AgentPod, address: string): string {
  const line = agent.daemon
    .log()
    .split('\n')
    .findLast((one) => one.includes('"group holder changed"') && one.includes(`"${address}"`));
  if (line === undefined) return '';
  const { time, from, to, reason } = JSON.parse(line) as Record<string, string | undefined>;
  return `${time} group holder changed address=${address} from=${from ?? 'none'} to=${to} reason=${reason}`;
}

/** What to do with a lab that was kept. */
export const groupTools = (scope: Scope, count: number): string => `
  ${scope.dir}/veg-agent gw1 status              each of gw1 to gw${count + 1} shows the whole group
  ${scope.dir}/veg-agent gw1 status --watch
  ${scope.dir}/veg-agent gw1 drain               and undrain
  ip netns exec ${scope.prefix}gw1 ip neigh show proxy
  ip netns exec ${scope.prefix}gw1 conntrack -L
  ip netns exec ${scope.prefix}gw1 curl -s localhost:10669/metrics | grep veg_group
  ip netns exec ${scope.prefix}gw1 chromium --no-sandbox http://localhost:10669/     the page, of any of them
  $EDITOR ${scope.dir}/policy-*/gateway.yaml`;
