import t from 'tap';
import { countsOf, isExpired, type ReleaseRow, sourcesOf, stableOf, withTable } from './releases-rules.ts';

const ORDER = ['ovn-2', 'frr-10', 'frr-11'];
const row = (name: string, result: string): ReleaseRow => ({
  name,
  programs: 'bfdd 10.3',
  tests: ['bgp', 'bfd-frr'],
  result,
  date: '2026-11-29',
  commit: 'abc1234',
});
const EMPTY = 'Before.\n\n<!-- test:releases -->\n<!-- /test:releases -->\n\nAfter.\n';

t.test(
  'a table has a line for each release, in the order of the releases, between the markers',
  async (t) => {
    const document = withTable(EMPTY, [row('frr-10', '9 passed, 0 failed'), row('ovn-2', 'not run')], ORDER);
    t.equal(
      document,
      `Before.

<!-- test:releases -->
| release | programs | live tests | result | date | commit |
|---|---|---|---|---|---|
| ovn-2 | bfdd 10.3 | \`bgp\` \`bfd-frr\` | not run | 2026-11-29 | abc1234 |
| frr-10 | bfdd 10.3 | \`bgp\` \`bfd-frr\` | 9 passed, 0 failed | 2026-11-29 | abc1234 |
<!-- /test:releases -->

After.
`,
    );
  },
);

t.test('a later run replaces the lines of what it ran; releases that are no longer run go', async (t) => {
  const first = withTable(
    EMPTY,
    [row('frr-10', '1 passed, 1 failed'), row('ovn-2', '3 passed, 0 failed')],
    ORDER,
  );
  const second = withTable(first, [row('frr-10', '2 passed, 0 failed'), row('frr-11', 'not run')], ORDER);
  const names = [...second.matchAll(/^\| (\S+-\S+) .* \| ([^|]+) \| 2026/gm)].map(([, name, result]) => [
    name,
    result,
  ]);
  t.same(names, [
    ['ovn-2', '3 passed, 0 failed'],
    ['frr-10', '2 passed, 0 failed'],
    ['frr-11', 'not run'],
  ]);
  t.equal(withTable(second, [], ['frr-11']).match(/^\| \w+-\d/gm)?.length, 1);
  t.equal(withTable(second, [], ORDER), second);
});

t.test('expired metadata of apt is told from other failures', async (t) => {
  const refused = 'E: Release file for http://host/dists/sid/InRelease is';
  t.ok(isExpired(`I: mode\n${refused} expired (invalid since 22d 16h 17min 40s). Updates for`));
  t.ok(isExpired(`${refused} not valid yet (invalid for another 2h 1min 3s). Updates for`));
  t.notOk(isExpired('E: Failed to fetch http://host/dists/sid/InRelease  Could not connect'));
});

t.test('the counts are those of the last line, and a run without them has failed', async (t) => {
  t.same(countsOf('ok x\n1 passed, 2 failed\nok y\n46032 passed, 0 failed\n'), [46032, 0]);
  t.same(countsOf('3 passed, 1 failed, 2 skipped\n'), [3, 1]);
  t.same(countsOf('SyntaxError'), [0, 1]);
});

t.test('packages of backports come with the suite that they are for', async (t) => {
  const mirror = 'http://archive.example/debian';
  t.equal(stableOf('trixie-backports'), 'trixie');
  t.same(sourcesOf('trixie-backports', { DEBIAN_MIRROR: mirror }), [
    `deb ${mirror} trixie main`,
    `deb ${mirror} trixie-backports main`,
  ]);
  t.equal(stableOf('bullseye'), 'bullseye');
  t.same(sourcesOf('bullseye', { DEBIAN_MIRROR: mirror }), [`deb ${mirror} bullseye main`]);
});
