/** The lab (docs/lab.md). Started by lab.sh: `main.ts run|down builtin|frr|ovn GATEWAYS [--keep] [--no-color]`. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AGENT, Agent, BFDD_CONTROL, PolicyDirectory } from '../support/agent.ts';
import { BFD_INTERVAL, SLOWNESS } from '../support/machine.ts';
import { alive, type Namespace, NODE, removeAll, Scope, until } from '../support/netns.ts';
import { type BfdPeer, peerUp, startFrr, startVegBfdd } from '../support/peers.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { sourceSeen, startEchoServer, Traffic } from '../support/traffic.ts';
import { groupTools, tellGroup } from './group.ts';
import { ovnTools, tellOvn } from './ovn.ts';
import { Story } from './story.ts';

const PREFIX = 'veg-lab-';
/** Where a lab keeps its files, and by which it is known. */
const DIR = `/tmp/${PREFIX}run`;

const [action, peerName, gateways, ...flags] = process.argv.slice(2);
/** Gateways of a group; 0: the story of one gateway. */
const groupSize = Number(gateways);
const keep = flags.includes('--keep');
const story = new Story(process.stdout.isTTY && !flags.includes('--no-color') && !process.env.NO_COLOR);

function removeEarlier(): void {
  const pidFile = join(DIR, 'pid');
  const pid = existsSync(pidFile) ? Number(readFileSync(pidFile, 'utf8')) : 0;
  if (pid > 0 && alive(pid)) {
    process.stderr.write(`lab: another lab is running here (pid ${pid}); end it first\n`);
    process.exit(1);
  }
  if (existsSync(DIR)) process.stdout.write('lab: removing the lab that an earlier run left\n');
  removeAll(PREFIX);
}

/** How long a change may take; a slow machine proves nothing about that. */
const PROMPT_MS = SLOWNESS > 1 ? Infinity : 1000;

const POLICY = `apiVersion: veg-agent.io/v1alpha1
kind: GatewayPolicy
metadata: { name: gateway1, namespace: default }
spec:
  internal: { gateways: [10.16.0.1, "fd00:10:16::1"] }
  external: { gateways: [172.17.0.1, "fd00:172:17::1"] }
  bfd: { enabled: true, peers: [10.255.255.255, "fd00:ffff::1"], minTX: ${BFD_INTERVAL}, minRX: ${BFD_INTERVAL}, multiplier: 5 }
  policies:
    - { name: partner, snat: false, ipBlocks: [10.18.0.0/16, "fd00:10:18::/64"] }
    - { name: web, snat: true, ipBlocks: [10.17.0.0/16, "fd00:10:17::/64"] }
`;
/** The same with one more forwarded block. */
const EDITED = POLICY.replace('[10.18.0.0/16,', '[10.18.0.0/16, 10.19.0.0/16,');

const ms = (since: number): number => Math.round(performance.now() - since);

