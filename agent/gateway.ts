/**
 * The gateway: the policy in force, the reconcile runs that put it into the kernel, and what the sessions may
 * say because of it. process.ts feeds it and shows its `view`.
 */
import { isDeepStrictEqual } from 'node:util';
import type { BfdIntent, FamilyReadiness, PeerIntent } from '../bfd/intent.ts';
import type { Logger } from '../lib/log.ts';
import { LogOnChange } from '../lib/log-on-change.ts';
import { type Address, FAMILIES, type Family, familyOf } from '../lib/prefix.ts';
import { isRuleStep } from '../nat/render.ts';
import { PUTS_BACK, type RunResult, type Trigger } from './cadence.ts';
import type { KernelEvent } from './events.ts';
import { FlowCleaner } from './flows/flows.ts';
import type { OpenKernels } from './kernels.ts';
import { Loop } from './loop.ts';
import type { Options } from './options.ts';
import { type Plan, waysOut } from './plan/plan.ts';
import { formatError } from './policy/error-text.ts';
import type { LastGood, Missing } from './policy/last-good.ts';
import type { Policy } from './policy/model.ts';
import type { KeptPolicy, LoadedPolicy } from './policy/source.ts';
import { type Cause, causeOf, changed, createWriters, looked } from './reconcile/drift-cause.ts';
import { type Failure, failedSince } from './reconcile/failures.ts';
import {
  changeLines,
  countChanges,
  countObjects,
  explain,
  type FamilyOutcome,
  type Look,
  listingFailure,
  type Outcome,
  Reconciler,
} from './reconcile/reconciler.ts';
import type { Metrics } from './show/metrics.ts';
import type { AgentView } from './show/status.ts';
import type { Uplink } from './uplink/uplink.ts';
import { WATCHDOG } from './watchdog.ts';

/** How often drift that nobody announces is looked for, ms. */
const DRIFT_PERIOD = 200;
/** At most so many changes or errors are named in one log line. */
const LOGGED = 20;

export interface GatewayParts {
  options: Options;
  /** What this class knows is written here. */
  view: AgentView;
  kernels: OpenKernels;
  uplink: Pick<Uplink, 'configure' | 'look' | 'readiness' | 'watchedAt'>;
  metrics: Metrics;
  logger: Logger;
  /** Has `takeEvent` called with what has happened until now. */
  readEvents(): void;
  /** Called when what is asked of the BFD process may have changed. */
  onIntent(intent: BfdIntent): void;
  /**
   * Called after each run with which the policy is in the kernel, of at least one family; with it when it is new, and
   * with what it lacks there.
   */
  onInForce(fresh: KeptPolicy | undefined, missing: Missing): void;
  /** What an earlier process brought the kernel to. */
  lastGood(): LastGood | undefined;
  /** Called when the kernel is as the plan says. */
  onApplied(plan: Plan): void;
  /** Called after each look at the pod. */
  onLook(look: Look): Promise<void>;
}

/** What a family may carry traffic with. */
const HELD: ReadonlySet<FamilyOutcome> = new Set(['done', 'held'] as const);

/** Not ready: the path behind this hop is not there (RFC 5880 6.8.17). */
const notYet = (reason = 'not reconciled yet'): FamilyReadiness => ({ ready: false, diagnostic: 6, reason });

