import t from 'tap';
import { brailleRows, resampled } from '../../../../agent/show/plots/braille.ts';

t.test('values are filled from the bottom, a gap is blank, and zero is a dot', async (t) => {
  t.same(brailleRows([0, null, 4, 4], 4, 2, 1), ['⡀⣿']);
  t.same(brailleRows([8, 0, 4, 8], 8, 2, 2), ['⡇⣸', '⣇⣿']);
  t.same(brailleRows([null, null], 1, 1, 2), ['⠀', '⠀']);
  t.same(brailleRows([5, 0], 0, 1, 1), ['⣀'], 'a scale without values');
});

t.test('of values that share a column the largest is shown', async (t) => {
  t.same(resampled([1, 9, null, 2, null, null], 3), [9, 2, null]);
  t.same(resampled([1, 2], 4), [1, 1, 2, 2]);
  t.same(resampled([], 2), [null, null]);
});
