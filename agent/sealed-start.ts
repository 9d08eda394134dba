/**
 * Sessions before there is an agent process. Where the kernel still is as `apply` has left it (seal.ts), the BFD process
 * itself knows what the first observation of an agent process would say. So it probes the way out, begins the sessions, and
 * then starts the agent process, whose first intent ends all this: on a twentieth of a core that comes seconds later.
 *
 * Until then the seal is looked at with every change that the kernel announces, and now and then for the others. When it
 * breaks, no session of the gateway may be Up until the agent process has observed, and repaired, what was changed. The
 * clocks of the watchdog know nothing of this: a gateway whose agent process never observes is not watched, sealed or not.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import type { BfdIntent, FamilyReadiness } from '../bfd/intent.ts';
import type { Clock, Timer } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import { type Address, familyOf, hostPrefix, type Prefix } from '../lib/prefix.ts';
import { VERSION } from '../lib/version.ts';
import { desiredRules, eachDesiredRoute } from '../routing/desired.ts';
import { diffRouting } from '../routing/diff.ts';
import { readConntrackPressure, readConntrackUse } from './flows/conntrack-table.ts';
import type { Options } from './options.ts';
import { makePlan, type Plan, waysOut } from './plan/plan.ts';
import { readFacts } from './pod/facts.ts';
import { LAST_POLICY_FILE } from './policy/last-good.ts';
import type { Policy } from './policy/model.ts';
import { isIntact, isPlanned, type Seal } from './seal.ts';
import { openSealKernel, readSeal, type SealKernel } from './seal-kernel.ts';
import { Uplink, type UplinkParts } from './uplink/uplink.ts';

/** How often the seal is looked at without an event, ms: sysctls and elements of sets have none. */
const CHECK_PERIOD = 5000;

const BROKEN = {
  ready: false,
  // RFC 5880 6.8.17: the path behind this hop may not be there.
  diagnostic: 6,
  reason: 'the kernel is no longer as the init container left it',
} as const satisfies FamilyReadiness;

export interface SealedStartParts {
  options: Pick<
    Options,
    'externalInterface' | 'internalInterface' | 'networkStatus' | 'policyDir' | 'stateDir'
  >;
  /** The policy of the environment, with the sessions. */
  policy: Policy;
  /** The file of the seal. */
  file: string;
  logger: Log;
  clock: Clock;
  /** Called with each intent for the sessions. */
  onIntent(intent: BfdIntent): void;
  /** Default: the system's. */
  openKernel?(): SealKernel;
  openUplink?(parts: UplinkParts): Pick<Uplink, 'close' | 'configure' | 'readiness'>;
}

/** Whether the environment is what the agent process will take its policy from, and nothing was in force before. */
function isEnvironmentInForce({ policyDir, stateDir }: SealedStartParts['options']): boolean {
  if (existsSync(join(stateDir, LAST_POLICY_FILE))) return false;
  try {
    return readdirSync(policyDir).length === 0;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT';
  }
}

/** The sealed plan, as far as the kernel has to be asked again. */
interface SealedPlan {
  seal: Seal;
  plan: Plan;
  /** Destinations of routes that the daemon has added. */
  added: ReadonlySet<Prefix>;
}

/**
 * Compares the plan and the kernel with the seal, and adds the routes to the peers. Returns why the seal does not hold instead.
 * Throws what the kernel answers.
 */
async function complete(
  seal: Seal,
  kernel: SealKernel,
  { options, policy }: SealedStartParts,
): Promise<SealedPlan | string> {
  const { routing } = await kernel.ask({ sysctls: [], hasSets: false });
  const plan = makePlan(policy, await readFacts(routing, options.networkStatus), options);
  if (!isPlanned(seal, VERSION, policy, plan)) return 'another plan';
  const answers = await kernel.ask({ sysctls: plan.sysctls, hasSets: seal.hasSets });
  if (!isIntact(seal, answers)) return 'another kernel';
  const steps = diffRouting(answers.routing, {
    rules: desiredRules(plan.routing),
    routes: eachDesiredRoute(plan.routing),
  });
  const peers = new Set(plan.routing.flatMap((family) => family.peers.map(hostPrefix)));
  const added = new Set(steps.flatMap((step) => (step.kind === 'addRoute' ? step.route.destination : [])));
  if (steps.length !== added.size || [...added].some((destination) => !peers.has(destination))) {
    return 'other routes';
  }
  const [refused] = await kernel.apply(steps);
  if (refused !== undefined) throw refused;
  const sealed = { seal, plan, added };
  return (await isWhole(sealed, kernel)) ? sealed : 'a change meanwhile';
}

