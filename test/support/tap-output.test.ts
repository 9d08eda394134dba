import t from 'tap';
import { readTap } from './tap-output.ts';

t.test('counts are those that the file printed, and passed assertions are noise', async (t) => {
  const result = readTap(`TAP version 14
# Subtest: a
    ok 1 - fine
    1..1
ok 1 - a # time=1.5ms

# said by the test
1..1
# { total: 4, pass: 2, todo: 1, skip: 1 }
# time=3ms
`);
  t.strictSame(result, {
    ...{ pass: 2, fail: 0, skip: 1, todo: 1 },
    ...{ failures: [], filtered: [], detail: '# said by the test' },
  });
});

t.test('a failure is named by its way from the file to the assertion', async (t) => {
  const result = readTap(`TAP version 14
# Subtest: outer
    # Subtest: first
        ok 1 - x
    ok 1 - first # time=2ms

    # Subtest: second
        not ok 1 - y
          ---
          diff: why
          ...
    not ok 2 - second # time=2ms

not ok 1 - outer # time=5ms

not ok 2 - alone
not ok 3 - later # TODO
1..2
# { total: 3, pass: 1, fail: 2 }
`);
  t.strictSame(result.failures, ['outer > second > y', 'alone']);
  t.equal(result.fail, 2);
  t.match(result.detail, /diff: why/);
  t.notMatch(result.detail, /ok 1 - x/);
});

t.test('a file that was cut off has counted nothing', async (t) => {
  const { pass, fail, failures } = readTap('TAP version 14\nok 1 - x\nError: gone\n');
  t.strictSame({ pass, fail, failures }, { pass: 0, fail: 0, failures: [] });
});

t.test('the tests that a filter left out', async (t) => {
  const text = 'ok 1 - a # SKIP filter: /^$/\n# Subtest: b\n    ok 1 - c # SKIP filter: /^$/\nok 2 - b\n';
  t.strictSame(readTap(text).filtered, ['a', 'b > c']);
});
