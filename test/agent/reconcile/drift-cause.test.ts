// Who is behind a drift, as far as the kernel says.
import t from 'tap';
import {
  causeOf,
  createChangeHistory,
  observationBegins,
  recordChange,
  recordOwnChange,
} from '../../../agent/reconcile/drift-cause.ts';

t.test('another program that has changed something since the observation before is named', async (t) => {
  const history = createChangeHistory();
  observationBegins(history, 0);
  recordChange(history, 'other', 'pid 7 (route removed)', 10);
  observationBegins(history, 20);
  t.strictSame(causeOf(history, true), { by: 'other', who: 'pid 7 (route removed)' });
  observationBegins(history, 30);
  t.equal(causeOf(history, true).by, 'unknown', 'what it did was seen twice');
  recordChange(history, 'other', 'pid 8 (rule removed)', 40);
  t.equal(causeOf(history, true).who, 'pid 8 (rule removed)', 'told after the look began');
});

t.test(
  'consequences of a change of the agent are its own, unless another program changed something',
  async (t) => {
    const history = createChangeHistory();
    observationBegins(history, 0);
    recordOwnChange(history, 5);
    recordChange(history, 'kernel', 'route removed: default', 6);
    observationBegins(history, 20);
    t.equal(causeOf(history, true).by, 'agent');
    t.strictSame(causeOf(history, false), { by: 'kernel', who: 'the kernel (route removed: default)' });
    recordChange(history, 'other', 'pid 7', 21);
    t.equal(causeOf(history, true).by, 'other');
  },
);

t.test('a link that went or came back is no consequence of a change of the agent', async (t) => {
  const history = createChangeHistory();
  observationBegins(history, 0);
  recordOwnChange(history, 5);
  recordChange(history, 'link', 'link eth0 is up', 10);
  recordChange(history, 'kernel', 'route removed: default', 11);
  observationBegins(history, 20);
  t.strictSame(causeOf(history, true), { by: 'kernel', who: 'the kernel (link eth0 is up)' });
  observationBegins(history, 30);
  t.equal(causeOf(history, true).by, 'unknown', 'it was seen twice');
});

t.test(
  'the kernel is named where no program changed anything, and none where nothing is known',
  async (t) => {
    const history = createChangeHistory();
    observationBegins(history, 0);
    observationBegins(history, 10);
    recordChange(history, 'kernel', 'link net1 is down', 15);
    observationBegins(history, 20);
    t.strictSame(causeOf(history, true), { by: 'kernel', who: 'the kernel (link net1 is down)' });
    observationBegins(history, 30);
    observationBegins(history, 40);
    t.strictSame(causeOf(history, true), { by: 'unknown', who: 'unknown' });
  },
);
