/**
 * The agent process: policy, reconcile, HTTP, control socket. A child of the BFD process (supervisor.ts), which
 * it tells what sessions there should be and which hears of nothing else. It may crash or hang: the kernel goes
 * on forwarding, the sessions stay Up, and it is started again.
 */
import { readFileSync } from 'node:fs';
import type { BfdIntent, FamilyReadiness, FromEngine, PeerIntent } from '../bfd/intent.ts';
import { type Family, familyOf } from '../routing/prefix.ts';
import type { Trigger } from './cadence.ts';
import { serveControl } from './control.ts';
import { waitUntilMoved } from './drain.ts';
import { HttpListeners } from './http.ts';
import { createKernels } from './kernels.ts';
import { createLog } from './log.ts';
import { Loop } from './loop.ts';
import type { FromAgent } from './messages.ts';
import { Metrics } from './metrics.ts';
import { type ListenAddress, type Options, parseDuration } from './options.ts';
import { formatError } from './policy/load.ts';
import type { Policy, PolicyResult } from './policy/model.ts';
import {
  type ApplyFailure,
  changeLines,
  countChanges,
  countObjects,
  explain,
  type Look,
  Reconciler,
} from './reconcile.ts';
import { watchSource } from './source.ts';
import { type AgentView, notReady, statusDocument, statusText } from './status.ts';
import { VERSION } from './version.ts';

/** The port for metrics and probes, as Kube-OVN's. */
const HTTP_PORT = 10_669;
/** A sign of life to the BFD process, and the pace of small checks, ms. */
const ALIVE_PERIOD = 1000;
/** How often drift that nobody announces is looked for, ms. */
const DRIFT_PERIOD = 500;
/** The BFD process answers at once, or is in trouble, ms. */
const COMMAND_TIMEOUT = 4000;
/** Without word from the BFD process for so long, this process cannot do its work, ms. */
const BFD_SILENT = 10_000;
/** At most so many changes are named in one log line. */
const LOGGED_CHANGES = 20;

const options = JSON.parse(process.argv[2] ?? '{}') as Options;
const { logger, flush } = await createLog({
  level: options.logLevel,
  format: options.logFormat,
  component: 'agent',
});

/** Ends this process. The BFD process decides whether there will be another. */
function exit(code: number): never {
  flush();
  process.exit(code);
}

// Without its parent it must not go on: another agent may already be there.
process.on('disconnect', () => exit(1));
// A terminal sends these to the whole group; the parent drains and says when to end.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => {});

const send = (message: FromAgent): void => {
  if (process.connected) process.send?.(message, undefined, undefined, () => {});
};

// State ------------------------------------------------------------------------------------------------

const view: AgentView = {
  version: VERSION,
  ...(process.env.NODE_NAME ? { node: process.env.NODE_NAME } : {}),
  ...(process.env.POD_NAME
    ? { pod: [process.env.POD_NAMESPACE, process.env.POD_NAME].filter(Boolean).join('/') }
    : {}),
  startedAt: Date.now(),
  policy: { source: options.policyDir, valid: false, generation: 0, errors: [], warnings: [] },
  kernel: { inSync: false, families: [], notes: [], driftRepaired: {} },
  bfdEnabled: false,
  draining: false,
};

function conntrack(): { entries: number; limit: number } | undefined {
  const read = (name: string) => Number(readFileSync(`/proc/sys/net/netfilter/nf_conntrack_${name}`, 'utf8'));
  try {
    return { entries: read('count'), limit: read('max') };
  } catch {
    return undefined;
  }
}

const metrics = new Metrics({ view: () => view, conntrack });

let policy: Policy | undefined;
/** What the policy in force was made from, to tell a new one. */
let policyText = '';

// BFD --------------------------------------------------------------------------------------------------

let heardBfd = performance.now();
/** The sessions of each family; those of a blocked family stay as they were. */
const peers: Record<Family, PeerIntent[]> = { 4: [], 6: [] };
const readiness: BfdIntent['readiness'] = { 4: notYet(), 6: notYet() };
/** Commands that wait for their reply. */
const commands = new Map<number, (reply: { ok: boolean; text: string }) => void>();
let lastCommand = 0;

function notYet(reason = 'not reconciled yet'): FamilyReadiness {
  // RFC 5880 6.8.17: the path behind this hop is not there.
  return { ready: false, diagnostic: 6, reason };
}

const sendIntent = (): void =>
  send({ type: 'intent', intent: { peers: [...peers[4], ...peers[6]], readiness } });

function bfdCommand(words: string[]): Promise<{ ok: boolean; text: string }> {
  const id = ++lastCommand;
  return new Promise((resolve) => {
    const finish = (reply: { ok: boolean; text: string }) => {
      clearTimeout(timer);
      commands.delete(id);
      resolve(reply);
    };
    const text = 'Unable to complete the command: the BFD process does not answer';
    const timer = setTimeout(() => finish({ ok: false, text }), COMMAND_TIMEOUT);
    commands.set(id, finish);
    send({ type: 'command', id, words });
  });
}

