/**
 * Measures the failure table of docs/operations.md: what a stream of 1000 packets a second and 200 open TCP
 * connections see of each failure, how many packets the server gets with an inside source, and how long it takes until
 * all is well again. Prints the rows as Markdown.
 *
 *     node test/live/failure-table.ts [PART OF A ROW'S NAME]
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, BFD, DIRECT, PolicyDirectory, WEB } from '../support/agent.ts';
import { forwardedBlocks } from '../support/kernel.ts';
import { must, run, Scope, until } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { ADDRESS, EXTERNAL_ADDRESSES, EXTERNAL_ADDRESSES_6, topology } from '../support/topology.ts';
import { startEchoServer } from '../support/traffic.ts';
import { CONNECTIONS, Load } from './load.ts';

const scope = new Scope();
const { client, router, gateway, server } = topology(scope);
client.ip('addr add 10.17.0.10/16 dev eth0');
const policy = new PolicyDirectory(scope);
policy.set({ bfd: BFD });
const state = { policyDir: policy.dir, stateDir: scope.directory('state') };
let agent = new Agent(gateway, state);
const sessions = [{ local: ADDRESS.bfdPort[4], remote: ADDRESS.gatewayInternal[4] }];
const frr = await startFrr(scope, router, { sessions });
await startEchoServer(server);
// What reaches the server with an inside source has left untranslated.
server.sh('iptables -t raw -A PREROUTING -s 10.17.0.0/16');
await peerUp(frr);
let load = await Load.start(client, ADDRESS.server[4]);

const isUp = () => frr.sessions()[0]?.state === 'Up';
const ready = () => agent.statusUntil('ready', (status) => status.ready);
const planned = () => until(() => agent.cli('plan').code === 0, { what: 'the kernel as the policy says' });
const child = () => run('pgrep', ['-P', `${agent.daemon.pid}`]).stdout.split('\n')[0];
const nat = () => gateway.sh('iptables -t nat -S');
const untranslated = () =>
  Number(/\[(\d+):\d+\] -A PREROUTING/.exec(server.sh('iptables-save -c -t raw'))![1]);
const repairedNat = () =>
  until(() => nat().includes('-A VEG-MASQUERADE -j MASQUERADE'), { what: 'repair', everyMs: 5 });

/** Sends 20 packets of a protocol without ports from an address of the client to the server, 10 ms apart. */
const sendRaw = (from: string, protocol: number) =>
  must('ip', [
    'netns',
    'exec',
    client.name,
    'perl',
    '-e',
    `
    use Socket;
    socket(my $s, AF_INET, SOCK_RAW, ${protocol}) or die $!;
    bind($s, pack_sockaddr_in(0, inet_aton('${from}'))) or die $!;
    for (1..20) {
      send($s, pack('H*', '20006558') . 'x' x 40, 0, pack_sockaddr_in(0, inet_aton('${ADDRESS.server[4]}')));
      select undef, undef, undef, 0.01;
    }`,
  ]);

interface Row {
  what: string;
  event(): unknown;
  /** Resolves when it is repaired. */
  repaired(): Promise<unknown>;
}

const newChild = async (before: string | undefined) =>
  until(() => ![undefined, '', before].includes(child()), { what: 'another agent process' });

