/** A gateway pod, and the agents that run in it one after the other. */
import { rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { Agent, cli, type PolicyDirectory } from './agent.ts';
import { type Namespace, type Scope, URGENTLY } from './netns.ts';

/** A gateway pod as Kube-OVN's CNI leaves it: addresses and the default route, nothing else. */
export interface GatewayPod {
  name: string;
  mac: string;
  ns: Namespace;
  internal: { 4: string; 6: string };
  external: { 4: string; 6: string };
}

/** A gateway pod with an agent in it, one after the other. */
export class AgentPod {
  readonly pod: GatewayPod;
  readonly policy: PolicyDirectory;
  stateDir: string;
  /** A link to the state directory of the agent that was started last. */
  readonly stateLink: string;
  readonly #scope: Scope;
  #agent: Agent | undefined;

  constructor(scope: Scope, pod: GatewayPod, policy: PolicyDirectory) {
    this.#scope = scope;
    this.pod = pod;
    this.policy = policy;
    this.stateDir = scope.directory('state');
    this.stateLink = join(scope.dir, `state-of-${pod.name}`);
  }

  /** The agent that runs, or ran last. */
  get agent(): Agent {
    if (this.#agent === undefined) throw new Error(`no agent was started in ${this.pod.name}`);
    return this.#agent;
  }

  /** Starts an agent with the state that the one before left. */
  start(wrapper: string[] = []): Agent {
    const { policy, stateDir } = this;
    // As docs/operations.md advises: OVN may act five seconds late.
    const args = ['--drain-timeout', '20s'];
    rmSync(this.stateLink, { force: true });
    symlinkSync(stateDir, this.stateLink);
    this.#agent = new Agent(this.pod.ns, { policyDir: policy.dir, stateDir, args, wrapper });
    return this.#agent;
  }

  /** As `start`, not held up by what else runs on this machine: the peer's Detection Time is running. */
  startUrgently(): Agent {
    return this.start(URGENTLY);
  }

  /** As `start` in a pod that was made anew: with an empty state directory. */
  startFresh(): Agent {
    this.stateDir = this.#scope.directory('state');
    return this.start();
  }

  /** Programs the kernel as the policy says, and leaves nothing running: what the FRR baseline stands on. */
  apply(): void {
    const { code, stderr } = cli(
      this.pod.ns,
      { policyDir: this.policy.dir, stateDir: this.stateDir },
      'apply',
    );
    if (code !== 0) throw new Error(`apply in ${this.pod.name}: ${stderr}`);
  }

  /** Leaves the kernel as a new pod has it: without what the agent made, and without a connection. */
  clean(): void {
    cli(this.pod.ns, { policyDir: this.policy.dir, stateDir: this.stateDir }, 'cleanup');
    this.pod.ns.run('conntrack', ['-F']);
  }

  get running(): boolean {
    return this.#agent !== undefined && this.#agent.daemon.exitCode === undefined;
  }

  /** Kills every process of the agent, if there is one. What is in the kernel stays, and forwards. */
  async kill(): Promise<void> {
    if (!this.running) return;
    process.kill(-this.agent.daemon.pid, 'SIGKILL');
    await this.agent.daemon.ended();
  }

  /** The pod dies: nothing is forwarded any more, and every process of the agent is killed at the same time. */
  async die(): Promise<void> {
    stopForwarding(this.pod);
    await this.kill();
  }
}

/** What a pod's death means for packets that still come to it. */
export function stopForwarding({ ns }: GatewayPod): void {
  ns.sysctl({ 'net.ipv4.ip_forward': 0, 'net.ipv6.conf.all.forwarding': 0 });
}
