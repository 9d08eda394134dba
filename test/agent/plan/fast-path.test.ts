import t from 'tap';
import { fastPathOf } from '../../../agent/plan/fast-path.ts';
import type { Policy } from '../../../agent/policy/model.ts';
import { prefix } from '../../../lib/prefix.ts';
import { policyNumbers } from '../../../nat/policy-marks.ts';

const rule = { snat: true, ipBlocks: [prefix('10.17.0.0/16')] };
const policy = {
  fastPath: true,
  rules: [
    { ...rule, name: 'web', bandwidth: { egress: 1e6 } },
    { ...rule, name: 'free' },
  ],
} as unknown as Policy;
const SIDES = { internal: 'eth0', external: 'net1' };

t.test('the fast path has both interfaces, and leaves out policies with a limit', async (t) => {
  const limited = [policyNumbers(['web']).get('web')];
  t.same(fastPathOf(policy, {}, SIDES), { fastPath: { ...SIDES, limited }, notes: [] });
});

t.test('there is none without the policy’s wish, while it is paused, and with one interface', async (t) => {
  const none = { fastPath: undefined, notes: [] };
  t.same(fastPathOf({ rules: [] } as unknown as Policy, {}, SIDES), none);
  t.same(fastPathOf(policy, { fastPathPaused: true }, SIDES), none);
  t.match(fastPathOf(policy, {}, { internal: 'eth0', external: 'eth0' }), {
    fastPath: undefined,
    notes: [/^the fast path is not in force: eth0 is both sides of the gateway/],
  });
});
