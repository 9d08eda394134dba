/**
 * The agent process: policy, reconcile, HTTP, control socket. A child of the BFD process (supervisor.ts), which
 * it tells what sessions there should be and which hears of nothing else. It may crash or hang: the kernel goes
 * on forwarding, the sessions stay Up, and it is started again. Wiring only.
 */

import { constants } from 'node:os';
import { splitWords } from '../bfd/control-text.ts';
import type { BfdIntent, EngineReport } from '../bfd/intent.ts';
import { createScripts } from '../bfd/script.ts';
import { type ControlReply, serveControl } from '../lib/control/server.ts';
import { exec } from '../lib/exec.ts';
import { signalAtParentsDeath, unblockSignal } from '../lib/libc.ts';
import { createLog } from '../lib/log.ts';
import { type Moment, wallTime } from '../lib/moment.ts';
import { NetlinkSocket, Protocol } from '../lib/netlink.ts';
import type { Family } from '../lib/prefix.ts';
import { onSignals } from '../lib/signals.ts';
import { VERSION } from '../lib/version.ts';
import { CHAIN_LIMIT, CHAIN_REFUSED } from '../nat/rules.ts';
import { BfdLink } from './bfd-link.ts';
import { DrainWatch } from './drain/drain.ts';
import { Busiest } from './flows/busiest.ts';
import { readConntrackPressure, readConntrackUse, readInsertFailures } from './flows/conntrack-table.ts';
import { readBusiest } from './flows/flows.ts';
import { portBlocksOf } from './flows/port-history.ts';
import { Translations } from './flows/translations.ts';
import { Gateway } from './gateway.ts';
import { createKernels } from './kernels.ts';
import { Recovery, supervisorStatus } from './kube-ovn/recovery.ts';
import { addRecoveryMetrics } from './kube-ovn/recovery-metrics.ts';
import { CANNOT_START } from './messages.ts';
import { goesBy, type Options, parseTimeout, TIMEOUT } from './options.ts';
import { hasIPv6 } from './pod/facts.ts';
import { formatError } from './policy/error-text.ts';
import { LastPolicy, readLastPolicy } from './policy/last-policy.ts';
import { lastGood, watchSource } from './policy/source.ts';
import { explain } from './reconcile/kernel-errors.ts';
import type { Observation } from './reconcile/observation.ts';
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
import { Drops } from './show/drops.ts';
import { reportNow, SessionHistory } from './show/history.ts';
import { HttpListeners, type Listener } from './show/http.ts';
import { Metrics } from './show/metrics.ts';
import { loadPage } from './show/page/page.ts';
import { planDocument } from './show/plan-document.ts';
import { type AgentView, notReady, type StatusDocument, statusDocument } from './show/status.ts';
import { Uplink } from './uplink/uplink.ts';
import { WATCHDOG } from './watchdog.ts';

/** The port for metrics and probes, as Kube-OVN's. */
const HTTP_PORT = 10_669;
/** How often is looked whether somebody has too many connections, ms. */
const BUSIEST_PERIOD = 5000;
/** Without word from the BFD process for so long, this process cannot do its work, ms. */
const BFD_SILENT = 10_000;

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

// Even where this process hangs: the next one needs the control socket.
signalAtParentsDeath(constants.signals.SIGKILL);

/** Now, by both clocks. */
const moment = (): Moment => ({ wall: Date.now(), monotonic: clock() });
const clock = (): number => performance.now();
const STARTED = moment();
/** The last word of the BFD process, and when it came. */
let heard: { report: EngineReport; at: Moment } | undefined;

