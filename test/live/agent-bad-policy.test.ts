/** Bad policies change nothing in the kernel, are told wherever one looks, and the next good one heals. */
import { renameSync } from 'node:fs';
import t from 'tap';
import {
  Agent,
  type AgentOptions,
  BFD,
  cli,
  DIRECT,
  gatewayPolicy,
  PolicyDirectory,
  WEB,
} from '../support/agent.ts';
import { kernelState } from '../support/kernel.ts';
import { type Namespace, run, until } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';

const GOOD = gatewayPolicy();
const withBlock = (block: string) => gatewayPolicy({ policies: [DIRECT, { ...WEB, ipBlocks: [block] }] });
/** The good policy with one more line below a line that it has. */
const after = (line: string, more: string) => GOOD.replace(line, `${line}\n${more}`);

const KUBE_OVN = `
apiVersion: kubeovn.io/v1
kind: VpcEgressGateway
metadata: { name: gateway1, namespace: default }
spec:
  externalSubnet: macvlan1
  policies:
    - snat: true
      subnets: [nowhere]
`;

/** A reproducible stretch of bytes of every value. */
function junk(length: number): Buffer {
  let x = 1;
  return Buffer.from(
    Uint8Array.from({ length }, () => {
      x = (x * 1103515245 + 12345) & 0x7fffffff;
      return x >> 16;
    }),
  );
}

const BAD: { name: string; files: Record<string, string | Buffer>; says: RegExp }[] = [
  { name: 'not YAML', files: { 'a.yaml': 'spec: [1, 2\n  : {' }, says: /a\.yaml:\d+:\d+: / },
  { name: 'an empty file', files: { 'a.yaml': '' }, says: /a\.yaml/ },
  {
    name: 'a CIDR that is none',
    files: { 'a.yaml': withBlock('10.17.0.0/33') },
    says: /ipBlocks\[0\]: .*10\.17\.0\.0\/33/,
  },
  {
    name: 'an address with a newline and an iptables line in it',
    files: { 'a.yaml': withBlock('10.17.0.0/16\n-I POSTROUTING -j ACCEPT') },
    says: /ipBlocks\[0\]: /,
  },
  {
    name: 'an interface with a newline and an iptables line in it',
    files: {
      'a.yaml': gatewayPolicy({
        internal: { interface: 'eth0\n-I POSTROUTING -j ACCEPT', gateways: ['10.16.0.1'] },
      }),
    },
    says: /spec\.internal\.interface: /,
  },
  { name: 'an unknown subnet', files: { 'a.yaml': KUBE_OVN }, says: /nowhere/ },
  {
    name: 'an unknown kind',
    files: { 'a.yaml': GOOD.replace('kind: GatewayPolicy', 'kind: GatewayPolice') },
    says: /a\.yaml:2:\d+: kind: .*GatewayPolice/,
  },
  {
    name: 'an unknown field',
    files: { 'a.yaml': after('spec:', '  polices: []') },
    says: /a\.yaml:\d+:\d+: spec.*polices/,
  },
  {
    name: 'a wrong type',
    files: { 'a.yaml': GOOD.replace('snat: true', 'snat: "yes"') },
    says: /a\.yaml:\d+:\d+: spec\.policies\[1\]\.snat: /,
  },
  {
    name: 'a number out of range',
    files: {
      'a.yaml': gatewayPolicy({ bfd: { enabled: true, peers: ['10.255.255.255'], multiplier: 256 } }),
    },
    says: /a\.yaml:\d+:\d+: spec\.bfd\.multiplier: .*255/,
  },
  {
    name: 'two gateways',
    files: { 'a.yaml': GOOD, 'b.yaml': GOOD.replace('gateway1', 'gateway2') },
    says: /b\.yaml:2:\d+: kind: .*second gateway/,
  },
  { name: '2 MB of random bytes', files: { 'a.yaml': junk(2 << 20) }, says: /a\.yaml/ },
  { name: '2 MB of YAML', files: { 'a.yaml': `${'a: [\n'.repeat(400_000)}` }, says: /a\.yaml/ },
  { name: 'no file at all', files: {}, says: /./ },
];

