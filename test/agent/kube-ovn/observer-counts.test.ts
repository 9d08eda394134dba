import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { ObserverCounts } from '../../../agent/kube-ovn/observer-counts.ts';

const NAMES = ['success', 'error'] as const;

t.test('counts go on after a restart', async (t) => {
  const file = join(t.testdir(), 'counts.json');
  const first = new ObserverCounts(file, NAMES);
  t.equal(first.of('success'), 0);
  first.add('success');
  first.add('success');
  first.add('error');
  const second = new ObserverCounts(file, NAMES);
  t.equal(second.of('success'), 2);
  second.add('success');
  t.equal(new ObserverCounts(file, NAMES).of('success'), 3);
  t.equal(new ObserverCounts(file, NAMES).of('error'), 1);
  t.equal(new ObserverCounts(file, NAMES, 'another pod').of('error'), 0);
});

t.test('a file that makes no sense is a fresh start, and so is none that can be written', async (t) => {
  const file = join(t.testdir(), 'counts.json');
  for (const text of [
    ...['', 'junk', 'null', '[]', '{"pod":"p"}', '{"pod":"p","counts":"3"}'],
    ...['"3"', '-3', '1.5', '{}'].map((count) => `{"pod":"p","counts":{"success":${count}}}`),
  ]) {
    writeFileSync(file, text, { mode: 0o600 });
    t.equal(new ObserverCounts(file, NAMES, 'p').of('success'), 0, text);
  }
  const lost = new ObserverCounts('/nonexistent/counts.json', NAMES);
  lost.add('error');
  t.equal(lost.of('error'), 1);
});
