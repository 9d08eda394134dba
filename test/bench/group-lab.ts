/**
 * Gateways of a group between a client and a server. The client has an address for each gateway, whose packets go through
 * that one, as if OVN had chosen it:
 *
 *     client 10.18.0.1, .2, .3 ─ bridge ─ gateway 1, 2, 3 ─ bridge ─ server 172.17.0.1, 198.18.0.0/15
 */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Agent, type AgentOptions, gatewayPolicy, PolicyDirectory } from '../support/agent.ts';
import { type Namespace, type Scope, veth } from '../support/netns.ts';
import { NETWORK } from './flow-load.ts';
import type { ControlGroup } from './processes.ts';

export const SHARED = '172.17.0.50';
const ROUTER = '10.17.0.1';
const SERVER = '172.17.0.1';

export interface Gateway {
  ns: Namespace;
  /** Its addresses inside and outside. */
  inside: string;
  outside: string;
  /** The client's address whose packets go through it. */
  source: string;
}

export interface GroupLab {
  client: Namespace;
  server: Namespace;
  gateways: Gateway[];
  /** Starts an agent in each gateway and waits until each is ready and has the flows of the others. */
  start(options?: (gateway: Gateway) => Partial<AgentOptions> & { group?: ControlGroup }): Promise<Agent[]>;
}

export function groupLab(scope: Scope, count: number): GroupLab {
  const client = scope.namespace('client');
  const server = scope.namespace('server');
  const [left, right] = [scope.namespace('left'), scope.namespace('right')];
  for (const bridge of [left, right]) bridge.ip('link add br0 type bridge\nlink set br0 up');
  const plug = (ns: Namespace, device: string, bridge: Namespace, port: string, address: string) => {
    veth(ns, device, bridge, port);
    bridge.ip(`link set ${port} master br0`);
    ns.ip(`addr add ${address}/24 dev ${device}`);
  };
  plug(client, 'eth0', left, 'client', ROUTER);
  plug(server, 'eth0', right, 'server', SERVER);
  client.sysctl({ 'net.ipv4.ip_forward': 1 });
  const gateways = Array.from({ length: count }, (_, i): Gateway => {
    const n = i + 1;
    const gateway: Gateway = {
      ns: scope.namespace(`gateway${n}`),
      ...{ inside: `10.17.0.${10 + n}`, outside: `172.17.0.${10 + n}`, source: `10.18.0.${n}` },
    };
    plug(gateway.ns, 'eth0', left, `gw${n}`, gateway.inside);
    plug(gateway.ns, 'net1', right, `gw${n}`, gateway.outside);
    gateway.ns.ip(`route add default via ${SERVER} dev net1`);
    client.ip(`
      addr add ${gateway.source}/32 dev lo
      rule add priority ${100 + n} from ${gateway.source} to ${NETWORK} lookup ${100 + n}
      route add default via ${gateway.inside} dev eth0 table ${100 + n}`);
    return gateway;
  });
  const start: GroupLab['start'] = async (options = () => ({})) => {
    const key = join(scope.directory('key'), 'group');
    writeFileSync(key, 'd'.repeat(64));
    chmodSync(key, 0o400);
    const policy = new PolicyDirectory(scope);
    policy.write({
      'gateway.yaml': gatewayPolicy({
        internal: { gateways: [ROUTER] },
        external: { gateways: [SERVER] },
        policies: [
          {
            ...{ name: 'web', snat: true, ipBlocks: ['10.18.0.0/16'] },
            egressIP: { address: [SHARED], shared: true },
          },
        ],
        group: { members: gateways.map(({ inside }) => inside), keyFile: key },
      }),
    });
    const agents = gateways.map((gateway) => {
      const stateDir = scope.directory('state');
      const { group, ...more } = options(gateway);
      const agent = new Agent(gateway.ns, { policyDir: policy.dir, stateDir, ...more });
      group?.add(agent.daemon.pid);
      return agent;
    });
    await Promise.all(agents.map((agent) => inSync(agent, count - 1)));
    return agents;
  };
  return { client, server, gateways, start };
}

/** Waits until a member is ready and has exactly the flows of this many others. */
export const inSync = (agent: Agent, others: number) =>
  agent.statusUntil(
    'ready and in sync',
    ({ ready, group }) =>
      ready && group[0]?.members.filter((member) => member.connected && member.inSync).length === others,
  );
