// From the limits of a policy to those of the pod's interfaces.
import t from 'tap';
import { shapingOf, WHOLE_GATEWAY } from '../../../agent/plan/bandwidth.ts';
import type { Policy } from '../../../agent/policy/model.ts';
import { address, prefix } from '../../../lib/prefix.ts';
import { policyNumbers } from '../../../nat/policy-marks.ts';

const rule = { snat: true, ipBlocks: [prefix('10.17.0.0/16')] };
const policy = {
  rules: [
    { ...rule, name: 'web', bandwidth: { egress: 1e6, perSource: true } },
    { ...rule, name: 'free' },
  ],
  addressLimits: [{ name: 'eip/1', addresses: [address('172.17.0.60')], bandwidth: { ingress: 2e6 } }],
  bandwidth: { egress: 3e6, burst: 1e6 },
} as unknown as Policy;
const links = ['eth0', 'net1'].map((name, index) => ({
  ...{ index, name, up: true, carrier: true, mtu: 1400 + 100 * index, mac: '' },
}));
const SIDES = { internal: 'eth0', external: 'net1' };

t.test('each limit applies to the number of its policy, its addresses, or the rest', async (t) => {
  const { shaping, notes } = shapingOf(policy, { links }, SIDES, [4]);
  t.same(notes, []);
  t.same(shaping.limits, [
    {
      ...{ name: 'web', rate: { egress: 1e6 }, perSource: true },
      applies: { mark: policyNumbers(['web']).get('web') },
    },
    { name: 'eip/1', rate: { ingress: 2e6 }, perSource: false, applies: { addresses: ['172.17.0.60'] } },
    { name: WHOLE_GATEWAY, rate: { egress: 3e6 }, perSource: false, applies: 'rest', burst: 1e6 },
  ]);
  t.same(shaping.devices, [
    { direction: 'egress', name: 'net1', from: 'eth0', mtu: 1500 },
    { direction: 'ingress', name: 'eth0', from: 'net1', mtu: 1400 },
  ]);
});

t.test('without limits, or with one interface for both sides, there is nothing to do', async (t) => {
  t.same(shapingOf({ rules: [] } as unknown as Policy, { links }, SIDES, [4]).shaping.devices, []);
  const one = shapingOf(policy, { links }, { internal: 'eth0', external: 'eth0' }, [4]);
  t.same(one.shaping.limits, []);
  t.match(one.notes, [/^bandwidth is not limited: eth0 is both sides of the gateway/]);
});

t.test('an interface that is not there yet has none', async (t) => {
  const { shaping } = shapingOf(policy, { links: links.slice(0, 1) }, SIDES, [4]);
  t.same(
    shaping.devices.map(({ name }) => name),
    ['eth0'],
  );
});
