/** Programs in the lab's directory, to play with. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AGENT, BFDD_CONTROL } from '../support/agent.ts';
import type { AgentPod } from '../support/agent-pod.ts';
import { NODE, type Scope } from '../support/netns.ts';

export const writeTool = (scope: Scope, name: string, lines: string): void =>
  writeFileSync(join(scope.dir, name), `#!/bin/sh\n${lines}\n`, { mode: 0o755 });

/** `veg-agent POD …` and `bfdd-control POD …`. The state directory of a pod that is made anew is the last one. */
export function writePodTools(scope: Scope, pods: readonly AgentPod[]): void {
  const choose = (command: (pod: AgentPod) => string) =>
    [
      'pod=$1; shift',
      'case $pod in',
      ...pods.map((pod) => `${pod.pod.name}) ${command(pod)} ;;`),
      `*) echo "usage: $0 ${pods.map(({ pod }) => pod.name).join('|')} …" >&2; exit 2 ;;`,
      'esac',
    ].join('\n');
  writeTool(
    scope,
    'veg-agent',
    choose(({ pod, policy, stateLink }) =>
      [
        `exec ip netns exec ${pod.ns.name} ${NODE} ${AGENT} "$@"`,
        `--policy-dir ${policy.dir} --state-dir ${stateLink}`,
      ].join(' '),
    ),
  );
  writeTool(
    scope,
    'bfdd-control',
    choose(({ stateLink }) => `VEG_AGENT_STATE_DIR=${stateLink} exec ${BFDD_CONTROL} "$@"`),
  );
}
