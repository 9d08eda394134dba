/**
 * Follows the conntrack table: from events and dumps to flows that begin and end, and to totals that count each
 * packet once. Pure: sockets and clocks are the reader's.
 *
 * The rule that makes the totals exact: of every flow in the table here, the counters are what of it is in the
 * totals already, and of a flow that is not in the table nothing is. So what a dump or the end of a flow adds is
 * the difference, whatever was lost, read twice or read late.
 *
 * A part of a dump shows the table as it was when the kernel wrote it, which it does when the part before it is
 * fetched. The events until then are in the event socket's queue by then: an entry is in the hash before its NEW is
 * sent, and its DESTROY is sent before it leaves the hash. So the events that wait are taken before a part is used,
 * and flows that ended since the dump began are left out of it: they may be in a part that was written before.
 */
import type { Family } from '../../lib/prefix.ts';
import { KEPT_NAMES, OTHERS, PolicyNames } from './names.ts';
import { Flow, FlowTable, VERDICTS, type Verdict } from './table.ts';
import { type ConntrackEntry, IPS_DYING, isReplica } from './wire.ts';

/** Packets and octets of one kind of flow, in the order of the flow's counters, and how many began and ended. */
export interface Total {
  verdict: Verdict;
  policy: string;
  family: Family;
  /** IP protocol number. */
  protocol: number;
  snat: boolean;
  dnat: boolean;
  inbound: boolean;
  started: number;
  ended: number;
  /** originalPackets, originalBytes, replyPackets, replyBytes. */
  counters: [number, number, number, number];
}

/** Events that were lost between two times (Unix, ms), and what reading the table again recovered of them. */
export interface Gap {
  from: number;
  to: number;
  /** Events that the kernel dropped; undefined when they were not counted (the agent was not running). */
  events?: number;
  /** Flows whose begin, and whose end, was found by reading the table. */
  foundStarts: number;
  foundEnds: number;
  /** Events that could not be recovered. */
  lost: number;
}

/** Callbacks of the tracker. The cursors are valid during the call only. */
export interface TrackerEvents {
  /** Decides verdict, policy and direction of a new flow. `mark`: of its connection; 0: none. */
  classify(flow: Flow, mark: number): void;
  /** Not called for replicas, as `ended` is not. */
  started(flow: Flow): void;
  /** `estimated`: the end was not seen, only that the flow is no longer there. */
  ended(flow: Flow, at: number, estimated: boolean): void;
  /** The table was read again after a gap. */
  repaired(gap: Gap): void;
}

/** What a restart needs, besides the flows of the table. */
export interface TrackerState {
  /** When it was taken; Unix, ms. */
  at: number;
  /** The names of policies by number; null where a number is free. */
  policies: (string | null)[];
  totals: Total[];
}

/** A flow that two dumps in a row do not show is gone: one may skip an entry that is about to expire. */
const MISSED_DUMPS = 2;

/** Two time stamps of the same moment differ by less, ms. */
const SAME_TIME = 1;

export class Tracker {
  readonly table: FlowTable;
  /** Events read, by kind. */
  readonly events = { new: 0, destroy: 0 };
  /** Flows for which there was no room: they have records and are counted, but cannot be looked up while they live. */
  untracked = 0;
  readonly #out: TrackerEvents;
  readonly #totals = new Map<number, Total>();
  readonly #names = new PolicyNames();
  #generation = 0;
  #dumping = false;
  /** The position of the search for flows that are gone. */
  #sweep: Iterator<Flow, void> | undefined;
  /** Until the first dump of a fresh start is over: what it finds was there before, and is not counted. */
  #adopting = true;
  /** Flows that have ended since the dump under way began, as `nameOf` has them. */
  readonly #endedMeanwhile = new Set<number>();
  #gap: (Gap & { dumpsLeft: number }) | undefined;

  constructor(capacity: number, out: TrackerEvents) {
    this.table = new FlowTable(capacity);
    this.#out = out;
  }

  /** The number of a policy's name. */
  policyNumber(name: string): number {
    return this.#names.numberOf(name);
  }

  policyName(flow: Flow): string {
    return this.#names.nameOf(flow.policy);
  }

