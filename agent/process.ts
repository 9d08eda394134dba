/**
 * The agent process: policy, reconcile, uplink, HTTP, control socket. A child of the BFD process (supervisor.ts), which
 * it hands the intent for the sessions. It may crash or hang: the kernel goes on forwarding, the sessions stay Up, and
 * it is started again. This file connects the parts, starts them in order, and ends them.
 */
import type { EngineReport } from '../bfd/intent.ts';
import { type Clock, systemClock, type Timer, uptime } from '../lib/clock.ts';
import { type ControlServer, serveControl } from '../lib/control/server.ts';
import { exec } from '../lib/exec.ts';

export { createLog } from '../lib/log.ts';

import type { Logger } from '../lib/log.ts';
import type { Moment } from '../lib/moment.ts';
import { NetlinkSocket, Protocol } from '../lib/netlink.ts';
import type { Family } from '../lib/prefix.ts';
import type { HandledSignal } from '../lib/signals.ts';
import { CHAIN_LIMIT, CHAIN_REFUSED } from '../nat/rules.ts';
import { createView } from './agent-view.ts';
import { BfdLink, type Channel } from './bfd-link.ts';
import { FrrSessions } from './bgp/frr-socket.ts';
import { ROUTERS_MOVE } from './bgp/withdrawal.ts';
import { controlRoutes, type Queries } from './control-routes.ts';
import { DrainWatch } from './drain/drain.ts';
import type { KernelWatch } from './events.ts';
import { BusiestSources, readBusiestSources } from './flows/busiest-sources.ts';
import { readConntrackPressure, readConntrackUse, readInsertFailures } from './flows/conntrack-table.ts';
import { findInGroup } from './flows/group-lookup.ts';
import { PolicyCounters } from './flows/policy-counters.ts';
import { portBlocksOf } from './flows/port-history.ts';
import { Translations } from './flows/translations.ts';
import { Gateway } from './gateway.ts';
import { Group, handoverLimit } from './group/group.ts';
import { addGroupMetrics } from './group/group-metrics.ts';
import { createKernels, type OpenKernels } from './kernels.ts';
import { supervisorStatus } from './kube-ovn/recovery.ts';
import { addRecoveryMetrics } from './kube-ovn/recovery-metrics.ts';
import { SessionRecovery } from './kube-ovn/session-recovery.ts';
import { httpListeners } from './listeners.ts';
import { notLiveReasons, unwatchedReason } from './liveness.ts';
import { CANNOT_START } from './messages.ts';
import type { Options } from './options.ts';
import { groupSettings } from './plan/group.ts';
import type { Plan } from './plan/plan.ts';
import { hasIPv6 } from './pod/facts.ts';
import { LastPolicy, readLastPolicy } from './policy/last-policy.ts';
import { lastGood, type PolicyWatcher, watchSource } from './policy/source.ts';
import type { Observation } from './reconcile/observation.ts';
import { BandwidthUse } from './show/bandwidth.ts';
import { addBandwidthMetrics } from './show/bandwidth-metrics.ts';
import { addBgpMetrics } from './show/bgp-metrics.ts';
import { Drops } from './show/drops.ts';
import { SessionHistory } from './show/history.ts';
import { HttpListeners } from './show/http.ts';
import { Metrics } from './show/metrics.ts';
import { loadPage } from './show/page/page.ts';
import { PlotHistory } from './show/plots/plot-history.ts';
import { SAMPLE_PERIOD } from './show/plots/series.ts';
import { type AgentView, type BgpView, notReady, statusDocument } from './show/status.ts';
import { Uplink } from './uplink/uplink.ts';

/** Errors of a netlink socket that no retry mends. */
const NO_NETLINK: ReadonlySet<string> = new Set(['EACCES', 'EAFNOSUPPORT', 'EPERM', 'EPROTONOSUPPORT']);

/** How long a member that has left goes on forwarding answers that the others still send to it, at most, ms. */
const MEMBERS_MOVE = 3000;

/** What this process uses of the system; tests replace some of it. */
export interface ProcessEffects {
  logger: Logger;
  /** Ends the process. The BFD process decides whether there will be another. */
  exit(code: number): void;
  onSignals(handlers: Partial<Record<HandledSignal, () => void>>): void;
  channel: Channel;
  clock: Clock;
  /** Throws when netlink cannot be used at all. */
  openKernels(options: Options): { kernels: OpenKernels; netlink: NetlinkSocket };
  serveControl: typeof serveControl;
}

