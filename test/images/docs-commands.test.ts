/**
 * Every command of every document runs as it stands there, in a container with the memory that the document says, beside
 * a `kubectl` that stands in for a cluster. What cannot run there is listed with the reason. A document that gains a
 * command in neither list fails the test, and so does a list that names what no document has.
 */
import { chmodSync, cpSync, globSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { BFD, gatewayPolicy } from '../support/agent.ts';
import { must, ROOT, run, type Scope, until } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { CAPABILITIES, Container } from './container.ts';

const DOCUMENTS = ['*.md', 'docs/**/*.md'].flatMap((glob) => globSync(glob, { cwd: ROOT })).sort();
const IMAGE = process.env.VEG_IMAGE ?? 'localhost/veg-agent';
/** The name that the documents give the image. */
const DOCUMENTED_IMAGE = 'registry.example/veg-agent';
/** MiB, of docs/image.md. */
const MEMORY = 64;

/** The peer's, of either family. */
const SESSIONS = ([4, 6] as const).map((family) => ({
  local: ADDRESS.bfdPort[family],
  remote: ADDRESS.gatewayInternal[family],
}));

interface Block {
  /** `docs/install.md:85`. */
  place: string;
  document: string;
  /** One script of a `sh` block, or a line after `$ ` among what it prints. */
  text: string;
}

/** The fenced shell blocks of a document, and the lines after a prompt in its other blocks. */
function blocksOf(document: string): Block[] {
  const text = readFileSync(join(ROOT, document), 'utf8');
  return [...text.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)].flatMap(
    ({ index, 1: language, 2: body = '' }) => {
      const place = `${document}:${text.slice(0, index).split('\n').length}`;
      const scripts =
        language === 'sh' ? [body] : [...body.matchAll(/^\$ (.*)$/gm)].map(([, line = '']) => line);
      return scripts.map((script) => ({ place, document, text: script }));
    },
  );
}

