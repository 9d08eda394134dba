/**
 * The gateway: takes policies and change events, reconciles the kernel, and sends the BFD process which sessions there
 * are and which families may carry traffic. process.ts feeds it and shows its `view`.
 */
import { isDeepStrictEqual } from 'node:util';
import type { BfdIntent, EngineReport } from '../bfd/intent.ts';
import { type Clock, systemClock, type Timer } from '../lib/clock.ts';
import type { Logger } from '../lib/log.ts';
import { FAMILIES, type Family } from '../lib/prefix.ts';
import { isRuleStep } from '../nat/render.ts';
import { bfdIntent, createBfdReadiness, recordOutcome } from './bfd-readiness.ts';
import { Withdrawal } from './bgp/withdrawal.ts';
import { CADENCE, REPAIRS, type RunResult, type Trigger } from './cadence.ts';
import type { KernelEvent } from './events.ts';
import { FlowCleaner } from './flows/flow-cleaner.ts';
import type { GroupFacts } from './group/model.ts';
import type { OpenKernels } from './kernels.ts';
import { Loop } from './loop.ts';
import type { Options } from './options.ts';
import { type Plan, waysOut } from './plan/plan.ts';
import type { Facts } from './pod/interfaces.ts';
import { formatError } from './policy/error-text.ts';
import type { LastGood, Missing } from './policy/last-good.ts';
import type { Policy } from './policy/model.ts';
import type { KeptPolicy, LoadedPolicy } from './policy/source.ts';
import { type Changes, countChanges, countObjects } from './reconcile/changes.ts';
import { cleanUp, planCleanup } from './reconcile/cleanup.ts';
import {
  type Cause,
  causeOf,
  createChangeHistory,
  observationBegins,
  recordChange,
  recordOwnChange,
} from './reconcile/drift-cause.ts';
import { type Failure, failedSince } from './reconcile/failures.ts';
import { explain, listingFailure } from './reconcile/kernel-errors.ts';
import { kernelLacks } from './reconcile/kernel-lacks.ts';
import type { Kernels, Observation, ObservedState } from './reconcile/observation.ts';
import { ReconcileLog } from './reconcile/reconcile-log.ts';
import { type Outcome, Reconciler } from './reconcile/reconciler.ts';
import { INTACT } from './reconcile/targets.ts';
import type { Metrics } from './show/metrics.ts';
import type { AgentView, KernelFamily } from './show/status.ts';
import type { Uplink } from './uplink/uplink.ts';
import { createVisibility, recordObservation, recordSeen } from './visibility.ts';

/** How often the kernel is checked for drift without a change event, ms. */
const DRIFT_PERIOD = 200;
/** How long the fast path may take to be removed, ms: some retries. */
const LONGEST_REMOVAL = 5000;
/** At most this many policy errors are named in one log line. */
const LOGGED = 20;

export interface GatewayParts {
  options: Options;
  /** What this class knows is written here. */
  view: AgentView;
  kernels: OpenKernels;
  uplink: Pick<Uplink, 'configure' | 'observe' | 'readiness' | 'watchedAt'>;
  metrics: Pick<Metrics, 'reconciled' | 'repaired'>;
  logger: Logger;
  /** Calls `takeEvent` with the events until now. */
  readEvents(): void;
  /** Called when the intent for the BFD process may have changed. */
  onIntent(intent: BfdIntent): void;
  /**
   * Called after each run with which the policy is in force in every family that worked before, and in at least one; with
   * the policy when it is new, and with what is missing of it.
   */
  onInForce(fresh: KeptPolicy | undefined, missing: Missing): void;
  /** What an earlier process applied. */
  lastGood(): LastGood | undefined;
  /** The last report of the BFD process; undefined before the first. */
  report?(): Pick<EngineReport, 'sessions'> | undefined;
  /** Called when every family is intact. */
  onApplied(plan: Plan): void;
  /** Called after each run, with its last observation. */
  onObserved(observation: Observation): Promise<void>;
  /** Removes flows that contradict the policy. Default: those of this namespace. */
  flows?: Pick<FlowCleaner, 'follow'>;
  /** Whether packets of the fast path are counted; it is out of force until then. Default: they are. */
  countsFastPath?(): boolean;
  /** Default: the system's. */
  clock?: Clock;
}

