/** The documented commands beside the agent, in the memory that the documents give it. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { until } from '../support/netns.ts';
import { initialised } from './lab.ts';
import { BFD_COMMAND, PROBE } from './pod.ts';

/** MiB that are to be left when everything was run. */
const ROOM = 2;

for (const [variant, memory] of [
  ['A', 50],
  ['B', 64],
] as const) {
  t.test(`variant ${variant}, ${memory} MiB: commands beside the agent while it repairs`, async (t) => {
    const pod = await initialised(t, variant);
    await pod.frr();
    const container = pod.start({ command: BFD_COMMAND[variant], memory });
    const veg = (...args: string[]) => container.exec('veg-agent', ...args);
    await until(() => container.exec(...PROBE.status).stdout.includes('state=Up'), {
      ...{ what: 'Up', timeoutMs: 30_000 },
    });
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
    }
    await until(() => veg('plan').stderr.includes('nothing to do'), { what: 'repaired' });
    t.ok(container.memory.peak < memory - ROOM, `peak ${container.memory.peak} of ${memory} MiB`);
    t.equal(container.outOfMemoryKills, 0);
    t.same({ first: container.pid, agent: agent() }, before, 'neither process was ended');
  });
}