const { NODE_NAME = '', POD_NAMESPACE, POD_NAME = '' } = process.env;
const view: AgentView = {
  version: VERSION,
  ...(NODE_NAME && { node: NODE_NAME }),
  ...(POD_NAME && { pod: [POD_NAMESPACE, POD_NAME].filter(Boolean).join('/') }),
  get startedAt() {
    return wallTime(STARTED, moment());
  },
  policy: { source: options.policyDir, valid: false, generation: 0, errors: [], warnings: [] },
  kernel: { inSync: false, families: [], notes: [], failed: [], driftRepaired: {} },
  bfdEnabled: false,
  draining: false,
  get unwatched() {
    return unwatched();
  },
  get uplink() {
    return uplink.view();
  },
  get bfd() {
    return heard && reportNow(heard.report, heard.at, moment());
  },
  historyOf: (session) => history.of(session),
  get translationLog() {
    return translations.enabled;
  },
  get traffic() {
    return translations.traffic;
  },
  get ports() {
    return translations.ports;
  },
  get conntrack() {
    const use = readConntrackUse();
    return use && { ...use, busiest: busiest.sources };
  },
};
const history = new SessionHistory();

/** Resolves when the start is over: what ends this process has to wait for what it ends. */
const started = Promise.withResolvers<void>();

const bfd = new BfdLink({
  watchedAgo: () => (gateway.watchedAt === undefined ? undefined : performance.now() - gateway.watchedAt),
  onReport(report) {
    heard = { report, at: moment() };
    history.observe(report, Date.now());
    view.draining = report.draining;
    recover(report);
  },
  onShutdown(remove) {
    started.promise
      .then(() => shutdown(remove))
      .catch((error: unknown) => {
        logger.fatal({ err: error }, 'the end did not go as it should');
        exit(1);
      });
  },
  // Without its parent it must not go on: another agent may already be there.
  onGone: () => exit(1),
});

const recovery = new Recovery();

/** The sessions that there are to be, as last told to the BFD process. */
let bfdIntent: BfdIntent | undefined;

/**
 * Says again how sessions that stay down are configured. What an operator did with `bfdd-control` lasts, but for
 * sessions that are there no more: as Kube-OVN's tests expect, these come back.
 */
function recover(report: EngineReport): void {
  for (const episode of recovery.observe(report, clock())) {
    const { local, remote, attempts } = episode;
    // It never rejects.
    if (episode.state === '') void bfd.command(['allow', remote]);
    if (bfdIntent !== undefined) bfd.configure(bfdIntent);
    recovery.finished(episode, notLive()[0]);
    logger.warn({ local, remote, attempts }, 'the session stays down; its configuration was said again');
  }
}

const translations = new Translations({
  stateDir: options.stateDir,
  ...(options.translationLog && { file: options.translationLog }),
  pod: POD_NAME,
  node: NODE_NAME,
  logger,
});

/** Opens what the agent sees the kernel by. What this system will never allow is no matter of trying again. */
function openKernels() {
  try {
    return { kernels: createKernels(options), netlink: new NetlinkSocket(Protocol.ROUTE) };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    logger.fatal({ reason: message }, 'cannot start: no netlink socket');
    return exit(['EACCES', 'EAFNOSUPPORT', 'EPERM', 'EPROTONOSUPPORT'].includes(code!) ? CANNOT_START : 1);
  }
}

const { kernels, netlink } = openKernels();
const drops = new Drops(() => {
  const programmed = view.kernel.families.filter(({ state }) => state !== 'unused');
  return kernels.nat.counts(
    programmed.map(({ family }) => family),
    [CHAIN_REFUSED, CHAIN_LIMIT],
  );
}, clock);
const connectionLimit = (): number => view.policy.limits?.connectionsPerSource ?? 0;
const busiest = new Busiest({
  use: readConntrackUse,
  limit: connectionLimit,
  async limited() {
    if (connectionLimit() > 0) await drops.refresh();
    return drops.of(CHAIN_LIMIT).reduce((sum, { packets }) => sum + packets, 0);
  },
  read: readBusiest,
  logger,
  clock,
});
const busiestTimer = setInterval(() => void busiest.check(), BUSIEST_PERIOD);
const metrics = new Metrics({
  view: () => view,
  conntrack: readConntrackUse,
  insertFailures: readInsertFailures,
  pressure: readConntrackPressure,
  drops,
  translations,
});
addRecoveryMetrics(metrics.registry, recovery, clock);

