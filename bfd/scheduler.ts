/**
 * The one timer of all sessions. It fires at the earliest deadline of any session, and every session that is due by
 * then runs its timers.
 *
 * What is promised: a session expires only if it was due before its sockets were last read to the end. An expiry is
 * approached with a timer that fires early, and then awaited with setImmediate, which runs after the poll phase of
 * the event loop: a pause of the process does not end a session whose packets have arrived meanwhile.
 */
import { monotonicMicroseconds } from './clock.ts';
import { nextDeadline, type Session } from './session.ts';
import { NEVER } from './timers.ts';

/** How long before an expiry the scheduler switches from its timer to setImmediate, microseconds. */
const PRECISE = 2000;
/** Packets that libuv reads from a socket in one iteration; a full batch may mean that more are waiting. */
const READ_BATCH = 32;
/** Full batches in a row after which the sockets count as read: sessions expire under a flood, too. */
const MAX_BACKLOG = 32;
/** The longest delay of a timer, ms. */
const MAX_TIMEOUT = 3_600_000;

/** When the timer has to fire for a session: at its next deadline, or a little before it expires. */
const wakeOf = (session: Session): number => Math.min(nextDeadline(session), session.detectAt - PRECISE / 2);

export class Scheduler<T extends { readonly session: Session }> {
  readonly #sessions: ReadonlyMap<unknown, T>;
  readonly #runTimers: (due: T, readUntil: number) => void;
  readonly #now: () => number;

  #wakeAt = NEVER;
  /** Inside `#run`. */
  #running = false;
  #closed = false;
  #timer: NodeJS.Timeout | undefined;
  #immediate: NodeJS.Immediate | undefined;
  #lastRun = 0;
  #readSinceRun = 0;
  #backlog = 0;
  /** Packets that arrived until then have been read, microseconds. */
  #readUntil = 0;

  /**
   * `sessions`: those to schedule, by any key. `runTimers` has to apply the event `timer` to a session that is due.
   * `now`: microseconds.
   */
  constructor(
    sessions: ReadonlyMap<unknown, T>,
    runTimers: (due: T, readUntil: number) => void,
    now = monotonicMicroseconds,
  ) {
    this.#sessions = sessions;
    this.#runTimers = runTimers;
    this.#now = now;
  }

  /** Counts a packet that was read from a socket. */
  packetRead(): void {
    this.#readSinceRun++;
  }

  /** Makes the timer fire in time for a session that has changed. */
  update(session: Session): void {
    const wake = wakeOf(session);
    // With a single session, the timer need not fire at a deadline that the packet just moved.
    if (this.#sessions.size === 1 && !this.#running && wake > this.#wakeAt) this.#wakeAt = NEVER;
    this.#arm(wake);
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    clearImmediate(this.#immediate);
  }

  #arm(at: number): void {
    if (at >= this.#wakeAt || this.#running || this.#closed) return;
    this.#wakeAt = at;
    clearTimeout(this.#timer);
    const wait = Math.ceil((at - this.#now()) / 1000);
    if (wait <= 0) this.#runAfterReading();
    else this.#timer = setTimeout(this.#run, Math.min(wait, MAX_TIMEOUT));
  }

  #runAfterReading(): void {
    clearImmediate(this.#immediate);
    this.#immediate = setImmediate(this.#afterReading);
  }

  readonly #afterReading = (): void => {
    // The sockets were read since the last run, to their end unless a batch was full.
    const all = this.#readSinceRun < READ_BATCH || this.#backlog === MAX_BACKLOG;
    this.#backlog = all ? 0 : this.#backlog + 1;
    if (all) this.#readUntil = this.#lastRun;
    this.#readSinceRun = 0;
    this.#lastRun = this.#now();
    this.#run();
  };

  readonly #run = (): void => {
    const now = this.#now();
    // Changes of a session meanwhile arm no timer: that is done once, at the end.
    this.#running = true;
    let wake = NEVER;
    let precise = false;
    for (const scheduled of this.#sessions.values()) {
      if (nextDeadline(scheduled.session) <= now) this.#runTimers(scheduled, this.#readUntil);
      if (scheduled.session.detectAt - now < PRECISE) precise = true;
      wake = Math.min(wake, wakeOf(scheduled.session));
    }
    this.#running = false;
    this.#wakeAt = NEVER;
    if (this.#closed) return;
    if (precise) this.#runAfterReading();
    else this.#arm(wake);
  };
}
