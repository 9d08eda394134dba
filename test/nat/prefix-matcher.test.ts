import t from 'tap';
import { address, addressBytes, contains, type Prefix, prefix } from '../../lib/prefix.ts';
import { PrefixMatcher, prefixMatcher } from '../../nat/prefix-matcher.ts';

t.test('it finds the prefixes that contain an address', async (t) => {
  let seed = 5;
  const random = (below: number) => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    return (seed >> 8) % below;
  };
  const matcher = new PrefixMatcher();
  const prefixes: Prefix[] = [];
  for (let i = 0; i < 300; i++) {
    const one = random(2)
      ? prefix(`10.${random(3)}.${random(256)}.${random(256)}/${random(33)}`)
      : prefix(`fd00:${random(3)}::${random(9)}:${random(9)}/${random(129)}`);
    prefixes.push(one);
    matcher.add(one, i);
  }
  for (let i = 0; i < 300; i++) {
    const wanted = address(
      random(2)
        ? `10.${random(3)}.${random(256)}.${random(256)}`
        : `fd00:${random(3)}::${random(9)}:${random(9)}`,
    );
    const expected = [...prefixes.keys()].filter((n) => contains(prefixes[n]!, wanted));
    const bytes = addressBytes(wanted);
    if (JSON.stringify(matcher.find(bytes)) !== JSON.stringify(expected)) t.fail(wanted);
    if (matcher.has(bytes) !== expected.length > 0) t.fail(wanted);
  }
  t.pass('300 addresses among 300 prefixes');
});

t.test('no prefixes are not a matcher that matches nothing', async (t) => {
  t.equal(prefixMatcher([]), undefined);
  t.equal(prefixMatcher([prefix('0.0.0.0/0')])!.has(addressBytes(address('1.2.3.4'))), true);
  t.equal(prefixMatcher([prefix('0.0.0.0/0')])!.has(addressBytes(address('::1'))), false);
});