process.on('message', (message: FromEngine) => {
  heardBfd = performance.now();
  switch (message.type) {
    case 'report':
      view.bfd = message.report;
      view.draining = message.report.draining;
      break;
    case 'reply':
      commands.get(message.id)?.(message);
      break;
    case 'shutdown':
      shutdown(message.remove);
      break;
    default:
      message satisfies never;
  }
});

// Reconcile --------------------------------------------------------------------------------------------

const kernels = createKernels(options);
const reconciler = new Reconciler(kernels, options);
/** The wish that was last fulfilled: a change without a new wish is a repair. */
let fulfilled = '';
/** Who netlink says changed something last. */
let lastWriter: string | undefined;
/** The last look, and the fingerprint of what it found; undefined when it has to be looked at again. */
let lastLook: Look | undefined;
let fingerprint: string | undefined;
let failureTold = '';

/** One run of the loop. */
async function run(trigger: Trigger): Promise<{ ok: boolean; repaired: boolean }> {
  // Nothing is touched, and nothing removed, before a policy was loaded.
  if (policy === undefined) return { ok: true, repaired: false };
  const at = Date.now();
  const began = performance.now();
  let changes = 0;
  let repaired = false;
  let failures: ApplyFailure[] = [];
  let failed: Error | undefined;
  try {
    const before = lastLook && kernels.fingerprint(lastLook);
    const look = await reconciler.look(policy);
    changes = countChanges(look.changes);
    view.kernel.families = look.plan.families;
    view.kernel.interfaces = look.plan.interfaces;
    view.kernel.notes = look.notes;
    const { 4: backend4, 6: backend6 } = look.backend;
    if (backend4 ?? backend6)
      view.kernel.backend = [...new Set([backend4, backend6])].filter(Boolean).join(', ');
    // What was changed just now is looked at once more.
    fingerprint = changes === 0 && look.wish === lastLook?.wish ? before : undefined;
    lastLook = look;
    if (changes > 0) {
      repaired = look.wish === fulfilled;
      const lines = changeLines(look.changes);
      const shown = { trigger, changes, lines: lines.slice(0, LOGGED_CHANGES) };
      if (repaired) logger.warn({ ...shown, ...(lastWriter && { writer: lastWriter }) }, 'repairing drift');
      else logger.info(shown, 'changing the kernel');
      failures = await reconciler.apply(look);
    }
    if (failures.length === 0) {
      fulfilled = look.wish;
      if (repaired) countRepairs(countObjects(look.changes));
    }
    for (const { family, state, reason } of look.plan.families) {
      const failure = failures.find(({ families }) => families.includes(family));
      readiness[family] =
        state !== 'programmed' || failure !== undefined
          ? notYet(reason ?? failure?.error.message)
          : { ready: true };
      if (state !== 'blocked')
        peers[family] = look.plan.peers.filter(({ remote }) => familyOf(remote as never) === family);
    }
    sendIntent();
    await http.listen(options.listen ?? defaultListen(look.plan.internalAddresses));
  } catch (error) {
    // The kernel could not be looked at: nothing is known to be wrong, so sessions stay as they are.
    failed = error as Error;
  }
  failed ??= failures[0]?.error;
  const ok = failed === undefined;
  const durationMs = performance.now() - began;
  view.kernel.inSync = ok && view.kernel.families.every(({ state }) => state !== 'blocked');
  view.kernel.last = { at, trigger, ok, changes, durationMs, ...(failed && { error: explain(failed) }) };
  metrics.reconciled({ ok, trigger, durationMs });
  tellFailure(failed, trigger);
  return { ok, repaired };
}

/** Logs a failure when it is a new one, and its end. */
function tellFailure(error: Error | undefined, trigger: Trigger): void {
  const text = error === undefined ? '' : explain(error);
  if (text === failureTold) return;
  if (error !== undefined)
    logger.error({ trigger, reason: text }, 'cannot bring the kernel to the policy; will try again');
  else logger.info({ trigger }, 'the kernel is as the policy says again');
  failureTold = text;
}

function countRepairs(objects: Record<string, number>): void {
  for (const [object, count] of Object.entries(objects)) {
    metrics.repaired(object, count);
    view.kernel.driftRepaired[object] = (view.kernel.driftRepaired[object] ?? 0) + count;
  }
}

const loop = new Loop(options.resync, run, () =>
  logger.warn(
    { writer: lastWriter ?? 'unknown' },
    'somebody changes the rules again and again; repairs are limited to one a second',
  ),
);

// Policy -----------------------------------------------------------------------------------------------

