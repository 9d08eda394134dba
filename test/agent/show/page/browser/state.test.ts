import t from 'tap';
import { AgentClient } from '../../../../../agent/show/page/browser/agent-client.ts';
import { asksForNewest, questionOf } from '../../../../../agent/show/page/browser/state.ts';
import { position, timeline } from '../../../../../agent/show/page/browser/timeline.ts';

t.test('empty fields ask for the newest; a time gets its seconds and its zone', async (t) => {
  const fields = { external: ' 172.17.0.11:3944 ', internal: '', at: '' };
  t.strictSame(questionOf(fields), { external: '172.17.0.11:3944' });
  t.equal(questionOf({ ...fields, at: '2026-11-21T14:03' }).at, '2026-11-21T14:03:00Z');
  t.equal(questionOf({ ...fields, at: '2026-11-21T14:03:07.25' }).at, '2026-11-21T14:03:07Z');
  t.ok(asksForNewest(questionOf({ external: ' ', internal: '', at: '' })));
  t.notOk(asksForNewest(questionOf(fields)));
});

t.test('a time has its place on the timeline, one before or after it the nearest end', async (t) => {
  const axis = timeline(300, 1_000_000, 1000);
  t.strictSame(
    [1_000_000, 850_000, 700_000, 0, 2_000_000].map((time) => position(axis, time)),
    [1000, 500, 0, 0, 1000],
  );
});

/** A client whose agent answers with these. */
function client(...answers: { status?: number; body: string; date?: number }[]) {
  const paths: string[] = [];
  const send = async (path: unknown) => {
    paths.push(String(path));
    const { status = 200, body, date } = answers.shift()!;
    const headers = date === undefined ? {} : { date: new Date(date).toUTCString() };
    return new Response(body, { status, headers });
  };
  const clock = { now: 1_700_000_000_000 };
  return { agent: new AgentClient(send as typeof fetch, () => clock.now), clock, paths };
}

t.test(
  'the clock of the agent is the Date of its answers; within a second and a half the clock here goes on',
  async (t) => {
    const here = 1_700_000_000_000;
    const { agent, clock } = client(
      { body: '1', date: here - 3_600_000 },
      { body: '2', date: here - 3_600_000 },
      { body: '3' },
      { body: '4', date: here + 10_000 },
    );
    t.equal(agent.now(), here);
    t.equal(await agent.get('a'), 1);
    t.equal(agent.now(), here - 3_600_000);
    clock.now += 1400;
    await agent.get('a');
    t.equal(agent.now(), here - 3_600_000 + 1400, 'no step back');
    await agent.get('a');
    t.equal(agent.now(), here - 3_600_000 + 1400, 'an answer without a Date changes nothing');
    await agent.get('a');
    t.equal(agent.now(), here + 10_000);
  },
);

t.test('another answer than 200 is an error with its text', async (t) => {
  const { agent, paths } = client({ status: 400, body: 'external must be IP or IP:PORT\n' });
  await t.rejects(agent.get('data/translations?external=x'), { message: 'external must be IP or IP:PORT' });
  t.strictSame(paths, ['data/translations?external=x']);
});