let victim: string | undefined;
let beginning: NodeJS.Timeout | undefined;
const ROWS: Row[] = [
  {
    what: 'policy edit: a block more',
    event: () =>
      policy.set({
        bfd: BFD,
        policies: [DIRECT, { name: 'more', snat: false, ipBlocks: ['10.44.0.0/16'] }, WEB],
      }),
    repaired: () => until(() => forwardedBlocks(gateway, 4).includes('10.44.0.0/16'), { what: 'the edit' }),
  },
  {
    what: 'invalid policy',
    event: () => policy.write({ 'gateway.yaml': 'nonsense' }),
    repaired: async () => {
      await agent.statusUntil('invalid', (status) => !status.policy.valid);
      policy.set({ bfd: BFD });
      await ready();
    },
  },
  {
    what: 'agent process killed (`kill -9`, out of memory)',
    event: () => {
      victim = child();
      process.kill(Number(victim), 'SIGKILL');
    },
    repaired: async () => {
      await newChild(victim);
      await ready();
    },
  },
  {
    what: 'BFD process killed, container starts again',
    event: async () => {
      agent.daemon.signal('SIGKILL');
      await agent.daemon.ended();
      agent = new Agent(gateway, state);
    },
    repaired: ready,
  },
  {
    what: 'planned restart in place (SIGUSR2)',
    event: async () => {
      await agent.stop('SIGUSR2');
      agent = new Agent(gateway, state);
    },
    repaired: ready,
  },
  {
    what: 'nat table flushed by another program',
    event: () => gateway.sh('iptables -t nat -F'),
    repaired: repairedNat,
  },
  {
    what: '`nft flush ruleset` by another program, while connections begin',
    event: async () => {
      beginning = setInterval(() => client.run('nc', ['-w', '1', '-z', ADDRESS.server[4], '7']), 5);
      await sleep(200);
      gateway.sh('nft flush ruleset');
    },
    repaired: async () => {
      await repairedNat();
      clearInterval(beginning);
    },
  },
  {
    what: 'invalid policy, agent process killed, nat table flushed',
    event: async () => {
      policy.write({ 'gateway.yaml': 'nonsense' });
      await agent.statusUntil('invalid', (status) => !status.policy.valid);
      victim = child();
      process.kill(Number(victim), 'SIGKILL');
      await newChild(victim);
      gateway.sh('iptables -t nat -F');
    },
    repaired: async () => {
      const began = performance.now();
      await repairedNat();
      console.error(
        `  nat is back after ${Math.round(performance.now() - began)} ms, ${isUp() ? 'Up' : 'not Up'}`,
      );
      policy.set({ bfd: BFD });
      await ready();
    },
  },
  ...[
    { name: 'GRE', number: 47 },
    { name: 'ESP', number: 50 },
  ].map(({ name, number }) => ({
    what: `two ${name} sources to one server`,
    event: () => {
      const sent = ['10.17.0.9', '10.17.0.10'].map((from) => {
        server.sh(`iptables -t raw -A PREROUTING -p ${number} -s ${ADDRESS.gatewayExternal[4]}`);
        sendRaw(from, number);
        const arrived = /\[(\d+):\d+\] -A PREROUTING [^\n]*-p /.exec(
          server.sh('iptables-save -c -t raw'),
        )![1];
        server.sh(`iptables -t raw -D PREROUTING -p ${number} -s ${ADDRESS.gatewayExternal[4]}`);
        return `${arrived} of 20 from ${from}`;
      });
      console.error(`  ${sent.join(', ')}`);
    },
    repaired: async () => {},
  })),
  {
    what: 'rules 1001–1004 deleted',
    event: () => gateway.ip([1001, 1002, 1003, 1004].map((n) => `rule del priority ${n}`).join('\n'), 4),
    repaired: () => until(() => gateway.sh('ip rule').includes('1004:'), { what: 'repair', everyMs: 5 }),
  },
  {
    what: 'table 1000 flushed',
    event: () => gateway.sh('ip route flush table 1000'),
    repaired: () =>
      until(() => gateway.run('ip', ['route', 'show', 'table', '1000']).stdout.includes('default'), {
        what: 'repair',
        everyMs: 5,
      }),
  },
  {
    what: 'default route deleted',
    event: () => gateway.sh('ip route del default'),
    repaired: () => until(() => gateway.sh('ip route').includes('default'), { what: 'repair', everyMs: 5 }),
  },
  {
    what: '`ip_forward` set to 0 by another program',
    event: () => gateway.sysctl({ 'net.ipv4.ip_forward': 0 }),
    repaired: () =>
      until(() => gateway.sh('cat /proc/sys/net/ipv4/ip_forward').trim() === '1', {
        what: 'repair',
      }),
  },
  {
    what: 'external gateway stops answering ARP for 3 s',
    event: () => server.sysctl({ 'net.ipv4.conf.all.arp_ignore': 8 }),
    repaired: async () => {
      const began = performance.now();
      await until(() => !isUp(), { what: 'leaves Up', everyMs: 5 });
      console.error(`  left Up after ${Math.round(performance.now() - began)} ms`);
      await sleep(3000 - (performance.now() - began));
      server.sysctl({ 'net.ipv4.conf.all.arp_ignore': 0 });
      const mended = performance.now();
      await peerUp(frr);
      await ready();
      console.error(`  Up again ${Math.round(performance.now() - mended)} ms after it answered`);
    },
  },
  {
    what: 'net1 without carrier for 1 s',
    event: () => server.ip('link set eth0 down'),
    repaired: async () => {
      await sleep(1000);
      server.ip('link set eth0 up\naddr replace fd00:172:17::1/64 dev eth0 nodad');
      await peerUp(frr);
      await ready();
    },
  },
  {
    what: 'external address removed for 1 s',
    event: () => gateway.ip('addr del 172.17.0.11/16 dev net1'),
    repaired: async () => {
      await sleep(1000);
      gateway.ip(EXTERNAL_ADDRESSES);
      await peerUp(frr);
      await ready();
    },
  },
  {
    what: 'net1 set down for 1 s',
    event: () => gateway.ip('link set net1 down'),
    repaired: async () => {
      await sleep(1000);
      gateway.ip(`link set net1 up\n${EXTERNAL_ADDRESSES.trim()}\n${EXTERNAL_ADDRESSES_6.trim()}`);
      await peerUp(frr);
      await ready();
    },
  },
  {
    what: 'peer restarts (FRR stopped for 3 s)',
    event: () => frr.daemon.signal('SIGSTOP'),
    repaired: async () => {
      await sleep(3000);
      frr.daemon.signal('SIGCONT');
      await peerUp(frr);
      await ready();
    },
  },
  // Last: the pauses between its starts have grown.
  {
    what: 'agent process killed again and again for 65 s',
    event: async () => {
      const began = performance.now();
      let left: number | undefined;
      while (performance.now() - began < 65_000) {
        const pid = child();
        if (pid) run('kill', ['-9', pid]);
        if (left === undefined && !isUp()) left = performance.now() - began;
        await sleep(50);
      }
      console.error(`  left Up after ${left === undefined ? 'never' : `${Math.round(left)} ms`}`);
    },
    repaired: async () => {
      await peerUp(frr);
      await ready();
    },
  },
];

console.log(
  '| what | packets lost | untranslated | connections broken | all well after |\n|---|---|---|---|---|',
);
const only = process.argv[2];
for (const { what, event, repaired } of ROWS.filter((row) => only === undefined || row.what.includes(only))) {
  // Long enough for the uplink to be forgiven the row before.
  await sleep(only === undefined ? 11_000 : 500);
  await load.report();
  const leaked = untranslated();
  const began = performance.now();
  await event();
  await repaired();
  const seconds = (performance.now() - began) / 1000;
  await planned();
  await sleep(300);
  const { lost, broken, gapMs } = await load.report();
  const gap = lost === 0 ? '' : ` (${gapMs} ms)`;
  const wrong = untranslated() - leaked;
  console.log(
    `| ${what} | ${lost}${gap} | ${wrong} | ${broken} of ${CONNECTIONS} | ${seconds.toFixed(1)} s |`,
  );
  if (broken === 0) continue;
  load.stop();
  load = await Load.start(client, ADDRESS.server[4]);
}
load.stop();
process.exit();