function takePolicy({ source, result }: { source: string; result: PolicyResult }): void {
  view.policy.source = source;
  if (!result.ok) {
    view.policy.valid = false;
    view.policy.errors = result.errors;
    logger.error(
      {
        source,
        errors: result.errors.slice(0, LOGGED_CHANGES).map(formatError),
        count: result.errors.length,
        inForce: view.policy.name ?? null,
      },
      'the policy is invalid; what was in force stays in force',
    );
    return;
  }
  view.policy.valid = true;
  view.policy.errors = [];
  const text = JSON.stringify(result.policy);
  if (text === policyText) return;
  policyText = text;
  policy = result.policy;
  view.policy.name = policy.name;
  view.policy.generation += 1;
  view.policy.lastChange = Date.now();
  view.policy.warnings = policy.warnings.map(({ message }) => message);
  view.bfdEnabled = policy.bfd.enabled && policy.bfd.peers.length > 0;
  logger.info({ source, policy: policy.name, generation: view.policy.generation }, 'policy loaded');
  for (const warning of view.policy.warnings) logger.warn({ warning }, 'policy');
  loop.request(view.policy.generation === 1 ? 'start' : 'policy');
}

// Outside ----------------------------------------------------------------------------------------------

const http = new HttpListeners(
  {
    metrics: () => metrics.text(),
    notLive: () => (performance.now() - heardBfd > BFD_SILENT ? ['no word from the BFD process'] : []),
    notReady: () => notReady(view),
    page: () => statusText(statusDocument(view, Date.now()), Date.now(), false),
  },
  logger,
);

function defaultListen(internalAddresses: string[]): ListenAddress[] {
  return ['127.0.0.1', '::1', ...internalAddresses].map((host) => ({ host, port: HTTP_PORT }));
}

const drainTime = (text: string | null): number => {
  const wanted = text === null ? options.drainTimeout : (parseDuration(text) ?? Number(text));
  return Number.isFinite(wanted) && wanted >= 0 ? wanted : options.drainTimeout;
};

const moved = (timeout: number): Promise<boolean> =>
  waitUntilMoved(() => view.bfd, view.kernel.interfaces?.internal, timeout);

const control = await serveControl(
  options.stateDir,
  {
    'GET /v1/status': async () => ({ status: 200, body: statusDocument(view, Date.now()) }),
    'POST /v1/bfdd': async ({ body }) => {
      const { ok, text } = await bfdCommand(body.split(/\s+/).filter(Boolean));
      return { status: ok ? 200 : 400, body: `${text}\n` };
    },
    'POST /v1/drain': async ({ query }) => {
      send({ type: 'drain' });
      const done = await moved(drainTime(query.get('timeout')));
      const text = done
        ? 'drained: traffic has moved\n'
        : 'drained; some traffic still came when the time was over\n';
      return { status: 200, body: text };
    },
    'POST /v1/undrain': async () => {
      send({ type: 'undrain' });
      return { status: 200, body: 'no longer draining\n' };
    },
    'POST /v1/reconcile': async () => {
      await loop.complete('control');
      return { status: 200, body: view.kernel.last ?? { ok: false, error: 'no policy was loaded yet' } };
    },
  },
  logger,
).catch((error: Error): never => {
  const hint = 'set --state-dir to a directory that can be written';
  logger.fatal({ reason: error.message, hint }, 'cannot start: no control socket');
  exit(1);
});

/** The end: forwarding goes on until traffic has moved away. */
async function shutdown(remove: boolean): Promise<void> {
  const done = await moved(options.drainTimeout);
  logger.info({ moved: done }, done ? 'traffic has moved' : 'the drain timeout is over');
  clearInterval(driftTimer);
  source.close();
  events.close();
  await loop.stop();
  if (remove) {
    await reconciler
      .lookForCleanup()
      .then((changes) => reconciler.cleanup(changes))
      .catch((error: Error) => logger.error({ reason: explain(error) }, 'cannot remove the kernel state'));
  }
  await control.close();
  await http.close();
  exit(0);
}

process.on('SIGHUP', () => {
  logger.info('SIGHUP: reading the policy again');
  source.reread();
  loop.request('sighup');
});
process.on('SIGUSR1', () => {
  logger.info(
    { status: statusDocument(view, Date.now()), conntrack: conntrack() ?? null },
    'state of the agent process',
  );
});

const events = kernels.watch(({ object, portid, what }) => {
  logger.debug({ object, portid, what }, 'the kernel changed');
  // netlink addresses are process ids as long as a process has one socket; 0 is the kernel itself.
  if (object !== 'overrun' && portid !== 0)
    lastWriter = object === 'netfilter' ? what : `pid ${portid} (${what})`;
  loop.request(object);
});
if (events.netfilterError !== undefined) {
  logger.warn(
    { reason: events.netfilterError.message },
    'no notice of nf_tables changes; looking for them by timer',
  );
}

const source = watchSource(options.policyDir, process.env, takePolicy);
const driftTimer = setInterval(() => {
  if (lastLook !== undefined && kernels.fingerprint(lastLook) !== fingerprint) loop.request('drift');
}, DRIFT_PERIOD);
setInterval(() => send({ type: 'alive' }), ALIVE_PERIOD);
send({ type: 'alive' });
await http.listen(options.listen ?? defaultListen([]));
