/**
 * The kernel's traffic control and the table that gives packets their class, over netlink: observes, applies the steps
 * of diff.ts, and reads what classes have counted. The transports that it needs are declared here; lib/netlink.ts
 * implements them.
 *
 * Queues whose class goes are emptied first, without a limit: what waits in them is sent, not dropped.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { NFGEN_HEADER, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE } from '../lib/linux.ts';
import {
  generationOf,
  generationQuestion,
  isOfTable,
  NFT_GET,
  type NftMessage,
  nestedIn,
  transaction,
} from '../lib/nft-codec.ts';
import { BANDWIDTH_HANDLE } from '../routing/numbers.ts';
import { type DesiredShaping, UNLIMITED } from './desired.ts';
import { isOwnRoot, type ShapingStep } from './diff.ts';
import { BANDWIDTH_TABLE, deleteFilter, filterMessages, filterQuestion, writtenMaps } from './filter.ts';
import { renderShapingStep } from './render.ts';
import type {
  ClassRange,
  Leaf,
  ObservedClass,
  ObservedFilter,
  ObservedQdisc,
  ShapingState,
} from './state.ts';
import {
  classRequest,
  formatClass,
  formatLeaf,
  formatRoot,
  parseClass,
  parseQdisc,
  rootRequest,
  TcMessage,
  tcDump,
} from './tc-codec.ts';

/** What is needed of a NETLINK_ROUTE socket. Errors carry the errno's name. */
export interface TcSocket {
  dump<T>(type: number, data: Uint8Array, parse: (payload: Buffer) => T | undefined): T[];
  transact(
    requests: Iterable<{ type: number; flags?: number; data: Uint8Array }>,
  ): Promise<((Error & { code: string }) | undefined)[]>;
}

/** What is needed of a NETLINK_NETFILTER socket. */
export interface FilterSocket {
  ask(type: number, data: Uint8Array): Buffer;
  dump<T>(type: number, data: Uint8Array, parse: (payload: Buffer) => T | undefined): T[];
  sendAll(messages: readonly NftMessage[]): void;
}

/** EOPNOTSUPP, by its name in Node: what a kernel without traffic control (CONFIG_NET_SCHED) answers. */
const NOT_SUPPORTED = 'ENOTSUP';

/** A step that the kernel refused. The message is the step as a command line, and the kernel's reason. */
export class ShapingError extends Error {
  readonly step: ShapingStep;
  /** The errno's name. */
  readonly code: string;

  constructor(step: ShapingStep, { code, message }: TcError) {
    super(`${renderShapingStep(step)}: ${message}${hintOf(step, code)}`);
    this.name = 'ShapingError';
    this.step = step;
    this.code = code;
  }
}

function hintOf(step: ShapingStep, code: string): string {
  if (code === 'EPERM') return '; the container needs the capability NET_ADMIN';
  if (code !== 'ENOENT' && code !== NOT_SUPPORTED) return '';
  const ofTc = code === 'ENOENT' ? 'the module sch_htb' : 'a kernel with CONFIG_NET_SCHED and sch_htb';
  const needs = 'dev' in step ? ofTc : 'the module nf_tables';
  return `; the node needs ${needs}; the policy is in force without the limit`;
}

export interface ShapingKernel {
  /** Reads qdiscs and classes, and the table with the maps that are desired. Throws what the transport throws. */
  observe(desired: DesiredShaping): ShapingState;
  /** Applies the steps in order, also those after one that fails. Returns the failures. */
  apply(steps: readonly ShapingStep[]): Promise<ShapingError[]>;
  /** Reads what the agent's qdiscs and classes have counted. */
  counts(): Pick<ShapingState, 'qdiscs' | 'classes'>;
}

export interface ShapingParts {
  tc: TcSocket;
  /** Called when the table is first needed. */
  openFilter(): FilterSocket;
  /** The interfaces by name. */
  indexes(): ReadonlyMap<string, number>;
}

/** Errors after which a step is done: what is to be deleted is gone, perhaps with its interface. */
const ALREADY_GONE: readonly string[] = ['ENOENT', 'ENODEV', 'EINVAL'];
/** The longest wait for queues to empty, and between two looks, ms. */
const DRAIN_TIMEOUT = 250;
const DRAIN_PERIOD = 10;

const NFTA_SET_ELEM_LIST_ELEMENTS = 3;

type TcError = Error & { code: string };
interface TcRequest {
  type: number;
  flags?: number;
  data: Uint8Array;
}

const isMissing = (error: unknown): boolean => (error as NodeJS.ErrnoException).code === 'ENOENT';

/** Access to the traffic control of this network namespace. */
export const createShapingKernel = (parts: ShapingParts): ShapingKernel => new NetlinkShaping(parts);

class NetlinkShaping implements ShapingKernel {
  readonly #parts: ShapingParts;
  #filter: FilterSocket | undefined;
  /** Kinds of queues that this kernel does not have. */
  readonly #unknownKinds = new Set<string>();
  /** The table as last read, and the number of the last transaction of nf_tables then. */
  #last: { generation: number; maps: string; filter: ObservedFilter | undefined } | undefined;

