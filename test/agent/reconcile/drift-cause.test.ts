// Who is behind a drift, as far as the kernel says.
import t from 'tap';
import { causeOf, changed, createWriters, looked } from '../../../agent/reconcile/drift-cause.ts';

t.test('another program that has changed something since the look before is named', async (t) => {
  const writers = createWriters();
  looked(writers, 0);
  changed(writers, 'other', 'pid 7 (route removed)', 10);
  looked(writers, 20);
  t.strictSame(causeOf(writers, true), { by: 'other', who: 'pid 7 (route removed)' });
  looked(writers, 30);
  t.equal(causeOf(writers, true).by, 'unknown', 'what it did was seen twice');
  changed(writers, 'other', 'pid 8 (rule removed)', 40);
  t.equal(causeOf(writers, true).who, 'pid 8 (rule removed)', 'told after the look began');
});

t.test(
  'what the agent itself has led to is nobody else’s, as long as nobody else did anything',
  async (t) => {
    const writers = createWriters();
    looked(writers, 0);
    changed(writers, 'agent', '', 5);
    changed(writers, 'kernel', 'route removed: default', 6);
    looked(writers, 20);
    t.equal(causeOf(writers, true).by, 'agent');
    t.strictSame(causeOf(writers, false), { by: 'kernel', who: 'the kernel (route removed: default)' });
    changed(writers, 'other', 'pid 7', 21);
    t.equal(causeOf(writers, true).by, 'other');
  },
);

t.test('the kernel is named where nobody else did anything, and nobody where nothing is known', async (t) => {
  const writers = createWriters();
  looked(writers, 0);
  looked(writers, 10);
  changed(writers, 'kernel', 'link net1 is down', 15);
  looked(writers, 20);
  t.strictSame(causeOf(writers, true), { by: 'kernel', who: 'the kernel (link net1 is down)' });
  looked(writers, 30);
  looked(writers, 40);
  t.strictSame(causeOf(writers, true), { by: 'unknown', who: 'unknown' });
});