t.test('bad policies', async (t) => {
  const scope = scopeOf(t);
  const { gateway } = topology(scope);
  const policy = new PolicyDirectory(scope);
  policy.write({ 'a.yaml': GOOD });
  const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
  await agent.synced();
  t.equal(agent.http('/readyz').status, 200);
  t.equal(agent.cli('check').code, 0);
  const before = kernelState(gateway);

  for (const { name, files, says } of BAD) {
    const logged = agent.daemon.log().length;
    policy.write(files);
    const { policy: told } = await agent.statusUntil(`${name} is refused`, (status) => !status.policy.valid);
    t.match(told.errors.join('\n'), says, `${name}: the error in status`);
    t.same(kernelState(gateway), before, `${name}: nothing changed in the kernel`);
    t.equal(told.name, 'default/gateway1', `${name}: the last good policy stays`);
    t.match(agent.http('/readyz'), { status: 503, body: says }, `${name}: the reason in /readyz`);
    t.equal(agent.http('/livez').status, 200, `${name}: still alive`);
    t.equal(agent.metric('veg_agent_policy_valid'), 0, `${name}: veg_agent_policy_valid`);
    const line = agent.daemon
      .log()
      .slice(logged)
      .split('\n')
      .find((candidate) => candidate.includes('"level":"error"'));
    t.match(
      (JSON.parse(line ?? '{}') as { errors?: string[] }).errors?.join('\n'),
      says,
      `${name}: in the log`,
    );
    const checked = agent.cli('check');
    t.equal(checked.code, 3, `${name}: check refuses it`);
    t.equal(checked.stderr.trim(), told.errors.join('\n').trim(), `${name}: check says the same`);
    t.equal(agent.cli('apply').code, 3, `${name}: apply refuses it`);

    policy.write({ 'a.yaml': GOOD });
    await agent.statusUntil(`healed after ${name}`, ({ ready }) => ready);
    t.equal(agent.metric('veg_agent_policy_valid'), 1, `${name}: the next good policy heals`);
  }
  t.same(kernelState(gateway), before);
});

t.test('every error of a set of files is told at once, each with its place', async (t) => {
  const scope = scopeOf(t);
  const { gateway } = topology(scope);
  const policy = new PolicyDirectory(scope);
  policy.write({
    'a.yaml': [
      'apiVersion: veg-agent.io/v1alpha1',
      'kind: GatewayPolicy',
      'metadata: { name: gateway1, namespace: default }',
      'spec:',
      '  internal: { gateways: [10.16.0.300] }',
      '  external: { gateways: [172.17.0.1] }',
      '  policies:',
      '    - snat: maybe',
      '      ipBlocks: [10.17.0.0/16, 10.18.0.0/40]',
      '      colour: red',
    ].join('\n'),
    'b.json': '{ "kind": "Nonsense", "apiVersion": "v1" }',
  });
  const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
  const { stderr } = agent.cli('check');
  for (const place of [
    /^a\.yaml:5:\d+: spec\.internal\.gateways\[0\]: /m,
    /^a\.yaml:8:\d+: spec\.policies\[0\]\.snat: /m,
    /^a\.yaml:9:\d+: spec\.policies\[0\]\.ipBlocks\[1\]: /m,
    /^a\.yaml:10:\d+: spec\.policies\[0\].*colour/m,
    /^b\.json:1:\d+: kind: /m,
  ]) {
    t.match(stderr, place);
  }
  const { reasons } = await agent.statusUntil(
    'the agent runs without a policy',
    (s) => s.policy.errors.length > 0,
  );
  t.match(reasons[0], /policy invalid/);
  t.notMatch(kernelState(gateway).join('\n'), 'VEG-', 'and nothing is programmed');
  policy.write({ 'a.yaml': GOOD });
  await agent.synced();
  t.equal(await agent.stop(), 0);
});