/** The system's; `channel` is this process's own. */
export const systemEffects = {
  channel: process as Channel,
  clock: systemClock,
  openKernels: (options: Options) => ({
    kernels: createKernels(options),
    netlink: new NetlinkSocket(Protocol.ROUTE),
  }),
  serveControl,
};

/** Opens the sockets to the kernel. Ends the process and returns undefined when that fails. */
function open(options: Options, { logger, exit, openKernels }: ProcessEffects) {
  try {
    return openKernels(options);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    logger.fatal({ reason: message }, 'cannot start: no netlink socket');
    exit(NO_NETLINK.has(code ?? '') ? CANNOT_START : 1);
    return undefined;
  }
}

/** Runs the agent process. Resolves when it has started, or has ended because it cannot. */
export async function runAgent(options: Options, effects: ProcessEffects): Promise<void> {
  const { logger, exit } = effects;
  /** Resolves when the start is complete: whatever ends the process waits for the parts that it ends. */
  const started = Promise.withResolvers<AgentProcess>();
  const receiver: { onReport?(report: EngineReport): void; watchedAgo?(): number | undefined } = {};
  const bfd = new BfdLink(
    {
      watchedAgo: () => receiver.watchedAgo?.(),
      onReport: (report) => receiver.onReport?.(report),
      onShutdown(remove) {
        started.promise
          .then((agent) => agent.shutdown(remove))
          .then(
            () => exit(0),
            (error: unknown) => {
              logger.fatal({ err: error }, 'stopping failed');
              exit(1);
            },
          );
      },
      // Without its parent it must not go on: another agent may already be running.
      onDisconnect: () => exit(1),
    },
    effects.channel,
    effects.clock,
  );
  const opened = open(options, effects);
  if (opened === undefined) return;
  const agent = new AgentProcess(options, effects, bfd, opened);
  Object.assign(receiver, { onReport: agent.takeReport, watchedAgo: agent.watchedAgo });
  if (await agent.start()) started.resolve(agent);
}

class AgentProcess {
  readonly #options: Options;
  readonly #effects: ProcessEffects;
  readonly #bfd: BfdLink;
  readonly #kernels: OpenKernels;
  readonly #view: AgentView;
  readonly #history = new SessionHistory();
  readonly #recovery: SessionRecovery;
  readonly #translations: Translations;
  readonly #bandwidth: BandwidthUse;
  readonly #frr: FrrSessions;
  readonly #counters: PolicyCounters;
  readonly #busiest: BusiestSources;
  readonly #metrics: Metrics;
  readonly #http: HttpListeners;
  readonly #uplink: Uplink;
  readonly #gateway: Gateway;
  readonly #group: Group;
  readonly #drain: DrainWatch;
  readonly #last: LastPolicy;
  readonly #queries: Queries;
  readonly #plots: PlotHistory;
  #lastReport: { report: EngineReport; at: Moment } | undefined;
  #lastObservation: Pick<Observation, 'plan' | 'backend' | 'fastPath'> | undefined;
  /** The policy has a fast path. */
  #fastPath = false;
  // Set by `start`.
  #control: ControlServer | undefined;
  #events: KernelWatch | undefined;
  #source: PolicyWatcher | undefined;
  #sampleTimer: Timer | undefined;