/** The commands of a script, a line each, without comments. */
const commandsOf = (script: string): string[] =>
  script
    .replaceAll(/ *\\\n */g, ' ')
    .split('\n')
    .map((line) => line.replace(/(^|\s+)#\s.*$/, '').trim())
    .filter((line) => line !== '');

/** What does not run in the containers below, and why. A command is listed by its beginning. */
const ELSEWHERE: Readonly<Record<string, readonly string[]>> = {
  'builds or publishes the image; test/support/image.sh builds the one that is tested here': [
    'sudo sh images/gateway/build.sh',
    'sudo buildah push',
    'npm run image',
    'sh images/gateway/build.sh',
    'sh images/frr/build.sh',
    'docker buildx build',
    'DEBIAN_MIRROR=',
  ],
  'runs a suite of this checkout': ['npm test', 'npm run test:', 'npm run -s test:', 'npm run bench'],
  'is of this checkout, and test/live runs it from there': [
    'npm ci && npm run build',
    'export PATH=$PWD/node_modules/.bin:$PATH',
    'npm run check',
    'npm run format',
    'npm run release',
    'node dist/agent/main.js ',
    'images/gateway/bfdd-control status',
  ],
  'is the lab, which has its own test (test/lab)': [
    'npm run lab',
    '/tmp/veg-lab-run/',
    'ip netns exec veg-lab-gateway',
    'ip netns exec veg-lab-gw2',
  ],
  'needs a kernel with VRFs, and FRR; test/kernels/evpn.test.ts asks the same': [
    'ip -d link show vxlan-vpn',
    'ip route show vrf vrf-vpn',
    "vtysh -c 'show bgp l2vpn evpn'",
  ],
};

/** Documents whose blocks are about containers themselves, or a daemon: each has a test below. */
const CONTAINERS = /^podman /m;
const DAEMON = /^veg-bfdd /m;

/** Exit codes other than 0, by the command's beginning. */
const EXITS: Readonly<Record<string, number>> = {
  // None found: no such connection has been here.
  'veg-agent translations --external': 6,
  // Not in this pod: its primary network is one of its sides.
  'ip route show table 1001': 2,
  // Nor has it a VRF.
  'ip route show table 2000 proto 178': 2,
  // Refused: nobody listens outside.
  'curl http://172.17.0.11:10669/metrics': 7,
};

/** A stand-in for a cluster: what runs in a pod runs here, the rest is read and checked as far as that goes. */
const KUBECTL = `#!/bin/sh
set -e
while :; do
  case $1 in -n) shift 2 ;; -*) shift ;; *) break ;; esac
done
verb=$1
shift
case $verb in
  exec) while [ "$1" != -- ]; do shift; done; shift; exec "$@" ;;
  get) exec cat /work/cluster.yaml ;;
  apply)
    case " $* " in
      *' -f - '*) grep -q '^kind: Deployment' ;;
      *) while [ $# -gt 0 ]; do [ "$1" != -f ] || test -r "$2"; shift; done ;;
    esac ;;
  create) for word; do case $word in --from-file=*) test -s "\${word#*=}" ;; esac; done ;;
  patch) while [ "$1" != -p ]; do shift; done; printf %s "$2" | jq -e . >/dev/null ;;
  ko) [ "$1" = nbctl ] ;;
  rollout | port-forward | set) ;;
  *) echo "kubectl $verb: the test knows no such command" >&2; exit 1 ;;
esac
`;

const blocks = DOCUMENTS.flatMap(blocksOf);
const beginsWith = (command: string) => (beginning: string) => command.startsWith(beginning);
const elsewhere = Object.values(ELSEWHERE).flat();
const isElsewhere = (command: string): boolean => elsewhere.some(beginsWith(command));

t.test('the lists name what the documents have', async (t) => {
  const commands = blocks.flatMap(({ text }) => commandsOf(text));
  t.ok(commands.length > 50, `${commands.length} commands are found`);
  for (const beginning of [...elsewhere, ...Object.keys(EXITS)]) {
    t.ok(
      commands.some((command) => command.startsWith(beginning)),
      beginning,
    );
  }
});

/** Scripts as they stand in the documents, without what is listed. */
const scripts = blocks
  .filter(({ text }) => !CONTAINERS.test(text) && !DAEMON.test(text))
  .map((block) => ({ ...block, commands: commandsOf(block.text).filter((one) => !isElsewhere(one)) }))
  .filter(({ commands }) => commands.length > 0);

t.test(`they run beside the agent, in ${MEMORY} MiB`, async (t) => {
  const scope = scopeOf(t);
  const { gateway, router, client } = topology(scope);
  const policies = scope.directory('policy');
  writeFileSync(
    join(policies, 'gateway.yaml'),
    gatewayPolicy({ bfd: BFD, translationLog: { enabled: true } }),
  );
  const work = scope.directory('work');
  // A group has an address for each replica.
  const gatewayAddresses = '  internalIPs: [192.168.0.12, 192.168.0.13]\n';
  const cluster = globSync('docs/examples/kube-ovn-bfd/*', { cwd: ROOT })
    .map((file) => {
      const text = readFileSync(join(ROOT, file), 'utf8').replaceAll('gateway2', 'gateway1');
      return file.endsWith('/gateway.yaml') ? text + gatewayAddresses : text;
    })
    .join('---\n');
  for (const name of ['veg.yaml', 'cluster.yaml']) writeFileSync(join(work, name), cluster);
  cpSync(join(ROOT, 'docs/dashboards'), join(work, 'docs/dashboards'), { recursive: true });
  writeFileSync(join(work, 'kubectl'), KUBECTL, { mode: 0o755 });
  chmodSync(policies, 0o755);
  chmodSync(work, 0o777);
  const volumes = { '/etc/veg-agent/policy': policies, '/work': work };
  const start = (command: readonly string[], privileged = false): Container => {
    const container = Container.start(scope, gateway, {
      ...{ command, volumes, security: privileged ? 'privileged' : { capabilities: CAPABILITIES.gateway } },
      ...(!privileged && { memory: MEMORY }),
    });
    t.teardown(() => container.remove());
    return container;
  };
  t.equal((await start(['veg-agent', 'apply'], true).ended()).code, 0);
  const agent = start(['veg-agent', 'run']);
  // Where the parser is needed there is no room beside an agent (docs/image.md).
  const desk = start(['sleep', 'infinity']);
  await peerUp(await startFrr(scope, router, { sessions: SESSIONS }));
  await until(() => agent.exec('veg-agent', 'status').code === 0, { what: 'ready' });
  client.spawn('ping', ['-i', '0.3', '172.17.0.1'], { name: 'ping' });
  await until(() => agent.exec('conntrack', '-L', '-s', '10.17.0.9').stdout.includes('icmp'), {
    what: 'pings',
  });

  for (const { place, commands } of scripts) {
    const container = commands.some((command) => command.includes('veg-agent render')) ? desk : agent;
    const exit = Object.entries(EXITS).find(([beginning]) => commands[0]!.startsWith(beginning))?.[1] ?? 0;
    const script = ['set -eu', 'cd /work', 'PATH=/work:$PATH', ...commands].join('\n');
    const { code, stdout, stderr } = container.exec('bash', '-c', script);
    t.equal(code, exit, `${place}: ${commands.join('; ')}: ${code === exit ? '' : stdout + stderr}`);
  }
  for (const container of [agent, desk]) {
    t.equal(container.outOfMemoryKills, 0, 'in that memory');
    t.ok(container.running);
  }
  t.comment(`peak ${agent.memory.peak} MiB beside the agent, ${desk.memory.peak} of render`);
});

t.test('veg-bfdd of the documents listens', async (t) => {
  const scope = scopeOf(t);
  const { gateway } = topology(scope);
  const [line] = blocks.filter(({ text }) => DAEMON.test(text)).flatMap(({ text }) => commandsOf(text));
  const security = { capabilities: CAPABILITIES.bfd };
  const daemon = Container.start(scope, gateway, { command: line!.split(' '), security, memory: MEMORY });
  t.teardown(() => daemon.remove());
  await until(() => daemon.log().includes('listening for BFD'), { what: line! });
});

/**
 * What a tool needs in its environment: what this machine permits of containers, and for docker's client podman's socket.
 * Undefined without that client.
 */
function environmentOf(tool: string, scope: Scope): Record<string, string> | undefined {
  const settings = join(scope.directory('podman'), 'containers.conf');
  const limits = 'default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]';
  writeFileSync(
    settings,
    `[containers]\n${limits}\n[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\n`,
  );
  const env = { CONTAINERS_CONF: settings };
  if (tool === 'podman') return env;
  if (run('docker', ['--version']).code !== 0) return undefined;
  const socket = `unix://${join(scope.directory('socket'), 'podman.sock')}`;
  scope.spawn('podman', ['system', 'service', '--time', '0', socket], { name: 'service', env });
  return { ...env, DOCKER_HOST: socket };
}

const [begin, upgrade, ...moreContainers] = blocks.filter(({ text }) => CONTAINERS.test(text));

for (const tool of ['podman', 'docker']) {
  t.test(`a plain container with ${tool}: its start, and an upgrade that no peer notices`, async (t) => {
    t.same(moreContainers, [], 'all blocks about containers are here');
    const scope = scopeOf(t);
    const env = environmentOf(tool, scope);
    if (env === undefined) return t.comment('there is no docker client here: podman took the same words');
    const { gateway, router } = topology(scope);
    const name = `${gateway.name}-${tool}`;
    const policies = scope.directory('policy');
    // Without real time, as in these containers, one takes more than half a second to begin on a busy machine.
    const bfd = { ...BFD, multiplier: 50 };
    writeFileSync(join(policies, 'gateway.yaml'), gatewayPolicy({ bfd }));
    chmodSync(policies, 0o755);
    const podman = (...args: string[]) => run('podman', args, { env });
    for (const tag of ['0.1.0', '0.2.0']) podman('tag', IMAGE, `${DOCUMENTED_IMAGE}:${tag}`);
    t.teardown(() => {
      // One by one: the last has the network of the others.
      for (const one of [`${name}-next`, name, `${name}-net`]) podman('rm', '--force', '--time', '0', one);
      podman('volume', 'rm', '--force', `${name}-state`);
      for (const tag of ['0.1.0', '0.2.0']) podman('untag', IMAGE, `${DOCUMENTED_IMAGE}:${tag}`);
    });
    // docker joins the network of a container only, which is what the document says.
    const namespace = `ns:/run/netns/${gateway.name}`;
    if (tool === 'docker') {
      must(
        'podman',
        ['run', '-d', '--name', `${name}-net`, '--network', namespace, IMAGE, 'sleep', 'infinity'],
        {
          env,
        },
      );
    }
    const own = (text: string): string =>
      text
        .replaceAll(/(?<=^|\s)podman /gm, `${tool} `)
        .replaceAll('ns:/run/netns/gateway', tool === 'docker' ? `container:${name}-net` : namespace)
        .replaceAll('-v /etc/veg-agent/policy:', `-v ${policies}:`)
        .replaceAll('veg-state', `${name}-state`)
        .replaceAll(/(?<![\w/.-])gateway(?=-next|\s|$)/gm, name);
    const type = ({ place, text }: Block) => {
      const { code, stdout, stderr } = run('bash', ['-euc', own(text)], { env });
      t.equal(code, 0, `${place}: ${code === 0 ? '' : stdout + stderr}`);
    };
    const peer = await startFrr(scope, router, { sessions: SESSIONS });
    type(begin!);
    await peerUp(peer);
    type(upgrade!);
    const status = () => podman('exec', name, 'veg-agent', 'status');
    await until(() => status().code === 0, { what: 'ready' });
    const { stdout, stderr } = podman('logs', name);
    t.notMatch(stdout + stderr, '"from":"Up"', 'the sessions were Up all the while');
    t.match(stdout + stderr, 'BFD session resumed');
    t.ok(peer.sessions().every(({ state }) => state === 'Up'));
    t.match(podman('inspect', '--format', '{{.ImageName}}', name).stdout, `${DOCUMENTED_IMAGE}:0.2.0`);
  });
}