t.test(
  'a directory that appears later, an edit in place and Kube-OVN’s environment are sources too',
  async (t) => {
    const scope = scopeOf(t);
    const { gateway } = topology(scope);
    const policy = new PolicyDirectory(scope);
    const later = `${policy.dir}/later`;
    const agent = new Agent(gateway, { policyDir: later, stateDir: scope.directory('state') });
    await agent.statusUntil('running without a directory', (status) => !status.policy.valid);
    const sh = (script: string, input: string) => gateway.run('sh', ['-ec', script], { input });
    t.equal(sh(`mkdir ${later}; cat > ${later}/gateway.yaml`, GOOD).code, 0);
    await agent.synced();
    const edited = gatewayPolicy({ policies: [{ ...DIRECT, ipBlocks: ['10.77.0.0/16'] }, WEB] });
    t.equal(sh(`cat > ${later}/gateway.yaml`, edited).code, 0);
    await until(() => gateway.sh('iptables -t nat -S').includes('-A POSTROUTING -s 10.77.0.0/16 -j RETURN'), {
      what: 'the edit in place is in the kernel',
    });
    t.equal(await agent.stop(), 0);

    const environment = new Agent(gateway, {
      policyDir: '/nonexistent',
      stateDir: scope.directory('state'),
      env: {
        INTERNAL_GATEWAY_IPV4: '10.16.0.1',
        EXTERNAL_GATEWAY_IPV4: '172.17.0.1',
        NO_SNAT_SOURCES_IPV4: '10.18.0.0/16,10.78.0.0/16',
      },
    });
    await environment.synced();
    t.match(gateway.sh('iptables -t nat -S'), '-A POSTROUTING -s 10.78.0.0/16 -j RETURN');
    t.notMatch(gateway.sh('iptables -t nat -S'), '10.77.0.0');
    t.equal(await environment.stop(), 0);
  },
);

/** Starts a daemon, ends it, and starts another with the same directories. */
class Restarted {
  agent: Agent;
  readonly #ns: Namespace;
  readonly #options: AgentOptions;

  constructor(ns: Namespace, options: AgentOptions) {
    this.#ns = ns;
    this.#options = options;
    this.agent = new Agent(ns, options);
  }