/** What a run of the loop came to, for the status. */
interface Run {
  outcome?: Outcome;
  /** Of the first observation. */
  changes: number;
  repaired: boolean;
  failures: readonly Failure[];
  /** The plan whose rules flows are to follow. */
  followed?: Plan;
}

export class Gateway {
  readonly #parts: GatewayParts;
  readonly #clock: Clock;
  readonly #reconciler: Reconciler;
  readonly #loop: Loop;
  readonly #driftTimer: Timer;
  readonly #flows: Pick<FlowCleaner, 'follow'>;
  readonly #log: ReconcileLog;
  #policy: Policy | undefined;
  /** The policy in force as text, to detect a new one. */
  #policyText = '';
  /** The policy in force, as long as it is not known to be in the kernel. */
  #fresh: KeptPolicy | undefined;
  #intent: BfdIntent | undefined;
  /** The desired state that was last applied: a change without a new desired state is a repair. */
  readonly #applied: Observation['desired'] = {};
  /** The last observation, and the fingerprint of the kernel then; undefined when it has to be observed again. */
  #observation: ObservedState | undefined;
  #fingerprint: string | undefined;
  /** nf_tables has changed since the last observation began, by the agent or another program. */
  #natTouched = true;
  /** Another program has changed a link, an address, a route or a rule since. */
  #routingTouched = true;
  readonly #history = createChangeHistory();
  /** The cause of a drift that could not be repaired yet. */
  #unrepaired: Cause | undefined;
  /** The cause of the deletion of a virtual address that is probed for. */
  #deletion: Cause | undefined;
  readonly #visibility = createVisibility();
  readonly #readiness = createBfdReadiness();
  readonly #withdrawal: Withdrawal;
  /** Why the fast path is out of force for now. */
  readonly #fastPathPauses = new Set<'drain' | 'flows'>();
  /** What the exchange of the group has reported, by family. */
  #groups: NonNullable<Facts['groups']> = {};
  /** When the first policy came into force. */
  #wantedSince: number | undefined;

