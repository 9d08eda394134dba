/**
 * Reads the connection tracking table: who has most of it (busiest.ts), and what says something else than the policy
 * (stale-flows.ts), which is removed one by one over netlink. Reading a table of some hundred
 * thousand entries takes a second: it is done in slices, and other work goes on between them.
 */
import { setImmediate as turn } from 'node:timers/promises';
import * as libc from '../../lib/libc.ts';
import { AF_NETLINK, NLMSG_DONE, NLMSG_ERROR, SOCK_RAW } from '../../lib/linux.ts';
import type { Logger } from '../../lib/log.ts';
import { DATAGRAM_SIZE, NetlinkError, NetlinkSocket, Protocol } from '../../lib/netlink.ts';
import { Messages } from '../../lib/netlink-codec.ts';
import {
  type ConntrackEntry,
  CT_NEW,
  decodeEntry,
  deleteRequest,
  dumpRequest,
} from '../../nat/conntrack/wire.ts';
import type { Plan } from '../plan/plan.ts';
import { type BusySource, SourceCounter } from './busiest.ts';
import { staleFlows } from './stale-flows.ts';

/** How long other work may be held up, ms. */
const SLICE = 5;

/** Calls `visit` with every entry; it is good until `visit` returns. Throws `SystemError` or `NetlinkError`. */
async function readTable(visit: (entry: ConntrackEntry) => void): Promise<void> {
  const fd = libc.socket(AF_NETLINK, SOCK_RAW, Protocol.NETFILTER);
  const buffer = Buffer.allocUnsafeSlow(DATAGRAM_SIZE);
  let done = false;
  try {
    const sent = libc.sendto(fd, dumpRequest(1));
    if (sent < 0) throw new NetlinkError(-sent);
    while (!done) {
      const until = performance.now() + SLICE;
      while (!done && performance.now() < until) {
        const length = libc.recv(fd, buffer);
        if (length < 0) throw new NetlinkError(-length);
        const messages = new Messages(buffer, length);
        while (messages.next()) {
          const { type, start, end } = messages;
          if (type === NLMSG_DONE || type === NLMSG_ERROR) {
            done = true;
            const errno = -buffer.readInt32LE(start);
            if (errno !== 0) throw new NetlinkError(errno);
          } else if (type === CT_NEW) {
            const entry = decodeEntry(buffer, start, end);
            if (entry !== undefined) visit(entry);
          }
        }
      }
      await turn();
    }
  } finally {
    libc.close(fd);
  }
}

/**
 * Removes every entry that `isStale` says has to go, and returns how many did. An entry that ended meanwhile, or
 * began anew, is left alone. Throws when the table cannot be read or written.
 */
async function removeFlows(isStale: (entry: ConntrackEntry) => boolean): Promise<number> {
  const stale: { type: number; data: Uint8Array }[] = [];
  await readTable((entry) => {
    if (isStale(entry)) stale.push(deleteRequest(entry));
  });
  if (stale.length === 0) return 0;
  const netlink = new NetlinkSocket(Protocol.NETFILTER);
  try {
    const results = await netlink.transact(stale);
    const error = results.find((result) => result !== undefined && result.code !== 'ENOENT');
    if (error !== undefined) throw error;
    return results.filter((result) => result === undefined).length;
  } finally {
    netlink.close();
  }
}

/** The sources with most entries. Throws when the table cannot be read. */
export async function readBusiest(): Promise<BusySource[]> {
  const counter = new SourceCounter();
  await readTable((entry) => counter.add(entry));
  return counter.top();
}

/** Lets flows follow the rules that are in the kernel now, one pass over the table at a time. */
export class FlowCleaner {
  readonly #logger: Logger;
  /** The plan of the next pass. */
  #next: Plan | undefined;
  #running = false;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  /** The rules of this plan are in force: soon no flow says anything else. */
  follow(plan: Plan): void {
    this.#next = plan;
    if (this.#running) return;
    this.#running = true;
    this.#run()
      .catch((error: Error) => this.#logger.error({ err: error }, 'cannot follow the rules with flows'))
      .finally(() => {
        this.#running = false;
      });
  }

  async #run(): Promise<void> {
    // What waits to be told that the rules are there is told first: reading them again takes a while.
    await turn();
    for (let plan = this.#next; plan !== undefined; plan = this.#next) {
      this.#next = undefined;
      const inside = plan.routing.flatMap(({ internal }) => internal.addresses);
      const outside = plan.routing.flatMap(({ external }) => external.addresses);
      try {
        const behind = plan.routing.flatMap(({ internalBlocks }) => internalBlocks);
        const blocks = [...behind, ...plan.internalNetworks];
        const isStale = staleFlows(plan.nat, [...inside, ...outside], blocks, inside);
        const flows = await removeFlows(isStale);
        if (flows > 0) this.#logger.info({ flows }, 'removed flows that began under other rules');
      } catch (error) {
        const reason = (error as Error).message;
        this.#logger.warn({ reason }, 'flows that began under other rules stay as they are');
      }
    }
  }
}