  constructor(parts: ShapingParts) {
    this.#parts = parts;
  }

  observe(desired: DesiredShaping): ShapingState {
    const { qdiscs, classes } = this.counts();
    const filter = this.#observeFilter(desired);
    return { qdiscs, classes, ...(filter && { filter }) };
  }

  counts(): Pick<ShapingState, 'qdiscs' | 'classes'> {
    const { tc } = this.#parts;
    const indexes = this.#parts.indexes();
    const names = new Map([...indexes].map(([name, index]) => [index, name]));
    const qdiscs = this.#qdiscs((index) => names.get(index));
    const classes = new Map<string, Map<number, ObservedClass>>();
    for (const { dev } of qdiscs.filter(isOwnRoot)) {
      const found = tc.dump(TcMessage.GETTCLASS, tcDump(indexes.get(dev) ?? 0), parseClass);
      classes.set(dev, new Map(found.map((one) => [one.minor, one])));
    }
    return { qdiscs, classes };
  }

  /** None where the kernel has no traffic control: to add one then fails with the reason. */
  #qdiscs(nameOf: (ifindex: number) => string | undefined): ObservedQdisc[] {
    try {
      return this.#parts.tc.dump(TcMessage.GETQDISC, tcDump(), (data) => parseQdisc(data, nameOf));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === NOT_SUPPORTED) return [];
      throw error;
    }
  }

  async apply(steps: readonly ShapingStep[]): Promise<ShapingError[]> {
    const failures: ShapingError[] = [];
    const indexes = this.#parts.indexes();
    const removals = steps.filter(isRemoval);
    let drained = false;
    for (const step of steps) {
      if (!drained && isRemoval(step)) {
        await this.#drain(removals, indexes);
        drained = true;
      }
      const error = await this.#applyStep(step, indexes);
      if (error !== undefined) failures.push(new ShapingError(step, error));
    }
    return failures;
  }

  /** Returns the first error of a step. */
  async #applyStep(step: ShapingStep, indexes: ReadonlyMap<string, number>): Promise<TcError | undefined> {
    if (step.kind === 'put-filter') return this.#sendFilter(filterMessages(step.shaping, step.replace));
    if (step.kind === 'delete-filter') return this.#sendFilter([deleteFilter()]);
    const ifindex = indexes.get(step.dev) ?? 0;
    switch (step.kind) {
      case 'add-root': {
        const data = formatRoot(ifindex, BANDWIDTH_HANDLE);
        return this.#transact([{ type: TcMessage.NEWQDISC, flags: NLM_F_CREATE | NLM_F_EXCL, data }]);
      }
      case 'put-classes':
        return this.#putClasses(ifindex, step);
      case 'delete-classes': {
        const requests = minors(step).map((minor) => ({
          type: TcMessage.DELTCLASS,
          data: classRequest(ifindex, BANDWIDTH_HANDLE, minor),
        }));
        return unlessGone(await this.#transact(requests));
      }
      case 'delete-root': {
        const data = rootRequest(ifindex, BANDWIDTH_HANDLE);
        return unlessGone(await this.#transact([{ type: TcMessage.DELQDISC, data }]));
      }
    }
  }

  async #putClasses(ifindex: number, { dev, range }: PutClasses): Promise<TcError | undefined> {
    const requests = minors(range).map((minor) => ({
      type: TcMessage.NEWTCLASS,
      flags: NLM_F_CREATE | NLM_F_REPLACE,
      data: formatClass(ifindex, BANDWIDTH_HANDLE, range, minor),
    }));
    return (await this.#transact(requests)) ?? (await this.#putLeaves(dev, ifindex, range));
  }

  /**
   * A new queue, or another limit for the one that is there; of the kinds the first that the kernel has. The first class
   * of a range shows which that is: the kernel looks for a missing module each time. ENOENT may also mean that another
   * program has deleted the class since.
   */
  async #putLeaves(dev: string, ifindex: number, range: ClassRange): Promise<TcError | undefined> {
    let error: TcError | undefined;
    for (const leaf of range.leaves ?? []) {
      if (this.#unknownKinds.has(leaf.kind)) continue;
      const [first, ...others] = minors(range);
      error = await this.#putLeaf(ifindex, leaf, [first!]);
      if (error?.code === 'ENOENT' && this.counts().classes.get(dev)?.has(first!)) {
        this.#unknownKinds.add(leaf.kind);
        continue;
      }
      return error ?? (others.length > 0 ? this.#putLeaf(ifindex, leaf, others) : undefined);
    }
    return error;
  }

  async #putLeaf(ifindex: number, leaf: Leaf, list: readonly number[]): Promise<TcError | undefined> {
    const put = (some: readonly number[], isNew: boolean) =>
      this.#results(
        some.map((minor) => ({
          type: TcMessage.NEWQDISC,
          flags: NLM_F_CREATE | (isNew ? NLM_F_EXCL : NLM_F_REPLACE),
          data: formatLeaf(ifindex, BANDWIDTH_HANDLE, minor, leaf, isNew),
        })),
      );
    const results = await put(list, true);
    const existing = list.filter((_, i) => results[i]?.code === 'EEXIST');
    const others = results.filter((result) => result?.code !== 'EEXIST');
    return [...others, ...(await put(existing, false))].find((result) => result !== undefined);
  }

  /** Lifts the limits of classes that are going to be deleted, and waits until their queues are empty. */
  async #drain(removals: readonly Removal[], indexes: ReadonlyMap<string, number>): Promise<void> {
    const leaving = () => {
      const { classes } = this.counts();
      return removals.flatMap((step) =>
        [...(classes.get(step.dev)?.values() ?? [])]
          .filter(({ minor }) => step.kind === 'delete-root' || isIn(minor, step))
          .map((found) => ({ ifindex: indexes.get(step.dev) ?? 0, found })),
      );
    };
    const isWaiting = () => leaving().some(({ found }) => found.stats.backlog > 0);
    if (!isWaiting()) return;
    await this.#transact(
      leaving().map(({ ifindex, found: { minor, parent, quantum } }) => {
        const range = { first: minor, count: 1, parent, rate: UNLIMITED, ceil: UNLIMITED, quantum };
        return {
          ...{ type: TcMessage.NEWTCLASS, flags: NLM_F_CREATE | NLM_F_REPLACE },
          data: formatClass(ifindex, BANDWIDTH_HANDLE, { ...range, burst: UNLIMITED }, minor),
        };
      }),
    );
    for (let waited = 0; waited < DRAIN_TIMEOUT && isWaiting(); waited += DRAIN_PERIOD) {
      await sleep(DRAIN_PERIOD);
    }
  }

  async #transact(requests: readonly TcRequest[]): Promise<TcError | undefined> {
    return (await this.#results(requests)).find((result) => result !== undefined);
  }

  /** What became of each request; an error of the transport is that of the first. */
  async #results(requests: readonly TcRequest[]): Promise<(TcError | undefined)[]> {
    try {
      return await this.#parts.tc.transact(requests);
    } catch (error) {
      return [error as TcError];
    }
  }

  #sendFilter(messages: readonly NftMessage[]): TcError | undefined {
    try {
      this.#socket.sendAll(transaction(messages));
      return undefined;
    } catch (error) {
      return error as TcError;
    }
  }

  get #socket(): FilterSocket {
    this.#filter ??= this.#parts.openFilter();
    return this.#filter;
  }

  /** The table; undefined when there is none, or nf_tables cannot be read: to make it then fails with the reason. */
  #observeFilter(desired: DesiredShaping): ObservedFilter | undefined {
    try {
      const generation = generationOf(this.#socket.ask(NFT_GET.generation, generationQuestion()));
      const maps = writtenMaps(desired);
      const key = maps.join();
      if (this.#last?.generation !== generation || this.#last.maps !== key) {
        this.#last = { generation, maps: key, filter: this.#readFilter(maps) };
      }
      return this.#last.filter;
    } catch {
      return undefined;
    }
  }

  #readFilter(maps: readonly string[]): ObservedFilter | undefined {
    const socket = this.#socket;
    try {
      socket.ask(NFT_GET.table, filterQuestion());
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
    const ofTable = (type: number): Buffer[] =>
      socket.dump(type, filterQuestion(), (answer) =>
        isOfTable(answer, BANDWIDTH_TABLE, NFGEN_HEADER) ? answer.subarray(NFGEN_HEADER) : undefined,
      );
    return {
      chains: ofTable(NFT_GET.chain),
      rules: ofTable(NFT_GET.rule),
      elements: new Map(maps.map((map) => [map, this.#readElements(map)])),
    };
  }

  #readElements(map: string): Buffer[] {
    try {
      return this.#socket
        .dump(NFT_GET.elements, filterQuestion(map), (answer) => {
          const found: Buffer[] = [];
          const elements = nestedIn(answer, NFTA_SET_ELEM_LIST_ELEMENTS);
          while (elements.next()) found.push(elements.content);
          return found;
        })
        .flat();
    } catch (error) {
      if (isMissing(error)) return [];
      throw error;
    }
  }
}

type PutClasses = Extract<ShapingStep, { kind: 'put-classes' }>;
type Removal = Extract<ShapingStep, { kind: 'delete-classes' }> | { kind: 'delete-root'; dev: string };

const isRemoval = (step: ShapingStep): step is Removal =>
  step.kind === 'delete-classes' || step.kind === 'delete-root';

const isIn = (minor: number, { first, count }: { first: number; count: number }): boolean =>
  minor >= first && minor < first + count;

/** The minor numbers of a range. */
const minors = ({ first, count }: { first: number; count: number }): number[] =>
  Array.from({ length: count }, (_, i) => first + i);

const unlessGone = (error: TcError | undefined): TcError | undefined =>
  error !== undefined && ALREADY_GONE.includes(error.code) ? undefined : error;
