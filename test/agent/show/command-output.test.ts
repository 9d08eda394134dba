import t from 'tap';
import type { TranslationsDocument } from '../../../agent/flows/translations-query.ts';
import {
  errorOutput,
  planOutput,
  shellReply,
  textOutput,
  translationsOutput,
} from '../../../agent/show/command-output.ts';
import type { PlanDocument } from '../../../agent/show/plan-document.ts';

const plan = (parts: Partial<PlanDocument>): PlanDocument => ({
  ...{ schemaVersion: 'v1', changes: [], families: [], interfaces: { internal: 'eth0', external: 'net1' } },
  ...{ notes: [], obstacles: [] },
  ...parts,
});

t.test('a plan has nothing but changes on stdout', async (t) => {
  const nothing = 'veg-agent: nothing to do: the kernel is as the policy says\n';
  t.strictSame(planOutput(plan({}), 'text'), { stdout: '', stderr: nothing, exitCode: 0 });
  t.strictSame(planOutput(plan({ changes: ['a', 'b'], notes: ['n'] }), 'text'), {
    ...{ stdout: 'a\nb\n', stderr: 'veg-agent: note: n\n', exitCode: 4 },
  });
  t.strictSame(planOutput(plan({ obstacles: ['IPv4: o'] }), 'text'), {
    ...{ stdout: '', stderr: 'veg-agent: IPv4: o\n', exitCode: 1 },
  });
  t.equal(planOutput(plan({ changes: ['a'], obstacles: ['o'] }), 'text').exitCode, 4);
  t.match(planOutput(plan({}), 'json'), {
    stdout: /^\{\n {2}"schemaVersion": "v1",\n/,
    stderr: '',
    exitCode: 0,
  });
});

t.test('the exit code says whether translations were found', async (t) => {
  const log = { enabled: true, since: '2026-11-20T08:00:00.000Z', covers: 'all' as const };
  const none: TranslationsDocument = { schemaVersion: 'v1', translations: [], more: false, gaps: [], log };
  t.strictSame(translationsOutput(none, 'text'), {
    stdout: 'none found: the translation log begins at 2026-11-20T08:00:00.000Z\n',
    ...{ stderr: '', exitCode: 6 },
  });
});

t.test('an error goes to stderr; the errors of a policy unchanged', async (t) => {
  t.strictSame(errorOutput(409, 'no log\n'), { stdout: '', stderr: 'veg-agent: no log\n', exitCode: 1 });
  t.strictSame(errorOutput(500, ''), {
    stdout: '',
    stderr: 'veg-agent: the agent answered 500\n',
    exitCode: 1,
  });
  t.strictSame(errorOutput(422, 'a:1:1: b\n'), { stdout: '', stderr: 'a:1:1: b\n', exitCode: 3 });
});

t.test('for a shell: exit code and number of lines of stderr, stderr, stdout, end', async (t) => {
  t.equal(shellReply({ stdout: 'a\nb\n', stderr: 'c\n', exitCode: 4 }), '4 1\nc\na\nb\nend\n');
  t.equal(shellReply(textOutput('done\n')), '0 0\ndone\nend\n');
});
