import t from 'tap';
import { type Checkout, changelogSection, filesOf, refusals, releaseNotes } from './release-rules.ts';

const CHANGELOG = `# Changelog

## Unreleased

- New.

## 1.2.0 - 2026-11-29

- The second.
  It has two lines.

## 1.1.0

## 1.2.0-rc.1
- A candidate.
`;

const GOOD: Checkout = {
  version: '1.2.0',
  lockVersion: '1.2.0',
  changes: [],
  changelog: CHANGELOG,
  commit: 'a'.repeat(40),
  tagged: undefined,
};

t.test('the section of a version is found by its whole name', async (t) => {
  t.equal(changelogSection(CHANGELOG, '1.2.0'), '- The second.\n  It has two lines.');
  t.equal(changelogSection(CHANGELOG, '1.2.0-rc.1'), '- A candidate.');
  t.equal(changelogSection(CHANGELOG, '1.1.0'), '');
  for (const version of ['1.2', '1.2.00', '0.1.2', '1.2.0-rc']) {
    t.equal(changelogSection(CHANGELOG, version), undefined, version);
  }
});

t.test('a clean checkout with a section is released, with its tag or before it', async (t) => {
  t.same(refusals(GOOD), []);
  t.same(refusals({ ...GOOD, tagged: GOOD.commit }), []);
});

t.test('each thing that forbids a release is a line, and all are named at once', async (t) => {
  const cases: [Partial<Checkout>, RegExp][] = [
    [{ changes: [' M lib/a.ts', '?? b'] }, /^the tree is not clean: commit or remove lib\/a\.ts, b$/],
    [{ lockVersion: '1.1.0' }, /^package-lock\.json has version 1\.1\.0/],
    [{ tagged: 'b'.repeat(40) }, /^the tag v1\.2\.0 is on bbbbbbbbbbbb, not on aaaaaaaaaaaa/],
    [{ changelog: '# Changelog\n\n## Unreleased\n\n- New.\n' }, /no section "## 1\.2\.0"/],
    [{ version: '1.1.0', lockVersion: '1.1.0' }, /the section "## 1\.1\.0" is empty/],
  ];
  for (const [change, reason] of cases) {
    const reasons = refusals({ ...GOOD, ...change });
    t.equal(reasons.length, 1);
    t.match(reasons[0], reason);
  }
  t.equal(refusals(Object.assign({ ...GOOD }, ...cases.slice(0, 4).map(([change]) => change))).length, 4);
});

t.test('a version is one of SemVer', async (t) => {
  const refused = (version: string) =>
    refusals({ ...GOOD, version, lockVersion: version }).some((line) => line.includes('SemVer'));
  for (const version of ['0.1.0', '1.2.3-rc.1', '1.2.3+build.5', '10.20.30-a.b-c'])
    t.notOk(refused(version), version);
  for (const version of ['1.2', 'v1.2.3', '01.2.3', '1.2.3-01', '1.2.3-', '1.2.3 ', ''])
    t.ok(refused(version), version);
});

t.test('the notes have the section of the changelog, the commit and every file', async (t) => {
  const files = filesOf('1.2.0', ['amd64', 'arm64']);
  const notes = releaseNotes(GOOD, files);
  t.match(notes, /^# veg-agent 1\.2\.0\n\nCommit a{40}\.\n\n- The second\.\n/);
  const names = [
    files.source,
    files.checksums,
    ...files.images.flatMap(({ image, frr, sbom, frrSbom }) => [image, frr, sbom, frrSbom]),
  ];
  t.equal(names.length, 10);
  for (const name of names) t.ok(notes.includes(`| ${name} |`), name);
});
