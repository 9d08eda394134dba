/** Whatever is deleted or altered of the agent's comes back before the next damage, and what is foreign stays. */
import t from 'tap';
import { checksum } from '../../lib/checksum.ts';
import { addressBytes, address as canonical } from '../../lib/prefix.ts';
import { Agent, DIRECT, PolicyDirectory, WEB } from '../support/agent.ts';
import { scrape } from '../support/carried.ts';
import { type Backend, kernelState } from '../support/kernel.ts';
import { type Namespace, NODE, ROOT, until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { topology } from '../support/topology.ts';

/** More than stand as rules, so that there are sets. */
const MANY = {
  name: 'many',
  snat: false,
  ipBlocks: [
    ...Array.from({ length: 40 }, (_, i) => `10.100.${i}.0/24`),
    ...Array.from({ length: 40 }, (_, i) => `fd00:100:${i.toString(16)}::/64`),
  ],
};

/** What somebody else has in the same tables and chains: lines that name 10.99 or fd00:99. */
function addForeign(gateway: Namespace, backend: Backend): void {
  gateway.ip('rule add priority 500 to 10.99.0.0/16 lookup 77', 4);
  gateway.ip('rule add priority 500 to fd00:99::/64 lookup 77', 6);
  gateway.ip(`
    route add 10.99.0.0/16 via 172.17.0.1 dev net1 proto static
    route add fd00:99::/64 via fd00:172:17::1 dev net1 proto static`);
  gateway.sh('ipset create foreign hash:net');
  gateway.sh('ipset add foreign 10.99.0.0/16');
  addForeignRules(gateway, backend);
}

const FOREIGN_NAT = { 4: '-s 10.99.0.0/16 -j RETURN', 6: '-s fd00:99::/64 -j RETURN' };

function addForeignRules(gateway: Namespace, backend: Backend): void {
  for (const [family, tool] of [
    [4, `iptables-${backend}`],
    [6, `ip6tables-${backend}`],
  ] as const) {
    gateway.sh(`${tool} -t nat -A POSTROUTING ${FOREIGN_NAT[family]}`);
    gateway.sh(`${tool} -t nat -A PREROUTING ${FOREIGN_NAT[family].replace('RETURN', 'ACCEPT')}`);
  }
}

interface Case {
  name: string;
  /** An agent that looks in the middle of it sees a pod without an address: it does what follows from that, which is no repair. */
  inSteps?: true;
  /** Does the damage, and what the CNI would undo of it. */
  damage: (gateway: Namespace, tool: (family: 4 | 6) => string, backend: Backend) => void;
}

const both = (action: (family: 4 | 6) => void) => {
  action(4);
  action(6);
};

const CASES: Case[] = [
  {
    name: 'the nat table is flushed',
    damage: (ns, tool, backend) => {
      both((family) => ns.sh(`${tool(family)} -t nat -F`));
      addForeignRules(ns, backend);
    },
  },
  {
    name: 'the nat table is emptied with all its chains',
    damage: (ns, tool, backend) => {
      both((family) => ns.run(`${tool(family)}-restore`, [], { input: '*nat\nCOMMIT\n' }));
      addForeignRules(ns, backend);
    },
  },
  {
    name: 'the chain VEG-MASQUERADE is flushed',
    damage: (ns, tool) => both((family) => ns.sh(`${tool(family)} -t nat -F VEG-MASQUERADE`)),
  },
  {
    name: 'the raw table is flushed',
    damage: (ns, tool) => both((family) => ns.sh(`${tool(family)} -t raw -F`)),
  },
  {
    name: 'mangle is flushed',
    damage: (ns, tool) => both((family) => ns.sh(`${tool(family)} -t mangle -F`)),
  },
  {
    name: 'a rule lets in what may not come in',
    damage: (ns, tool) => both((family) => ns.sh(`${tool(family)} -t mangle -I VEG-INGRESS -j RETURN`)),
  },
  {
    name: 'the hook rule is deleted',
    damage: (ns, tool) => both((family) => ns.sh(`${tool(family)} -t nat -D POSTROUTING -j VEG-MASQUERADE`)),
  },
  {
    name: 'a hook rule is doubled',
    damage: (ns, tool) => both((family) => ns.sh(`${tool(family)} -t nat -A POSTROUTING -j VEG-MASQUERADE`)),
  },
  {
    name: 'a rule that accepts is put before all others of the chain',
    damage: (ns, tool) => both((family) => ns.sh(`${tool(family)} -t nat -I VEG-MASQUERADE -j ACCEPT`)),
  },
  {
    name: 'ip rules are deleted',
    damage: (ns) => {
      ns.ip('rule del priority 1001\nrule del priority 1002', 4);
      ns.ip('rule del priority 1002\nrule del priority 1004', 6);
    },
  },
  {
    name: 'ip rules are doubled',
    damage: (ns) => {
      // The kernel refuses an exact double; one that says the same in other words it takes.
      ns.ip('rule add priority 1002 iif net1 to 0.0.0.0/0 fwmark 0x0/0x1 lookup 1000', 4);
      ns.ip('rule add priority 1003 from fd00:10:16::12 iif lo lookup 1001', 6);
    },
  },
  { name: 'table 1000 is flushed', damage: (ns) => both((f) => ns.sh(`ip -${f} route flush table 1000`)) },
  {
    name: 'policy routes are deleted',
    damage: (ns) => ns.ip('route del 10.17.0.0/16\nroute del fd00:10:17::/64'),
  },
  { name: 'the default route is deleted', damage: (ns) => both((f) => ns.sh(`ip -${f} route del default`)) },
  { name: 'a set is emptied', damage: (ns) => both((f) => ns.sh(`ipset flush VEG-FORWARD-${f}`)) },
  {
    name: 'a member of a set is deleted',
    damage: (ns) => ns.sh('ipset del VEG-FORWARD-4 10.100.7.0/24'),
  },
  {
    name: 'a set is destroyed with the rules that use it',
    damage: (ns, tool) => {
      for (const family of [4, 6] as const) {
        // The rules come back so fast that the set may be in use again.
        const both = `${tool(family)} -t nat -F POSTROUTING; ipset destroy VEG-FORWARD-${family}`;
        ns.run('sh', ['-c', `for i in 1 2 3 4 5 6 7 8 9; do ${both} 2>/dev/null && exit 0; done; exit 1`]);
        ns.sh(`${tool(family)} -t nat -A POSTROUTING ${FOREIGN_NAT[family]}`);
      }
    },
  },
  {
    name: 'an address goes and comes back',
    inSteps: true,
    damage: (ns) => {
      ns.ip('addr del 10.16.0.12/16 dev eth0\naddr del fd00:10:16::12/64 dev eth0');
      ns.ip(`
        addr add 10.16.0.12/16 brd 10.16.255.255 dev eth0
        addr add fd00:10:16::12/64 dev eth0 nodad`);
    },
  },
  {
    name: 'the internal link goes and comes back',
    inSteps: true,
    damage: (ns) => {
      ns.ip('link set eth0 down');
      ns.ip('link set eth0 up\naddr add fd00:10:16::12/64 dev eth0 nodad');
    },
  },
  {
    name: 'the external link goes and comes back',
    inSteps: true,
    damage: (ns) => {
      ns.ip('link set net1 down');
      ns.ip('link set net1 up\naddr add fd00:172:17::11/64 dev net1 nodad');
      // the foreign route went with the link
      ns.ip(`
        route add 10.99.0.0/16 via 172.17.0.1 dev net1 proto static
        route add fd00:99::/64 via fd00:172:17::1 dev net1 proto static`);
    },
  },
];

for (const backend of ['nft', 'legacy'] as const) {
  t.test(`with iptables ${backend}`, async (t) => {
    const scope = scopeOf(t);
    const { gateway } = topology(scope, { cniRoutes: true });
    addForeign(gateway, backend);
    const policy = new PolicyDirectory(scope);
    policy.set({
      policies: [DIRECT, MANY, WEB],
      bfd: { enabled: true, peers: ['10.255.255.255', 'fd00:ffff::1'] },
    });
    const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
    t.equal((await agent.synced()).kernel.backend, backend, 'the backend that the pod uses');

    const tool = (family: 4 | 6) => `${family === 4 ? 'iptables' : 'ip6tables'}-${backend}`;
    const ours = (line: string) =>
      !/10\.99\.|fd00:99:|foreign|^route6? (local|broadcast|multicast|anycast) /.test(line);
    const foreign = (line: string) => /10\.99\.|fd00:99:|foreign/.test(line);
    const whole = kernelState(gateway, backend);
    const wanted = whole.filter(ours).join('\n');
    const repairs = async () =>
      Object.values((await agent.status()).kernel.driftRepaired).reduce((sum, n) => sum + n, 0);

    for (const { name, damage, inSteps } of CASES) {
      const before = await repairs();
      damage(gateway, tool, backend);
      let seen = '';
      await until(
        () => {
          seen = kernelState(gateway, backend).filter(ours).join('\n');
          return seen === wanted;
        },
        { what: `${name}: repaired`, everyMs: 10 },
      ).catch(() => undefined);
      t.equal(seen, wanted, `${name}: repaired`);
      t.same(
        kernelState(gateway, backend).filter(foreign).sort(),
        whole.filter(foreign).sort(),
        `${name}: foreign`,
      );
      if (!inSteps) t.ok((await repairs()) > before, `${name}: counted as a repair`);
    }

    gateway.ip('route replace 10.17.0.0/16 via 10.16.0.77 dev eth0');
    await until(() => gateway.sh('ip route get 10.17.0.9').includes('via 10.16.0.1 '), {
      what: 'packets to 10.17.0.0/16 go to the gateway of the policy',
    });
    t.pass('a policy route bent to another next hop: packets go the right way again');

    t.equal((await agent.status()).kernel.inSync, true);
    const planned = agent.cli('plan');
    t.match(planned, { code: 0, stdout: '', stderr: 'nothing to do: the kernel is as the policy says' });
    const other = agent.cli('plan', '--internal-interface', 'eth9');
    t.match(
      other,
      { code: 1, stdout: '', stderr: /eth9/ },
      'what the agent does not go by it is not asked for',
    );
  });
}

t.test('a virtual address that is deleted is a repair, and hides no other one', async (t) => {
  const scope = scopeOf(t);
  const { gateway } = topology(scope);
  const policy = new PolicyDirectory(scope);
  policy.set({ eips: [{ externalIP: '172.17.0.60', internalIP: '10.17.0.9' }] });
  const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
  const { kernel } = await agent.synced();
  t.same(kernel.driftRepaired, {}, 'the first time it is none');
  const hasAddress = () => gateway.sh('ip addr show dev net1').includes(' 172.17.0.60/32 ');
  const repaired = () => {
    const values = scrape(agent);
    return (object: string) => values.get(`veg_agent_drift_repairs_total{object="${object}"}`) ?? Number.NaN;
  };
  await until(hasAddress, { what: 'the address' });
  t.equal(repaired()('address'), 0);

  gateway.ip('addr del 172.17.0.60/32 dev net1');
  await agent.statusUntil('the address is restored', (s) => (s.kernel.driftRepaired.address ?? 0) > 0);
  t.ok(hasAddress());
  t.equal(repaired()('address'), 1);
  t.match(agent.daemon.log(), /"writer":"pid [0-9]+ \([^"]*172\.17\.0\.60[^"]*","msg":"repairing drift"/);

  for (const command of [
    'ip addr del 172.17.0.60/32 dev net1',
    'ip route flush table 1000',
    'sysctl -qw net.ipv4.ip_forward=0',
    'nft delete table ip VEG-COUNTERS',
  ])
    gateway.sh(command);
  await agent.statusUntil('all is restored', (s) => s.kernel.driftRepaired.address === 2 && s.kernel.inSync);
  const now = repaired();
  t.ok(hasAddress());
  for (const object of ['route', 'sysctl', 'set']) t.ok(now(object) > 0, `${object}: ${now(object)}`);
});

/** A router advertisement of fe80::1 to all nodes, a default route for half an hour, as an Ethernet frame in hex. */
function routerAdvertisement(mac: string): string {
  const message = Buffer.alloc(16);
  message.writeUInt8(134, 0);
  message.writeUInt8(64, 4);
  message.writeUInt16BE(1800, 6);
  const header = Buffer.alloc(40);
  header.set([0x60, 0, 0, 0, 0, message.length, 58, 255]);
  header.set(addressBytes(canonical('fe80::1')), 8);
  header.set(addressBytes(canonical('ff02::1')), 24);
  const pseudo = Buffer.concat([header.subarray(8), Buffer.from([0, 0, 0, message.length, 0, 0, 0, 58])]);
  message.writeUInt16BE(checksum(pseudo, message), 2);
  const ethernet = `333300000001${mac.replaceAll(':', '')}86dd`;
  return ethernet + header.toString('hex') + message.toString('hex');
}

t.test('drift that the agent causes is not attributed to others', async (t) => {
  const scope = scopeOf(t);
  const { gateway, server } = topology(scope);
  // The default route comes from a router advertisement, and goes when the agent turns forwarding on.
  gateway.sysctl({ 'net.ipv6.conf.net1.accept_ra': 1 });
  gateway.ip('route del default', 6);
  server.ip('addr add fe80::1/64 dev eth0 nodad');
  const mac = / link\/ether (\S+)/.exec(server.sh('ip link show eth0'))![1]!;
  const speaker = [`${ROOT}/test/live/link-speaker.ts`, 'eth0', '50', '1', routerAdvertisement(mac)];
  server.run(NODE, speaker);
  const routes = () => gateway.sh('ip -6 route show default');
  await until(() => /via fe80::1 dev net1 proto ra/.test(routes()), {
    what: 'the route of the advertisement',
  });
  const policy = new PolicyDirectory(scope);
  policy.set({ external: { gateways: ['172.17.0.1', 'fe80::1'] } });
  const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
  await agent.synced();
  await until(() => /via fe80::1 dev net1 proto 178/.test(routes()), { what: 'the agent’s own route' });
  await agent.ask('POST', '/v1/reconcile');
  t.same((await agent.status()).kernel.driftRepaired, {});
  t.notMatch(agent.daemon.log(), 'repairing drift');
  t.match(agent.daemon.log(), /ip -6 route add default via fe80::1.*"because":"a change of the agent’s own"/);

  // A setting that somebody changes is told by nobody: no child of the agent’s is blamed for it.
  gateway.sysctl({ 'net.ipv4.ip_forward': 0 });
  const { kernel } = await agent.statusUntil(
    'the setting',
    ({ kernel }) => kernel.driftRepaired.sysctl === 1,
  );
  t.same(kernel.driftRepaired, { sysctl: 1 });
  t.match(agent.daemon.log(), /"writer":"unknown","msg":"repairing drift"/);
  gateway.sh('ip -6 route del default');
  await agent.statusUntil('the route', ({ kernel }) => kernel.driftRepaired.route === 1);
  t.match(
    agent.daemon.log(),
    /"writer":"pid \d+ \(route removed: default via fe80::1[^"]*","msg":"repairing drift"/,
  );
});