export class Gateway {
  readonly #parts: GatewayParts;
  readonly #reconciler: Reconciler;
  readonly #loop: Loop;
  readonly #driftTimer: NodeJS.Timeout;
  readonly #flows: FlowCleaner;
  #policy: Policy | undefined;
  /** What the policy in force was made from, to tell a new one. */
  #policyText = '';
  /** The policy in force, as long as it is not known to be in the kernel. */
  #fresh: KeptPolicy | undefined;
  /** The wishes that were last fulfilled: a change without a new wish is a repair. */
  readonly #fulfilled: Look['wishes'] = {};
  /** The last look, and the fingerprint of what it found; undefined when it has to be looked at again. */
  #look: Look | undefined;
  #fingerprint: string | undefined;
  /** Somebody, the agent or another, has changed nf_tables since the last look began. */
  #natTouched = true;
  /** Somebody else has changed a link, an address, a route or a rule since. */
  #routingTouched = true;
  readonly #writers = createWriters();
  /** Who is behind a drift that could not be repaired yet. */
  #unrepaired: Cause | undefined;
  readonly #failures = new LogOnChange();
  /** The sessions of each family; those of a family that is left alone stay as they were. */
  readonly #peers: Record<Family, PeerIntent[]> = { 4: [], 6: [] };
  /** True from the beginning of a look at the kernel until it has found out how things are. */
  #blind = true;
  /** Since when changes are carried out; undefined while none are. */
  #changingSince: number | undefined;
  /** When a look last found that out, of one family at least, on the clock of `performance.now`. */
  #seenAt: number | undefined;
  /** The same of each family; and those of which the last look could not tell. */
  readonly #familySeenAt: Partial<Record<Family, number>> = {};
  #unseen: ReadonlySet<Family> = new Set();
  /** When the first policy came into force. */
  #wantedSince: number | undefined;
  /** Whether a family's translation and routes are in the kernel. Undefined before the first look. */
  #programmed: Record<Family, FamilyReadiness | undefined> | undefined;

