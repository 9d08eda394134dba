/**
 * The gate (nat/gate.ts) under traffic from outside: no packet that may not come in does, and none that may is lost, while
 * the policy is edited, while the gate takes over from the chain VEG-NEW and hands over to it, and when an agent finds what
 * one without a gate has left. What another program does to it is repaired. Both families, both backends.
 */
import t from 'tap';
import { Agent, DIRECT, PolicyDirectory } from '../support/agent.ts';
import { type Namespace, NODE, until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { startEchoServer, Traffic } from '../support/traffic.ts';

const FAMILIES = [4, 6] as const;
type Family = (typeof FAMILIES)[number];
const PROGRAM = { 4: 'iptables', 6: 'ip6tables' } as const;
const IP = { 4: 'ip', 6: 'ip6' } as const;
const BLOCK = { 4: '10.17.0.0/16', 6: 'fd00:10:17::/64' } as const;
const PORT = 9000;

/** Forwards what is translated otherwise. */
const OPEN = { name: 'open', snat: false, ipBlocks: Object.values(BLOCK) };
/** More blocks than a gate has. */
const MANY = {
  name: 'many',
  snat: false,
  ipBlocks: Array.from({ length: 40 }, (_, i) => [`10.100.${i}.0/24`, `fd00:100:${i}::/64`]).flat(),
};

/** Begins a connection a millisecond from outside to the client, in both families. */
function knock(server: Namespace): void {
  const script = `
    let n = 0;
    setInterval(() => {
      const [kind, host] = n++ % 2 ? ['udp4', '${ADDRESS.client[4]}'] : ['udp6', '${ADDRESS.client[6]}'];
      const socket = require('node:dgram').createSocket(kind);
      socket.on('error', () => {});
      socket.send('x', ${PORT}, host, () => socket.close());
    }, 1);`;
  server.spawn(NODE, ['-e', script], { name: 'knock' });
}

/** Counts what comes in to the client: with its own source, and with another. */
function countAt(client: Namespace): () => { own: number; other: number } {
  const counts = FAMILIES.flatMap((family) =>
    ['==', '!='].map((is) => `udp dport ${PORT} ${IP[family]} saddr ${is} ${ADDRESS.server[family]} counter`),
  );
  const chain = `type filter hook prerouting priority -150; policy accept;\n${counts.join('\n')}`;
  client.nft(`table inet seen {\nchain in {\n${chain}\n}\n}\n`);
  return () => {
    const found = [...client.sh('nft list chain inet seen in').matchAll(/packets (\d+)/g)].map(([, digits]) =>
      Number(digits),
    );
    return { own: found[0]! + found[2]!, other: found[1]! + found[3]! };
  };
}

/** mangle as an agent without a gate leaves it for `DIRECT`. */
const CHAINS = (block: string): string => `*mangle
-N VEG-INVALID
-N VEG-INGRESS
-N VEG-REFUSED
-N VEG-NEW
-A FORWARD -m conntrack ! --ctstate RELATED,ESTABLISHED -j VEG-NEW
-A VEG-INVALID -s ${block} -j RETURN
-A VEG-INVALID -j DROP
-A VEG-INGRESS -m conntrack --ctstate DNAT -j RETURN
-A VEG-INGRESS -d ${block} -j RETURN
-A VEG-INGRESS -j VEG-REFUSED
-A VEG-REFUSED -j DROP
-A VEG-NEW -i eth0 -m conntrack --ctstate INVALID -j VEG-INVALID
-A VEG-NEW ! -i eth0 -o eth0 -j VEG-INGRESS
COMMIT
`;

/** What another program does to the gate of a family. */
const DAMAGE: Record<string, (family: Family) => string[]> = {
  'the table is deleted': (family) => [`delete table ${IP[family]} VEG-GATE`],
  'the table is flushed': (family) => [`flush table ${IP[family]} VEG-GATE`],
  'a chain is flushed': (family) => [`flush chain ${IP[family]} VEG-GATE fresh`],
  'a rule lets all in': (family) => [`insert rule ${IP[family]} VEG-GATE ingress accept`],
  'the hook is another': (family) => [
    `flush chain ${IP[family]} VEG-GATE postrouting`,
    `delete chain ${IP[family]} VEG-GATE postrouting`,
    `add chain ${IP[family]} VEG-GATE postrouting { type filter hook input priority 0; }`,
  ],
  'a chain more drops everything': (family) => [
    `add chain ${IP[family]} VEG-GATE theirs { type filter hook forward priority 0; }`,
    `add rule ${IP[family]} VEG-GATE theirs drop`,
  ],
};

for (const backend of ['nft', 'legacy'] as const) {
  t.test(`traffic from outside: ${backend}`, async (t) => {
    const scope = scopeOf(t);
    const { client, client2, gateway, server } = topology(scope);
    const tool = (family: Family) => `${PROGRAM[family]}-${backend}`;
    if (backend === 'legacy') for (const family of FAMILIES) gateway.sh(`${tool(family)} -t nat -N OPERATOR`);
    for (const family of FAMILIES) {
      server.ip(`route add ${BLOCK[family]} via ${ADDRESS.gatewayExternal[family]}`, family);
    }
    const seen = countAt(client);
    await startEchoServer(client2);
    const policy = new PolicyDirectory(scope);
    policy.set({ policies: [DIRECT] });
    const options = { policyDir: policy.dir, stateDir: scope.directory('state') };
    let agent = new Agent(gateway, options);
    t.equal((await agent.synced()).kernel.backend, backend);
    const gates = () =>
      FAMILIES.map((family) => gateway.run('nft', ['-s', 'list', 'table', IP[family], 'VEG-GATE']).stdout);
    const hooks = () => FAMILIES.map((family) => gateway.sh(`${tool(family)} -t mangle -S FORWARD`));
    const whole = gates();
    t.ok(whole.every((text) => text.includes('goto refused')));
    const chained = () => hooks().every((text) => text.includes('VEG-NEW'));
    const unchained = () => hooks().every((text) => !text.includes('VEG-'));
    t.ok(unchained());
    /** Puts a policy into force, and waits until the kernel is as it says. */
    const edit = async (what: string, policies: object[], isThere: () => boolean): Promise<void> => {
      policy.set({ policies } as never);
      await until(isThere, { what });
      await agent.statusUntil(what, ({ kernel }) => kernel.inSync);
    };
    const isOpen = () => gates().every((text, i) => text.includes(Object.values(BLOCK)[i]!));
    const isWhole = () => gates().join() === whole.join() && unchained();

    knock(server);
    const refused = () =>
      FAMILIES.map((family) => agent.metric(`veg_inbound_dropped_packets_total{family="ipv${family}"}`) ?? 0);
    await until(() => refused().every((n) => n > 0), { what: 'what is refused is counted' });
    const paths = FAMILIES.flatMap((family) =>
      ['new', 'tcp'].map((kind) => `${kind}:${ADDRESS.client2[family]}@2`),
    );
    const wanted = await Traffic.open(server, paths);

    for (let round = 0; round < 2; round++) {
      await edit('a block more is open', [DIRECT, OPEN], isOpen);
      const { own } = seen();
      await until(() => seen().own > own + 20, { what: 'what is forwarded comes in' });
      await edit('it is closed', [DIRECT], isWhole);
      const before = seen();
      const dropped = refused();
      await until(() => refused().every((n, i) => n > dropped[i]!), { what: 'it is refused again' });
      t.same(seen(), before, 'nothing comes in');
      t.equal(before.other, 0, 'and nothing was translated');
    }

    const before = seen();
    const isChained = () => gates().every((text) => text === '') && chained();
    await edit('with a set of blocks the chain has taken over', [DIRECT, MANY], isChained);
    await edit('and handed over', [DIRECT], isWhole);

    // An agent with no gate, before this one and after it.
    await agent.stop('SIGKILL');
    for (const family of FAMILIES) {
      gateway.run(`${tool(family)}-restore`, ['--noflush'], {
        input: CHAINS(DIRECT.ipBlocks[family / 2 - 2]!),
      });
      if (family === 4) gateway.sh('nft delete table ip VEG-GATE');
    }
    agent = new Agent(gateway, options);
    await agent.synced();
    t.ok(isWhole(), 'the gate takes over from what an earlier agent has left');
    t.equal(agent.cli('plan').code, 0, 'nothing to do');
    gateway.sh(`${tool(4)} -t mangle -F`);
    await agent.statusUntil('a repair', (s) => (s.kernel.driftRepaired.chain ?? 0) > 0 && s.kernel.inSync);
    t.same(seen(), before, 'nothing has come in');
    for (const { path, sent, received, sources } of await wanted.close()) {
      t.equal(received, sent, `${path}: nothing is lost`);
      t.ok(
        sources.every((source) => Object.values(ADDRESS.server).includes(source as never)),
        `${sources}`,
      );
    }

    for (const [what, damage] of Object.entries(DAMAGE)) {
      const repaired = (await agent.status()).kernel.driftRepaired.chain ?? 0;
      const script = FAMILIES.flatMap(damage).join('\n');
      t.equal(gateway.run('nft', [script]).code, 0, what);
      await until(isWhole, { what, everyMs: 10 }).catch(() => undefined);
      t.same(gates(), whole, `${what}: repaired`);
      await agent.statusUntil(what, (s) => (s.kernel.driftRepaired.chain ?? 0) > repaired);
    }
    t.match(agent.daemon.log(), /"writer":"[^"]*nft[^"]*","msg":"repairing drift"/);

    await agent.stop();
    t.equal(agent.cli('cleanup').code, 0);
    t.notMatch(gateway.sh('nft list tables'), 'VEG-');
  });
}