  constructor(
    options: Options,
    effects: ProcessEffects,
    bfd: BfdLink,
    { kernels, netlink }: { kernels: OpenKernels; netlink: NetlinkSocket },
  ) {
    this.#options = options;
    this.#effects = effects;
    this.#bfd = bfd;
    this.#kernels = kernels;
    const { logger, clock } = effects;
    const now = () => clock.now();
    const { POD_NAME = '', NODE_NAME = '' } = process.env;
    this.#translations = new Translations({
      stateDir: options.stateDir,
      ...(options.translationLog && { file: options.translationLog }),
      pod: POD_NAME,
      node: NODE_NAME,
      logger,
      onTotals: (began, volumes) => this.#counters.takeLog(began, volumes),
      marked: () => this.#counters.marked,
    });
    this.#bandwidth = new BandwidthUse(
      () => kernels.shaping.counts(),
      () => this.#lastObservation?.plan.shaping,
      now,
    );
    this.#frr = new FrrSessions({
      directory: options.frrDir,
      wanted: () => this.#view.policy.bgp !== undefined,
      clock,
    });
    this.#view = this.#createView();
    this.#recovery = new SessionRecovery({ bfd, logger, now, notLive: () => this.#notLive() });
    this.#counters = this.#createCounters();
    const drops = this.#createDrops();
    this.#busiest = this.#createBusiest(drops);
    this.#metrics = new Metrics({
      view: () => this.#view,
      conntrack: readConntrackUse,
      insertFailures: readInsertFailures,
      pressure: readConntrackPressure,
      drops,
      translations: this.#translations,
      counters: this.#counters,
    });
    addBandwidthMetrics(this.#metrics.registry, this.#bandwidth);
    addBgpMetrics(this.#metrics.registry, () => this.#bgpView());
    addRecoveryMetrics(this.#metrics.registry, this.#recovery.recovery, now);
    this.#plots = this.#createPlots();
    this.#queries = {
      history: async (query) => this.#plots.answer(query),
      status: async () => ({ status: 200, body: statusDocument(this.#view, Date.now()) }),
      sources: () => this.#translations.sources(),
      translations: (query) => findInGroup(query, (own) => this.#translations.find(own), this.#group),
    };
    this.#http = this.#createHttp();
    this.#last = new LastPolicy(options.stateDir, logger);
    this.#uplink = new Uplink({
      ...{ netlink, logger, clock },
      conntrack() {
        const use = readConntrackUse();
        return use && { ...use, pressure: readConntrackPressure() };
      },
      onChange: () => this.#gateway.publish(),
      onConflict: (claims) => this.#metrics.conflicted('gateway', claims),
      onRoundTrip: (family, ms) => {
        this.#metrics.roundTrip(family, ms);
        this.#plots.roundTrip(family, ms);
      },
    });
    this.#gateway = this.#createGateway();
    this.#group = new Group({
      ...{ stateDir: options.stateDir, log: logger },
      onFacts: (family, facts) => this.#gateway.takeGroup(family, facts),
      onAnnounce: (address) => kernels.claims.announce(address),
      answer: async (query) => {
        const { status, body } = await this.#translations.find(new URLSearchParams(query));
        return { status, body: typeof body === 'string' ? body : JSON.stringify(body) };
      },
    });
    addGroupMetrics(this.#metrics.registry, this.#group);
    this.#group.start();
    this.#drain = new DrainWatch({
      ...{ exec, logger, clock },
      report: () => this.#view.bfd,
      observation: () => this.#lastObservation,
      carried: () => (this.#fastPath ? this.#counters.packets : undefined),
    });
  }

  /** Takes a report of the BFD process. */
  readonly takeReport = (all: EngineReport): void => {
    // Sessions between members are the group's.
    const report = this.#group.takeReport(all);
    this.#lastReport = { report, at: this.#now() };
    this.#history.observe(report, Date.now());
    // A process that starts during a drain goes on with it.
    if (report.draining !== this.#view.draining) this.#gateway.withdraw(report.draining);
    this.#view.draining = report.draining;
    this.#plots.observe(this.#view, report, (family) => this.#uplink.readiness(family)?.ready);
    this.#recovery.observe(report);
    this.#gateway.checkSessions();
  };

  /** How long ago kernel and uplink were last observed, ms; undefined before the first time. */
  readonly watchedAgo = (): number | undefined => {
    const { watchedAt } = this.#gateway;
    return watchedAt === undefined ? undefined : this.#effects.clock.now() - watchedAt;
  };

  /** Starts everything; false when the process has ended because it cannot start. */
  async start(): Promise<boolean> {
    const { logger, exit, onSignals, clock } = this.#effects;
    const { stateDir, policyDir } = this.#options;
    try {
      this.#control = await this.#serveControl();
    } catch (error) {
      const hint = 'end what listens there, or give this one another --state-dir';
      logger.fatal({ reason: (error as Error).message, hint }, 'cannot start: no control socket');
      exit(CANNOT_START);
      return false;
    }
    this.#kernels.claims.listen({
      logger,
      onChange: () => this.#gateway.request('address'),
      onConflict: (claims) => this.#metrics.conflicted('address', claims),
    });
    this.#events = this.#kernels.watch((event) => this.#gateway.takeEvent(event));
    const { netfilterError } = this.#events;
    if (netfilterError !== undefined) {
      const reason = netfilterError.message;
      logger.warn({ reason }, 'cannot listen for nf_tables changes; only the resync finds them');
    }
    // One timer for both: fewer wake-ups.
    this.#sampleTimer = clock.every(SAMPLE_PERIOD, () => {
      this.#plots.sample();
      void this.#busiest.check();
    });
    const kept = readLastPolicy(stateDir, (reason) => logger.warn({ reason }, 'no last good policy'));
    this.#source = await watchSource(policyDir, process.env, kept, (loaded) => {
      this.#gateway.takePolicy(loaded);
      if (!loaded.result.ok) return;
      this.#fastPath = loaded.result.policy.fastPath === true;
      this.#counters.followFastPath(this.#fastPath);
      this.#translations.onPolicy(loaded.result.policy);
    });
    await this.#listen([]);
    onSignals({ SIGHUP: () => this.#reread(), SIGUSR1: () => this.#dump() });
    this.#bfd.up();
    return true;
  }

  /**
   * Withdraws what is announced, hands flows over to the group, lets the BFD process drain, and waits for traffic to move
   * away while forwarding goes on; then ends everything.
   */
  async shutdown(remove: boolean): Promise<void> {
    const { logger, clock } = this.#effects;
    const { drainTimeout } = this.#options;
    const end = clock.now() + drainTimeout;
    await Promise.all([this.#routersMove(drainTimeout), this.#group.drain(handoverLimit(drainTimeout))]);
    this.#bfd.drain();
    const drained = await this.#drain.drained(Math.max(0, end - clock.now()));
    logger.info({ drained }, drained ? 'traffic has moved' : 'the drain timeout is over');
    this.#source?.close();
    this.#events?.close();
    this.#sampleTimer?.cancel();
    this.#plots.save();
    this.#uplink.close();
    this.#frr.close();
    const isMember = Object.keys(this.#group.self).length > 0;
    // What is in the kernel stays as it is while the other members stop to send answers here.
    await this.#gateway.stop();
    await this.#group.stop();
    if (isMember && drained) await this.#drain.idle(Math.min(MEMBERS_MOVE, Math.max(0, end - clock.now())));
    this.#drain.close();
    await Promise.all([this.#counters.stop(), this.#translations.stop()]);
    if (remove) {
      this.#last.remove();
      await this.#gateway.remove();
    }
    await this.#control?.close();
    await this.#http.close();
  }

  /** Withdraws what is announced. Resolves when routers have had the time to follow; `limitMs`: the longest wait. */
  async #routersMove(limitMs: number): Promise<void> {
    if (!this.#gateway.withdraw(true)) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#effects.clock.after(Math.min(ROUTERS_MOVE, limitMs), resolve);
    await promise;
  }

  /** SIGHUP. */
  #reread(): void {
    this.#effects.logger.info('SIGHUP: reading the policy again');
    void this.#source?.reread();
    this.#gateway.request('sighup');
  }

  /** SIGUSR1. */
  #dump(): void {
    const status = statusDocument(this.#view, Date.now());
    const conntrack = readConntrackUse() ?? null;
    this.#effects.logger.info({ status, conntrack }, 'state of the agent process');
  }

  /** Now, by both clocks. */
  #now(): Moment {
    return { wall: Date.now(), monotonic: this.#effects.clock.now() };
  }

  #unwatched(): string | undefined {
    return unwatchedReason(this.#gateway.neglected, this.#view.kernel.last?.error);
  }

  #notLive(): string[] {
    return notLiveReasons(this.#bfd.silence, this.#unwatched());
  }

  #listen(addresses: readonly string[], external?: string): Promise<void> {
    return this.#http.listen(httpListeners(this.#options, hasIPv6(), addresses, external));
  }

  #createView(): AgentView {
    return createView(this.#options, {
      now: () => this.#now(),
      lastReport: () => this.#lastReport,
      history: this.#history,
      uplink: () => this.#uplink,
      translations: this.#translations,
      group: () => this.#group,
      bgp: () => this.#bgpView(),
      conntrackUse: readConntrackUse,
      bandwidth: this.#bandwidth,
      unserved: () => this.#http.problems,
      busiest: () => this.#busiest,
      unwatched: () => this.#unwatched(),
    });
  }

  #bgpView(): BgpView | undefined {
    const { bgp } = this.#view.policy;
    if (bgp === undefined) return undefined;
    const prefixes = this.#lastObservation?.plan.announcements ?? [];
    return { required: bgp.required, prefixes, sessions: this.#frr.sessions };
  }

  #createCounters(): PolicyCounters {
    const { logger, clock } = this.#effects;
    return new PolicyCounters({
      ...{ stateDir: this.#options.stateDir, logger, clock, read: () => this.#kernels.readCounters() },
      onReading: (volumes, at) => this.#translations.onCounters(volumes, at),
      onFollowed: () => this.#gateway.fastPathCounted(),
    });
  }

  #createDrops(): Drops {
    const read = () => {
      const used = this.#view.kernel.families.filter(({ state }) => state !== 'unused');
      return this.#kernels.nat.counts(
        used.map(({ family }) => family),
        [CHAIN_REFUSED, CHAIN_LIMIT],
      );
    };
    return new Drops(read, () => this.#effects.clock.now());
  }

  #createBusiest(drops: Drops): BusiestSources {
    const { logger, clock } = this.#effects;
    const limit = () => this.#view.policy.limits?.connectionsPerSource ?? 0;
    return new BusiestSources({
      ...{ use: readConntrackUse, limit, logger, clock: () => clock.now() },
      read: () =>
        readBusiestSources(
          (this.#view.policy.rules ?? []).flatMap(({ snat, ipBlocks }) => (snat ? [] : ipBlocks)),
        ),
      async limited() {
        if (limit() > 0) await drops.refresh();
        return drops.of(CHAIN_LIMIT).reduce((sum, { packets }) => sum + packets, 0);
      },
    });
  }

  #createPlots(): PlotHistory {
    const { logger, clock } = this.#effects;
    return new PlotHistory(this.#options.stateDir, logger, () => {
      const { traffic, trafficAt, enabled: open } = this.#translations;
      const now = uptime();
      const counted = traffic !== undefined && trafficAt !== undefined;
      return {
        traffic: counted ? { policies: traffic, at: now - (clock.now() - trafficAt), open } : undefined,
        entries: readConntrackUse()?.entries,
        lateness: this.#lastReport?.report.lateness,
      };
    });
  }

  #createHttp(): HttpListeners {
    const { status, history, sources, translations } = this.#queries;
    return new HttpListeners(
      {
        metrics: () => this.#metrics.text(),
        notLive: () => this.#notLive(),
        notReady: () => notReady(this.#view),
        page: loadPage,
        data: {
          ...{ '/data/status': status, '/data/history': history },
          ...{ '/data/sources': sources, '/data/translations': translations },
        },
      },
      this.#effects.logger,
    );
  }

  #createGateway(): Gateway {
    const { logger, clock } = this.#effects;
    const { stateDir } = this.#options;
    return new Gateway({
      ...{ options: this.#options, view: this.#view, kernels: this.#kernels, logger, clock },
      ...{ uplink: this.#uplink, metrics: this.#metrics },
      onIntent: (intent) => this.#recovery.configure(intent),
      report: () => this.#lastReport?.report,
      readEvents: () => this.#events?.read(),
      onInForce: (fresh, missing) => this.#last.keep(fresh, missing),
      lastGood: () => lastGood(readLastPolicy(stateDir, () => {})),
      countsFastPath: () => this.#counters.countsFastPath,
      onApplied: (plan) => this.#recordPortBlocks(plan),
      onObserved: (observation) => {
        const { plan, backend, fastPath } = observation;
        this.#lastObservation = { plan, backend, fastPath };
        this.#counters.configure(plan.counters, plan.leftAlone);
        this.#group.configure(groupSettings(plan), plan.leftAlone);
        const { listenAddresses, interfaces } = plan;
        return this.#listen(listenAddresses, interfaces.external);
      },
    });
  }

  /** The port blocks in force, for the translation log; those of a family that is left alone are unknown. */
  #recordPortBlocks({ nat, families, leftAlone }: Plan): void {
    const known = families.map(({ family }) => family).filter((family) => !leftAlone.includes(family));
    const blocks = (family: Family) => nat.filter((one) => one.family === family).flatMap(portBlocksOf);
    this.#translations.onPortBlocks(Object.fromEntries(known.map((family) => [family, blocks(family)])));
  }

  #serveControl(): Promise<ControlServer> {
    const routes = controlRoutes({
      ...{ options: this.#options, view: this.#view, queries: this.#queries },
      ...{ gateway: this.#gateway, bfd: this.#bfd, drain: this.#drain, group: this.#group },
      routersMove: (limitMs) => this.#routersMove(limitMs),
      supervisorStatus: () =>
        supervisorStatus(
          this.#recovery.recovery,
          this.#notLive().length === 0,
          this.#effects.clock.now(),
          Date.now(),
        ),
    });
    return this.#effects.serveControl(this.#options.stateDir, routes, this.#effects.logger);
  }
}
