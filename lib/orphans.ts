/**
 * What the first process of a container owes the others: a process whose parent has ended becomes its child, and
 * stays a zombie until it is waited for. Node waits for the children that it has started itself and for no others.
 */
import { endedChild, reap } from './libc.ts';

/** At most so many in one turn of the event loop: packets come first. */
const BATCH = 32;
/** A child of Node's own that has ended hides others until Node has taken its status, ms. */
const HIDDEN = 50;

/**
 * Waits for orphans from now on, where this is the first process; elsewhere they go to somebody else. `isOwn` tells
 * the children that were started here: their status is left to Node.
 */
export function reapOrphans(isOwn: (pid: number) => boolean = () => false): void {
  if (process.pid !== 1) return;
  const look = (): void => {
    for (let i = 0; i < BATCH; i++) {
      const pid = endedChild();
      if (pid === 0) return;
      if (isOwn(pid)) {
        setTimeout(look, HIDDEN).unref();
        return;
      }
      reap(pid);
    }
    setImmediate(look);
  };
  // After Node's own look at its children, which the same signal brings about.
  process.on('SIGCHLD', () => setImmediate(look));
  look();
}
