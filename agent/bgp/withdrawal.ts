/**
 * When a family may be announced by BGP, and withdrawing it at once.
 *
 * Announced promises: the family translates and routes as a good policy says, its way out works, with BFD one of its sessions
 * is Up, and the gateway is not draining. As soon as one of these ends, the marks of its routes are removed from the kernel.
 * **Withdrawn** promises that, and no more: the kernel has the marks no longer, before BFD takes a session out of Up for the same
 * reason. FRR and the routers follow on their own, within some tenths of a second; a drain waits `ROUTERS_MOVE` for them before
 * AdminDown. The kernel goes on forwarding all the while.
 *
 * Before it is known whether a family is ready, what the kernel has stays: a process that is killed withdraws nothing, and its
 * successor does not either.
 */
import { FAMILIES, type Family } from '../../lib/prefix.ts';
import { type RoutingIntent, withdrawal } from '../../routing/desired.ts';
import type { RoutingStep } from '../../routing/diff.ts';
import { isAnnouncement } from '../../routing/ownership.ts';

/** How long routers have to follow a withdrawal before a drain sends AdminDown, ms. */
export const ROUTERS_MOVE = 500;

/** What decides in one family; undefined: not known yet. */
export interface Gate {
  /** Translation, routes and the way out. */
  ready: boolean | undefined;
  /** With BFD, whether a session of the family is Up; true without. */
  reachable: boolean | undefined;
}

export interface WithdrawalParts {
  /** The kernel has done the steps, or refused some, when this returns or throws. */
  apply(steps: readonly RoutingStep[]): void;
  /** The routing that was last desired. */
  routing(): Readonly<RoutingIntent>;
  /** Called when a reconcile would come to something else than before. */
  onChange(): void;
}

export class Withdrawal {
  readonly #parts: WithdrawalParts;
  #draining = false;
  /** Whether each family may be announced. */
  #allowed: Partial<Record<Family, boolean>> = {};

  constructor(parts: WithdrawalParts) {
    this.#parts = parts;
  }

  /** Whether what a family has may be announced; absent: not known. */
  get allowed(): Readonly<Partial<Record<Family, boolean>>> {
    return this.#allowed;
  }

  /** Whether anything is announced. */
  get isAnnounced(): boolean {
    return this.#parts
      .routing()
      .some(({ family, announced }) => announced !== undefined && this.#allowed[family] !== false);
  }

  /** Withdraws everything until it is called with false. Returns whether anything was announced. */
  drain(draining: boolean): boolean {
    this.#draining = draining;
    const announced = this.isAnnounced;
    if (draining) for (const family of FAMILIES) this.#set(family, false);
    return announced;
  }

  /** Takes what is known of a family. What may no longer be announced is out of the kernel when this returns. */
  update(family: Family, { ready, reachable }: Gate): void {
    if (this.#draining) this.#set(family, false);
    else if (ready === false || reachable === false) this.#set(family, false);
    else if (ready && reachable) this.#set(family, true);
  }

  /**
   * The steps without those that would announce what has been withdrawn since they were planned, and without the removal of
   * the routes that they would have put in their place.
   */
  filter(steps: readonly RoutingStep[]): readonly RoutingStep[] {
    const isWithdrawn = (step: RoutingStep) =>
      'route' in step &&
      step.kind !== 'delRoute' &&
      this.#allowed[step.route.family] === false &&
      isAnnouncement(step.route);
    const withdrawn = new Set(
      steps.flatMap((step) => ('route' in step && isWithdrawn(step) ? [step.route.destination] : [])),
    );
    if (withdrawn.size === 0) return steps;
    return steps.filter(
      (step) => !isWithdrawn(step) && !(step.kind === 'delRoute' && withdrawn.has(step.route.destination)),
    );
  }

  #set(family: Family, allowed: boolean): void {
    if (this.#allowed[family] === allowed) return;
    this.#allowed = { ...this.#allowed, [family]: allowed };
    const { apply, routing, onChange } = this.#parts;
    if (!allowed) {
      const steps = routing()
        .filter((one) => one.family === family && one.announced !== undefined)
        .flatMap(withdrawal);
      try {
        if (steps.length > 0) apply(steps);
      } catch {
        // A reconcile follows.
      }
    }
    onChange();
  }
}