/** That nobody looks after the gateway, and why; undefined while somebody does. */
function unwatched(): string | undefined {
  if (gateway.neglected <= WATCHDOG.unwatched) return undefined;
  const seconds = Math.round(gateway.neglected / 1000);
  const why = view.kernel.last?.error ?? 'the first is not over';
  return `no look at the kernel and the uplink has come to an end for ${seconds} s: ${why}`;
}

/** What keeps this process from doing its work. */
const notLive = (): string[] => [
  ...(bfd.silence > BFD_SILENT ? ['no word from the BFD process'] : []),
  ...[unwatched()].filter((reason) => reason !== undefined),
];

/** What can be looked at, on the control socket and by the page. */
const looks = {
  status: async () => ({ status: 200, body: statusDocument(view, Date.now()) }),
  sources: () => translations.sources(),
  translations: (query: URLSearchParams) => translations.find(query),
};

const http = new HttpListeners(
  {
    metrics: () => metrics.text(),
    notLive,
    notReady: () => notReady(view),
    page: loadPage,
    data: {
      '/data/status': looks.status,
      '/data/sources': looks.sources,
      '/data/translations': looks.translations,
    },
  },
  logger,
);

/** Loopback and the pod's own addresses, but those of the external interface: never there unless it is named. */
function listen(addresses: string[], external?: string): Promise<void> {
  const loopback = ['127.0.0.1', ...(hasIPv6() ? ['::1'] : [])];
  const notFrom = external === undefined ? {} : { notFrom: external };
  const usual: Listener[] = [
    ...loopback.map((host) => ({ host, port: HTTP_PORT })),
    ...addresses.map((host) => ({ host, port: HTTP_PORT, ...notFrom })),
  ];
  return http.listen(options.listen ?? usual);
}

const last = new LastPolicy(options.stateDir, logger);
const uplink = new Uplink({
  netlink,
  conntrack() {
    const use = readConntrackUse();
    return use && { ...use, pressure: readConntrackPressure() };
  },
  logger,
  onChange: () => gateway.publish(),
  onConflict: (claims) => metrics.conflicted('gateway', claims),
});
const gateway: Gateway = new Gateway({
  options,
  view,
  kernels,
  uplink,
  metrics,
  logger,
  onIntent(intent) {
    bfdIntent = intent;
    recovery.expect(intent.peers);
    bfd.configure(intent);
  },
  readEvents: () => events.read(),
  onInForce: (fresh, missing) => last.keep(fresh, missing),
  lastGood: () => lastGood(readLastPolicy(options.stateDir, () => {})),
  onApplied({ nat, families, leftAlone }) {
    const known = families.map(({ family }) => family).filter((family) => !leftAlone.includes(family));
    const blocks = (family: Family) => nat.filter((one) => one.family === family).flatMap(portBlocksOf);
    translations.onPortBlocks(Object.fromEntries(known.map((family) => [family, blocks(family)])));
  },
  onObserved(observation) {
    lastObservation = observation;
    return listen(observation.plan.listenAddresses, observation.plan.interfaces.external);
  },
});

let lastObservation: Observation | undefined;
const drain = new DrainWatch({ exec, logger, report: () => view.bfd, observation: () => lastObservation });

