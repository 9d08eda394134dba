/**
 * The gateway as a member of a group: what the plan, BFD and a drain mean for the exchange, and what its reports mean for
 * the plan.
 *
 * The last view is kept in the state directory. A process that starts in the same pod goes on with it, because the kernel
 * still forwards by it and has the replicas, until the exchange has heard the other members: so a restart of the agent
 * takes no session out of Up. A view that is older than `KEPT` is not used.
 */

import { uptime } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { EngineReport, SessionReport } from '../../bfd/intent.ts';
import { clear, readState, replaceState } from '../../lib/files.ts';
import { parseJson } from '../../lib/json.ts';
import type { Log } from '../../lib/log.ts';
import { type Address, FAMILIES, type Family } from '../../lib/prefix.ts';
import { keptText, parseKept } from './kept.ts';
import type { LookupAnswer, MemberAnswer } from './lookups.ts';
import type { GroupSettings } from './messages.ts';
import { type GroupFacts, type GroupReport, type GroupView, groupFacts } from './model.ts';
import { GroupThread } from './thread.ts';

/** How long a kept view is used after it was written, s: the others adopt the flows of a member that is gone for so long. */
const KEPT = 10;
/** How long it is used at most while the exchange, which has started, connects, ms. */
const SETTLE_TIMEOUT = 5000;
/** How often it is written, s. */
const KEEP_INTERVAL = 5;
/** How long a handover takes at most without another limit, ms. */
export const HANDOVER_TIMEOUT = 3000;

/** How long of a drain's time the other members have to acknowledge every flow, ms; traffic moves in the rest. */
export const handoverLimit = (timeoutMs: number): number =>
  Math.max(Math.min(timeoutMs, HANDOVER_TIMEOUT), timeoutMs / 2);
const MAX_SIZE = 1 << 18;
const MAX_VALUES = 1 << 14;

export interface GroupOptions {
  stateDir: string;
  log: Log;
  /** What the plan of a family follows from has changed; undefined: the family has no group any more. */
  onFacts(family: Family, facts: GroupFacts | undefined): void;
  /** An address that was held before has to be announced again: another member held it too. */
  onAnnounce(address: Address): void;
  /** Answers a lookup of another member. */
  answer(query: string): Promise<LookupAnswer>;
  /** Default: the system's. */
  thread?: (
    options: ConstructorParameters<typeof GroupThread>[0],
  ) => Pick<GroupThread, 'configure' | 'counts' | 'drain' | 'lookup' | 'setPath' | 'stop' | 'undrain'>;
  /** Seconds since the machine started. Default: the system's. */
  uptime?: () => number;
}

export class Group {
  readonly #options: GroupOptions;
  readonly #thread;
  readonly #uptime: () => number;
  readonly #file: string;
  readonly #views = new Map<Family, GroupView>();
  /** What was kept by a former process, until the exchange has taken over. */
  #kept: Partial<Record<Family, GroupFacts>>;
  /** What the last views came to. */
  readonly #facts: Partial<Record<Family, GroupFacts>> = {};
  readonly #keeper: NodeJS.Timeout;
  /** Ends the use of what was kept; set when the first view came. */
  #settling: NodeJS.Timeout | undefined;
  /** The exchange has had `SETTLE_TIMEOUT` to hear the others. */
  #waited = false;
  #settings: GroupSettings | undefined;
  /** `configure` as text, to detect a change; undefined before the first time. */
  #configured: string | undefined;
  #draining = false;
  /** Whether the last report of BFD was of a drain: a handover begins before it. */
  #reported = false;
  #stopped = false;
  /** Families whose handover a drain waits for. */
  #handover: { families: Set<Family>; done(): void } | undefined;

