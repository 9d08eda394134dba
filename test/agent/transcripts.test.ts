/**
 * Replays the histories in transcripts/*.txt through the gateway, over a model of the kernel and on a clock of its own.
 * transcripts/README.md has the format.
 *
 * `TRANSCRIPTS=update node test/agent/transcripts.test.ts` writes what was observed into the files: review the diff.
 */
import { globSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import t from 'tap';
import { Gateway, type GatewayParts } from '../../agent/gateway.ts';
import type { OpenKernels } from '../../agent/kernels.ts';
import { formatError } from '../../agent/policy/error-text.ts';
import type { Missing } from '../../agent/policy/last-good.ts';
import { loadPolicy } from '../../agent/policy/load.ts';
import { type KeptPolicy, type LoadedPolicy, lastGood, loadParser } from '../../agent/policy/source.ts';
import { type AgentView, notReady } from '../../agent/show/status.ts';
import type { BfdIntent } from '../../bfd/intent.ts';
import { address, FAMILIES } from '../../lib/prefix.ts';
import { parseDuration } from '../../lib/units.ts';
import { NatError } from '../../nat/errors.ts';
import { ManualClock } from '../support/clock.ts';
import { PodModel } from './model-kernels.ts';

const DIRECTORY = join(import.meta.dirname, 'transcripts');
const UPDATE = process.env.TRANSCRIPTS === 'update';
/** How long an agent is given after each step, ms: less than the first retry and the check for drift. */
const TURN = 100;

/** A step of a transcript: a line, and the indented lines below it. */
interface Step {
  verb: string;
  argument: string;
  body: string[];
  /** The index of the first line of the body, and behind its last one. */
  from: number;
  to: number;
}

/** Reads a transcript. Comments and blank lines between steps count for nothing. */
function parse(text: string): Step[] {
  const steps: Step[] = [];
  for (const [at, line] of text.split('\n').entries()) {
    if (line.startsWith('  ') && steps.length > 0) {
      const step = steps.at(-1)!;
      step.body.push(line.slice(2));
      step.to = at + 1;
    } else if (line !== '' && !line.startsWith('#')) {
      const [, verb = '', argument = ''] = /^(\S+) ?(.*)$/.exec(line)!;
      steps.push({ verb, argument, body: [], from: at + 1, to: at + 1 });
    }
  }
  return steps;
}

/** One history: a pod, and the agent processes that run in it one after the other. */
class History {
  readonly pod = new PodModel();
  readonly clock = new ManualClock();
  #gateway!: Gateway;
  #view!: AgentView;
  #intent: BfdIntent | undefined;
  #log: string[] = [];
  #loaded: LoadedPolicy | undefined;
  #kept: (KeptPolicy & { missing: Missing }) | undefined;
  #uplink = '';
  #generation = 0;

  /** Starts an agent process, without a policy. */
  start(): void {
    this.#intent = undefined;
    this.#view = {
      ...{ version: '0', startedAt: 0, bfdEnabled: false, draining: false },
      policy: { source: 'policy', valid: false, generation: 0, errors: [], warnings: [] },
      kernel: { inSync: false, families: [], notes: [], failed: [], driftRepaired: {} },
    };
    const process = ++this.#generation;
    const log = (level: string) => (fields: Record<string, unknown>, message: string) => {
      // A process that was stopped writes nothing.
      if (process !== this.#generation) return;
      const shown = ['writer', 'because', 'note', 'warning'].filter((name) => fields[name] !== undefined);
      this.#log.push([level, message, ...shown.map((name) => `${name}=${fields[name]}`)].join(' '));
    };
    const { pod, clock } = this;
    const gateway = new Gateway({
      options: { resync: 30_000 },
      view: this.#view,
      kernels: pod.kernels as unknown as OpenKernels,
      uplink: {
        ...{ configure: () => {}, observe: () => {} },
        readiness: () =>
          this.#uplink === '' ? { ready: true } : { ready: false, diagnostic: 6, reason: this.#uplink },
        get watchedAt() {
          return clock.now();
        },
      },
      metrics: { reconciled: () => {}, repaired: () => {} },
      logger: { debug: () => {}, info: log('info'), warn: log('warn'), error: log('error') },
      readEvents: () => {},
      onIntent: (intent: BfdIntent) => {
        this.#intent = intent;
      },
      onInForce: (fresh: KeptPolicy | undefined, missing: Missing) => {
        if (fresh !== undefined) this.#kept = { ...fresh, missing };
        else if (this.#kept !== undefined) this.#kept.missing = missing;
      },
      lastGood: () => lastGood(this.#kept),
      ...{ onApplied: () => {}, onObserved: async () => {} },
      ...{ clock, flows: { follow: () => {} } },
    } as unknown as GatewayParts);
    this.#gateway = gateway;
  }

  async stop(): Promise<void> {
    this.#generation++;
    await this.#gateway.stop();
  }

  /** Does a step. */
  async act({ verb, argument, body }: Step): Promise<void> {
    const { pod } = this;
    switch (verb) {
      case 'pod':
        for (const line of body) pod.addInterface(line.split(' ')[0]!, line.split(' ').slice(1));
        break;
      case 'policy':
        this.#takePolicy(body);
        break;
      case 'other':
        for (const line of body) {
          const event = pod.run(line);
          if (event !== undefined) this.#gateway.takeEvent(event);
        }
        break;
      case 'refuse':
        for (const line of body) {
          const [text = '', reason = ''] = line.split(' → ');
          pod.refusals.push({ text, reason });
        }
        break;
      case 'accept':
        pod.refusals = [];
        pod.unlistable.clear();
        break;
      case 'unlistable':
        pod.unlistable.set(argument === 'IPv6' ? 6 : 4, new NatError('timed-out', body.join(' ')));
        this.#gateway.request('netfilter');
        break;
      case 'conflict': {
        const [one = '', holder] = argument.split(' ');
        if (holder === undefined) pod.conflicts.delete(address(one));
        else pod.conflicts.set(address(one), holder);
        this.#gateway.request('address');
        break;
      }
      case 'uplink':
        this.#uplink = argument === 'up' ? '' : argument;
        this.#gateway.publish();
        break;
      case 'drain':
      case 'undrain':
        // The BFD process takes the sessions down; its report says so.
        this.#view.draining = verb === 'drain';
        this.#gateway.withdraw(verb === 'drain');
        break;
      case 'restart':
        await this.stop();
        this.start();
        this.#reload();
        break;
      case 'wait':
        await this.clock.advance(parseDuration(argument)!);
        return;
      default:
        throw new Error(`${verb}: not understood`);
    }
    await this.clock.advance(TURN);
  }

  /** What a step of expectations sees; undefined for any other step. */
  observe(verb: string): string[] | undefined {
    switch (verb) {
      case 'commands':
        return this.pod.applied.splice(0);
      case 'log':
        return this.#log.splice(0);
      case 'status':
        return this.#status();
      case 'bfd':
        return this.#bfd();
      default:
        return undefined;
    }
  }

  #takePolicy(spec: readonly string[]): void {
    const text = [
      'apiVersion: veg-agent.io/v1alpha1',
      'kind: GatewayPolicy',
      'metadata: { name: gateway1, namespace: default }',
      'spec:',
      ...spec.map((line) => `  ${line}`),
    ].join('\n');
    const files = [{ name: 'policy.yaml', text }];
    this.#loaded = { source: 'policy', result: loadPolicy(files), content: { files }, since: 0 };
    this.#gateway.takePolicy(this.#loaded);
  }

  /** What policy/source.ts does at a start: an invalid policy comes after the last good one. */
  #reload(): void {
    if (this.#loaded === undefined) return;
    const good = lastGood(this.#kept);
    if (!this.#loaded.result.ok && good !== undefined) {
      const result = { ok: true as const, policy: good.policy };
      this.#gateway.takePolicy({ source: 'policy', result, content: this.#kept!.content, since: 0 });
    }
    this.#gateway.takePolicy(this.#loaded);
  }

  #status(): string[] {
    const { kernel, policy } = this.#view;
    const reasons = notReady({ ...this.#view, bfdEnabled: false });
    return [
      ...(reasons.length === 0 ? ['ready'] : reasons.map((reason) => `not ready: ${reason}`)),
      ...kernel.families
        .filter(({ state }) => state !== 'unused')
        .map(({ family, state, source }) => `IPv${family} ${state}${source ? ` as ${source}` : ''}`),
      ...kernel.failed.map(({ object, name, reason }) => `failed: ${object} ${name}: ${reason}`),
      ...kernel.notes.map((note) => `note: ${note}`),
      ...policy.errors.map((error) => `policy: ${formatError(error)}`),
      ...Object.entries(kernel.driftRepaired).map(([object, count]) => `repaired: ${count} ${object}`),
    ];
  }

  #bfd(): string[] {
    const { peers = [], readiness = {} } = this.#intent ?? {};
    const families = FAMILIES.flatMap((family) => {
      const found = readiness[family];
      const isUsed = this.#view.kernel.families.some(
        (one) => one.family === family && one.state !== 'unused',
      );
      if (found === undefined || !isUsed) return [];
      return [`IPv${family} ${found.ready ? 'may be Up' : `AdminDown: ${found.reason}`}`];
    });
    return [...families, ...peers.map(({ local, remote }) => `session ${local} → ${remote}`)];
  }
}

const files = globSync('*.txt', { cwd: DIRECTORY }).sort();
t.ok(files.length >= 10, 'there are transcripts');

for (const file of files) {
  await loadParser();

  t.test(basename(file, '.txt'), async (t) => {
    const path = join(DIRECTORY, file);
    const lines = readFileSync(path, 'utf8').split('\n');
    const history = new History();
    history.start();
    t.teardown(() => history.stop());
    let moved = 0;
    for (const step of parse(lines.join('\n'))) {
      const observed = history.observe(step.verb);
      if (observed === undefined) await history.act(step);
      else if (step.argument === 'any') t.ok(observed.length > 0, `${file}:${step.from}: ${step.verb}`);
      else if (UPDATE) {
        const body = observed.map((line) => `  ${line}`);
        lines.splice(step.from + moved, step.to - step.from, ...body);
        moved += body.length - (step.to - step.from);
      } else t.same(observed, step.body, `${file}:${step.from}: ${step.verb}`);
    }
    if (UPDATE) writeFileSync(path, lines.join('\n'));
  });
}
