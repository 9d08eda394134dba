/**
 * How soon the agent reacts: to damage of its rules and routes, to an uplink that dies, and to a program that undoes its
 * rules all the time; and how long an open connection waits while the policy changes.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, BFD, DIRECT, type GatewaySpec, PolicyDirectory, WEB } from '../../support/agent.ts';
import { type Namespace, until } from '../../support/netns.ts';
import { peerUp, startVegBfdd } from '../../support/peers.ts';
import { ADDRESS, topology } from '../../support/topology.ts';
import { startEchoServer, Traffic } from '../../support/traffic.ts';
import { blocks } from '../blocks.ts';
import { type Context, inScope, type Part } from '../context.ts';
import { treeCpu } from '../processes.ts';
import { type Summary, summary } from '../stats.ts';

/** Blocks of the policy whose rules are damaged: enough for a set. */
const BLOCKS = 100;
/** Before each damage the agent may settle, ms: more repairs than its burst would wait for their turn. */
const REST = 600;

interface Damage {
  what: string;
  command: string;
  listing: string;
}

const DAMAGES: Damage[] = [
  { what: 'nat table flushed', command: 'iptables -t nat -F', listing: 'iptables -t nat -S' },
  { what: 'a member of a set deleted', command: 'sh -c X', listing: 'ipset list VEG-FORWARD-4' },
  { what: 'an IP rule deleted', command: 'ip rule del priority 1002', listing: 'ip rule' },
  { what: 'table 1000 flushed', command: 'ip route flush table 1000', listing: 'ip route show table 1000' },
];

async function repairs(context: Context): Promise<{ what: string; times: number[] }[]> {
  return inScope(async (scope) => {
    const { gateway } = topology(scope);
    const policy = new PolicyDirectory(scope);
    const list = blocks(BLOCKS);
    policy.set({ policies: [{ ...DIRECT, ipBlocks: list }, WEB] });
    const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
    await agent.synced();
    const found: { what: string; times: number[] }[] = [];
    for (const { what, command, listing } of DAMAGES) {
      context.say(what);
      const lines = () => gateway.sh(listing).split('\n').sort().join('\n');
      const wanted = lines();
      const times: number[] = [];
      await context.rounds(context.pick(20, 2), 120_000, async () => {
        await sleep(REST);
        gateway.sh(command.replace('sh -c X', `ipset del VEG-FORWARD-4 ${list[7]}`));
        const began = performance.now();
        await until(() => lines() === wanted, { what: `repaired: ${what}`, everyMs: 1 });
        times.push(performance.now() - began);
      });
      found.push({ what, times });
    }
    return found;
  });
}

interface Fight {
  seconds: number;
  repairs: number;
  /** Percent of a core, of the agent with the programs that it starts. */
  cpu: number;
}

async function fight(context: Context): Promise<Fight> {
  return inScope(async (scope) => {
    const { gateway } = topology(scope);
    const policy = new PolicyDirectory(scope);
    policy.set();
    const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
    await agent.synced();
    const made = async () => (await agent.status()).kernel.driftRepaired.rule ?? 0;
    const undo = 'while :; do ip rule del priority 1003; ip route flush table 1000; sleep 0.02; done';
    const other = gateway.spawn('sh', ['-c', undo], { name: 'fight' });
    // The burst is used up first.
    await sleep(context.pick(20_000, 5000));
    const before = { cpu: treeCpu(agent.daemon.pid), repairs: await made() };
    const began = performance.now();
    await sleep(context.pick(20_000, 3000));
    const seconds = (performance.now() - began) / 1000;
    const cpu = ((treeCpu(agent.daemon.pid) - before.cpu) / seconds) * 100;
    const repaired = (await made()) - before.repairs;
    await other.stop('SIGKILL');
    return { seconds, repairs: repaired, cpu };
  });
}

const UPLINKS: [
  what: string,
  nominal: number,
  cut: (ns: Namespace) => void,
  mend: (ns: Namespace) => void,
][] = [
  [
    'no carrier',
    0,
    (ns) => ns.ip('link set eth0 down'),
    // IPv6 addresses go with the link.
    (ns) => ns.ip('link set eth0 up\naddr replace fd00:172:17::1/64 dev eth0 nodad'),
  ],
  [
    'the gateway answers no ARP',
    600,
    (ns) => ns.sysctl({ 'net.ipv4.conf.all.arp_ignore': 8 }),
    (ns) => ns.sysctl({ 'net.ipv4.conf.all.arp_ignore': 0 }),
  ],
];

