// When a family may be announced, and that withdrawing it is done when the call returns.
import t from 'tap';
import { Withdrawal } from '../../../agent/bgp/withdrawal.ts';
import { address, prefix } from '../../../lib/prefix.ts';
import { eachDesiredRoute, type FamilyRouting } from '../../../routing/desired.ts';
import type { RoutingStep } from '../../../routing/diff.ts';
import { renderStep } from '../../../routing/render.ts';

const BLOCK = prefix('10.18.0.0/16');
const ROUTING: FamilyRouting = {
  family: 4,
  internal: { interface: 'eth0', addresses: [], gateway: address('10.16.0.1') },
  external: { interface: 'net1', addresses: [], gateway: address('172.17.0.1') },
  ...{ internalBlocks: [BLOCK], externalBlocks: [], peers: [] },
  announced: [{ destination: BLOCK, to: 'inside' }],
};
const READY = { ready: true, reachable: true };

function setUp(routing: FamilyRouting[] = [ROUTING]) {
  const applied: string[] = [];
  const seen = { changes: 0 };
  const withdrawal = new Withdrawal({
    apply(steps) {
      applied.push(...steps.map(renderStep));
      throw new Error('refused');
    },
    routing: () => routing,
    onChange: () => void seen.changes++,
  });
  return { withdrawal, applied, seen };
}

t.test('a family that is not known yet is neither announced nor withdrawn', async (t) => {
  const { withdrawal, applied, seen } = setUp();
  withdrawal.update(4, { ready: undefined, reachable: undefined });
  withdrawal.update(4, { ready: true, reachable: undefined });
  t.same(withdrawal.allowed, {});
  t.same([applied, seen.changes], [[], 0]);
  t.ok(withdrawal.isAnnounced, 'by the process before');
});

t.test('what is not ready, or has no session, is withdrawn at once and announced again later', async (t) => {
  for (const gate of [
    { ready: false, reachable: true },
    { ready: true, reachable: false },
    { ready: false, reachable: undefined },
  ]) {
    const { withdrawal, applied, seen } = setUp();
    withdrawal.update(4, READY);
    t.same([withdrawal.allowed, applied], [{ 4: true }, []]);
    withdrawal.update(4, gate);
    t.same(applied, [
      'ip route add 10.18.0.0/16 via 10.16.0.1 dev eth0 proto 178',
      'ip route del 10.18.0.0/16 via 10.16.0.1 dev eth0 proto 178 metric 178',
    ]);
    t.notOk(withdrawal.isAnnounced);
    withdrawal.update(4, gate);
    t.equal(seen.changes, 2, 'once a change');
    withdrawal.update(4, READY);
    t.same(withdrawal.allowed, { 4: true });
  }
});

t.test('a drain withdraws both families, whatever their state, until it ends', async (t) => {
  const { withdrawal, applied } = setUp();
  t.ok(withdrawal.drain(true));
  t.same([withdrawal.allowed, applied.length], [{ 4: false, 6: false }, 2]);
  withdrawal.update(4, READY);
  t.same(withdrawal.allowed, { 4: false, 6: false });
  withdrawal.drain(false);
  withdrawal.update(4, READY);
  t.same(withdrawal.allowed, { 4: true, 6: false });
  t.notOk(setUp([]).withdrawal.drain(true), 'nothing was announced');
});

t.test('steps that were planned before do not announce it again, nor take its route away', async (t) => {
  const { withdrawal } = setUp();
  const marked = [...eachDesiredRoute([ROUTING])].find(({ metric }) => metric === 178)!;
  const plain = { ...marked, metric: 0 };
  const other = { ...plain, destination: prefix('10.19.0.0/16') };
  const steps: RoutingStep[] = [
    { kind: 'addRoute', route: marked },
    { kind: 'delRoute', route: plain },
    { kind: 'delRoute', route: other },
  ];
  t.same(withdrawal.filter(steps), steps);
  withdrawal.update(4, { ready: false, reachable: true });
  t.same(withdrawal.filter(steps), steps.slice(2));
  t.same(withdrawal.filter([{ kind: 'delRoute', route: marked }]).length, 1);
});
