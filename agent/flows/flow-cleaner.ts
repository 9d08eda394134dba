/**
 * Removes the flows that contradict the policy in force (stale-flows.ts), one by one over netlink.
 */
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import type { Logger } from '../../lib/log.ts';
import { NetlinkSocket, Protocol } from '../../lib/netlink.ts';
import { type ConntrackEntry, deleteRequest } from '../../nat/conntrack/wire.ts';
import { FLOW_CLEANER_PORT } from '../../routing/numbers.ts';
import type { Plan } from '../plan/plan.ts';
import { eachConntrackEntry } from './conntrack-dump.ts';
import { staleFlows } from './stale-flows.ts';

/** Runs work while no flow is in the fast path. */
export type WithoutFastPath = (work: () => Promise<void>) => Promise<void>;

/** The kernel takes its time to let go of the flows of a flowtable that is gone: the attempts, and the time between them, ms. */
const ATTEMPTS = 40;
const ATTEMPT_PERIOD = 50;

interface Deletion {
  type: number;
  data: Uint8Array;
}

/**
 * Deletes entries. Returns the number of deleted ones; one that ended meanwhile is none. Linux before
 * 6.4, 6.1.32, 5.15.115 and 5.10.182 refuses to delete those in the fast path (EBUSY). Throws what it answers to another one, or to one that stays there.
 */
export async function deleteEntries(
  entries: readonly Deletion[],
  transact: (requests: readonly Deletion[]) => Promise<((Error & { code: string }) | undefined)[]>,
  withoutFastPath: WithoutFastPath,
  wait: (ms: number) => Promise<unknown> = sleep,
): Promise<number> {
  let deleted = 0;
  let busy = entries;
  let refusal: Error | undefined;
  const attempt = async (): Promise<void> => {
    const results = await transact(busy);
    deleted += results.filter((result) => result === undefined).length;
    const failed = results.filter((result) => result !== undefined && result.code !== 'ENOENT');
    const error = failed.find((result) => result?.code !== 'EBUSY');
    if (error !== undefined) throw error;
    busy = busy.filter((_, i) => results[i]?.code === 'EBUSY');
    refusal = failed[0];
  };
  await attempt();
  if (busy.length > 0) {
    await withoutFastPath(async () => {
      for (let i = 0; i < ATTEMPTS && busy.length > 0; i++) {
        if (i > 0) await wait(ATTEMPT_PERIOD);
        await attempt();
      }
    });
  }
  if (refusal !== undefined) throw refusal;
  return deleted;
}

/**
 * Removes every entry for which `isStale` is true. Returns the number of removed entries; one that ended meanwhile, or
 * began anew, is left alone. Throws when the table cannot be read or written.
 */
async function removeFlows(
  isStale: (entry: ConntrackEntry) => boolean,
  withoutFastPath: WithoutFastPath,
): Promise<number> {
  const stale: Deletion[] = [];
  await eachConntrackEntry((entry) => {
    if (isStale(entry)) stale.push(deleteRequest(entry));
  });
  if (stale.length === 0) return 0;
  const netlink = new NetlinkSocket(Protocol.NETFILTER, FLOW_CLEANER_PORT);
  try {
    return await deleteEntries(stale, (requests) => netlink.transact(requests), withoutFastPath);
  } finally {
    netlink.close();
  }
}

/** Lets flows follow the rules in the kernel, one pass over the table at a time. */
export class FlowCleaner {
  readonly #logger: Logger;
  readonly #remove: typeof removeFlows;
  readonly #withoutFastPath: WithoutFastPath;
  /** The plan of the next pass. */
  #next: Plan | undefined;
  #running = false;

  /** `remove`: removes stale entries; default: from the kernel's table. */
  constructor(logger: Logger, withoutFastPath: WithoutFastPath, remove = removeFlows) {
    this.#logger = logger;
    this.#withoutFastPath = withoutFastPath;
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
      const outside = plan.routing.flatMap(({ external }) => external?.addresses ?? []);
      const behind = plan.routing.flatMap(({ internalBlocks }) => internalBlocks);
      const blocks = [...behind, ...plan.internalNetworks];
      const isStale = staleFlows(plan.nat, [...inside, ...outside], blocks, inside);
      try {
        const flows = await this.#remove(isStale, this.#withoutFastPath);
        if (flows > 0) this.#logger.info({ flows }, 'removed flows that contradict the policy');
      } catch (error) {
        const reason = (error as Error).message;
        this.#logger.warn({ reason }, 'cannot remove flows that contradict the policy');
      }
    }
  }
}