/** Whether the kernel still is as it was sealed, but for the daemon's own routes. */
const isWhole = async (
  { seal, plan: { sysctls }, added }: SealedPlan,
  kernel: SealKernel,
): Promise<boolean> => isIntact(seal, await kernel.ask({ sysctls, hasSets: seal.hasSets }), added);

export class SealedStart {
  readonly #parts: SealedStartParts;
  readonly #sealed: SealedPlan;
  readonly #kernel: SealKernel;
  readonly #uplink: Pick<Uplink, 'close' | 'configure' | 'readiness'>;
  readonly #timer: Timer;
  readonly #decided = Promise.withResolvers<void>();
  #checking = false;
  #broken = false;
  #closed = false;

  /**
   * Begins to probe the way out. Undefined where there is no seal, or it is broken, or another policy than the environment's
   * may be in force: then only an agent process knows.
   */
  static async begin(parts: SealedStartParts): Promise<SealedStart | undefined> {
    const { file, logger, options, policy } = parts;
    const seal = readSeal(file);
    if (seal === undefined || !policy.bfd.enabled || !isEnvironmentInForce(options)) return undefined;
    let kernel: SealKernel | undefined;
    let reason: string;
    try {
      kernel = (parts.openKernel ?? openSealKernel)();
      const sealed = await complete(seal, kernel, parts);
      if (typeof sealed !== 'string') return new SealedStart(parts, sealed, kernel);
      reason = sealed;
    } catch (error) {
      reason = (error as Error).message;
    }
    kernel?.close();
    logger.info({ reason }, 'not as the init container left it; sessions wait for the agent process');
    return undefined;
  }

  private constructor(parts: SealedStartParts, sealed: SealedPlan, kernel: SealKernel) {
    this.#parts = parts;
    this.#sealed = sealed;
    this.#kernel = kernel;
    const { clock, logger, policy, openUplink = (uplink) => new Uplink(uplink) } = parts;
    kernel.watch(() => void this.#check());
    this.#timer = clock.every(CHECK_PERIOD, () => void this.#check());
    logger.info(
      {},
      'the kernel is as the init container left it; sessions do not wait for the agent process',
    );
    this.#uplink = openUplink({
      ...{ netlink: kernel.netlink, logger, clock },
      conntrack() {
        const use = readConntrackUse();
        return use && { ...use, pressure: readConntrackPressure() };
      },
      onChange: () => this.#publish(),
      onConflict() {},
      onRoundTrip() {},
    });
    this.#uplink.configure(waysOut(sealed.plan, { 4: policy, 6: policy }));
  }

  /** Resolves when the first intent was given, after so many milliseconds, or at the end. */
  async decided(limitMs: number): Promise<void> {
    const limit = this.#parts.clock.after(limitMs, () => this.#decided.resolve());
    await this.#decided.promise;
    limit.cancel();
  }

  /** Ends it: the agent process knows now. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#timer.cancel();
    this.#uplink.close();
    this.#kernel.close();
    this.#decided.resolve();
  }

  /** Once for all the events of a moment. */
  async #check(): Promise<void> {
    if (this.#checking) return;
    this.#checking = true;
    await turn();
    this.#checking = false;
    if (this.#closed || this.#broken) return;
    const whole = await isWhole(this.#sealed, this.#kernel).catch(() => false);
    if (whole || this.#closed || this.#broken) return;
    this.#broken = true;
    this.#parts.logger.warn({}, `${BROKEN.reason}; sessions wait for the agent process`);
    this.#publish();
  }

  #publish(): void {
    if (this.#closed) return;
    const intent: BfdIntent = { peers: [], readiness: {} };
    for (const { family, state } of this.#sealed.plan.families) {
      const readiness = this.#broken ? BROKEN : this.#uplink.readiness(family);
      if (state !== 'programmed' || readiness === undefined) continue;
      intent.readiness[family] = readiness;
      intent.peers.push(
        ...this.#sealed.plan.peers.filter(({ remote }) => familyOf(remote as Address) === family),
      );
    }
    if (Object.keys(intent.readiness).length === 0) return;
    this.#parts.onIntent(intent);
    this.#decided.resolve();
  }
}
