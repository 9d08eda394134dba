import t from 'tap';
import { type Address, address, familyOf } from '../../lib/prefix.ts';
import { diffAddresses } from '../../routing/addresses.ts';
import { METRIC_VEG_AGENT } from '../../routing/numbers.ts';
import { formatAddress, parseInterfaceAddress } from '../../routing/parse.ts';
import { renderStep } from '../../routing/render.ts';
import type { InterfaceAddress, Link } from '../../routing/state.ts';

const link = (index: number, name: string): Link => ({
  ...{ index, name, up: true, carrier: true, mtu: 1500, mac: '02:42:ac:11:00:0b' },
});
const LINKS = [link(2, 'eth0'), link(3, 'net1')];
const virtual = (text: string) => ({ family: familyOf(address(text)), address: address(text), dev: 'net1' });
/** An address as the kernel shows one that the agent has added. */
const held = (text: string, more: Partial<InterfaceAddress> = {}): InterfaceAddress => ({
  ...parseInterfaceAddress(Buffer.from(formatAddress(virtual(text), 3)))!,
  ...more,
});
const steps = (addresses: InterfaceAddress[], ...wanted: string[]): string[] =>
  diffAddresses({ links: LINKS, addresses }, wanted.map(virtual)).map(renderStep);

t.test('what is missing is added, what is no longer wanted is withdrawn before', async (t) => {
  t.strictSame(steps([held('172.17.0.50'), held('fd00::50')], '172.17.0.51', 'fd00::51'), [
    'ip addr del 172.17.0.50/32 dev net1',
    'ip -6 addr del fd00::50/128 dev net1',
    'ip addr add 172.17.0.51/32 dev net1 metric 178 scope link',
    'ip -6 addr add fd00::51/128 dev net1 metric 178 nodad noprefixroute preferred_lft 0',
  ]);
  t.strictSame(steps([held('172.17.0.50'), held('fd00::50')], '172.17.0.50', 'fd00::50'), []);
});

t.test('an address on another interface than the wanted one moves', async (t) => {
  t.strictSame(steps([held('172.17.0.50', { ifindex: 2 })], '172.17.0.50'), [
    'ip addr del 172.17.0.50/32 dev eth0',
    'ip addr add 172.17.0.50/32 dev net1 metric 178 scope link',
  ]);
});

t.test('only a host address with the metric of the agent is its own', async (t) => {
  const { metric: _, ...foreign } = held('172.17.0.50');
  for (const other of [
    foreign,
    held('172.17.0.50', { prefixLength: 16 }),
    held('172.17.0.50', { metric: 1 }),
  ]) {
    t.strictSame(steps([other]), [], 'it is not removed');
    t.strictSame(steps([other], '172.17.0.50'), [], 'nor added a second time');
  }
  t.equal(held('fd00::50').metric, METRIC_VEG_AGENT);
  t.equal(held('fd00::50').address, 'fd00::50' as Address);
  t.equal(held('172.17.0.50').scope, 253, 'nothing that looks for a global address chooses it');
});