async function tell(scope: Scope): Promise<void> {
  story.step('A small VPC in network namespaces of this machine');
  const { client, client2, router, gateway, server } = topology(scope);
  await startEchoServer(server);
  story.say(`
client  10.17.0.9 ─┐                                 gateway pod
                   ├─ router (as OVN) ─ 10.16.0.12 eth0 │ net1 172.17.0.11 ─ server 172.17.0.1
client2 10.18.0.9 ─┘  bfd@ 10.255.255.255

and the same in IPv6. The router sends what comes from the clients to the gateway pod; the server knows
a way back to 10.18.0.0/16 and none to 10.17.0.0/16, which therefore has to be translated.
Namespaces: ${[client, client2, router, gateway, server].map(({ name }) => name).join(' ')}`);

  story.step('The agent starts in the gateway pod, with this policy');
  const policy = new PolicyDirectory(scope);
  policy.write({ 'gateway.yaml': POLICY });
  story.output(`cat ${policy.dir}/gateway.yaml`, POLICY);
  const stateDir = join(scope.dir, 'state');
  const started = performance.now();
  const agent = new Agent(gateway, { policyDir: policy.dir, stateDir });
  writeFileSync(
    join(scope.dir, 'veg-agent'),
    script(gateway, `${NODE} ${AGENT} "$@" --policy-dir ${policy.dir} --state-dir ${stateDir}`),
    {
      mode: 0o755,
    },
  );
  writeFileSync(
    join(scope.dir, 'bfdd-control'),
    `#!/bin/sh\nVEG_AGENT_STATE_DIR=${stateDir} exec ${BFDD_CONTROL} "$@"\n`,
    { mode: 0o755 },
  );
  await agent.synced();
  story.check(true, `policy in the kernel ${ms(started)} ms after the start of the process`);
  const plan = agent.cli('plan');
  story.check(plan.code === 0 && plan.stdout === '', 'veg-agent plan finds nothing left to do');

  story.step('What the kernel of the gateway pod lists now');
  for (const command of [
    'ip rule show',
    'ip route show',
    'ip route show table 1000',
    'iptables -t nat -S',
    'ip -6 rule show',
    'ip6tables -t nat -S POSTROUTING',
  ]) {
    story.output(command, gateway.sh(command));
  }

  story.step(
    `BFD with the router's bfd@ port (${peerName === 'frr' ? "FRR's bfdd" : 'our own engine, active'})`,
  );
  const peer = await startPeer(scope, router);
  const peerStarted = performance.now();
  await peerUp(peer);
  const up = ms(peerStarted);
  story.output('bfdd-control status', agent.bfddControl('status').stdout);
  story.check(true, `both sessions are Up, the peer says, ${up} ms after it started`);
  await agent.statusUntil('ready', ({ ready }) => ready);
  story.check(agent.http('/readyz').status === 200, '/readyz answers 200 from then on');

  story.step('Which source the server outside sees');
  for (const [name, ns, expected, how] of [
    ['client', client, ADDRESS.gatewayExternal, 'translated'],
    ['client2', client2, ADDRESS.client2, 'forwarded unchanged'],
  ] as const) {
    for (const family of [4, 6] as const) {
      const seen = await sourceSeen(ns, ADDRESS.server[family]);
      const [address] = seen.split(' ');
      const own = name === 'client' ? ADDRESS.client[family] : ADDRESS.client2[family];
      story.check(
        address === expected[family],
        `${own} connects to ${ADDRESS.server[family]}: seen as ${address}, ${how}`,
      );
    }
  }

  story.step('The policy is edited under open connections');
  const open = await Traffic.open(client, [`tcp:${ADDRESS.server[4]}`, `tcp:${ADDRESS.server[6]}`]);
  const before = gateway.sh('iptables -t nat -S POSTROUTING').split('\n');
  const edited = performance.now();
  policy.write({ 'gateway.yaml': EDITED });
  await until(() => gateway.sh('iptables -t nat -S POSTROUTING').includes('-s 10.19.0.0/16 -j RETURN'), {
    what: '10.19.0.0/16 in the kernel',
  });
  const took = ms(edited);
  const added = gateway
    .sh('iptables -t nat -S POSTROUTING')
    .split('\n')
    .filter((line) => !before.includes(line));
  story.say('10.19.0.0/16 is forwarded from now on, too. Rules that came, all others stayed:');
  story.output('iptables -t nat -S POSTROUTING', added.join('\n'));
  story.output('ip route show 10.19.0.0/16', gateway.sh('ip route show 10.19.0.0/16'));
  story.check(took < PROMPT_MS, `in the kernel ${took} ms after the file changed`);
  await new Promise((resolve) => setTimeout(resolve, 500));
  for (const { path, sent, received, stallMs, broken } of await open.close()) {
    story.check(
      broken === undefined && sent === received && stallMs < PROMPT_MS,
      `${path} from 10.17.0.9's pod: ${received} of ${sent} heartbeats answered, the slowest after ${stallMs} ms`,
    );
  }

  story.step('Somebody flushes the nat table');
  story.output('iptables -t nat -F; ip rule del priority 1001', '');
  const logged = agent.daemon.log().length;
  const whole = gateway.sh('iptables -t nat -S') + gateway.sh('ip rule show');
  const flushed = performance.now();
  gateway.run('sh', ['-c', 'iptables -t nat -F; ip rule del priority 1001']);
  await until(() => gateway.sh('iptables -t nat -S') + gateway.sh('ip rule show') === whole, {
    what: 'everything is back',
    everyMs: 5,
  });
  const repaired = ms(flushed);
  story.check(repaired < PROMPT_MS, `every rule is back ${repaired} ms later`);
  const told = await until(() => repairLines(agent.daemon.log().slice(logged)), {
    what: 'the repair in the log',
  });
  story.say(`the agent says who did it:\n${told}`);

  story.step('A drain, as the peer sees it');
  const drained = performance.now();
  const drain = gateway.spawn(join(scope.dir, 'veg-agent'), ['drain'], { name: 'drain' });
  await until(() => peer.sessions().every((session) => session.drained), {
    what: 'AdminDown at the peer',
    everyMs: 5,
  });
  story.check(true, `AdminDown at the peer ${ms(drained)} ms after the command was started`);
  story.check((await drain.ended()) === 0, 'veg-agent drain returns when traffic has moved away');
  const { command, text } = peer.show();
  story.output(`${command}     (in the router)`, text);
  story.output('bfdd-control status     (in the gateway pod)', agent.bfddControl('status').stdout);
  const undrained = performance.now();
  agent.cli('undrain');
  await peerUp(peer);
  story.check(true, `after veg-agent undrain both sessions are Up again (${ms(undrained)} ms)`);

  if (keep) return;
  story.step('The agent stops');
  const stopped = performance.now();
  const code = await agent.stop();
  story.check(code === 0, `SIGTERM drains and ends it with exit code ${code} after ${ms(stopped)} ms`);
  story.check(
    gateway.sh('iptables -t nat -S').includes('VEG-MASQUERADE'),
    'its rules stay: forwarding goes on while the agent is away',
  );
  const clean = agent.cli('cleanup');
  story.check(
    clean.code === 0 &&
      !gateway.sh('iptables -t nat -S').includes('VEG') &&
      !gateway.sh('ip rule show').includes('100'),
    'until veg-agent cleanup takes them away',
  );
}

