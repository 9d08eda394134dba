/** What the live tests of port blocks share: the policy, bursts of datagrams, and what they are to look like. */
import { Agent, PolicyDirectory } from '../support/agent.ts';
import { type Namespace, NODE, type Scope } from '../support/netns.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { ECHO_PORT } from '../support/traffic.ts';

export const SIZE = 8;
export const EGRESS = { 4: '172.17.0.50', 6: 'fd00:172:17::50' } as const;
export const OTHER = { 4: '10.17.0.10', 6: 'fd00:10:17::a' } as const;
const tenants = (...ipBlocks: string[]) => ({
  policies: [
    { name: 'tenants', ipBlocks, egressIP: { address: Object.values(EGRESS) }, portBlockSize: SIZE },
  ],
});
export const TENANTS = tenants('10.17.0.0/28', 'fd00:10:17::/124');
/** The same sources in another order: 10.17.0.9 is number 1 instead of 9. */
export const MOVED = tenants('10.17.0.8/29', 'fd00:10:17::8/125', '10.17.0.0/29', 'fd00:10:17::/125');

/**
 * Opens sockets on a source address, sends a datagram from each, and prints how the server saw those it answered: all of them,
 * or those of the first 2 s.
 */
const BURST = `
  const [source, host, port, count] = process.argv.slice(1);
  const seen = [];
  const end = () => { console.log(JSON.stringify(seen)); process.exit(); };
  for (let i = 0; i < count; i++) {
    const socket = require('node:dgram').createSocket(host.includes(':') ? 'udp6' : 'udp4');
    socket.on('message', (text) => { if (seen.push(text.toString('latin1', 8).trim()) == count) end(); });
    socket.bind(0, source, () => socket.send(Buffer.alloc(8), port, host));
  }
  setTimeout(end, 2000);`;

export function burst(ns: Namespace, family: 4 | 6, source: string, count: number): string[] {
  const args = ['-e', BURST, source, ADDRESS.server[family], `${ECHO_PORT}`, `${count}`];
  return JSON.parse(ns.run(NODE, args).stdout) as string[];
}

/** Every way to be seen in block `n` of the egress address. */
export const blockOf = (family: 4 | 6, n: number): string[] =>
  Array.from({ length: SIZE }, (_, i) => `${EGRESS[family]} ${1024 + n * SIZE + i}`);

/** The small VPC, with a second source in the client, and an agent to be started in the gateway. */
export function lab(scope: Scope) {
  const namespaces = topology(scope);
  namespaces.client.ip(`
    addr add ${OTHER[4]}/16 dev eth0
    addr add ${OTHER[6]}/64 dev eth0 nodad preferred_lft 0`);
  const policy = new PolicyDirectory(scope);
  policy.set(TENANTS);
  const options = { policyDir: policy.dir, stateDir: scope.directory('state') };
  return { ...namespaces, policy, options, start: () => new Agent(namespaces.gateway, options) };
}
