import t from 'tap';
import { LogOnChange } from '../../lib/log-on-change.ts';

t.test('a condition is new when it appears and when its text changes', async (t) => {
  const failures = new LogOnChange();
  t.equal(failures.isNew('no route'), true);
  t.equal(failures.isNew('no route'), false);
  t.equal(failures.isNew('no link'), true);
  t.equal(failures.isNew('no route'), true);
});

t.test('its end is reported once, and it is new when it comes back', async (t) => {
  const failures = new LogOnChange();
  t.equal(failures.ended(), false);
  failures.isNew('no route');
  t.equal(failures.ended(), true);
  t.equal(failures.ended(), false);
  t.equal(failures.isNew('no route'), true);
});

t.test('conditions with different keys do not mix', async (t) => {
  const failures = new LogOnChange();
  t.equal(failures.isNew('no link', 'a'), true);
  t.equal(failures.isNew('no link', 'b'), true);
  t.equal(failures.ended('a'), true);
  t.equal(failures.isNew('no link', 'b'), false);
});
