import t from 'tap';
import { coverageText, logCoverage } from '../../../agent/flows/log-coverage.ts';

const SINCE = Date.parse('2026-11-20T08:00:00Z');
const ISO = '2026-11-20T08:00:00.000Z';
const HOUR = 3_600_000;

t.test('a time is covered from the beginning of the log on', async (t) => {
  const covers = (from: number, to: number) => logCoverage(true, SINCE, { from, to }).covers;
  t.equal(covers(SINCE, SINCE), 'all');
  t.equal(covers(SINCE + HOUR, SINCE + HOUR), 'all');
  t.equal(covers(SINCE - HOUR, SINCE), 'part');
  t.equal(covers(0, Number.MAX_SAFE_INTEGER), 'part', 'no time was asked for');
  t.equal(covers(SINCE - HOUR, SINCE - 1), 'none');
});

t.test('it says since when there is a log, or why there is none', async (t) => {
  const asked = { from: SINCE - HOUR, to: SINCE - HOUR };
  t.equal(
    coverageText(logCoverage(true, SINCE, { from: SINCE, to: SINCE })),
    `the translation log begins at ${ISO}`,
  );
  t.equal(
    coverageText(logCoverage(true, SINCE, asked)),
    `the translation log begins at ${ISO}, after the time asked for`,
  );
  t.strictSame(logCoverage(false, undefined, asked), { enabled: false, since: null, covers: 'none' });
  t.match(coverageText(logCoverage(false, undefined, asked)), /^there is no translation log/);
  t.strictSame(logCoverage(true, undefined, asked), { enabled: true, since: null, covers: 'none' });
  t.match(coverageText(logCoverage(true, undefined, asked)), /^ended flows are not stored at the moment/);
});
