import { test } from 'tap';
import { POLICY_MARK_MASK, POLICY_NUMBER_MASK, policyMark, policyNumbers } from '../../nat/policy-marks.ts';

const names = Array.from({ length: 10_000 }, (_, i) => `policy-${i}`);

test('each name has a number of its own, none of them 0, within its bits', async (t) => {
  const numbers = [...policyNumbers(names).values()];
  t.equal(new Set(numbers).size, names.length);
  t.notOk(numbers.includes(0));
  t.ok(numbers.every((number) => (number & ~POLICY_NUMBER_MASK) === 0));
});

test('a number depends on the name alone, not on order, repetition or other names', async (t) => {
  const all = policyNumbers(names.slice(0, 100));
  t.same(policyNumbers(names.slice(0, 100).reverse()), all);
  t.same(policyNumbers([...names.slice(0, 100), 'policy-7']), all);
  t.equal(policyNumbers(['policy-7']).get('policy-7'), all.get('policy-7'));
});

test('the first in the alphabet of two names with one hash has it, and the other one another', async (t) => {
  const alone = (name: string) => policyNumbers([name]).get(name)!;
  const owners = new Map<number, string>();
  const many = Array.from({ length: 40_000 }, (_, i) => `${i * 7919}`);
  const pair = many.flatMap((name) => {
    const other = owners.get(alone(name));
    owners.set(alone(name), name);
    return other === undefined ? [] : [[other, name].sort() as [string, string]];
  })[0];
  t.ok(pair, 'forty thousand names hold such a pair');
  const [first, second] = pair!;
  const numbers = policyNumbers([second, first]);
  t.equal(numbers.get(first), alone(first));
  t.not(numbers.get(second), alone(second));
});

test('a mark holds number, opener and treatment, and leaves the upper octet alone', async (t) => {
  const marks = [true, false].flatMap((inbound) =>
    [true, false].map((forwarded) => policyMark(0x3f_ffff, { inbound, forwarded })),
  );
  t.same(marks, [0xff_ffff, 0x7f_ffff, 0xbf_ffff, 0x3f_ffff]);
  t.ok(marks.every((mark) => (mark & ~POLICY_MARK_MASK) === 0 && (mark & POLICY_NUMBER_MASK) === 0x3f_ffff));
});
