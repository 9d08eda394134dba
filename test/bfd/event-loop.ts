/** An event loop whose clock the test moves: it stands in for setTimeout and setImmediate of this process. */
import type { Test } from 'tap';

interface Waiting {
  at: number;
  run: () => void;
}

export class EventLoop {
  /** Milliseconds. */
  now = 0;
  /** Timers that have run. */
  fired = 0;
  #timers = new Set<Waiting>();
  #immediates = new Set<Waiting>();

  /** Takes the place of the process's own until the end of the test. */
  constructor(t: Test) {
    const { setTimeout, clearTimeout, setImmediate, clearImmediate } = globalThis;
    const add = (set: Set<Waiting>, run: () => void, wait: number) => {
      const waiting = { at: this.now + wait, run };
      set.add(waiting);
      return waiting;
    };
    Object.assign(globalThis, {
      setTimeout: (run: () => void, ms: number) => add(this.#timers, run, ms),
      setImmediate: (run: () => void) => add(this.#immediates, run, 0),
      clearTimeout: (waiting: Waiting) => this.#timers.delete(waiting),
      clearImmediate: (waiting: Waiting) => this.#immediates.delete(waiting),
    });
    t.teardown(() => Object.assign(globalThis, { setTimeout, clearTimeout, setImmediate, clearImmediate }));
  }

  /** One turn: timers that are due, then `poll`, which reads sockets, then what setImmediate had before that. */
  turn(poll: () => void = () => {}): void {
    for (const timer of [...this.#timers]) {
      if (timer.at > this.now || !this.#timers.delete(timer)) continue;
      this.fired++;
      timer.run();
    }
    poll();
    for (const immediate of [...this.#immediates]) {
      if (this.#immediates.delete(immediate)) immediate.run();
    }
  }

  /** Turns once a millisecond. */
  pass(ms: number, poll?: () => void): void {
    for (let i = 0; i < ms; i++) {
      this.now++;
      this.turn(poll);
    }
  }
}
