/**
 * A long quiet time: `node test/bench/soak.ts [MINUTES]`, as root, with the packages of `setup.sh live` and the
 * build. An agent with FRR as its peer and one with BIRD, at 100 ms x 5 over IPv4 and IPv6, while the policy of each
 * changes every second. Prints the transitions of the sessions after they came Up; exit 1 when there was one. The
 * same with OVN: `ovn.ts soak`.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { startBird } from '../live/bfd-lab.ts';
import { Agent, BFD, DIRECT, PolicyDirectory, WEB } from '../support/agent.ts';
import { type Namespace, Scope } from '../support/netns.ts';
import { startFrr } from '../support/peers.ts';
import { topology } from '../support/topology.ts';

const minutes = Number(process.argv[2] ?? 10);
const PAIRS = [
  { local: '10.255.255.255', remote: '10.16.0.12' },
  { local: 'fd00:ffff::1', remote: 'fd00:10:16::12' },
];
const PEERS: Record<string, (scope: Scope, router: Namespace) => Promise<unknown>> = {
  FRR: (scope, router) => startFrr(scope, router, { sessions: PAIRS }),
  BIRD: (scope, router) => startBird(scope, router, PAIRS, '', 'gateway'),
};

/** Runs one agent against one peer, and returns the transitions after both sessions came Up. */
async function soak(name: string): Promise<number> {
  const scope = new Scope(`vegsoak${process.pid}-${name.toLowerCase()}-`);
  try {
    const { router, gateway } = topology(scope);
    const policy = new PolicyDirectory(scope);
    policy.set({ bfd: BFD });
    const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
    await agent.synced();
    await PEERS[name]!(scope, router);
    const up = await agent.statusUntil(
      'both Up',
      ({ bfd }) => bfd.sessions.length === 2 && bfd.sessions.every(({ state }) => state === 'Up'),
    );
    const count = (status: typeof up) =>
      status.bfd.sessions
        .flatMap(({ transitions }) => transitions)
        .reduce((sum, each) => sum + each.count, 0);
    const before = count(up);
    const end = performance.now() + minutes * 60_000;
    for (let i = 0; performance.now() < end; i++) {
      const block = `10.${60 + (i % 40)}.0.0/16`;
      policy.set({ bfd: BFD, policies: [DIRECT, { name: 'more', snat: false, ipBlocks: [block] }, WEB] });
      await sleep(1000);
    }
    const status = await agent.status();
    const transitions = count(status) - before;
    process.stdout.write(
      `${name}: ${minutes} min, ${status.policy.generation} policies, ${transitions} transitions\n`,
    );
    return transitions;
  } finally {
    scope.dispose();
  }
}

const totals = await Promise.all(Object.keys(PEERS).map(soak));
process.exit(totals.every((transitions) => transitions === 0) ? 0 : 1);
