/**
 * The state changes of each BFD session since the start of this process, from the reports of the BFD process, which count
 * every change and follow each. Pure.
 */
import type { EngineReport, SessionReport, SessionStateName } from '../../bfd/intent.ts';
import { type Moment, wallTime } from '../../lib/moment.ts';

/** A session entered a state. */
export interface StateChange {
  /** Unix milliseconds. */
  at: number;
  /** Null: it was in `to` in the first report. */
  from: SessionStateName | null;
  to: SessionStateName;
  /** The local diagnostic, RFC 5880 4.1. */
  diagnostic: number;
}

/** Changes kept of each session, the newest. */
export const KEPT_CHANGES = 64;

type Session = Pick<SessionReport, 'id' | 'local' | 'remote'>;
type Counted = SessionReport['transitions'][number];

interface Known {
  id: number;
  counted: Counted[];
  changes: StateChange[];
}

const keyOf = ({ local, remote }: Session): string => `${local} ${remote}`;

const countOf = (list: readonly Counted[], { from, to, diagnostic }: Counted): number =>
  list.find((one) => one.from === from && one.to === to && one.diagnostic === diagnostic)?.count ?? 0;

export class SessionHistory {
  #sessions = new Map<string, Known>();

  /** Adds a report. Sessions that are not in it are removed. `now`: Unix milliseconds. */
  observe({ sessions }: Pick<EngineReport, 'sessions'>, now: number): void {
    this.#sessions = new Map(sessions.map((session) => [keyOf(session), this.#next(session, now)]));
  }

  /** The changes of a session, the newest last. */
  of(session: Session): readonly StateChange[] {
    return this.#sessions.get(keyOf(session))?.changes ?? [];
  }

  #next(
    { id, local, remote, state, since, localDiagnostic, transitions }: SessionReport,
    now: number,
  ): Known {
    const known = this.#sessions.get(keyOf({ id, local, remote }));
    if (known?.id !== id) {
      const first: StateChange = { at: since, from: null, to: state, diagnostic: localDiagnostic };
      return { id, counted: transitions, changes: [first] };
    }
    const fresh = transitions.filter((one) => one.count > countOf(known.counted, one));
    // Several changes come within one step of the session only: the change into its state is the last.
    const inOrder = fresh.toSorted((a, b) => Number(a.to === state) - Number(b.to === state));
    const changes = inOrder.map(({ from, to, diagnostic }): StateChange => {
      return { at: to === state ? since : now, from, to, diagnostic };
    });
    return { id, counted: transitions, changes: [...known.changes, ...changes].slice(-KEPT_CHANGES) };
  }
}

/** A report received at `at`, with its times by the current wall clock. */
export function reportNow(report: EngineReport, at: Moment, now: Moment): EngineReport {
  const sessions = report.sessions.map((session) => {
    const since = { wall: session.since, monotonic: at.monotonic - (at.wall - session.since) };
    return { ...session, since: wallTime(since, now) };
  });
  return { ...report, sessions };
}
