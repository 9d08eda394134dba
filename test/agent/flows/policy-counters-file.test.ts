import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { readPolicyCounters, writePolicyCounters } from '../../../agent/flows/policy-counters-file.ts';
import type { SavedTotals } from '../../../nat/counters/totals.ts';

type Counts = SavedTotals['tables'][number]['counts'][number];
const FAMILIES = [4, 6] as const;

/** Policies with connections from inside and outside in both families, and a fast path. */
function totalsOf(policies: number, bytes = 1e12): SavedTotals {
  const names = Array.from({ length: policies }, (_, i) => `policy-${i}`.padEnd(40, 'x'));
  const sums = () =>
    FAMILIES.flatMap((family) =>
      names.map((policy) => ({
        ...{ policy, family, treatment: 'snat' as const, connections: 1e6 },
        ...{ packets: { out: 1e9, in: 1e9 }, bytes: { out: bytes, in: bytes } },
      })),
    );
  const labels = names.flatMap((policy, i) =>
    [false, true].map((inbound) => ({
      ...{ policy, inbound, forwarded: false },
      mark: 2 * i + Number(inbound),
    })),
  );
  const tables = FAMILIES.map((family) => ({
    ...{ family, handle: 7 },
    counts: labels.map(({ mark }): Counts => [mark, [1e6, 60e6, 1e9, bytes, 1e9, bytes]]),
  }));
  return { labels, tables, sums: sums(), log: sums() };
}

t.test('ten thousand policies with long names are read as they were written, each name once', async (t) => {
  const file = join(t.testdir(), 'policy-counters.json');
  const totals = totalsOf(10_000);
  writePolicyCounters(file, totals);
  t.ok(statSync(file).size < 8 << 20, `${statSync(file).size} octets`);
  t.equal(readFileSync(file, 'utf8').split(totals.sums[0]!.policy).length, 2);
  t.strictSame(readPolicyCounters(file), totals);
});

t.test('numbers above 2^53 are kept, as near as a number can be', async (t) => {
  const file = join(t.testdir(), 'policy-counters.json');
  for (const bytes of [2 ** 53 + 2, 2 ** 64, 1e22]) {
    const totals = totalsOf(1, bytes);
    totals.log![0]!.bytes.out = -bytes;
    writePolicyCounters(file, totals);
    t.strictSame(readPolicyCounters(file), totals);
  }
});

t.test('without a log there is none after it either, with an empty one there is', async (t) => {
  const file = join(t.testdir(), 'policy-counters.json');
  const { log: _, ...totals } = totalsOf(1);
  for (const saved of [totals, { ...totals, log: [] }]) {
    writePolicyCounters(file, saved);
    t.strictSame(readPolicyCounters(file), saved);
  }
});

t.test('more than could be read is not written, and the last state stays', async (t) => {
  const file = join(t.testdir(), 'policy-counters.json');
  const totals = totalsOf(1);
  writePolicyCounters(file, totals);
  const before = readFileSync(file);
  const labels = new Array(1 + (1 << 20)).fill(totals.labels[0]);
  t.throws(() => writePolicyCounters(file, { ...totals, labels }), /more than \d+ rows/);
  const policy = 'x'.repeat(200 << 20);
  const label = { ...totals.labels[0]!, policy };
  t.throws(
    () => writePolicyCounters(file, { ...totals, labels: [label] }),
    /more than \d+ rows or \d+ octets/,
  );
  t.ok(readFileSync(file).equals(before));
});

t.test('a file that ends early is damaged; one of another version is none', async (t) => {
  const file = join(t.testdir(), 'policy-counters.json');
  writePolicyCounters(file, totalsOf(1));
  const text = readFileSync(file, 'utf8');
  for (const part of [text.slice(0, -1), text.slice(0, text.indexOf('["end"]')), `${text}["log"]\n`]) {
    writeFileSync(file, part);
    t.throws(() => readPolicyCounters(file), /is damaged/);
  }
  writeFileSync(file, '{"version":1,"labels":[],"tables":[],"sums":[]}');
  t.equal(readPolicyCounters(file), undefined);
});
