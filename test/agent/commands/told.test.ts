import t from 'tap';
import {
  shellText,
  tellPlan,
  tellRefusal,
  tellText,
  tellTranslations,
} from '../../../agent/commands/told.ts';
import type { TranslationsDocument } from '../../../agent/flows/translations-query.ts';
import type { PlanDocument } from '../../../agent/show/plan-document.ts';

const plan = (parts: Partial<PlanDocument>): PlanDocument => ({
  ...{ schemaVersion: 'v1', changes: [], families: [], interfaces: { internal: 'eth0', external: 'net1' } },
  ...{ notes: [], obstacles: [] },
  ...parts,
});

t.test('a plan has nothing but changes on stdout', async (t) => {
  const nothing = 'veg-agent: nothing to do: the kernel is as the policy says\n';
  t.strictSame(tellPlan(plan({}), 'text'), { out: '', err: nothing, code: 0 });
  t.strictSame(tellPlan(plan({ changes: ['a', 'b'], notes: ['n'] }), 'text'), {
    ...{ out: 'a\nb\n', err: 'veg-agent: note: n\n', code: 4 },
  });
  t.strictSame(tellPlan(plan({ obstacles: ['IPv4: o'] }), 'text'), {
    ...{ out: '', err: 'veg-agent: IPv4: o\n', code: 1 },
  });
  t.equal(tellPlan(plan({ changes: ['a'], obstacles: ['o'] }), 'text').code, 4);
  t.match(tellPlan(plan({}), 'json'), { out: /^\{\n {2}"schemaVersion": "v1",\n/, err: '', code: 0 });
});

t.test('translations that are found or not are told by the exit code', async (t) => {
  const none: TranslationsDocument = { schemaVersion: 'v1', translations: [], more: false, gaps: [] };
  t.strictSame(tellTranslations(none, 'text'), { out: 'none found\n', err: '', code: 6 });
});

t.test('a refusal is told on stderr; the errors of a policy as they are', async (t) => {
  t.strictSame(tellRefusal(409, 'no log\n'), { out: '', err: 'veg-agent: no log\n', code: 1 });
  t.strictSame(tellRefusal(500, ''), { out: '', err: 'veg-agent: the agent answered 500\n', code: 1 });
  t.strictSame(tellRefusal(422, 'a:1:1: b\n'), { out: '', err: 'a:1:1: b\n', code: 3 });
});

t.test('for a shell: exit code and lines of stderr, those, stdout, and the end', async (t) => {
  t.equal(shellText({ out: 'a\nb\n', err: 'c\n', code: 4 }), '4 1\nc\na\nb\nend\n');
  t.equal(shellText(tellText('done\n')), '0 0\ndone\nend\n');
});
