/** Who watches the gateway while its kernel, a model here, is slow; on a clock of our own. */
import t, { type Test } from 'tap';
import { Gateway, type GatewayParts } from '../../agent/gateway.ts';
import type { Policy } from '../../agent/policy/model.ts';
import type { Kernels } from '../../agent/reconcile/observation.ts';
import { WATCHDOG } from '../../agent/watchdog.ts';
import { address, prefix } from '../../lib/prefix.ts';
import { Model } from '../nat/model.ts';
import { until } from '../support/netns.ts';

const POLICY: Policy = {
  name: 'default/gateway1',
  origin: { file: 'p.yaml', kind: 'GatewayPolicy', name: 'gateway1' },
  internal: { interface: 'eth0', gateways: [address('10.16.0.1')] },
  external: { interface: 'net1', gateways: [address('172.17.0.1')] },
  bfd: {
    ...{ enabled: false, peers: [], minTX: 100, minRX: 100, multiplier: 5 },
    ...{ mode: 'passive', minTTL: 254, adoptDiscriminator: true, anySource: false },
  },
  rules: [{ name: 'direct', snat: false, ipBlocks: [prefix('10.16.0.0/16')] }],
  warnings: [],
};

/** A gateway over a kernel whose translation is changed by `apply`, and the time that is added to the clock. */
function gateway(t: Test, apply: Kernels['nat']['apply']) {
  const clock = { ahead: 0 };
  const { now } = performance;
  performance.now = () => now.call(performance) + clock.ahead;
  const on = (ifindex: number, text: string) => ({
    ...{ family: 4 as const, ifindex, address: address(text), prefixLength: 16, scope: 0, flags: 0 },
  });
  const link = (index: number, name: string) => ({
    ...{ index, name, up: true, carrier: true, mtu: 1500, mac: `02:00:00:00:00:0${index}` },
  });
  const seen = {
    links: [link(2, 'eth0'), link(3, 'net1')],
    addresses: [on(2, '10.16.0.12'), on(3, '172.17.0.11')],
  };
  const nothing = () => {};
  const kernels: Kernels & { fingerprint: () => string } = {
    routing: {
      observe: async () => structuredClone({ ...seen, routes: [], rules: [] }),
      apply: async () => [],
    },
    nat: {
      observe: async () => ({
        ...structuredClone(new Model().observe()),
        ...{ backend: { 4: 'nft', 6: 'nft' }, failed: {}, unreadable: { 4: new Map(), 6: new Map() } },
      }),
      apply,
      counts: async () => [],
      missingHook: async () => undefined,
    },
    sysctls: {
      observe: async () => ({ steps: [], problems: {}, notes: [] }),
      ...{ apply: async () => {}, fingerprint: () => '', planCleanup: async () => [] },
    },
    claims: {
      probe: (links) => new Set(links.keys()),
      ...{ notes: () => [], settled: async () => {}, conflicts: () => [], assigned: nothing },
      ...{ setAssigned: nothing, isFree: () => true, refused: nothing, removed: nothing },
    },
    neighbours: { permanent: () => [], remove: nothing },
    facts: async () => ({
      ...seen,
      connected: [],
      routes: [],
      podIPs: [],
      services: [],
      networks: [],
      names: [],
      missing: [],
      notes: [],
    }),
    fingerprint: () => '',
  };
  const made = new Gateway({
    options: { resync: 3_600_000 },
    view: { policy: {}, kernel: { inSync: false, families: [], notes: [], failed: [], driftRepaired: {} } },
    kernels,
    uplink: {
      ...{ configure: nothing, observe: nothing, readiness: () => ({ ready: true }) },
      get watchedAt() {
        return performance.now();
      },
    },
    metrics: { reconciled: nothing, repaired: nothing },
    logger: { debug: nothing, info: nothing, warn: nothing, error: nothing },
    ...{ readEvents: nothing, onIntent: nothing, onInForce: nothing, lastGood: nothing },
    ...{ onApplied: nothing, onObserved: async () => {} },
  } as unknown as GatewayParts);
  t.teardown(async () => {
    performance.now = now;
    await made.stop();
  });
  made.takePolicy({ source: 'p', result: { ok: true, policy: POLICY } } as Parameters<
    Gateway['takePolicy']
  >[0]);
  return { made, clock };
}

t.test('changes that do not come to an end are nobody who watches', async (t) => {
  const change = Promise.withResolvers<void>();
  let changing = false;
  const { made, clock } = gateway(t, () => {
    changing = true;
    return change.promise;
  });
  await until(() => changing, { what: 'a change' });
  clock.ahead += WATCHDOG.unwatched;
  await until(() => made.neglected < 1000, { what: 'a slow one is watched' });
  clock.ahead += WATCHDOG.longestChange;
  const { watchedAt } = made;
  await new Promise((resolve) => setTimeout(resolve, 500));
  t.equal(made.watchedAt, watchedAt, 'an endless one is not');
  t.ok(made.neglected > WATCHDOG.unwatched);
  change.resolve();
  await until(() => made.neglected < 1000, { what: 'its end is' });
});
