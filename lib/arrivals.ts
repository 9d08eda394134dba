/**
 * Tells when sockets that raise SIGURG (`signalReadable` in libc.ts) may have something to read. For the main thread: only it
 * gets signals.
 *
 * All signals of one turn of the event loop are one call, so that a socket is read once however many packets have
 * arrived. The call comes in the same turn, after the signals.
 */

const readers = new Set<() => void>();
let pending = false;

function readAll(): void {
  pending = false;
  for (const read of readers) read();
}

function arrived(): void {
  if (pending) return;
  pending = true;
  setImmediate(readAll);
}

/** Calls `read`, a function of the caller's own, when something may have arrived, until what it returns is called. */
export function onArrival(read: () => void): () => void {
  if (readers.size === 0) process.on('SIGURG', arrived);
  readers.add(read);
  return () => {
    if (readers.delete(read) && readers.size === 0) process.off('SIGURG', arrived);
  };
}