  /**
   * Forgets the names of policies that are neither in force nor those of a flow, but for the last ones. What they
   * have counted goes on as that of `OTHERS`. To be called between two dumps.
   */
  forget(inForce: ReadonlySet<string>): void {
    if (this.#names.size <= KEPT_NAMES + inForce.size) return;
    const living = new Set<number>();
    for (const { policy } of this.table) living.add(policy);
    const forgotten = this.#names.forget((number, name) => living.has(number) || inForce.has(name));
    if (forgotten.size === 0) return;
    const others = this.#names.numberOf(OTHERS);
    for (const [key, total] of this.#totals) {
      if (!forgotten.has(policyOfKey(key))) continue;
      this.#totals.delete(key);
      this.#fold(total, others);
    }
  }

  get totals(): Iterable<Total> {
    return this.#totals.values();
  }

  /** Whether the table has to be read now. */
  get mustDump(): boolean {
    return this.#adopting || this.#gap !== undefined;
  }

  /** A flow began. `now`: when at the earliest, if the kernel has no time stamp. */
  began(entry: ConntrackEntry, now: number): void {
    this.events.new++;
    const known = this.table.find(entry);
    if (known?.announced) return;
    const flow = known ?? this.#add(entry, now);
    if (flow !== undefined) {
      if (!flow.announced) this.#announce(flow);
    } else if (!isReplica(entry)) {
      this.untracked++;
      this.#out.started(this.#unseen(entry, now));
    }
  }

  /** A flow ended. `now`: when, if the kernel has no time stamp. */
  ended(entry: ConntrackEntry, now: number): void {
    this.events.destroy++;
    if (this.#dumping) this.#endedMeanwhile.add(nameOf(entry));
    const known = this.#findSame(entry, now);
    const flow = known ?? this.#unseen(entry, now);
    if (known === undefined && this.#adopting) {
      flow.announced = true;
      if (entry.counters) flow.counters = entry.counters;
    }
    if (entry.startTime !== undefined) flow.start = entry.startTime;
    this.#count(flow, entry);
    this.#setOwner(flow, entry);
    this.#end(flow, entry.stopTime ?? entry.eventTime ?? now, false);
    if (known !== undefined) this.table.remove(known);
  }

  /** Events were lost from `from` to `to`; `events` of them, if that is known. Asks for dumps. */
  lost(from: number, to: number, events?: number): void {
    const gap = this.#gap ?? { from, to, foundStarts: 0, foundEnds: 0, lost: 0, dumpsLeft: 0 };
    gap.to = to;
    if (events !== undefined) gap.events = (gap.events ?? 0) + events;
    // A dump under way shows in part what was before.
    gap.dumpsLeft = MISSED_DUMPS + (this.#dumping ? 1 : 0);
    this.#gap = gap;
  }

  /** A dump is asked for now. */
  beginDump(): void {
    this.#dumping = true;
    this.#endedMeanwhile.clear();
    this.#generation = (this.#generation + 1) & 0xff;
  }

  /** The entries of a part of the dump, when the events that wait have been taken. */
  applyPart(entries: Iterable<ConntrackEntry>, now: number): void {
    for (const entry of entries) {
      const gone = (entry.status & IPS_DYING) !== 0 || this.#endedMeanwhile.has(nameOf(entry));
      if (!gone) this.#seen(entry, now);
    }
  }

  /**
   * The dump is complete: flows that two in a row did not show are gone. Ends at most `most` of them, and returns
   * whether that was all; if not, it has to be called again before the next dump.
   */
  endDump(now: number, most = Number.POSITIVE_INFINITY): boolean {
    this.#sweep ??= this.table[Symbol.iterator]();
    for (let count = 0; count < most; ) {
      const { value: flow, done } = this.#sweep.next();
      if (done) {
        this.#sweep = undefined;
        this.#dumpOver();
        return true;
      }
      if (((this.#generation - flow.generation) & 0xff) < MISSED_DUMPS) continue;
      this.#vanished(flow, now);
      count++;
    }
    return false;
  }

  /** What `load` needs to go on from here, besides the table's `save`. */
  save(now: number): TrackerState {
    return { at: now, policies: this.#names.save(), totals: [...this.#totals.values()] };
  }

  /** Goes on from what `save` and the table's `save` gave; the time between is a gap. For a new tracker. */
  load({ at, policies, totals }: TrackerState, flows: Buffer, now: number): void {
    this.#names.load(policies);
    for (const total of totals) this.#fold(total, this.policyNumber(total.policy));
    this.table.load(flows, policies.length);
    for (const flow of this.table) flow.generation = this.#generation;
    this.#adopting = false;
    this.lost(at, now);
  }

  #dumpOver(): void {
    this.#dumping = false;
    this.#adopting = false;
    if (this.#gap === undefined || --this.#gap.dumpsLeft > 0) return;
    const { dumpsLeft: _, ...gap } = this.#gap;
    this.#gap = undefined;
    gap.lost = Math.max(0, (gap.events ?? 0) - gap.foundStarts - gap.foundEnds);
    this.#out.repaired(gap);
  }

  /** The flow of an entry, unless another one took its place unseen. */
  #findSame(entry: ConntrackEntry, now: number): Flow | undefined {
    const flow = this.table.find(entry);
    if (flow === undefined || !isAnother(flow, entry)) return flow;
    this.#vanished(flow, now);
    return undefined;
  }

  #add(entry: ConntrackEntry, now: number): Flow | undefined {
    const flow = this.table.add(entry);
    if (flow !== undefined) this.#decide(flow, entry, now);
    return flow;
  }

  /** A flow that is not in the table. */
  #unseen(entry: ConntrackEntry, now: number): Flow {
    const flow = new Flow();
    flow.set(entry);
    this.#decide(flow, entry, now);
    return flow;
  }

  #decide(flow: Flow, entry: ConntrackEntry, now: number): void {
    flow.start = entry.startTime ?? entry.eventTime ?? now;
    flow.exactStart = entry.startTime !== undefined;
    flow.generation = this.#generation;
    this.#out.classify(flow, entry.mark ?? 0);
    this.#setOwner(flow, entry);
  }

  /**
   * Follows whose flow it is: a gateway of the group takes over what a dead one had. The first owner counts and records
   * its begin, the last one its end.
   */
  #setOwner(flow: Flow, entry: ConntrackEntry): void {
    const { verdict } = flow;
    if (verdict === 'translated' && isReplica(entry)) {
      flow.verdict = 'replica';
      flow.announced = true;
    } else if (verdict === 'replica' && !isReplica(entry)) {
      flow.verdict = 'translated';
    }
  }

  #announce(flow: Flow): void {
    flow.announced = true;
    this.#totalOf(flow, flow.policy).started++;
    this.#out.started(flow);
  }

  /** Adds to the totals what is new in an entry's counters. */
  #count(flow: Flow, { counters }: ConntrackEntry): void {
    if (counters === undefined) return;
    const total = this.#totalOf(flow, flow.policy).counters;
    // The kernel's counters may have been reset (conntrack -L -z).
    total[0] += Math.max(0, counters.originalPackets - flow.counter(0));
    total[1] += Math.max(0, counters.originalBytes - flow.counter(1));
    total[2] += Math.max(0, counters.replyPackets - flow.counter(2));
    total[3] += Math.max(0, counters.replyBytes - flow.counter(3));
    flow.counters = counters;
  }

