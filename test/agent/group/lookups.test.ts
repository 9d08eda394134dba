import t from 'tap';
import { MAX_ANSWER, type Message } from '../../../agent/group/codec.ts';
import { type LookupAnswer, Lookups } from '../../../agent/group/lookups.ts';
import { address } from '../../../lib/prefix.ts';

const A = address('10.16.0.12');
const B = address('10.16.0.13');

/** Two members whose messages arrive at once. */
function pair(answer: (query: string) => Promise<LookupAnswer>, arrives = true) {
  const sent: Message[] = [];
  const a: Lookups = new Lookups({
    send: (_, message) => {
      sent.push(message);
      if (arrives) b.receive(A, message as Message & { type: 'lookup' });
    },
    answer,
  });
  const b: Lookups = new Lookups({
    send: (_, message) => {
      sent.push(message);
      a.receive(B, message as Message & { type: 'answer' });
    },
    answer,
  });
  return { a, b, sent };
}

t.test('a long answer comes in parts and is whole', async (t) => {
  const body = 'ü'.repeat(MAX_ANSWER);
  const { a, sent } = pair(async (query) => ({ status: 200, body: query + body }));
  t.same(await a.ask([B], 'q', 1000), [{ member: B, answer: { status: 200, body: `q${body}` } }]);
  t.equal(sent.filter(({ type }) => type === 'answer').length, 3);
});

t.test('who does not answer, or is disconnected, has no answer; what is too large is refused', async (t) => {
  const silent = pair(async () => ({ status: 200, body: '' }), false);
  t.same(await silent.a.ask([B], 'q', 10), [{ member: B }]);
  const asked = silent.a.ask([B], 'q', 60_000);
  silent.a.forget(B);
  t.same(await asked, [{ member: B }]);
  const large = pair(async () => ({ status: 200, body: 'x'.repeat(2 << 20) }));
  t.match(await large.a.ask([B], 'q', 1000), [{ answer: { status: 413 } }]);
  const failing = pair(() => Promise.reject(new Error('broken')));
  t.match(await failing.a.ask([B], 'q', 1000), [{ answer: { status: 500 } }]);
  t.throws(() => failing.a.ask([B], 'x'.repeat(2000), 1000), RangeError);
});

t.test('no more than four questions of others are worked on at once', async (t) => {
  let release = () => {};
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  const { a } = pair(async () => {
    await gate;
    return { status: 200, body: '' };
  });
  const asked = Promise.all(Array.from({ length: 6 }, () => a.ask([B], 'q', 5000)));
  await new Promise((resolve) => setImmediate(resolve));
  release();
  const statuses = (await asked).map(([one]) => one!.answer!.status);
  t.same(statuses.sort(), [200, 200, 200, 200, 503, 503]);
});

t.test('an answer to a question that was not asked of that member is nothing', async (t) => {
  const { a } = pair(async () => ({ status: 200, body: '' }), false);
  const asked = a.ask([B], 'q', 20);
  a.receive(A, { type: 'answer', number: 1, last: true, status: 200, body: Buffer.from('x') });
  a.receive(B, { type: 'answer', number: 2, last: true, status: 200, body: Buffer.from('x') });
  t.same(await asked, [{ member: B }]);
});
