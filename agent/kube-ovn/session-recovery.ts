/**
 * Kube-OVN's recovery of sessions that stay down (recovery.ts), carried out: the BFD process gets its configuration
 * again. What an operator changed with `bfdd-control` stays, except for sessions that no longer exist: those come back,
 * as Kube-OVN's tests expect.
 */
import type { BfdIntent, EngineReport } from '../../bfd/intent.ts';
import type { Log } from '../../lib/log.ts';
import type { BfdLink } from '../bfd-link.ts';
import { Recovery } from './recovery.ts';

export interface SessionRecoveryParts {
  bfd: Pick<BfdLink, 'command' | 'configure'>;
  /** Why this process cannot do its work: an attempt counts as failed. */
  notLive(): string[];
  logger: Log;
  /** Milliseconds of a monotonic clock. */
  now(): number;
}

export class SessionRecovery {
  readonly recovery = new Recovery();
  readonly #parts: SessionRecoveryParts;
  /** The intent that was last sent. */
  #intent: BfdIntent | undefined;

  constructor(parts: SessionRecoveryParts) {
    this.#parts = parts;
  }

  /** Sends an intent to the BFD process. */
  configure(intent: BfdIntent): void {
    this.#intent = intent;
    // Kube-OVN knows nothing of the sessions between members of a group.
    this.recovery.expect(intent.peers.filter(({ unconditional }) => !unconditional));
    this.#parts.bfd.configure(intent);
  }

  /** Takes a report of the BFD process. */
  observe(report: EngineReport): void {
    const { bfd, notLive, logger, now } = this.#parts;
    for (const episode of this.recovery.observe(report, now())) {
      const { local, remote, attempts } = episode;
      // It never rejects.
      if (episode.state === '') void bfd.command(['allow', remote]);
      if (this.#intent !== undefined) bfd.configure(this.#intent);
      this.recovery.finished(episode, notLive()[0]);
      logger.warn({ local, remote, attempts }, 'session still down, configuration re-sent');
    }
  }
}
