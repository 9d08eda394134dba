/**
 * The image in containers, measured: `node test/bench/image.ts WHAT… [--json FILE]`, as root, with the packages of
 * `setup.sh image` and an image (`npm run image`; VEG_IMAGE names another). WHAT is
 *
 *     size         of the image
 *     start [N]    from the start of the container to its first BFD packet and to a probe that succeeds
 *     memory       idle, repairing 1000 blocks beside probes, and the most there was
 *
 * VEG_IMAGE_BEFORE names an image of an earlier commit: `size` and `start` measure it in turn.
 * OPENBFDD names a directory with OpenBFDD's bfdd-beacon and bfdd-control; then they run in the same containers, to
 * compare with. The figures of a release are in docs/design/0006-image.md.
 */
import { chmodSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { CAPABILITIES, Container, type ContainerSpec } from '../images/container.ts';
import { BFD_COMMAND, BFD_ENV, INIT_ENV, initCommand, PROBE } from '../images/pod.ts';
import { BfdCapture } from '../support/capture.ts';
import { must, type Namespace, run, Scope, until } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { type Topology, topology } from '../support/topology.ts';
import { print, runNamed } from './program.ts';

const IMAGE = process.env.VEG_IMAGE ?? 'localhost/veg-agent';
const { OPENBFDD, VEG_IMAGE_BEFORE } = process.env;
const IMAGES = [IMAGE, ...(VEG_IMAGE_BEFORE === undefined ? [] : [VEG_IMAGE_BEFORE])];

/** `min/median/max`. */
function spread(values: number[]): string {
  const sorted = values.toSorted((a, b) => a - b).map(Math.round);
  return [sorted[0], sorted[Math.floor(sorted.length / 2)], sorted.at(-1)].join('/');
}

// The container ----------------------------------------------------------------------------------------------

/** A container with BFD: what runs in it, and the limits that a release gives it. */
interface Setting {
  name: string;
  command: readonly string[];
  memory: number;
  cpu: number;
  /** A probe that succeeds as soon as it answers. */
  probe: readonly string[];
}

const SETTINGS: Setting[] = [
  { name: 'variant B, 300m, 64 MiB', command: BFD_COMMAND.B, memory: 64, cpu: 300, probe: PROBE.live },
  { name: 'variant A, 200m, 50 MiB', command: BFD_COMMAND.A, memory: 50, cpu: 200, probe: PROBE.status },
  { name: 'variant A, 50m, 50 MiB', command: BFD_COMMAND.A, memory: 50, cpu: 50, probe: PROBE.status },
];

/** OpenBFDD as Kube-OVN's scripts start and configure it. */
const CONFIGURE = `for i in $(seq 100); do /openbfdd/bfdd-control status >/dev/null 2>&1 && break; sleep 0.01; done
/openbfdd/bfdd-control session new set mintx $BFD_MIN_TX ms
/openbfdd/bfdd-control session new set minrx $BFD_MIN_RX ms
/openbfdd/bfdd-control session new set multi $BFD_MULTI
/openbfdd/bfdd-control allow $BFD_PEER_IPS`;
const INCUMBENT: Setting[] = [
  {
    name: 'OpenBFDD, 300m, 64 MiB',
    command: [
      'bash',
      '-c',
      `{ ${CONFIGURE}; } >/dev/null 2>&1 & exec /openbfdd/bfdd-beacon --nofork --tee --listen=$POD_IPS`,
    ],
    memory: 64,
    cpu: 300,
    probe: ['/openbfdd/bfdd-control', 'status'],
  },
];

interface Pod extends Topology {
  scope: Scope;
  start(setting: Setting): Container;
}

/** Makes a pod whose init container has run. */
async function withPod(
  init: Record<string, string>,
  act: (pod: Pod) => Promise<void>,
  image = IMAGE,
): Promise<void> {
  const scope = new Scope();
  const containers: Container[] = [];
  try {
    const net = topology(scope, { cniRoutes: true });
    const volumes: Record<string, string> = {};
    for (const path of ['/usr/local/sbin', '/var/run/kube-ovn/bfdd-supervisor']) {
      volumes[path] = scope.directory('volume');
      chmodSync(volumes[path], 0o777);
    }
    if (OPENBFDD !== undefined) volumes['/openbfdd'] = OPENBFDD;
    const run = (spec: Omit<ContainerSpec, 'volumes'>): Container => {
      const container = Container.start(scope, net.gateway, { image, ...spec, volumes });
      containers.push(container);
      return container;
    };
    const { code, log } = await run({
      command: initCommand('B'),
      env: init,
      security: 'privileged',
    }).ended();
    if (code !== 0) throw new Error(log);
    const start = ({ command, memory, cpu }: Setting) =>
      run({ command, memory, cpu, env: BFD_ENV, security: { capabilities: CAPABILITIES.bfd } });
    await act({ ...net, scope, start });
  } finally {
    for (const container of containers) container.remove();
    scope.dispose();
  }
}

// Size -------------------------------------------------------------------------------------------------------

const mib = (octets: number) => Math.round(octets / 1024 / 102.4) / 10;

async function size(): Promise<void> {
  for (const image of IMAGES) {
    const unpacked = Number(must('podman', ['image', 'inspect', '--format', '{{.Size}}', image]));
    const packed = Number(
      run('sh', ['-c', `podman save ${image} | gzip -6 | wc -c`], { timeoutMs: 300_000 }).stdout,
    );
    print('size', { image, 'unpacked MiB': mib(unpacked), 'as gzip MiB': mib(packed) });
  }
}

// Start ------------------------------------------------------------------------------------------------------

/** Says Down to the gateway every 5 ms: a passive gateway answers as soon as it can. */
const CALLER = `
const socket = require('dgram').createSocket('udp4');
socket.bind(49999, '10.255.255.255', () => {
  socket.setTTL(255);
  const packet = Buffer.from('204005180000000100000000000f4240000186a000000000', 'hex');
  setInterval(() => socket.send(packet, 3784, '10.16.0.12'), 5);
});`;

async function firstPacket(scope: Scope, router: Namespace, act: () => Promise<void>): Promise<number> {
  const capture = await BfdCapture.start(scope, router, 'gateway');
  const caller = router.spawn(process.execPath, ['-e', CALLER], { name: 'caller' });
  await act();
  const first = await until(() => capture.packets().find(({ from }) => from === '10.16.0.12'), {
    what: 'a packet',
  });
  await caller.stop('SIGKILL');
  await capture.stop();
  return first.at;
}

interface Starts {
  packets: number[];
  probes: number[];
  cpu: number[];
}

/** One start to the first packet, and one to a probe that succeeds. */
async function startOnce(setting: Setting, image: string, { packets, probes, cpu }: Starts): Promise<void> {
  const toPacket = async ({ scope, router, start }: Pod) => {
    let container: Container | undefined;
    const at = await firstPacket(scope, router, async () => {
      container = start(setting);
    });
    packets.push(at - container!.startedAt);
    cpu.push(container!.cpuTime);
  };
  const toProbe = async ({ start }: Pod) => {
    const container = start(setting);
    const began = container.startedAt;
    await until(() => container.exec(...setting.probe).code === 0, { what: 'a probe' });
    probes.push(Date.now() - began);
  };
  await withPod(INIT_ENV, toPacket, image);
  await withPod(INIT_ENV, toProbe, image);
}

async function start(count: number): Promise<void> {
  for (const setting of [...SETTINGS, ...(OPENBFDD === undefined ? [] : INCUMBENT)]) {
    const images = INCUMBENT.includes(setting) ? [IMAGE] : IMAGES;
    const all = new Map<string, Starts>(images.map((image) => [image, { packets: [], probes: [], cpu: [] }]));
    for (let i = 0; i < count; i++) {
      for (const [image, starts] of all) await startOnce(setting, image, starts);
    }
    for (const [image, { packets, probes, cpu }] of all) {
      print('start', {
        setting: setting.name,
        ...(images.length > 1 && { image }),
        runs: count,
        'first BFD packet ms': spread(packets),
        'CPU until then ms': spread(cpu),
        'probe succeeds ms': spread(probes),
      });
    }
  }
}

// Memory -----------------------------------------------------------------------------------------------------

const BLOCKS = Array.from({ length: 1000 }, (_, i) => `10.${100 + (i >> 8)}.${i & 255}.0/24`);

const row = ({ charged, anonymous, peak }: Container['memory']) => ({
  'charged MiB': charged,
  'anonymous MiB': anonymous,
  'peak MiB': peak,
});

async function memory(): Promise<void> {
  for (const setting of [...SETTINGS.slice(0, 2), ...(OPENBFDD === undefined ? [] : INCUMBENT)]) {
    const ours = !INCUMBENT.includes(setting);
    await withPod(
      { ...INIT_ENV, NO_SNAT_SOURCES_IPV4: BLOCKS.join() },
      async ({ scope, router, gateway, start }) => {
        const container = start(setting);
        await peerUp(
          await startFrr(scope, router, { sessions: [{ local: '10.255.255.255', remote: '10.16.0.12' }] }),
        );
        await sleep(20_000);
        print('memory', { setting: setting.name, when: 'idle, 1000 blocks', ...row(container.memory) });
        for (let i = 0; i < 60; i++) {
          if (ours) {
            gateway.sh('iptables -t nat -F POSTROUTING');
            gateway.run('ip', ['rule', 'del', 'priority', '1002']);
          }
          container.exec(...setting.probe);
          container.exec(...(ours ? PROBE.status : setting.probe));
          await sleep(400);
        }
        const { outOfMemoryKills: kills } = container;
        print('memory', {
          setting: setting.name,
          when: ours ? 'repairing 1000 blocks twice a second beside probes' : 'beside probes',
          ...row(container.memory),
          'out of memory': kills,
        });
      },
    );
  }
}

await runNamed({
  size: { run: size, n: 1 },
  start: { run: start, n: 5 },
  memory: { run: memory, n: 1 },
});
