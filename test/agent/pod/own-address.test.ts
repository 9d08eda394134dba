import t from 'tap';
import { masqueradeChoosesOwn, ownAddresses, questionSource } from '../../../agent/pod/own-address.ts';
import { type Address, address, familyOf } from '../../../lib/prefix.ts';
import { METRIC_VEG_AGENT } from '../../../routing/numbers.ts';
import type { InterfaceAddress } from '../../../routing/state.ts';

const SECONDARY = 0x01;
const DADFAILED = 0x08;
const DEPRECATED = 0x20;
const TENTATIVE = 0x40;
const LINK = 253;
const LINKS = ['lo', 'eth0', 'net1'].map((name, i) => ({
  ...{ index: i + 1, name, up: true, carrier: true, mtu: 1500, mac: '' },
}));
const on = (text: string, more: Partial<InterfaceAddress> = {}): InterfaceAddress => {
  const [host = '', length] = text.split('/');
  return {
    ...{ family: familyOf(address(host)), ifindex: 3, address: address(host), prefixLength: Number(length) },
    ...{ scope: 0, flags: 0 },
    ...more,
  };
};
const held = (host: string): InterfaceAddress =>
  familyOf(address(host)) === 4
    ? on(`${host}/32`, { metric: METRIC_VEG_AGENT, scope: LINK })
    : on(`${host}/128`, { metric: METRIC_VEG_AGENT, flags: DEPRECATED });
const side = (family: 4 | 6) => ({ family, gateway: address(family === 4 ? '172.17.0.1' : 'fd00:17::1') });
const NOTHING = { pods: [], shared: [] };

/** The own addresses, the chosen one first, in the kernel's order of listing. */
const own = (addresses: InterfaceAddress[], given: { pods?: string[]; shared?: string[] } = {}): string[] =>
  ownAddresses({ links: LINKS, addresses }, 'net1', {
    ...side(addresses[0]!.family),
    given: { pods: (given.pods ?? []).map(address), shared: (given.shared ?? []).map(address) },
  }).map((found) => found.address);

t.test(
  'own is an address that is global, has passed duplicate address detection, and is not used by others',
  async (t) => {
    t.strictSame(
      own(
        [
          held('172.17.0.50'),
          on('169.254.0.9/16', { scope: LINK }),
          on('172.17.0.60/16'),
          on('10.16.0.12/16', { ifindex: 2 }),
          on('172.17.0.11/16'),
        ],
        { pods: ['172.17.0.60'] },
      ),
      ['172.17.0.11'],
    );
    t.strictSame(
      own([
        held('fd00:17::50'),
        on('fd00:17::9/64', { flags: TENTATIVE }),
        on('fd00:17::8/64', { flags: DADFAILED }),
        on('fd00:17::11/64'),
        on('fe80::9/64', { scope: LINK }),
      ]),
      ['fd00:17::11'],
    );
    const both = { links: LINKS, addresses: [on('10.16.0.12/16')] };
    const inside = [address('10.16.0.12')];
    t.strictSame(ownAddresses(both, 'net1', { ...side(4), inside }), [], 'nor the other side’s as well');
  },
);

t.test('of several: the gateway’s network, unnamed, not deprecated, not temporary, the oldest', async (t) => {
  const first = (...addresses: InterfaceAddress[]) => own(addresses)[0];
  t.equal(first(on('192.0.2.7/24'), on('172.17.0.11/16', { flags: DEPRECATED })), '172.17.0.11');
  t.equal(first(on('172.17.0.11/16', { flags: DEPRECATED }), on('172.17.0.12/16')), '172.17.0.12');
  t.equal(first(on('172.17.0.11/16'), on('172.17.0.12/16', { flags: SECONDARY })), '172.17.0.11');
  t.equal(first(on('172.17.0.12/32'), on('172.17.0.11/32')), '172.17.0.12', 'IPv4 lists the oldest first');
  t.equal(first(on('fd00:17::12/64'), on('fd00:17::11/64')), 'fd00:17::11', 'IPv6 the newest');
  t.equal(first(on('fd00:17::11/64'), on('fd00:17::1234/64', { flags: SECONDARY })), 'fd00:17::11');
  t.strictSame(
    own([on('172.17.0.11/16'), on('172.17.0.12/16')], { shared: ['172.17.0.11'] }),
    ['172.17.0.12', '172.17.0.11'],
    'one that the policy names is own when there is no other',
  );
});

t.test('masquerading is left to the kernel only where it cannot choose anything else', async (t) => {
  const chooses = (
    addresses: InterfaceAddress[],
    given: { pods: Address[]; shared: Address[] } = NOTHING,
  ) => {
    const facts = { links: LINKS, addresses };
    const where = side(addresses[0]!.family);
    return masqueradeChoosesOwn(facts, 'net1', { ...where, own: ownAddresses(facts, 'net1', where), given });
  };
  const v4 = on('172.17.0.11/16');
  t.equal(chooses([v4]), true);
  t.equal(chooses([on('172.17.0.11/32')]), true);
  t.equal(chooses([v4, on('172.17.0.12/16', { flags: SECONDARY })]), true);
  t.equal(chooses([v4], { pods: [address('172.17.0.60')], shared: [] }), false, 'an EIP will come');
  t.equal(chooses([v4], { pods: [], shared: [address('172.17.0.11')] }), true, 'a DNAT of the own address');
  t.equal(chooses([v4, held('172.17.0.60')]), false, 'an EIP is still there');
  t.equal(
    chooses([v4, on('169.254.0.9/16', { scope: LINK })]),
    false,
    'it keeps the routes when the own one goes',
  );
  const deprecated = on('172.17.0.11/16', { flags: DEPRECATED });
  t.equal(
    chooses([deprecated, on('172.17.0.12/16', { flags: SECONDARY })]),
    false,
    'the kernel does not mind',
  );
  const v6 = on('fd00:17::11/64');
  const linkLocal = on('fe80::9/64', { scope: LINK });
  t.equal(chooses([v6, linkLocal]), true);
  t.equal(chooses([on('fd00:17::12/64'), v6, linkLocal]), false, 'it depends on the destination');
  t.equal(chooses([{ ...v6, flags: DEPRECATED }]), false, 'an inside one would be preferred');
  t.equal(chooses([v6, held('fd00:17::60')]), false);
});

t.test('neighbours are asked from an own address, else a virtual one, else one of the link', async (t) => {
  const from = (...addresses: InterfaceAddress[]) =>
    questionSource(
      { links: LINKS, addresses },
      'net1',
      addresses[0]!.family,
      side(addresses[0]!.family).gateway,
    );
  const linkLocal = on('fe80::9/64', { scope: LINK });
  t.equal(from(held('172.17.0.60'), on('172.17.0.11/16')), '172.17.0.11');
  t.equal(from(held('172.17.0.60')), '172.17.0.60');
  t.equal(from(held('fd00:17::60'), linkLocal), 'fd00:17::60');
  t.equal(from(linkLocal), 'fe80::9');
  t.equal(from(on('10.16.0.12/16', { ifindex: 2 })), undefined);
});
