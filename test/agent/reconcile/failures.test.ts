import t from 'tap';
import { countFailed, type Failure, failedSince } from '../../../agent/reconcile/failures.ts';

const failure = (name: string, more: Partial<Failure> = {}): Failure => ({
  ...{ object: 'address', family: 4, name, reason: 'invalid', message: `add ${name}: EADDRNOTAVAIL` },
  ...more,
});

t.test('an object has failed since its first failure without a break', async (t) => {
  const first = failedSince([], [failure('172.17.0.50')], 1000);
  t.strictSame(first, [{ ...failure('172.17.0.50'), since: 1000 }]);
  const second = failedSince(
    first,
    [failure('172.17.0.51'), failure('172.17.0.50', { reason: 'in_use' })],
    2000,
  );
  t.strictSame(
    second.map(({ name, reason, since }) => [name, reason, since]),
    [
      ['172.17.0.51', 'invalid', 2000],
      ['172.17.0.50', 'in_use', 1000],
    ],
  );
  const third = failedSince(failedSince(second, [], 3000), [failure('172.17.0.50')], 4000);
  t.equal(third[0]!.since, 4000, 'a break begins anew');
});

t.test(
  'one name in two families or of two kinds is two objects, and one reported twice is one',
  async (t) => {
    const all = [failure('a'), failure('a', { family: 6 }), failure('a', { object: 'route' }), failure('a')];
    const failed = failedSince([], all, 0);
    t.equal(failed.length, 3);
    t.strictSame(countFailed(failed), [
      { object: 'address', reason: 'invalid', count: 2 },
      { object: 'route', reason: 'invalid', count: 1 },
    ]);
  },
);
