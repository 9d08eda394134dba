// Spidernet's pools of egress addresses.
import t from 'tap';
import { inPool, parsePoolItem, poolSize } from '../../../../agent/policy/spidernet/ip-pool.ts';
import { address } from '../../../../lib/prefix.ts';

const ranges = (...items: string[]) =>
  items.map((item) => {
    const range = parsePoolItem(item, item.includes(':') ? 6 : 4);
    if (typeof range === 'string') throw new Error(`${item} ${range}`);
    return range;
  });

t.test(
  'an address, a range and a CIDR; an IPv4 CIDR of more than two loses its first and last',
  async (t) => {
    t.equal(poolSize(ranges('10.6.1.55')), 1n);
    t.equal(poolSize(ranges('10.6.1.60-10.6.1.65')), 6n);
    t.equal(poolSize(ranges('10.6.1.64/28')), 14n);
    t.equal(poolSize(ranges('10.6.1.64/31')), 2n);
    t.equal(poolSize(ranges('10.6.1.64/32')), 1n);
    t.equal(poolSize(ranges('fd00::/126')), 4n);
    t.notOk(inPool(ranges('10.6.1.64/28'), address('10.6.1.64')));
    t.ok(inPool(ranges('10.6.1.64/28'), address('10.6.1.65')));
    t.notOk(inPool(ranges('10.6.1.64/28'), address('10.6.1.79')));
    t.ok(inPool(ranges('fd00::/126'), address('fd00::')));
  },
);

t.test('a duplicate address counts once', async (t) => {
  t.equal(poolSize(ranges('10.6.1.1-10.6.1.9', '10.6.1.5', '10.6.1.8-10.6.1.12', '10.6.1.2-10.6.1.3')), 12n);
  t.equal(poolSize([]), 0n);
});

t.test('what is wrong with an item', async (t) => {
  t.equal(parsePoolItem('10.6.1.9-10.6.1.1', 4), 'is a range that ends before it begins');
  t.equal(parsePoolItem('10.6.1.9-fd00::1', 4), 'is a range from one address family to the other');
  t.equal(parsePoolItem('fd00::1-fd00::9', 4), 'is not IPv4');
  t.equal(parsePoolItem('10.6.1.1', 6), 'is not IPv6');
  t.equal(parsePoolItem('10.6.1.1-10.6.1.2-10.6.1.3', 4), 'is not a range of addresses');
  t.equal(parsePoolItem('10.6.1.1-9', 4), 'is not a range of addresses');
  t.equal(parsePoolItem('x', 4), 'is not an address, a range or a CIDR');
  t.equal(parsePoolItem('', 4), 'is not an address, a range or a CIDR');
});