/** What the log says of repairs: how many changes, and who made them necessary. */
function repairLines(log: string): string | undefined {
  const lines = log
    .split('\n')
    .filter((line) => line.includes('"repairing drift"'))
    .map((line) => JSON.parse(line) as { changes: number; writer?: string })
    .map(({ changes, writer }) => `${changes} changes put back; last writer: ${writer ?? 'unknown'}`);
  return lines.join('\n') || undefined;
}

/** A program that runs a command line in the namespace. */
const script = (ns: Namespace, line: string): string => `#!/bin/sh\nexec ip netns exec ${ns.name} ${line}\n`;

function startPeer(scope: Scope, router: Namespace): Promise<BfdPeer> {
  const sessions = ([4, 6] as const).map((family) => ({
    local: ADDRESS.bfdPort[family],
    remote: ADDRESS.gatewayInternal[family],
  }));
  return (peerName === 'frr' ? startFrr : startVegBfdd)(scope, router, { sessions });
}

/** What to do with a lab that was kept, with one gateway. */
function gatewayTools(scope: Scope): string {
  const inside = (name: string, command: string) => `ip netns exec ${PREFIX}${name} ${command}`;
  return `
  ${scope.dir}/veg-agent status
  ${scope.dir}/bfdd-control status
  ${inside('gateway', 'iptables -t nat -S')}
  ${inside('gateway', 'curl -s localhost:10669/metrics')}
  ${inside('gateway', 'tcpdump -ni any')}
  ${inside('client', 'curl -s --max-time 1 telnet://172.17.0.1:8000')}     the source that the server sees
  $EDITOR ${scope.dir}/policy-*/gateway.yaml`;
}

function howToPlay(tools: string): void {
  process.stdout.write(`The lab goes on running. To play with:
${tools}

To remove it:

  npm run lab -- --down
`);
}

removeEarlier();
if (action === 'run') {
  const began = performance.now();
  const scope = new Scope(PREFIX);
  writeFileSync(join(scope.dir, 'pid'), `${process.pid}\n`);
  process.stdout.write(
    groupSize > 0
      ? 'VPC egress gateways on this machine that share one address.\n'
      : 'A VPC egress gateway on this machine, from nothing to a drained session.\n',
  );
  try {
    if (groupSize > 0) await tellGroup(story, scope, groupSize, peerName === 'ovn');
    else await (peerName === 'ovn' ? tellOvn(story, scope) : tell(scope));
  } catch (error) {
    story.check(false, `the story ended early: ${(error as Error).message}`);
    process.stderr.write(`${scope.logs()}\n`);
  }
  const good = story.summary((performance.now() - began) / 1000);
  process.exitCode = good ? 0 : 1;
  if (keep && good) {
    scope.keep();
    const tools = peerName === 'ovn' ? ovnTools : gatewayTools;
    howToPlay(groupSize > 0 ? groupTools(scope, groupSize) : tools(scope));
  } else {
    scope.dispose();
    process.stdout.write('Everything that was made for this is removed.\n');
  }
}
