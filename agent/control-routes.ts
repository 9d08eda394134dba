/** The control socket: what each path does (docs/commands.md). lib/control/server.ts serves it. */
import { splitWords } from '../bfd/control-text.ts';
import { createScripts } from '../bfd/script.ts';
import type { ControlHandler, ControlReply } from '../lib/control/server.ts';
import type { BfdLink } from './bfd-link.ts';
import type { DrainWatch } from './drain/drain.ts';
import type { Gateway } from './gateway.ts';
import { type Group, handoverLimit } from './group/group.ts';
import { matchesDaemon, type Options, parseTimeout, TIMEOUT } from './options.ts';
import { formatError } from './policy/error-text.ts';
import { explain } from './reconcile/kernel-errors.ts';
import {
  type CommandOutput,
  errorOutput,
  FORMS,
  type Form,
  planOutput,
  shellReply,
  statusOutput,
  textOutput,
  translationsOutput,
} from './show/command-output.ts';
import { planDocument } from './show/plan-document.ts';
import type { AgentView, StatusDocument } from './show/status.ts';

/** What can be read, on the control socket and by the page. */
export interface Queries {
  status(): Promise<ControlReply>;
  history(query: URLSearchParams): Promise<ControlReply>;
  sources(): Promise<ControlReply>;
  translations(query: URLSearchParams): Promise<ControlReply>;
}

export interface ControlParts {
  options: Options;
  view: AgentView;
  queries: Queries;
  gateway: Pick<Gateway, 'plan' | 'reconcileNow' | 'withdraw'>;
  bfd: Pick<BfdLink, 'command' | 'drain' | 'undrain'>;
  drain: Pick<DrainWatch, 'drained' | 'undrain'>;
  group: Pick<Group, 'drain' | 'undrain'>;
  /** Withdraws what is announced by BGP, and waits for routers to follow. */
  routersMove(limitMs: number): Promise<void>;
  /** What `kube-ovn-bfdd-supervisor status` prints. */
  supervisorStatus(): object;
}

/** The handlers by method and path. */
export function controlRoutes(parts: ControlParts): Record<string, ControlHandler> {
  const { view, queries, gateway, bfd, drain, group, supervisorStatus } = parts;
  /** Counts undrains: a drain that waits meanwhile is over. */
  let undrains = 0;
  // A file that `bfdd-control load` names is read here, not in the process that answers BFD packets.
  const bfddControl = createScripts((words) => bfd.command(words));
  return {
    'GET /v1/status': ({ query }) =>
      answer<StatusDocument>(query, queries.status(), (body, form) => statusOutput(body, form, Date.now())),
    'GET /v1/history': ({ query }) => queries.history(query),
    'GET /v1/sources': queries.sources,
    'POST /v1/bfdd': async ({ body }) => {
      const { ok, text } = await bfddControl(splitWords(body));
      return { status: ok ? 200 : 400, body: `${text}\n` };
    },
    'GET /v1/bfdd-supervisor': async () => ({ status: 200, body: supervisorStatus() }),
    'POST /v1/drain': ({ query }) =>
      answer(
        query,
        drainNow(parts, query.get('timeout'), () => undrains),
        textOutput,
      ),
    'POST /v1/undrain': ({ query }) => {
      undrains++;
      gateway.withdraw(false);
      bfd.undrain();
      drain.undrain();
      group.undrain();
      return answer(query, Promise.resolve({ status: 200, body: 'no longer draining\n' }), textOutput);
    },
    'GET /v1/translations': ({ query }) => {
      const lookup = new URLSearchParams(query);
      lookup.delete('form');
      return answer(query, queries.translations(lookup), translationsOutput);
    },
    'GET /v1/plan': ({ query }) => answer(query, plan(parts, query), planOutput),
    'POST /v1/reconcile': async () => {
      await gateway.reconcileNow();
      return { status: 200, body: view.kernel.last ?? { ok: false, error: 'no policy was loaded yet' } };
    },
  };
}

/** What a reconcile would change. `named`: the policy directory and interfaces that the command names, if any. */
async function plan({ options, view, gateway }: ControlParts, named: URLSearchParams): Promise<ControlReply> {
  if (!matchesDaemon(options, named)) return { status: 409, body: 'this daemon runs with other flags\n' };
  const { errors } = view.policy;
  if (errors.length > 0) return { status: 422, body: `${errors.map(formatError).join('\n')}\n` };
  try {
    const observation = await gateway.plan();
    if (observation === undefined) return { status: 503, body: 'no policy was loaded yet\n' };
    return { status: 200, body: planDocument(observation) };
  } catch (error) {
    return { status: 503, body: `${explain(error as Error)}\n` };
  }
}

const DRAIN_ENDED: ControlReply = { status: 409, body: 'the drain was ended by an undrain\n' };

/**
 * Drains, and waits for traffic to move away. `requested`: the longest wait, if the command names one. `undrains`: how many there
 * were until now.
 */
async function drainNow(
  { options, bfd, drain, group, routersMove }: ControlParts,
  requested: string | null,
  undrains: () => number,
): Promise<ControlReply> {
  const timeout = requested === null ? options.drainTimeout : parseTimeout(requested);
  if (timeout === undefined) return { status: 400, body: `timeout must be ${TIMEOUT}\n` };
  // Routers send replies to others, and the other members have every flow, before OVN sends packets to them.
  const end = performance.now() + timeout;
  const before = undrains();
  const [handedOver] = await Promise.all([group.drain(handoverLimit(timeout)), routersMove(timeout)]);
  if (!handedOver || undrains() !== before) return DRAIN_ENDED;
  bfd.drain();
  const drained = await drain.drained(Math.max(0, end - performance.now()));
  if (undrains() !== before) return DRAIN_ENDED;
  const rest = drained ? 'traffic has moved' : 'some traffic still came when the time was over';
  return { status: 200, body: `drained: ${rest}\n` };
}

/** A reply as it is, or as a command prints it, for a command that is a few lines of shell. */
async function answer<T>(
  query: URLSearchParams,
  reply: Promise<ControlReply>,
  outputOf: (body: T, form: Form) => CommandOutput,
): Promise<ControlReply> {
  const form = FORMS.find((known) => known === query.get('form'));
  if (form === undefined) return reply;
  const { status, body } = await reply;
  // The command itself reports what is wrong with its query.
  if (status === 400) return { status, body };
  const output = status === 200 ? outputOf(body as T, form) : errorOutput(status, String(body));
  return { status: 200, body: shellReply(output) };
}
