// Text from a file in a message: one line, short, harmless.
import t from 'tap';
import { closest, describe, formatPath, quote } from '../../../agent/policy/quote.ts';

t.test('a quoted text stays on one line and cannot steer a terminal', async (t) => {
  t.equal(quote('10.0.0.1\n-A INPUT -j DROP'), '"10.0.0.1\\n-A INPUT -j DROP"');
  t.equal(
    quote('a\x1b[31m"\x7f\x9b\u2028\u202e\u200b\ufeff'),
    '"a\\u001b[31m\\"\\u007f\\u009b\\u2028\\u202e\\u200b\\ufeff"',
  );
  t.equal(quote('Ä 漢'), '"Ä 漢"');
  t.equal(quote('x'.repeat(1000)), `"${'x'.repeat(80)}…"`);
});

t.test('a value is described as what it is', async (t) => {
  t.same([null, undefined, [], {}, 'x', 1.5, true, Number.NaN].map(describe), [
    'empty',
    'empty',
    'a list',
    'a map of fields',
    '"x"',
    '1.5',
    'true',
    'NaN',
  ]);
});

t.test('a path reads like the field it leads to', async (t) => {
  t.equal(formatPath([]), '');
  t.equal(formatPath(['spec', 'policies', 0, 'ipBlocks', 1]), 'spec.policies[0].ipBlocks[1]');
  t.equal(formatPath(['metadata', 'labels', 'a/b']), 'metadata.labels["a/b"]');
  t.equal(formatPath(['a b\n']), '["a b\\n"]');
});

t.test('the closest word is found, and none when none is close', async (t) => {
  const words = ['snat', 'ipBlocks', 'destinationCIDRs'];
  t.equal(closest('snatt', words), 'snat');
  t.equal(closest('SNAT', words), 'snat');
  t.equal(closest('ipblock', words), 'ipBlocks');
  t.equal(closest('destinationCidr', words), 'destinationCIDRs');
  t.equal(closest('colour', words), undefined);
  t.equal(closest('x', words), undefined);
  t.equal(closest('', words), undefined);
  t.equal(closest('ipBlocks', []), undefined);
});
