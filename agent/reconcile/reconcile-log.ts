/** The log lines of reconciles: changes, drift, failures and their end. */
import type { Log } from '../../lib/log.ts';
import { LogOnChange } from '../../lib/log-on-change.ts';
import type { Trigger } from '../cadence.ts';
import { type Changes, changeLines, countChanges } from './changes.ts';
import type { Cause } from './drift-cause.ts';
import type { Lack } from './kernel-lacks.ts';

/** At most this many changes are named in one line. */
const LOGGED = 20;

const KERNEL_LACKS = 'the kernel lacks what the policy needs';

export class ReconcileLog {
  readonly #log: Log;
  readonly #failures = new LogOnChange();
  #notes: readonly string[] = [];
  #lacks: ReadonlySet<string> = new Set();

  constructor(log: Log) {
    this.#log = log;
  }

  /** What is going to be changed. `cause`: of drift; undefined for a change that the policy asks for. */
  changes(changes: Changes, trigger: Trigger, cause: Cause | undefined): void {
    const lines = changeLines(changes, LOGGED);
    const fields = { trigger, changes: countChanges(changes), lines };
    if (cause === undefined) this.#log.info(fields, 'changing the kernel');
    else if (cause.by === 'agent') this.#log.info({ ...fields, because: cause.who }, 'changing the kernel');
    else this.#log.warn({ ...fields, writer: cause.who }, 'repairing drift');
  }

  /** Logs the notes that were not there before. */
  notes(notes: readonly string[]): void {
    for (const note of notes) {
      if (!this.#notes.includes(note)) this.#log.warn({ note }, 'not everything is as the policy says');
    }
    this.#notes = notes;
  }

  /** What the kernel lacks for the policy, a line each; those that were not there before. */
  lacks(lacks: readonly Lack[]): void {
    for (const lack of lacks) if (!this.#lacks.has(lack.lacks)) this.#log.warn({ ...lack }, KERNEL_LACKS);
    this.#lacks = new Set(lacks.map((lack) => lack.lacks));
  }

  /** Why the kernel is not as the policy says; none: it is. */
  failures(reasons: readonly string[], trigger: Trigger): void {
    const reason = reasons.join('; ');
    if (reason === '') {
      if (this.#failures.ended()) this.#log.info({ trigger }, 'the kernel is as the policy says again');
    } else if (this.#failures.isNew(reason)) {
      this.#log.error({ trigger, reason }, 'cannot apply the policy to the kernel, retrying');
    }
  }

  /** Repairs come faster than they are allowed. `writer`: the program that was last seen changing something. */
  contention(writer = 'unknown'): void {
    this.#log.warn(
      { writer },
      'another program keeps changing the rules; repairs are limited to two a second',
    );
  }
}
