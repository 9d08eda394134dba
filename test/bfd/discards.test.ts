import t from 'tap';
import { Discards } from '../../bfd/discards.ts';
import { rememberingLog } from './silent.ts';

t.test(
  'all are counted; one line for each reason in ten seconds, with the count since the last',
  async (t) => {
    const log = rememberingLog();
    let now = 0;
    const discards = new Discards(log, () => now);
    for (let i = 0; i < 1000; i++) discards.add('version', '10.0.0.1', '10.16.0.12');
    discards.add('auth-digest', '10.0.0.1', '10.16.0.12');
    now = 9999;
    discards.add('version', '10.0.0.1', '10.16.0.12');
    t.same(
      log.lines.map(({ fields }) => [fields.reason, fields.count]),
      [
        ['version', 1],
        ['auth-digest', 1],
      ],
    );
    now = 10_000;
    discards.add('version', '10.0.0.1', '10.16.0.12');
    t.match(log.lines[2], { fields: { reason: 'version', count: 1001 } });
    t.same(discards.counts, { version: 1002, 'auth-digest': 1 });
  },
);

t.test('knocks, and packets while AdminDown, are counted and not logged', async (t) => {
  const log = rememberingLog();
  const discards = new Discards(log);
  discards.add('empty', '10.0.0.1', '10.16.0.12');
  discards.add('local-admin-down', '10.0.0.1', '10.16.0.12');
  t.same(log.lines, []);
  t.same(discards.counts, { empty: 1, 'local-admin-down': 1 });
});