  async restart(signal: NodeJS.Signals): Promise<void> {
    await this.agent.stop(signal);
    this.agent = new Agent(this.#ns, this.#options);
  }

  /** Kills the agent process, the child of the BFD process, and waits for the next one. */
  async killAgentProcess(): Promise<void> {
    const child = () => Number(run('pgrep', ['-P', `${this.agent.daemon.pid}`]).stdout.split('\n')[0]);
    const victim = child();
    process.kill(victim, 'SIGKILL');
    await until(() => ![0, victim].includes(child()), { what: 'another agent process' });
  }
}

t.test('the last good policy outlives the process, until a newer one is valid', async (t) => {
  const scope = scopeOf(t);
  const { gateway, router, server } = topology(scope);
  const policy = new PolicyDirectory(scope);
  const bfd = { ...BFD, peers: [ADDRESS.bfdPort[4]], multiplier: 50 };
  policy.set({ bfd });
  const started = new Restarted(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
  const sessions = [{ local: ADDRESS.bfdPort[4], remote: ADDRESS.gatewayInternal[4] }];
  const frr = await startFrr(scope, router, { sessions, multiplier: 50 });
  await peerUp(frr);
  const { policy: good } = await started.agent.statusUntil('ready', ({ ready }) => ready);
  const before = kernelState(gateway);
  const last = `the last good policy stays in force: default/gateway1, since ${good.lastChange}`;

  policy.write({ 'a.yaml': 'kind: Nonsense' });
  await started.agent.statusUntil('it is refused', (status) => !status.policy.valid);
  const ways: Record<string, () => Promise<void>> = {
    'the agent process is killed': () => started.killAgentProcess(),
    'the daemon is restarted in place': () => started.restart('SIGUSR2'),
    'the daemon is killed': () => started.restart('SIGKILL'),
  };
  for (const [what, end] of Object.entries(ways)) {
    await end();
    for (const line of ['iptables -t nat -F', 'ip route del default', 'ip rule del priority 1003']) {
      gateway.sh(line);
    }
    await until(() => JSON.stringify(kernelState(gateway)) === JSON.stringify(before), {
      what: `${what}: nat, routes and rules are put back`,
    });
    const { reasons } = await started.agent.statusUntil(`${what}: told`, ({ kernel }) => kernel.inSync);
    t.match(reasons[0], `policy invalid: 1 error; ${last}`, `${what}: which one is in force, and since when`);
    t.match(started.agent.http('/readyz'), { status: 503, body: last });
    t.equal(frr.sessions()[0]?.state, 'Up', `${what}: the peer has noticed nothing`);
  }

  server.ip('link set eth0 down');
  await until(() => frr.sessions()[0]?.state !== 'Up', { what: 'the uplink is watched' });
  server.ip('link set eth0 up\naddr replace fd00:172:17::1/64 dev eth0 nodad');
  await peerUp(frr);

  policy.set({ bfd, policies: [DIRECT] });
  const { policy: newer } = await started.agent.statusUntil(
    'a newer one takes over',
    ({ ready, kernel }) => ready && kernel.inSync,
  );
  t.notMatch(gateway.sh('iptables -t nat -S'), '10.17.0.0/16');
  policy.write({});
  await started.restart('SIGUSR2');
  const { policy: again } = await started.agent.statusUntil(
    'an empty directory',
    (status) => !status.policy.valid && status.kernel.inSync,
  );
  t.equal(again.lastChange, newer.lastChange, 'and is the last good one from then on');
  t.notMatch(gateway.sh('iptables -t nat -S'), '10.17.0.0/16');

  t.equal(await started.agent.stop(), 0);
  t.equal(started.agent.cli('cleanup').code, 0);
  await started.restart('SIGKILL');
  const { reasons } = await started.agent.statusUntil('told', (status) => status.policy.errors.length > 0);
  t.match(reasons[0], /nothing is programmed/, 'a gateway that was cleaned up does not come back by itself');
  t.notMatch(kernelState(gateway).join('\n'), 'VEG-');
});

t.test('a directory that was the source and is gone gives way to nothing else', async (t) => {
  const scope = scopeOf(t);
  const { gateway } = topology(scope);
  const policy = new PolicyDirectory(scope);
  policy.set();
  const stateDir = scope.directory('state');
  const env = {
    INTERNAL_GATEWAY_IPV4: '10.16.0.1',
    EXTERNAL_GATEWAY_IPV4: '172.17.0.1',
    NO_SNAT_SOURCES_IPV4: '10.78.0.0/16',
  };
  const options = { policyDir: policy.dir, stateDir, env, args: ['--on-exit', 'remove'] };
  const started = new Restarted(gateway, options);
  await started.agent.synced();
  const before = kernelState(gateway);
  renameSync(policy.dir, `${policy.dir}-away`);
  await started.restart('SIGKILL');
  gateway.sh('iptables -t nat -F');
  const { policy: told } = await started.agent.statusUntil(
    'the directory is gone',
    ({ policy, kernel }) => !policy.valid && kernel.inSync,
  );
  t.match(told.errors[0], /no such file or directory/);
  t.same(kernelState(gateway), before, 'its policy is maintained');
  t.equal(started.agent.cli('apply').code, 3, 'apply does not take the environment either');
  t.equal(started.agent.cli('plan').code, 3);
  t.same(kernelState(gateway), before);

  t.equal(await started.agent.stop(), 0);
  t.notMatch(kernelState(gateway).join('\n'), 'VEG-', 'the gateway removes itself');
  await started.restart('SIGKILL');
  await started.agent.synced();
  t.match(gateway.sh('iptables -t nat -S'), '10.78.0.0/16', 'and then starts as for the first time');
  renameSync(`${policy.dir}-away`, policy.dir);
  await started.agent.statusUntil(
    'the directory is back',
    (status) => status.policy.name === 'default/gateway1',
  );
  t.equal(await started.agent.stop(), 0);
});

t.test(
  'what `apply` put into the kernel is the last good policy of the daemon that starts next',
  async (t) => {
    const scope = scopeOf(t);
    const { gateway } = topology(scope);
    const policy = new PolicyDirectory(scope);
    policy.set();
    const options = { policyDir: policy.dir, stateDir: scope.directory('state') };
    t.equal(cli(gateway, options, 'apply').code, 0);
    const before = kernelState(gateway);
    policy.write({ 'a.yaml': 'kind: Nonsense' });
    const agent = new Agent(gateway, options);
    gateway.sh('iptables -t nat -F');
    await agent.statusUntil('refused', ({ policy, kernel }) => !policy.valid && kernel.inSync);
    t.same(kernelState(gateway), before);
    t.equal(await agent.stop(), 0);
  },
);
