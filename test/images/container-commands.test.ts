/** The documented commands beside the agent, in the memory that the documents give it. */
import { appendFileSync, chmodSync, cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { asYaml, listOf } from '../support/kubectl.ts';
import { ROOT, until } from '../support/netns.ts';
import { initialised } from './lab.ts';
import { BFD_COMMAND, PROBE } from './pod.ts';

/** MiB that are to be left when everything was run. */
const ROOM = 2;

/** A running Pod with as much of its status as 2000 of them leave room for in a ConfigMap of 1 MiB. */
const pod = (i: number) => ({
  ...{ apiVersion: 'v1', kind: 'Pod' },
  metadata: {
    labels: { app: `app-${i % 50}`, tier: 'front' },
    name: `web-${i}`,
    namespace: `team-${i % 30}`,
  },
  spec: { nodeName: `node-${i % 9}` },
  status: {
    conditions: ['Initialized', 'Ready'].map((type) => ({
      ...{ lastProbeTime: null, lastTransitionTime: '2026-01-02T03:04:05Z', status: 'True', type },
    })),
    phase: 'Running',
    ...{ podIP: `10.17.${i >> 8}.${i & 255}`, podIPs: [{ ip: `10.17.${i >> 8}.${i & 255}` }] },
  },
});

/** Directories of documents: `small` with a gateway as people write one, `large` with 2000 Pods as well. */
function documents(directory: string): string {
  const example = join(ROOT, 'docs/examples/kube-ovn-bfd');
  for (const name of ['small', 'large']) cpSync(example, join(directory, name), { recursive: true });
  for (const name of ['small', 'large']) {
    // OVN's commands need the addresses of both pods.
    appendFileSync(join(directory, name, 'gateway.yaml'), '  internalIPs: [192.168.0.12, 192.168.0.13]\n');
  }
  writeFileSync(join(directory, 'large/pods.yaml'), asYaml(listOf(2000, pod)));
  chmodSync(directory, 0o755);
  return directory;
}

for (const [variant, memory] of [
  ['A', 50],
  ['B', 64],
] as const) {
  t.test(`variant ${variant}, ${memory} MiB: commands beside the agent while it repairs`, async (t) => {
    const pod = await initialised(t, variant);
    await pod.frr();
    const container = pod.start({
      ...{ command: BFD_COMMAND[variant], memory },
      volumes: { ...pod.volumes, '/documents': documents(pod.scope.directory('documents')) },
    });
    const veg = (...args: string[]) => container.exec('veg-agent', ...args);
    await until(() => container.exec(...PROBE.status).stdout.includes('state=Up'), { what: 'Up' });
    await until(() => veg('status').code === 0, { what: 'ready' });
    /** The processes that are children of the container's first: the agent. */
    const agent = () => readFileSync(`/proc/${container.pid}/task/${container.pid}/children`, 'utf8');
    const before = { first: container.pid, agent: agent() };

    if (variant === 'B') {
      // What Node says by itself.
      t.match(veg('translations', '--at', 'noon'), { code: 2, stderr: '--at must be a time' });
      t.match(veg('drain', '--timeout', 'soon'), { code: 2, stderr: '--timeout must be seconds' });

      t.equal(veg('--help').code, 0);
    }

    const idle = { code: 0, stdout: '', stderr: 'nothing to do: the kernel is as the policy says' };
    t.match(veg('plan'), idle);
    for (let i = 0; i < 5; i++) {
      pod.gateway.sh('iptables -t nat -F');
      t.match(veg('status').stdout, /ready/);
      t.equal(JSON.parse(veg('status', '--json').stdout).schemaVersion, 'v1');
      t.ok([0, 4].includes(veg('plan').code));
      const plan = JSON.parse(veg('plan', '--json').stdout);
      t.match(plan, { schemaVersion: 'v1', changes: Array, obstacles: [] });
      const none = veg('translations', '--at', '2026-11-21T14:03:00Z', '--external', '172.17.0.11:1234');
      t.match(none, { code: 1, stdout: '', stderr: /^veg-agent: the policy has no translation log/ });
      t.match(veg('drain', '--timeout', '200ms'), { code: 0, stdout: /^drained: / });
      t.match(veg('undrain'), { code: 0, stdout: 'no longer draining\n', stderr: '' });
      if (variant === 'A') {
        // A second Node that reads a policy has no room here; it ends before it could be the agent's end.
        const refused =
          /^veg-agent: needs 16 MiB of memory to read a policy, and this container has \d+ left of 50:/;
        t.match(veg('check', '/documents/small'), { code: 1, stdout: '', stderr: refused });
        t.match(veg('render', 'ovn', '-f', '/documents/small'), { code: 1, stdout: '', stderr: refused });
        continue;
      }
      for (const path of ['/documents/small', '/documents/large']) {
        for (const [stdout, ...command] of [
          [/^valid: VpcEgressGateway /, 'check', path],
          [
            /^kind: Deployment$/m,
            'render',
            'kubernetes',
            '--image',
            'registry.example/veg-agent:1',
            '-f',
            path,
          ],
          [/ovn-nbctl/, 'render', 'ovn', '-f', path],
        ] as [RegExp, ...string[]][]) {
          const { anonymous, ...output } = await container.execMeasured('veg-agent', ...command);
          t.match(output, { code: 0, stdout });
          t.ok(anonymous < memory - ROOM, `${command.join(' ')}: ${anonymous} of ${memory} MiB`);
        }
      }
      t.match(veg('check', '/nowhere'), { code: 3, stdout: '', stderr: /^\/nowhere: / });
    }
    await until(() => veg('plan').stderr.includes('nothing to do'), { what: 'repaired' });
    t.equal(container.outOfMemoryKills, 0);
    t.same({ first: container.pid, agent: agent() }, before, 'neither process was ended');
  });
}