  constructor(parts: GatewayParts) {
    this.#parts = parts;
    this.#flows = new FlowCleaner(parts.logger);
    this.#reconciler = new Reconciler(parts.kernels, parts.options, parts.lastGood);
    this.#loop = new Loop(
      parts.options.resync,
      (trigger) => this.#run(trigger),
      () => this.#tellContention(),
      (error) => parts.logger.error({ err: error }, 'a reconcile ended in the middle'),
    );
    this.#driftTimer = setInterval(() => this.#lookForDrift(), DRIFT_PERIOD);
  }

  /** Takes what was read from the policy source: a new policy comes into force, a bad one is only told. */
  takePolicy({ source, result, content, since = Date.now() }: LoadedPolicy): void {
    const { view, logger } = this.#parts;
    view.policy.source = source;
    if (!result.ok) {
      view.policy.valid = false;
      view.policy.errors = result.errors;
      const errors = result.errors.slice(0, LOGGED).map(formatError);
      logger.error(
        { source, errors, count: result.errors.length, inForce: view.policy.name ?? null },
        'the policy is invalid; what was in force stays in force',
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
    this.#wantedSince ??= performance.now();
    view.policy.name = policy.name;
    view.policy.generation += 1;
    view.policy.lastChange = since;
    view.policy.rules = policy.rules;
    view.policy.limits = policy.limits;
    view.policy.warnings = policy.warnings.map(({ message }) => message);
    view.bfdEnabled = policy.bfd.enabled && policy.bfd.peers.length > 0;
    const { generation } = view.policy;
    logger.info(
      { source, policy: policy.name, generation, inForceSince: new Date(since).toISOString() },
      'policy loaded',
    );
    for (const warning of view.policy.warnings) logger.warn({ warning }, 'policy');
    this.#loop.request(generation === 1 ? 'start' : 'policy');
  }

  /** Takes a notice that something in the kernel changed. */
  takeEvent({ object, portid, own, what }: KernelEvent): void {
    this.#parts.logger.debug({ object, portid, own, what }, 'the kernel changed');
    if (object !== 'overrun' && !own) {
      // A netlink address is the process id as long as a process has one socket; 0 is the kernel itself.
      const who = object === 'netfilter' || portid === 0 ? what : `pid ${portid} (${what})`;
      changed(this.#writers, portid === 0 ? 'kernel' : 'other', who, performance.now());
    }
    // The sessions hear of a lost link before a reconcile has found out what else is gone with it.
    if (object === 'link' || object === 'address' || object === 'overrun') this.#parts.uplink.look();
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

  /** What a reconcile would change now. Undefined before the first policy. Rejects when the kernel cannot be looked at. */
  async plan(): Promise<Look | undefined> {
    const policy = this.#policy;
    return policy && this.#loop.between(() => this.#reconciler.preview(policy));
  }

  /**
   * When the kernel and the uplink were last known to be looked after: both looks had come to an end. Undefined
   * before the first time. Without a policy nobody knows what to look for, so that never is.
   */
  get watchedAt(): number | undefined {
    const { watchedAt } = this.#parts.uplink;
    if (this.#seenAt === undefined || watchedAt === undefined) return undefined;
    return Math.min(this.#seenAt, watchedAt);
  }

  /** How long a policy has been in force that nobody looks after, ms; 0 before the first policy. */
  get neglected(): number {
    if (this.#wantedSince === undefined) return 0;
    return performance.now() - Math.max(this.#wantedSince, this.watchedAt ?? 0);
  }

  /** No more reconciles; the kernel stays as it is. */
  async stop(): Promise<void> {
    clearInterval(this.#driftTimer);
    await this.#loop.stop();
  }

  /** Removes everything of the agent's from the kernel. After `stop`. */
  async remove(): Promise<void> {
    try {
      await this.#reconciler.cleanup(await this.#reconciler.lookForCleanup());
    } catch (error) {
      this.#parts.logger.error({ reason: explain(error as Error) }, 'cannot remove the kernel state');
    }
  }

  /** One run of the loop. */
  async #run(trigger: Trigger): Promise<RunResult> {
    // Nothing is touched, and nothing removed, before a policy was loaded.
    if (this.#policy === undefined) return { ok: true, repaired: false };
    const { view, metrics, onLook } = this.#parts;
    const at = Date.now();
    const began = performance.now();
    let changes = 0;
    let repaired = false;
    let outcome: Outcome | undefined;
    let failures: Failure[];
    let taken: Failure[] = [];
    let followed: Plan | undefined;
    try {
      const first = await this.#observe(this.#policy, trigger);
      changes = countChanges(first.changes);
      const renewed = this.#isNew(first.wishes);
      // What was refused before and is tried again is no repair.
      const again = !PUTS_BACK.has(trigger) && view.kernel.failed.length > 0;
      repaired = changes > 0 && !renewed && !again;
      const cause = repaired ? (this.#unrepaired ?? this.#causeOf(first)) : undefined;
      if (changes > 0) {
        this.#tellChanges(first, trigger, cause);
        changed(this.#writers, 'agent', '', performance.now());
      }
      this.#changingSince = performance.now();
      outcome = await this.#reconciler.carryOut(first).finally(() => {
        this.#changingSince = undefined;
      });
      const { look, families } = outcome;
      failures = outcome.failures;
      taken = look.failures;
      if (look !== first) {
        changed(this.#writers, 'agent', '', performance.now());
        this.#note(look, undefined);
      }
      const intact = FAMILIES.every((family) => families[family] === 'done' || families[family] === 'held');
      this.#unrepaired = intact ? undefined : cause;
      if (intact) {
        const translation = first.changes.nat.length > 0 || this.#isNew(look.wishes);
        Object.assign(this.#fulfilled, look.wishes);
        if (repaired && cause?.by !== 'agent') this.#countRepairs(first);
        this.#parts.onApplied(look.plan);
        if (translation) followed = look.plan;
      }
      this.#take(this.#policy, outcome);
      await onLook(look);
    } catch (error) {
      // The kernel could not be looked at: nothing is known to be wrong, so sessions stay as they are.
      failures = [listingFailure(error as Error)];
    }
    const ok = failures.length === 0;
    const error = failures[0]?.message;
    const failing = [...failures, ...taken];
    view.kernel.failed = failedSince(view.kernel.failed, failing, at);
    const durationMs = performance.now() - began;
    view.kernel.inSync =
      failing.length === 0 && view.kernel.families.every(({ state }) => state !== 'blocked');
    view.kernel.last = { at, trigger, ok, changes, durationMs, ...(error && { error }) };
    metrics.reconciled({ ok, trigger, durationMs });
    const blocked = view.kernel.families.filter(({ state }) => state === 'blocked');
    const reasons = blocked.map(({ family, reason }) => `IPv${family}: ${reason}`);
    this.#tellFailure([...reasons, ...view.kernel.failed.map(({ message }) => message)].join('; '), trigger);
    if (followed !== undefined) this.#flows.follow(followed);
    const held = !ok && outcome !== undefined && FAMILIES.every((one) => HELD.has(outcome.families[one]));
    return { ok, repaired, held, putBack: PUTS_BACK.has(trigger) };
  }

  /** Whether something is asked for that was not fulfilled last. */
  #isNew(wishes: Look['wishes']): boolean {
    return FAMILIES.some(
      (family) => wishes[family] !== undefined && wishes[family] !== this.#fulfilled[family],
    );
  }

  /** Looks at the kernel and notes what the status shows of it. */
  async #observe(policy: Policy, trigger: Trigger): Promise<Look> {
    const { kernels } = this.#parts;
    const before = this.#look && kernels.fingerprint(this.#look);
    const settled = trigger === 'policy' && before !== undefined && before === this.#fingerprint;
    const unchanged = {
      routing: settled && !this.#routingTouched,
      nat: settled && !this.#natTouched,
    };
    [this.#routingTouched, this.#natTouched] = [false, false];
    looked(this.#writers, performance.now());
    this.#blind = true;
    const anew = !PUTS_BACK.has(trigger);
    const look = await this.#reconciler.look(policy, unchanged, anew).catch((error: unknown) => {
      // What was touched before has not been seen.
      [this.#routingTouched, this.#natTouched] = [true, true];
      throw error;
    });
    this.#note(look, before);
    return look;
  }

  /** Notes what the status shows of a look, and the fingerprint of what it found. */
  #note(look: Look, fingerprint: string | undefined): void {
    const { kernels, view } = this.#parts;
    const { families, interfaces } = look.plan;
    const backends = [...new Set([look.backend[4], look.backend[6]])].filter(Boolean);
    kernels.claims.hold(look.held);
    this.#tellNotes(look.notes);
    Object.assign(view.kernel, { families, interfaces, notes: look.notes });
    if (backends.length > 0) view.kernel.backend = backends.join(', ');
    // What is changed now is looked at once more.
    const quiet = countChanges(look.changes) === 0 && isDeepStrictEqual(look.wishes, this.#look?.wishes);
    this.#fingerprint = quiet ? fingerprint : undefined;
    this.#look = look;
    const unknown = look.failed.filter(({ verdict }) => verdict === 'unknown');
    this.#unseen = new Set(unknown.flatMap(({ family }) => family ?? []));
    const used = families.filter(({ state }) => state === 'programmed');
    this.#blind = used.length > 0 && used.every(({ family }) => this.#unseen.has(family));
    this.#seen();
  }

  /** Takes in what a look and its changes came to. */
  #take(policy: Policy, { look: { plan }, families, failures, policies, missing }: Outcome): void {
    const programmed: Record<Family, FamilyReadiness | undefined> = { 4: notYet(), 6: notYet() };
    for (const { family, state, reason } of plan.families) {
      const outcome = families[family];
      // Of what could not be looked at nothing is known to be wrong; for a while.
      const since = this.#familySeenAt[family] ?? this.#wantedSince ?? 0;
      if (outcome === 'unknown' && state === 'programmed' && performance.now() - since < WATCHDOG.unwatched) {
        programmed[family] = this.#programmed?.[family];
        continue;
      }
      const failure = failures.find((one) => one.family === undefined || one.family === family);
      const ready = state === 'programmed' && HELD.has(outcome);
      programmed[family] = ready ? { ready } : notYet(reason ?? failure?.message);
      if (!plan.leftAlone.includes(family)) {
        this.#peers[family] = plan.peers.filter(({ remote }) => familyOf(remote as Address) === family);
      }
    }
    this.#programmed = programmed;
    const newest = FAMILIES.every((family) => policies[family] === policy);
    if (newest && FAMILIES.some((family) => programmed[family]?.ready)) {
      this.#parts.onInForce(this.#fresh, missing);
      this.#fresh = undefined;
    }
    this.#parts.uplink.configure(waysOut(plan, policies));
    this.publish();
  }

  /**
   * Tells the BFD process which sessions there are and which families may carry traffic. Nothing of a family before
   * both the kernel and the uplink are known: a new agent process must not interrupt the sessions of the one before.
   */
  publish(): void {
    const { uplink, onIntent } = this.#parts;
    const intent: BfdIntent = { peers: [], readiness: {} };
    for (const family of FAMILIES) {
      const programmed = this.#programmed?.[family];
      const readiness = programmed?.ready ? uplink.readiness(family) : programmed;
      if (readiness === undefined) continue;
      intent.readiness[family] = readiness;
      intent.peers.push(...this.#peers[family]);
    }
    if (Object.keys(intent.readiness).length > 0) onIntent(intent);
  }

  /** Logs the notes that are new. */
  #tellNotes(notes: readonly string[]): void {
    const { view, logger } = this.#parts;
    for (const note of notes) {
      if (!view.kernel.notes.includes(note)) logger.warn({ note }, 'not everything is as the policy says');
    }
  }

  /** Looks at what no event tells of. With the events it is a look at the kernel, as long as none of the others fails. */
  #lookForDrift(): void {
    if (this.#look === undefined) return;
    if (this.#parts.kernels.fingerprint(this.#look) !== this.#fingerprint) this.#loop.request('drift');
    this.#seen();
  }

  /** Notes that the kernel is in view, as far as it is. */
  #seen(): void {
    const now = performance.now();
    // Changes that do not come to an end keep every later look back.
    const stuck = now - (this.#changingSince ?? now) > WATCHDOG.longestChange;
    if (this.#blind || stuck) return;
    this.#seenAt = now;
    for (const family of FAMILIES) if (!this.#unseen.has(family)) this.#familySeenAt[family] = this.#seenAt;
  }

  /** Who is behind what has to be put back. */
  #causeOf({ changes, backend }: Look): Cause {
    // What was done just before the look may not have been told yet.
    this.#parts.readEvents();
    const legacy = Object.values(backend).includes('legacy');
    const told = changes.sysctl.length === 0 && changes.nat.every((step) => isRuleStep(step) && !legacy);
    return causeOf(this.#writers, told);
  }

  #tellChanges({ changes }: Look, trigger: Trigger, cause: Cause | undefined): void {
    const { logger } = this.#parts;
    const lines = changeLines(changes);
    const shown = { trigger, changes: countChanges(changes), lines: lines.slice(0, LOGGED) };
    if (cause === undefined) logger.info(shown, 'changing the kernel');
    else if (cause.by === 'agent') logger.info({ ...shown, because: cause.who }, 'changing the kernel');
    else logger.warn({ ...shown, writer: cause.who }, 'repairing drift');
  }

  #countRepairs({ changes }: Look): void {
    const { view, metrics } = this.#parts;
    for (const [object, count] of Object.entries(countObjects(changes))) {
      metrics.repaired(object, count);
      view.kernel.driftRepaired[object] = (view.kernel.driftRepaired[object] ?? 0) + count;
    }
  }

  #tellContention(): void {
    this.#parts.logger.warn(
      { writer: this.#writers.other?.what ?? 'unknown' },
      'somebody changes the rules again and again; repairs are limited to two a second',
    );
  }

  /** Logs what keeps the kernel from being as the policy says when it is new, and its end. */
  #tellFailure(reason: string, trigger: Trigger): void {
    const { logger } = this.#parts;
    if (reason === '') {
      if (this.#failures.ended()) logger.info({ trigger }, 'the kernel is as the policy says again');
    } else if (this.#failures.isNew(reason)) {
      logger.error({ trigger, reason }, 'cannot bring the kernel to the policy; will try again');
    }
  }
}