async function uplinks(context: Context): Promise<{ what: string; nominal: number; times: number[] }[]> {
  return inScope(async (scope) => {
    const { gateway, router, server } = topology(scope);
    const policy = new PolicyDirectory(scope);
    const uplink = { interval: '200ms', failures: 3, recovery: '0s' };
    policy.set({ bfd: { ...BFD, peers: [ADDRESS.bfdPort[4]] }, uplink } as GatewaySpec);
    const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
    const peer = await startVegBfdd(scope, router, {
      sessions: [{ local: ADDRESS.bfdPort[4], remote: ADDRESS.gatewayInternal[4] }],
    });
    const found: { what: string; nominal: number; times: number[] }[] = [];
    for (const [what, nominal, cut, mend] of UPLINKS) {
      context.say(what);
      const times: number[] = [];
      await context.rounds(context.pick(10, 1), 60_000, async () => {
        await peerUp(peer);
        await agent.statusUntil('ready', ({ ready }) => ready);
        await sleep(REST);
        const began = performance.now();
        cut(server);
        await until(() => peer.sessions()[0]?.state !== 'Up', { what, everyMs: 1 });
        times.push(performance.now() - began);
        mend(server);
      });
      found.push({ what, nominal, times });
    }
    return found;
  });
}

/** The longest time that a heartbeat on an open TCP connection waits, ms: left alone, and during edits. */
async function edits(context: Context): Promise<{ what: string; stall: number; heartbeats: number }[]> {
  return inScope(async (scope) => {
    const { client, gateway, server } = topology(scope);
    const policy = new PolicyDirectory(scope);
    policy.set();
    const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
    await agent.synced();
    await startEchoServer(server);
    const count = context.pick(60, 5);
    const edit = async (i: number) => {
      const { generation } = (await agent.status()).policy;
      policy.set({ policies: [{ ...DIRECT, ipBlocks: blocks(1 + ((i * 37) % 200)) }, WEB] });
      await agent.statusUntil('the edit', (s) => s.policy.generation > generation && s.kernel.inSync);
    };
    const found: { what: string; stall: number; heartbeats: number }[] = [];
    for (const [what, act] of [
      ['left alone', () => sleep(250)],
      ['while the policy changes', edit],
    ] as const) {
      context.say(`a connection ${what}`);
      const traffic = await Traffic.open(client, [`tcp:${ADDRESS.server[4]}`]);
      for (let i = 0; i < count; i++) await act(i);
      const [report] = await traffic.close();
      found.push({ what, stall: report!.stallMs, heartbeats: report!.received });
    }
    return found;
  });
}

export const part: Part = async (context) => {
  const repaired = await repairs(context);
  const dead = await uplinks(context);
  const connection = await edits(context);
  context.say('a fight');
  const fought = await fight(context);
  const cells = ({ n, min, p50, max }: Summary) => [n, p50, min, max];
  return {
    tables: [
      {
        title: 'From damage to repair, ms',
        columns: ['damage', 'times', 'median', 'least', 'worst'],
        rows: repaired.map(({ what, times }) => [what, ...cells(summary(times))]),
        note: `Seen in the kernel's own listing, ${BLOCKS} forwarded blocks. The pause in which the agent waits for more changes is part of it.`,
      },
      {
        title: 'From a dead uplink to the peer that sees AdminDown, ms',
        columns: ['what happens', 'failures × interval', 'times', 'median', 'least', 'worst'],
        rows: dead.map(({ what, nominal, times }) => [what, nominal, ...cells(summary(times))]),
        note: 'IPv4, ARP probes each 200 ms, three failures.',
      },
      {
        title: 'An open TCP connection with a heartbeat each 10 ms: the longest wait for an answer, ms',
        columns: ['', 'heartbeats', 'longest wait'],
        rows: connection.map(({ what, heartbeats, stall }) => [what, heartbeats, stall]),
      },
      {
        title: 'Another program undoes rules and routes every 20 ms',
        columns: ['seconds', 'repairs a second', 'processor time, % of a core'],
        rows: [[fought.seconds, fought.repairs / fought.seconds, fought.cpu]],
        note: 'After the first burst. Processor time with the programs that the agent starts.',
      },
    ],
    panels: [],
    samples: { repaired, dead, connection, fought },
  };
};