  constructor(options: GroupOptions) {
    this.#options = options;
    this.#uptime = options.uptime ?? uptime;
    this.#file = join(options.stateDir, 'group.json');
    this.#kept = this.#recall();
    const { log, answer, thread = (given) => new GroupThread(given) } = options;
    this.#thread = thread({ log, answer, report: (report) => this.#receive(report) });
    this.#keeper = setInterval(() => this.#keep(), KEEP_INTERVAL * 1000);
    this.#keeper.unref();
  }

  /** Reports what a former process kept. */
  start(): void {
    for (const family of FAMILIES) {
      if (this.#kept[family] !== undefined) this.#options.onFacts(family, this.#kept[family]);
    }
  }

  /**
   * What follows from the plan; undefined: no group. The families in `leftAlone` stay as they are, and hold no address: a
   * link is down, or has no address.
   */
  configure(wanted: GroupSettings | undefined, leftAlone: readonly Family[] = []): void {
    const settings = this.#withLeftAlone(wanted, leftAlone);
    const text = JSON.stringify(settings) ?? '';
    if (text === this.#configured) return;
    this.#configured = text;
    this.#settings = settings;
    for (const family of FAMILIES) {
      if (settings?.configs.some((config) => config.family === family)) continue;
      this.#views.delete(family);
      delete this.#kept[family];
      delete this.#facts[family];
      this.#options.onFacts(family, undefined);
    }
    const resumes = FAMILIES.filter((family) => this.#kept[family] !== undefined);
    this.#thread
      .configure(settings && { ...settings, resumes })
      .catch((error: Error) => this.#options.log.error({ err: error }, 'cannot configure the group'));
  }

  #withLeftAlone(wanted: GroupSettings | undefined, leftAlone: readonly Family[]): GroupSettings | undefined {
    const kept = (this.#settings?.configs ?? [])
      .filter(({ family }) => leftAlone.includes(family))
      .map((config) => ({ ...config, cutOff: true as const }));
    if (kept.length === 0) return wanted;
    return { ...this.#settings!, ...wanted, configs: [...(wanted?.configs ?? []), ...kept] };
  }

  /** Removes the sessions with other members from a report of the BFD process, and updates the paths from them. */
  takeReport(report: EngineReport): EngineReport {
    // A process that starts during a drain goes on with it.
    if (report.draining !== this.#reported) {
      this.#reported = report.draining;
      this.#draining = report.draining;
      if (report.draining) this.#thread.drain(HANDOVER_TIMEOUT);
      else this.#thread.undrain();
    }
    const between = report.sessions.filter((session) => this.#isBetweenMembers(session));
    if (between.length === 0) return report;
    for (const { remote, state } of between) this.#thread.setPath(remote as Address, state === 'Up');
    return { ...report, sessions: report.sessions.filter((session) => !between.includes(session)) };
  }

  /**
   * Hands addresses and flows over to the other members. Resolves when each has acknowledged them, or after `limitMs`; at
   * once without a group. False if an undrain came meanwhile.
   */
  async drain(limitMs: number): Promise<boolean> {
    const families = new Set(this.#settings?.configs.map(({ family }) => family));
    if (families.size === 0) return true;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#handover = { families, done: resolve };
    this.#draining = true;
    this.#thread.drain(limitMs);
    // The thread may not be there to answer.
    const timer = setTimeout(resolve, limitMs);
    await promise;
    clearTimeout(timer);
    this.#handover = undefined;
    return this.#draining;
  }

  undrain(): void {
    this.#draining = false;
    this.#handover?.done();
    this.#thread.undrain();
  }

  /** The views of the families that have a group. */
  get views(): GroupView[] {
    return FAMILIES.flatMap((family) => this.#views.get(family) ?? []);
  }

  counts(family: Family): ReturnType<GroupThread['counts']> {
    return this.#thread.counts(family);
  }

  /** This gateway's address in each family that has a group. */
  get self(): Partial<Record<Family, Address>> {
    return Object.fromEntries((this.#settings?.configs ?? []).map(({ family, self }) => [family, self]));
  }

  /** Asks the other members in these families. Each is in the result; one that did not answer in time has no answer. */
  async lookup(query: string, families: readonly Family[], timeoutMs: number): Promise<MemberAnswer[]> {
    const configs = (this.#settings?.configs ?? []).filter(({ family }) => families.includes(family));
    if (configs.length === 0) return [];
    const asked = configs.map(({ family }) => family);
    const answers = await this.#thread.lookup(query, asked, timeoutMs);
    return configs
      .flatMap(({ self, members }) => members.filter((member) => member !== self))
      .map((member) => answers.find((answer) => answer.member === member) ?? { member });
  }

  /** Leaves the group. */
  async stop(): Promise<void> {
    clearInterval(this.#keeper);
    clearTimeout(this.#settling);
    this.#stopped = true;
    // The others adopt the flows of a member that leaves: the next process takes their tables over first.
    clear(this.#file);
    await this.#thread.stop();
  }

  #isBetweenMembers({ local, remote }: SessionReport): boolean {
    return (this.#settings?.configs ?? []).some(
      ({ self, members }) => self === local && (members as readonly string[]).includes(remote),
    );
  }

  #receive(report: GroupReport): void {
    switch (report.type) {
      case 'view':
        this.#takeView(report.view);
        break;
      case 'announce':
        this.#options.onAnnounce(report.address);
        break;
      case 'handed-over':
        if (!report.complete) {
          this.#options.log.warn(
            { family: report.family },
            'the group does not have every flow of this member',
          );
        }
        this.#handover?.families.delete(report.family);
        if (this.#handover?.families.size === 0) this.#handover.done();
        break;
      default:
        report satisfies never;
    }
  }

  #takeView(view: GroupView): void {
    const { family } = view;
    if (!this.#settings?.configs.some((config) => config.family === family)) return;
    this.#views.set(family, view);
    if (this.#kept[family]?.self === view.self && !this.#isSettled(view)) {
      this.#settling ??= setTimeout(() => this.#endWait(), SETTLE_TIMEOUT).unref();
      return;
    }
    delete this.#kept[family];
    const facts = groupFacts(view);
    this.#options.onFacts(family, facts);
    // Under load the counts of flows change ten times a second.
    if (isDeepStrictEqual(facts, this.#facts[family])) return;
    this.#facts[family] = facts;
    this.#keep();
  }

  /** What was kept gives way to the last views, also where they do not change any more. */
  #endWait(): void {
    this.#waited = true;
    for (const view of this.views) if (this.#kept[view.family] !== undefined) this.#takeView(view);
  }

  /** Whether the exchange knows as much as the former process did: it has heard every member that can be reached. */
  #isSettled({ peers }: GroupView): boolean {
    return (
      this.#waited ||
      (peers.some(({ path }) => path) && peers.every(({ path, exchange }) => !path || exchange))
    );
  }

  /** What a former process kept, if it is recent. */
  #recall(): Partial<Record<Family, GroupFacts>> {
    try {
      const content = readState(this.#file, MAX_SIZE);
      if (content === undefined) return {};
      const kept = parseKept(parseJson(content, MAX_VALUES));
      if (kept === undefined) return {};
      const age = this.#uptime() - kept.uptime;
      return age >= 0 && age < KEPT ? kept.facts : {};
    } catch (error) {
      this.#options.log.warn({ err: error }, 'ignoring the kept view of the group');
      return {};
    }
  }

  /** Keeps the views for the next process. */
  #keep(): void {
    const ready = this.views.filter((view) => view.ready);
    // One family may still be live while another one has left.
    if (this.#stopped || ready.length === 0) return;
    const facts = Object.fromEntries(ready.map((view) => [view.family, groupFacts(view)]));
    try {
      replaceState(this.#file, [keptText({ uptime: this.#uptime(), facts })]);
    } catch {
      // A gateway works without its state directory; the next process takes the tables over before it is ready.
    }
  }
}
