/**
 * The duty of PID 1: a process whose parent has exited becomes its child and stays a zombie until it is reaped. Node
 * reaps only the children that it has started itself.
 */
import { endedChild, reap } from './libc.ts';

/** Zombies reaped per turn of the event loop: packets come first. */
const BATCH = 32;
/** waitid(2) returns Node's own exited child first until Node has reaped it; retry after this, ms. */
const RETRY_INTERVAL = 50;

/**
 * Reaps orphans from now on if this is PID 1, and does nothing elsewhere. `isOwn` recognises the children that this
 * process started: Node reaps them.
 */
export function reapOrphans(isOwn: (pid: number) => boolean = () => false): void {
  if (process.pid !== 1) return;
  const reapAll = (): void => {
    for (let i = 0; i < BATCH; i++) {
      const pid = endedChild();
      if (pid === 0) return;
      if (isOwn(pid)) {
        setTimeout(reapAll, RETRY_INTERVAL).unref();
        return;
      }
      reap(pid);
    }
    setImmediate(reapAll);
  };
  // After Node has handled the same signal for its own children.
  process.on('SIGCHLD', () => setImmediate(reapAll));
  reapAll();
}