  #end(flow: Flow, at: number, estimated: boolean): void {
    if (flow.verdict === 'replica') return;
    const total = this.#totalOf(flow, flow.policy);
    // Its begin was lost, and it is a connection all the same.
    if (!flow.announced) total.started++;
    total.ended++;
    this.#out.ended(flow, at, estimated);
  }

  /** A flow of the table is gone without a DESTROY event. */
  #vanished(flow: Flow, now: number): void {
    if (this.#gap !== undefined) this.#gap.foundEnds++;
    this.#end(flow, now, true);
    this.table.remove(flow);
  }

  /** A dump shows an entry. */
  #seen(entry: ConntrackEntry, now: number): void {
    let flow = this.#findSame(entry, now);
    if (flow === undefined) {
      flow = this.#add(entry, now);
      if (flow === undefined) return;
      if (this.#adopting) {
        flow.announced = true;
        if (entry.counters) flow.counters = entry.counters;
      } else if (flow.verdict === 'replica' && this.#gap !== undefined) {
        this.#gap.foundStarts++;
      }
    }
    flow.generation = this.#generation;
    if (!flow.exactStart && entry.startTime !== undefined) {
      flow.start = entry.startTime;
      flow.exactStart = true;
    }
    this.#count(flow, entry);
    this.#setOwner(flow, entry);
    if (!flow.announced && this.#gap !== undefined) {
      this.#gap.foundStarts++;
      this.#announce(flow);
    }
  }

  /** Adds a total to that of a policy of the same kind. */
  #fold(total: Total, policy: number): void {
    const sum = this.#totalOf(total, policy);
    sum.started += total.started;
    sum.ended += total.ended;
    for (const i of [0, 1, 2, 3] as const) sum.counters[i] += total.counters[i];
  }

  #totalOf(kind: Kind, policy: number): Total {
    const key = totalKey(kind, policy);
    let total = this.#totals.get(key);
    if (total === undefined) {
      const { verdict, family, protocol, snat, dnat, inbound } = kind;
      total = {
        ...{ verdict, policy: this.#names.nameOf(policy), family, protocol, snat, dnat, inbound },
        ...{ started: 0, ended: 0, counters: [0, 0, 0, 0] },
      };
      this.#totals.set(key, total);
    }
    return total;
  }
}

/** A number that two flows hardly ever share: the id alone is one of 32 bits. */
const nameOf = ({ id, original }: ConntrackEntry): number => id * 0x10000 + original.sourcePort;

/** Whether an entry with a flow's key is not that flow, but one after it. */
function isAnother(flow: Flow, { startTime, counters }: ConntrackEntry): boolean {
  if (flow.exactStart && startTime !== undefined) return Math.abs(startTime - flow.start) > SAME_TIME;
  return (
    counters !== undefined &&
    (counters.originalPackets < flow.counter(0) || counters.replyPackets < flow.counter(2))
  );
}

type Kind = Pick<Total, 'verdict' | 'family' | 'protocol' | 'snat' | 'dnat' | 'inbound'>;

/** A number for each kind of flow that is counted apart. */
const totalKey = ({ verdict, family, protocol, snat, dnat, inbound }: Kind, policy: number): number =>
  policy * 0x10000 +
  protocol * 0x100 +
  VERDICTS.indexOf(verdict) * 0x10 +
  (family === 6 ? 8 : 0) +
  (snat ? 4 : 0) +
  (dnat ? 2 : 0) +
  (inbound ? 1 : 0);

const policyOfKey = (key: number): number => Math.floor(key / 0x10000);
