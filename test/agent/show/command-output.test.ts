import t from 'tap';
import type { TranslationsDocument } from '../../../agent/flows/translations-query.ts';
import {
  errorOutput,
  planOutput,
  shellReply,
  statusOutput,
  textOutput,
  translationsOutput,
} from '../../../agent/show/command-output.ts';
import type { PlanDocument } from '../../../agent/show/plan-document.ts';
import { type AgentView, statusDocument } from '../../../agent/show/status.ts';

const plan = (parts: Partial<PlanDocument>): PlanDocument => ({
  ...{
    schemaVersion: 'v1',
    changes: [],
    observed: true,
    families: [],
    interfaces: { internal: 'eth0', external: 'net1' },
  },
  ...{ notes: [], obstacles: [] },
  ...parts,
});

const NOW = Date.parse('2026-11-21T14:03:00Z');

/** The status of a gateway that has all that it needs, but for `parts`. */
const status = (parts: Partial<AgentView> = {}) =>
  statusDocument(
    {
      ...{ version: '1.2.3', startedAt: NOW - 61_000, bfdEnabled: false, draining: false },
      policy: {
        source: '/p',
        valid: true,
        name: 'default/gateway1',
        generation: 3,
        errors: [],
        warnings: [],
      },
      kernel: {
        inSync: true,
        families: [],
        notes: [],
        failed: [],
        driftRepaired: {},
        last: { at: NOW, trigger: 'policy', ok: true, changes: 0, durationMs: 1 },
      },
      ...parts,
    },
    NOW,
  );

t.test('the exit code of a status says whether the gateway is ready', async (t) => {
  t.match(statusOutput(status(), 'text', NOW), {
    stdout: /^ready {2}veg-agent 1\.2\.3, up 1m1s$/m,
    exitCode: 0,
  });
  const draining = status({ draining: true });
  t.match(statusOutput(draining, 'text', NOW), {
    stdout: /^not ready {2}veg-agent/,
    stderr: '',
    exitCode: 5,
  });
  t.equal(statusOutput(draining, 'json', NOW).exitCode, 5, 'in each form');
});

t.test('a status is plain text, text in colours, or the document itself', async (t) => {
  const document = status();
  t.notMatch(statusOutput(document, 'text', NOW).stdout, '\x1b');
  t.match(statusOutput(document, 'colours', NOW).stdout, /^\x1b\[1m\x1b\[32mready\x1b\[0m/);
  const { stdout } = statusOutput(document, 'json', NOW);
  t.strictSame(JSON.parse(stdout), document);
  t.ok(stdout.endsWith('\n}\n'));
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
  for (const form of ['text', 'json'] as const) {
    const unknown = planOutput(plan({ changes: ['a'], obstacles: ['o'], observed: false }), form);
    t.match(unknown, { stderr: 'veg-agent: o\n', exitCode: 1 }, 'what is not observed may have more changes');
  }
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