/** What a reconcile would change, for a command that names its policy directory and interfaces or none. */
async function plan(named: URLSearchParams): Promise<ControlReply> {
  if (!goesBy(options, named)) return { status: 409, body: 'this daemon goes by other flags\n' };
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

/** `bfdd-control`; a file that it loads is read here, not beside the packets of BFD. */
const bfddControl = createScripts((words) => bfd.command(words));

/** Drains, and waits so long at most. */
async function drainNow(asked: string | null): Promise<ControlReply> {
  const timeout = asked === null ? options.drainTimeout : parseTimeout(asked);
  if (timeout === undefined) return { status: 400, body: `timeout must be ${TIMEOUT}\n` };
  bfd.drain();
  const done = await drain.moved(timeout);
  const rest = done ? 'traffic has moved' : 'some traffic still came when the time was over';
  return { status: 200, body: `drained: ${rest}\n` };
}

/** An answer as it is, or as a command prints it, for one that is only a few lines of shell. */
async function answer<T>(
  query: URLSearchParams,
  reply: Promise<ControlReply>,
  outputOf: (body: T, form: Form) => CommandOutput,
): Promise<ControlReply> {
  const form = FORMS.find((known) => known === query.get('form'));
  if (form === undefined) return reply;
  const { status, body } = await reply;
  // What is wrong with the question is the command's to say.
  if (status === 400) return { status, body };
  const output = status === 200 ? outputOf(body as T, form) : errorOutput(status, String(body));
  return { status: 200, body: shellReply(output) };
}

const control = await serveControl(
  options.stateDir,
  {
    'GET /v1/status': ({ query }) =>
      answer<StatusDocument>(query, looks.status(), (body, form) => statusOutput(body, form, Date.now())),
    'GET /v1/sources': looks.sources,
    'POST /v1/bfdd': async ({ body }) => {
      const { ok, text } = await bfddControl(splitWords(body));
      return { status: ok ? 200 : 400, body: `${text}\n` };
    },
    'GET /v1/bfdd-supervisor': async () => ({
      status: 200,
      body: supervisorStatus(recovery, notLive().length === 0, clock(), Date.now()),
    }),
    'POST /v1/drain': ({ query }) => answer(query, drainNow(query.get('timeout')), textOutput),
    'POST /v1/undrain': ({ query }) => {
      bfd.undrain();
      drain.undrain();
      return answer(query, Promise.resolve({ status: 200, body: 'no longer draining\n' }), textOutput);
    },
    'GET /v1/translations': ({ query }) => {
      const asked = new URLSearchParams(query);
      asked.delete('form');
      return answer(query, looks.translations(asked), translationsOutput);
    },
    'GET /v1/plan': ({ query }) => answer(query, plan(query), planOutput),
    'POST /v1/reconcile': async () => {
      await gateway.reconcileNow();
      return { status: 200, body: view.kernel.last ?? { ok: false, error: 'no policy was loaded yet' } };
    },
  },
  logger,
).catch((error: Error): never => {
  const hint = 'end what listens there, or give this one another --state-dir';
  logger.fatal({ reason: error.message, hint }, 'cannot start: no control socket');
  exit(CANNOT_START);
});

kernels.claims.listen({
  logger,
  onChange: () => gateway.request('address'),
  onConflict: (claims) => metrics.conflicted('address', claims),
});
const events = kernels.watch((event) => gateway.takeEvent(event));
if (events.netfilterError !== undefined) {
  const reason = events.netfilterError.message;
  logger.warn({ reason }, 'no notice of nf_tables changes; only the timer finds them');
}
const kept = readLastPolicy(options.stateDir, (reason) => logger.warn({ reason }, 'no last good policy'));
const source = watchSource(options.policyDir, process.env, kept, (loaded) => {
  gateway.takePolicy(loaded);
  if (loaded.result.ok) translations.onPolicy(loaded.result.policy);
});
await listen([]);

onSignals(
  {
    SIGHUP() {
      logger.info('SIGHUP: reading the policy again');
      source.reread();
      gateway.request('sighup');
    },
    SIGUSR1() {
      const status = statusDocument(view, Date.now());
      logger.info({ status, conntrack: readConntrackUse() ?? null }, 'state of the agent process');
    },
  },
  unblockSignal,
);
bfd.up();
started.resolve();

/** The end: forwarding goes on until traffic has moved away. */
async function shutdown(remove: boolean): Promise<void> {
  const done = await drain.moved(options.drainTimeout);
  logger.info({ moved: done }, done ? 'traffic has moved' : 'the drain timeout is over');
  source.close();
  events.close();
  clearInterval(busiestTimer);
  uplink.close();
  drain.close();
  await gateway.stop();
  await translations.stop();
  if (remove) {
    last.remove();
    await gateway.remove();
  }
  await control.close();
  await http.close();
  exit(0);
}