  constructor(parts: GatewayParts) {
    this.#parts = parts;
    this.#clock = parts.clock ?? systemClock;
    this.#flows = parts.flows ?? new FlowCleaner(parts.logger, (work) => this.withoutFastPath(work));
    this.#log = new ReconcileLog(parts.logger);
    this.#withdrawal = new Withdrawal({
      apply: (steps) => {
        this.#routingTouched = true;
        recordOwnChange(this.#history, this.#clock.now());
        parts.kernels.routing.applyAtOnce(steps);
      },
      routing: () => this.#observation?.plan.routing ?? [],
      onChange: () => {
        if (this.#policy?.bgp !== undefined) this.#loop.request('bgp');
      },
    });
    const kernels: Kernels = {
      ...parts.kernels,
      routing: {
        observe: () => parts.kernels.routing.observe(),
        apply: (steps) => parts.kernels.routing.apply(this.#withdrawal.filter(steps)),
      },
      facts: async (observed) => ({
        ...(await parts.kernels.facts(observed)),
        groups: this.#groups,
        ...(this.#policy?.bgp && { announcing: this.#withdrawal.allowed }),
        ...(this.#policy?.fastPath && { fastPathPaused: this.#isFastPathPaused }),
      }),
    };
    this.#reconciler = new Reconciler(kernels, parts.options, parts.lastGood, () => this.#clock.now());
    this.#loop = new Loop({
      resync: parts.options.resync,
      run: (trigger) => this.#run(trigger),
      onContention: () => this.#log.contention(this.#history.other?.what),
      onError: (error) => parts.logger.error({ err: error }, 'a reconcile failed'),
      clock: this.#clock,
    });
    this.#driftTimer = this.#clock.every(DRIFT_PERIOD, () => this.#checkDrift());
  }

  /** Takes what was read from the policy source: a new policy comes into force, an invalid one is only reported. */
  takePolicy({ source, result, content, since = Date.now() }: LoadedPolicy): void {
    const { view, logger } = this.#parts;
    view.policy.source = source;
    if (!result.ok) {
      view.policy.valid = false;
      view.policy.errors = result.errors;
      const errors = result.errors.slice(0, LOGGED).map(formatError);
      logger.error(
        { source, errors, count: result.errors.length, inForce: view.policy.name ?? null },
        view.policy.name === undefined
          ? 'invalid policy; nothing is programmed'
          : 'invalid policy; the policy in force stays in force',
      );
      return;
    }
    view.policy.valid = true;
    view.policy.errors = [];
    const text = JSON.stringify(result.policy);
    if (text === this.#policyText) return;
    const { policy } = result;
    this.#policyText = text;
    this.#policy = policy;
    this.#fresh = content && { source, since, content };
    this.#wantedSince ??= this.#clock.now();
    Object.assign(view.policy, {
      ...{ name: policy.name, generation: view.policy.generation + 1, lastChange: since },
      ...{ rules: policy.rules, limits: policy.limits, bgp: policy.bgp },
      warnings: policy.warnings.map(({ message }) => message),
    });
    view.kernel.inSync = false;
    view.bfdEnabled = policy.bfd.enabled && policy.bfd.peers.length > 0;
    const { generation } = view.policy;
    logger.info(
      { source, policy: policy.name, generation, inForceSince: new Date(since).toISOString() },
      'policy loaded',
    );
    for (const warning of view.policy.warnings) logger.warn({ warning }, 'policy');
    this.#loop.request(generation === 1 ? 'start' : 'policy');
  }

  /** Takes what the exchange of the group has reported about a family; undefined: there is none any more. */
  takeGroup(family: Family, facts: GroupFacts | undefined): void {
    if (isDeepStrictEqual(this.#groups[family], facts)) return;
    const { [family]: _, ...others } = this.#groups;
    this.#groups = facts === undefined ? others : { ...others, [family]: facts };
    this.#loop.request('group');
  }

  /** Takes a change event of the kernel. */
  takeEvent({ object, portid, own, what }: KernelEvent): void {
    this.#parts.logger.debug({ object, portid, own, what }, 'the kernel changed');
    if (object !== 'overrun' && !own) {
      // A netlink address is the process id as long as a process has one socket; 0 is the kernel itself.
      const who = object === 'netfilter' || portid === 0 ? what : `pid ${portid} (${what})`;
      const by = portid !== 0 ? 'other' : object === 'link' ? 'link' : 'kernel';
      recordChange(this.#history, by, who, this.#clock.now());
    }
    // The sessions learn of a lost link before a reconcile has found out what else is gone with it.
    if (object === 'link' || object === 'address' || object === 'overrun') this.#parts.uplink.observe();
    if (object === 'netfilter' || object === 'overrun') this.#natTouched = true;
    if (object !== 'netfilter') this.#routingTouched = true;
    this.#loop.request(object);
  }

  /** Asks for a reconcile. */
  request(trigger: Trigger): void {
    this.#loop.request(trigger);
  }

  /** Asks for a reconcile and resolves when it has ended. */
  reconcileNow(): Promise<void> {
    return this.#loop.complete('control');
  }

  /** What a reconcile would change now. Undefined before the first policy. Rejects when the kernel cannot be read. */
  async plan(): Promise<Observation | undefined> {
    const policy = this.#policy;
    return policy && this.#loop.between(() => this.#reconciler.preview(policy));
  }

  /**
   * When both the kernel and the uplink were last known to be observed, on the monotonic clock. Undefined before the
   * first time. Without a policy there is nothing to observe, so that never is.
   */
  get watchedAt(): number | undefined {
    const { watchedAt } = this.#parts.uplink;
    const { seenAt } = this.#visibility;
    return seenAt === undefined || watchedAt === undefined ? undefined : Math.min(seenAt, watchedAt);
  }

  /** For how long a policy has been in force without being observed, ms; 0 before the first policy. */
  get neglected(): number {
    if (this.#wantedSince === undefined) return 0;
    return this.#clock.now() - Math.max(this.#wantedSince, this.watchedAt ?? 0);
  }

  /** Ends reconciling; the kernel stays as it is. */
  async stop(): Promise<void> {
    this.#driftTimer.cancel();
    await this.#loop.stop();
  }

  /** Removes everything of the agent's from the kernel. After `stop`. */
  async remove(): Promise<void> {
    const { kernels, logger } = this.#parts;
    try {
      await cleanUp(kernels, await planCleanup(kernels, this.#reconciler.previousNat));
    } catch (error) {
      logger.error({ reason: explain(error as Error) }, 'cannot remove the kernel state');
    }
  }

  /** Withdraws what may no longer be announced, and hands the BFD process its intent. */
  publish(): void {
    const { uplink, onIntent } = this.#parts;
    const intent = bfdIntent(this.#readiness, (family) => uplink.readiness(family));
    if (intent !== undefined && this.#withdrawal.isAnnounced) intent.drainLater = true;
    this.#intent = intent;
    this.checkSessions();
    if (intent !== undefined) onIntent(intent);
  }

  /** Withdraws or announces what follows from the readiness of the families and the state of their sessions. */
  checkSessions(): void {
    const report = this.#parts.report?.();
    for (const family of FAMILIES) {
      const peers = this.#readiness.peers[family].filter(({ unconditional }) => !unconditional);
      const reachable =
        peers.length === 0 ||
        report?.sessions.some(
          ({ remote, state }) => state === 'Up' && peers.some((peer) => peer.remote === remote),
        );
      this.#withdrawal.update(family, { ready: this.#intent?.readiness[family]?.ready, reachable });
    }
  }

  /**
   * Withdraws all that is announced, and takes the fast path out of force, until it is called with false. Returns whether
   * anything was announced.
   */
  withdraw(draining: boolean): boolean {
    const announced = this.#withdrawal.drain(draining);
    if (!draining) this.checkSessions();
    this.#pauseFastPath('drain', draining);
    return announced;
  }

  /** The fast path begins to be counted. */
  fastPathCounted(): void {
    if (this.#policy?.fastPath) this.#loop.request('policy');
  }

  get #isFastPathPaused(): boolean {
    return this.#fastPathPauses.size > 0 || this.#parts.countsFastPath?.() === false;
  }

  /** Takes the fast path out of force, or puts it in force again. */
  #pauseFastPath(why: 'drain' | 'flows', paused: boolean): void {
    if (this.#fastPathPauses.has(why) === paused) return;
    if (paused) this.#fastPathPauses.add(why);
    else this.#fastPathPauses.delete(why);
    if (this.#policy?.fastPath) this.#loop.request('policy');
  }

  /** Runs work while no flow is in the fast path. */
  async withoutFastPath(work: () => Promise<void>): Promise<void> {
    this.#pauseFastPath('flows', true);
    try {
      await this.#loop.complete('policy');
      await this.#fastPathGone();
      await work();
    } finally {
      this.#pauseFastPath('flows', false);
    }
  }

  /** Waits while the loop retries to remove the fast path that is no longer wanted. Throws when that takes too long. */
  async #fastPathGone(): Promise<void> {
    const end = this.#clock.now() + LONGEST_REMOVAL;
    while (this.#parts.view.kernel.fastPath) {
      if (this.#clock.now() >= end) throw new Error('the kernel refuses to remove the fast path');
      await new Promise<void>((resolve) => {
        this.#clock.after(CADENCE.retryFirst, resolve);
      });
    }
  }

  /** One run of the loop. */
  async #run(trigger: Trigger): Promise<RunResult> {
    // Nothing is touched, and nothing removed, before a policy was loaded.
    if (this.#policy === undefined) return { ok: true, repaired: false };
    const at = Date.now();
    const began = this.#clock.now();
    const policy = this.#policy;
    const run: Run = { changes: 0, repaired: false, failures: [] };
    try {
      await this.#reconcile(policy, trigger, run);
    } catch (error) {
      // The kernel could not be read: nothing is known to be wrong, so sessions stay as they are.
      run.failures = [listingFailure(error as Error)];
    }
    this.#report(run, { policy, at, trigger, durationMs: this.#clock.now() - began });
    if (run.followed !== undefined) this.#flows.follow(run.followed);
    const ok = run.failures.length === 0;
    const held = !ok && run.outcome !== undefined && isIntact(run.outcome);
    return { ok, repaired: run.repaired, held, onlyRepairs: REPAIRS.has(trigger) };
  }

  /** Observes and applies. Throws when the kernel cannot be read; `run` holds what was done until then. */
  async #reconcile(policy: Policy, trigger: Trigger, run: Run): Promise<void> {
    const first = await this.#observe(policy, trigger);
    run.changes = countChanges(first.changes);
    // What was refused before and is retried is no repair.
    const failed = this.#parts.view.kernel.failed.length > 0;
    const retries = first.retries || (failed && !REPAIRS.has(trigger));
    run.repaired = run.changes > 0 && !this.#isNew(first.desired) && !retries;
    const deletion = first.awaits ? undefined : this.#deletion;
    const cause = run.repaired ? (this.#unrepaired ?? deletion ?? this.#causeOf(first)) : undefined;
    this.#deletion = first.awaits ? (this.#deletion ?? this.#causeOf(first)) : undefined;
    if (run.changes > 0) {
      const { counters, fastPath } = first.changes;
      // What the kernel lacks is retried each time, and noted.
      if (!first.retries || run.changes > counters.length + fastPath.length)
        this.#log.changes(first.changes, trigger, cause);
      recordOwnChange(this.#history, this.#clock.now());
    }
    this.#visibility.applyingSince = this.#clock.now();
    const outcome = await this.#reconciler.apply(first).finally(() => {
      this.#visibility.applyingSince = undefined;
    });
    run.outcome = outcome;
    run.failures = outcome.failures;
    const { observation } = outcome;
    if (observation !== first) {
      recordOwnChange(this.#history, this.#clock.now());
      this.#record(observation, undefined);
    }
    const intact = isIntact(outcome);
    this.#unrepaired = intact ? undefined : cause;
    if (intact) {
      if (first.changes.nat.length > 0 || this.#isNew(observation.desired)) run.followed = observation.plan;
      Object.assign(this.#applied, observation.desired);
      if (run.repaired && cause?.by !== 'agent') this.#countRepairs(first.changes);
      this.#parts.onApplied(observation.plan);
    }
    this.#parts.view.kernel.families = familiesOf(outcome);
    this.#parts.view.kernel.fastPath =
      policy.fastPath || observation.fastPath ? observation.fastPath : undefined;
    this.#publishOutcome(outcome);
    await this.#parts.onObserved(observation);
  }

  /** Writes the result of a run to the status, the metrics and the log. */
  #report(
    { outcome, changes, failures }: Run,
    how: { policy: Policy; at: number; trigger: Trigger; durationMs: number },
  ): void {
    const { policy, at, trigger, durationMs } = how;
    const { view, metrics } = this.#parts;
    const ok = failures.length === 0;
    const error = failures[0]?.message;
    const failing = [...failures, ...(outcome?.observation.conflicts ?? [])];
    const blocked = view.kernel.families.filter(({ state }) => state === 'blocked');
    view.kernel.failed = failedSince(view.kernel.failed, failing, at);
    // A policy that was loaded meanwhile is not in the kernel yet.
    view.kernel.inSync = failing.length === 0 && blocked.length === 0 && policy === this.#policy;
    view.kernel.last = { at, trigger, ok, changes, durationMs, ...(error && { error }) };
    metrics.reconciled({ ok, trigger, durationMs });
    const reasons = blocked.map(({ family, reason }) => `IPv${family}: ${reason}`);
    this.#log.lacks(kernelLacks(failing));
    this.#log.failures([...reasons, ...view.kernel.failed.map(({ message }) => message)], trigger);
  }

  /** Whether a desired state is not the one that was last applied. */
  #isNew(desired: Observation['desired']): boolean {
    return FAMILIES.some(
      (family) => desired[family] !== undefined && desired[family] !== this.#applied[family],
    );
  }

  /** Observes the kernel. */
  async #observe(policy: Policy, trigger: Trigger): Promise<Observation> {
    const { kernels } = this.#parts;
    const before = this.#observation && kernels.fingerprint(this.#observation);
    const settled =
      (trigger === 'policy' || trigger === 'group' || trigger === 'bgp') &&
      before !== undefined &&
      before === this.#fingerprint;
    const unchanged = {
      routing: settled && !this.#routingTouched,
      nat: settled && !this.#natTouched,
    };
    [this.#routingTouched, this.#natTouched] = [false, false];
    observationBegins(this.#history, this.#clock.now());
    this.#visibility.blind = true;
    const retry = !REPAIRS.has(trigger);
    const observation = await this.#reconciler.observe(policy, unchanged, retry).catch((error: unknown) => {
      // Earlier changes have not been read.
      [this.#routingTouched, this.#natTouched] = [true, true];
      throw error;
    });
    this.#record(observation, before);
    return observation;
  }

  /** Records an observation, and the fingerprint of the kernel before it. */
  #record(observation: Observation, fingerprint: string | undefined): void {
    const { kernels, view } = this.#parts;
    const { interfaces, elsewhere } = observation.plan;
    const backends = [...new Set([observation.backend[4], observation.backend[6]])].filter(Boolean);
    kernels.claims.setAssigned(observation.assigned);
    this.#log.notes(observation.notes);
    const notes = [...observation.notes, ...elsewhere.map(({ note }) => note)];
    Object.assign(view.kernel, { interfaces, notes });
    if (backends.length > 0) view.kernel.backend = backends.join(', ');
    // What is changed now has to be observed once more.
    const quiet =
      countChanges(observation.changes) === 0 &&
      isDeepStrictEqual(observation.desired, this.#observation?.desired);
    this.#fingerprint = quiet ? fingerprint : undefined;
    const { plan, desired, backend, desiredNat } = observation;
    this.#observation = { plan, desired, backend, desiredNat };
    recordObservation(this.#visibility, observation, this.#clock.now());
  }

  /** Hands on what a run means for the last good policy, the uplink and the sessions. */
  #publishOutcome(outcome: Outcome): void {
    const { onInForce, uplink } = this.#parts;
    const { policies, missing, inForce, observation } = outcome;
    const seenAt = this.#visibility.familySeenAt;
    recordOutcome(
      this.#readiness,
      outcome,
      (family) => seenAt[family] ?? this.#wantedSince ?? 0,
      this.#clock.now(),
    );
    if (inForce && FAMILIES.some((family) => this.#readiness.programmed[family]?.ready)) {
      onInForce(this.#fresh, missing);
      this.#fresh = undefined;
    }
    uplink.configure(waysOut(observation.plan, policies));
    this.publish();
  }

  /** Checks for what no event announces. With the events it keeps the kernel in view. */
  #checkDrift(): void {
    if (this.#observation === undefined) return;
    if (this.#parts.kernels.fingerprint(this.#observation) !== this.#fingerprint) this.#loop.request('drift');
    recordSeen(this.#visibility, this.#clock.now());
  }

  /** The cause of what has to be repaired. */
  #causeOf({ changes, backend }: Observation): Cause {
    // The events of the last changes may not have been read yet.
    this.#parts.readEvents();
    const legacy = Object.values(backend).includes('legacy');
    const announced = changes.sysctl.length === 0 && changes.nat.every((step) => isRuleStep(step) && !legacy);
    return causeOf(this.#history, announced);
  }

  #countRepairs(changes: Changes): void {
    const { view, metrics } = this.#parts;
    for (const [object, count] of Object.entries(countObjects(changes))) {
      metrics.repaired(object, count);
      view.kernel.driftRepaired[object] = (view.kernel.driftRepaired[object] ?? 0) + count;
    }
  }
}

/** What became of the families: one that is planned and not intact is not programmed. */
const familiesOf = ({ observation, families }: Outcome): KernelFamily[] =>
  observation.plan.families.map((one) =>
    one.state === 'programmed' && families[one.family] === 'broken'
      ? { family: one.family, state: 'failed' }
      : one,
  );

const isIntact = ({ families }: Outcome): boolean => FAMILIES.every((family) => INTACT.has(families[family]));
