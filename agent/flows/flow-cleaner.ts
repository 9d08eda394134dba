/**
 * Removes the flows that contradict the policy in force (stale-flows.ts), one by one over netlink.
 */
import { setImmediate as turn } from 'node:timers/promises';
import type { Logger } from '../../lib/log.ts';
import { NetlinkSocket, Protocol } from '../../lib/netlink.ts';
import { type ConntrackEntry, deleteRequest } from '../../nat/conntrack/wire.ts';
import type { Plan } from '../plan/plan.ts';
import { eachConntrackEntry } from './conntrack-dump.ts';
import { staleFlows } from './stale-flows.ts';

/**
 * Removes every entry for which `isStale` is true. Returns the number of removed entries; one that ended meanwhile, or
 * began anew, is left alone. Throws when the table cannot be read or written.
 */
async function removeFlows(isStale: (entry: ConntrackEntry) => boolean): Promise<number> {
  const stale: { type: number; data: Uint8Array }[] = [];
  await eachConntrackEntry((entry) => {
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

/** Lets flows follow the rules in the kernel, one pass over the table at a time. */
export class FlowCleaner {
  readonly #logger: Logger;
  readonly #remove: (isStale: (entry: ConntrackEntry) => boolean) => Promise<number>;
  /** The plan of the next pass. */
  #next: Plan | undefined;
  #running = false;

  /** `remove`: removes stale entries; default: from the kernel's table. */
  constructor(logger: Logger, remove = removeFlows) {
    this.#logger = logger;
    this.#remove = remove;
  }

  /** The rules of this plan are in force: removes the flows that contradict them. Only the last plan counts. */
  follow(plan: Plan): void {
    this.#next = plan;
    if (this.#running) return;
    this.#running = true;
    this.#run()
      .catch((error: Error) => this.#logger.error({ err: error }, 'removing stale flows failed'))
      .finally(() => {
        this.#running = false;
      });
  }

  async #run(): Promise<void> {
    // Reading the table takes a while: callers that wait for the rules are notified first.
    await turn();
    for (let plan = this.#next; plan !== undefined; plan = this.#next) {
      this.#next = undefined;
      const inside = plan.routing.flatMap(({ internal }) => internal.addresses);
      const outside = plan.routing.flatMap(({ external }) => external.addresses);
      const behind = plan.routing.flatMap(({ internalBlocks }) => internalBlocks);
      const blocks = [...behind, ...plan.internalNetworks];
      const isStale = staleFlows(plan.nat, [...inside, ...outside], blocks, inside);
      try {
        const flows = await this.#remove(isStale);
        if (flows > 0) this.#logger.info({ flows }, 'removed flows that contradict the policy');
      } catch (error) {
        const reason = (error as Error).message;
        this.#logger.warn({ reason }, 'cannot remove flows that contradict the policy');
      }
    }
  }
}
