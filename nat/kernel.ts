/**
 * Reads and writes the kernel's packet filter with iptables and ipset: one `iptables-save` a family to observe,
 * one `iptables-restore --noflush` transaction a family to apply (xtables.ts).
 *
 * What cannot be read is reported, and never taken for empty: a table that only `nft` can list, a family whose program
 * fails. The other tables and the other family are read all the same.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Exec } from '../lib/exec.ts';
import { FAMILIES, type Family } from '../lib/prefix.ts';
import type { NatStep } from './diff.ts';
import { NatError } from './errors.ts';
import type { GateStep } from './gate.ts';
import type { GateKernel } from './gate-kernel.ts';
import { type NftChain, parseNftChain, parseSets } from './parse.ts';
import type { PortKernel } from './port-kernel.ts';
import type { PortStep } from './port-steps.ts';
import { isGateStep, isRuleStep, isSetStep, rulesInput, setsInput } from './render.ts';
import { CHAIN_REFUSED, isOwnedName, setsOf } from './rules.ts';
import type { SetStep } from './sets.ts';
import type { AddressSet, NatState } from './state.ts';
import {
  allRules,
  type Backend,
  isKind,
  OUR_TABLES,
  RESTORE_TIMEOUT,
  Xtables,
  type XtablesParts,
} from './xtables.ts';

export interface ObservedNat extends NatState {
  /** The backend in use; absent for a family that could not be observed and was not required. */
  backend: { 4?: Backend; 6?: Backend };
  /** The tables of which nothing is known, and why. They are absent from `tables`. */
  unreadable: Record<Family, ReadonlyMap<string, NatError>>;
  /** Why nothing is known of a family. */
  failed: Partial<Record<Family, NatError>>;
}

/** What an observation must contain. */
export interface NatNeeds {
  /** Families that are, or shall be, translated. */
  families: readonly Family[];
  /** The tables that hold something of ours, or shall. Default: each that may. */
  tables?: ReadonlySet<string>;
  /** Families with sets, and with port blocks. */
  sets?: readonly Family[];
  ports?: readonly Family[];
}

/** A rule that leads from a built-in chain to one of ours. */
export interface Hook {
  chain: string;
  target: string;
}

/** The packets that the first rule of a chain of ours in mangle has counted, or its counterpart in the gate. */
export type ChainCounts = { family: Family; table: 'mangle' | 'gate'; chain: string; packets: number }[];

export interface NatKernel {
  /**
   * Reads the state. A family that is not needed may be missing in this kernel or image; it then has no rules. What
   * this kernel does not have is empty; what cannot be read for another reason is in `failed`.
   */
  observe(needs: NatNeeds): Promise<ObservedNat>;
  /**
   * Applies the steps. A family that fails does not stop the other; its `NatError` is thrown afterwards, a `GateError` where
   * nf_tables refuses the gate. With `in-use` everything is applied but that a set is left over.
   */
  apply(steps: readonly NatStep[]): Promise<void>;
  /**
   * The first of the hooks that a table which only `nft` can list has no longer, or whose chain is empty. Undefined:
   * all exist, or it is unknown.
   */
  missingHook(family: Family, table: string, hooks: readonly Hook[]): Promise<Hook | undefined>;
  /** Why no family can have a gate (gate.ts); undefined: each may. */
  gateLack(): string | undefined;
  /** What these chains have counted; those that are not there, or cannot be read, are left out. */
  counts(families: readonly Family[], chains: readonly string[]): Promise<ChainCounts>;
}

/** Time limit for reading counters, ms. */
const COUNTS_TIMEOUT = 2000;
/**
 * Pauses before a set that is in use is destroyed again, ms. nf_tables lets go of the sets of a removed rule when its
 * transaction is over (nf_tables_trans_destroy_work): one or more grace periods of RCU later.
 */
const RELEASE = [10, 30, 100, 300, 600] as const;
/** Time limit for listing a chain with nft, ms. */
const NFT_TIMEOUT = 5000;

const partOf = (step: NatStep): 'rules' | 'sets' | 'gate' | 'ports' => {
  if (isRuleStep(step)) return 'rules';
  if (isSetStep(step)) return 'sets';
  return isGateStep(step) ? 'gate' : 'ports';
};

/** Runs of steps of one part, in order. */
function* batches(steps: readonly NatStep[]): Generator<NatStep[]> {
  for (let i = 0; i < steps.length; ) {
    let end = i;
    while (end < steps.length && partOf(steps[end]!) === partOf(steps[i]!)) end++;
    yield steps.slice(i, end);
    i = end;
  }
}

export interface NatKernelParts extends XtablesParts {
  /** Access to port blocks; absent: there are none. */
  ports?: PortKernel;
  /** Access to the gate; absent: no state has one. */
  gate?: GateKernel;
  /** Whether there is a set of the agent's; undefined: unknown. Absent: it is always unknown. */
  setsExist?(): boolean | undefined;
  /** Waits, ms. */
  pause?(ms: number): Promise<unknown>;
}

/** Access to the packet filter of this network namespace. */
export const createNatKernel = (parts: NatKernelParts): NatKernel => new IptablesKernel(parts);

class IptablesKernel implements NatKernel {
  readonly #exec: Exec;
  readonly #xtables: Xtables;
  readonly #ports: PortKernel | undefined;
  readonly #gate: GateKernel | undefined;
  readonly #setsExist: () => boolean | undefined;
  readonly #pause: (ms: number) => Promise<unknown>;
  /** Sets that stayed in use, whose release is not waited for again. */
  readonly #used = new Set<string>();

  constructor(parts: NatKernelParts) {
    this.#exec = parts.exec;
    this.#xtables = new Xtables(parts);
    this.#ports = parts.ports;
    this.#gate = parts.gate;
    this.#setsExist = () => parts.setsExist?.();
    this.#pause = parts.pause ?? sleep;
  }

  async observe(needs: NatNeeds): Promise<ObservedNat> {
    const state: ObservedNat = {
      ...{ tables: { 4: new Map(), 6: new Map() }, sets: new Map(), backend: {}, failed: {} },
      unreadable: { 4: new Map(), 6: new Map() },
    };
    // The three programs run in parallel.
    const [sets] = await Promise.all([
      this.#readSets(),
      this.#observeTables(4, needs, state),
      this.#observeTables(6, needs, state),
    ]);
    recordSets(sets, needs, state);
    await this.#observePorts(needs, state);
    this.#observeGates(needs, state);
    return state;
  }

  async missingHook(family: Family, table: string, hooks: readonly Hook[]): Promise<Hook | undefined> {
    const found = new Map<string, NftChain>();
    for (const name of new Set(hooks.flatMap(({ chain, target }) => [chain, target]))) {
      const chain = await this.#listChain(family, table, name);
      if (chain === undefined) return undefined;
      found.set(name, chain);
    }
    return hooks.find(
      ({ chain, target }) => !found.get(chain)!.targets.includes(target) || found.get(target)!.rules === 0,
    );
  }

  async apply(steps: readonly NatStep[]): Promise<void> {
    const failures: NatError[] = [];
    for (const family of FAMILIES) {
      const own = steps.filter((step) => step.family === family);
      await this.#applyFamily(family, own).catch((error: unknown) => {
        if (!(error instanceof NatError)) throw error;
        failures.push(error);
      });
    }
    const [first, second] = failures;
    if (first === undefined) return;
    throw second === undefined ? first : new NatError(first.kind, `${first.message}; ${second.message}`);
  }

  gateLack(): string | undefined {
    return this.#gate?.lack();
  }

  async counts(families: readonly Family[], chains: readonly string[]): Promise<ChainCounts> {
    const results = await Promise.allSettled(families.map((family) => this.#countsOf(family, chains)));
    return results.flatMap((result) => (result.status === 'fulfilled' ? result.value : []));
  }

  /** Reads the tables of a family into the state, or why they cannot be read. */
  async #observeTables(family: Family, needs: NatNeeds, state: ObservedNat): Promise<void> {
    const { families, tables = new Set(OUR_TABLES) } = needs;
    try {
      const { backend, listing } = await this.#xtables.list(family, tables);
      state.tables[family] = listing.tables;
      state.unreadable[family] = listing.unreadable;
      state.backend[family] = backend;
    } catch (error) {
      if (!(error instanceof NatError)) throw error;
      const needed = families.includes(family) || !isKind(error, 'not-installed', 'unsupported');
      if (needed) state.failed[family] = error;
    }
  }

  /** The sets, or why they cannot be read. */
  async #readSets(): Promise<Map<string, AddressSet> | NatError> {
    if (this.#setsExist() === false) return new Map();
    try {
      return parseSets(await this.#xtables.run('ipset', ['save'], { timeoutMs: RESTORE_TIMEOUT }));
    } catch (error) {
      if (error instanceof NatError) return error;
      throw error;
    }
  }

  async #observePorts({ ports = [] }: NatNeeds, state: ObservedNat): Promise<void> {
    if (this.#ports === undefined) return;
    try {
      state.ports = await this.#ports.observe(ports.length > 0);
    } catch (error) {
      if (!(error instanceof NatError)) throw error;
      // Without kernel support there are none; creating them fails with the reason.
      if (!isKind(error, 'unsupported')) for (const family of ports) state.failed[family] ??= error;
    }
  }

  #observeGates({ families }: NatNeeds, state: ObservedNat): void {
    if (this.#gate === undefined) return;
    try {
      state.gates = this.#gate.observe();
    } catch (error) {
      if (!(error instanceof NatError)) throw error;
      for (const family of families) state.failed[family] ??= error;
    }
  }

  async #applyFamily(family: Family, steps: readonly NatStep[]): Promise<void> {
    let inUse: NatError | undefined;
    for (const batch of batches(steps)) {
      const part = partOf(batch[0]!);
      if (part === 'rules') {
        await this.#xtables.restore(family, rulesInput(batch.filter(isRuleStep)));
      } else if (part === 'sets') {
        inUse = (await this.#applySets(batch.filter(isSetStep))) ?? inUse;
      } else if (part === 'gate') {
        this.#gate?.apply(batch as GateStep[]);
      } else {
        await this.#ports?.apply(batch as PortStep[]);
      }
    }
    if (inUse !== undefined) throw inUse;
  }

  /** Applies steps of sets, but for those that stay in use when they are destroyed: why. */
  async #applySets(steps: readonly SetStep[]): Promise<NatError | undefined> {
    let inUse: NatError | undefined;
    let tries = 0;
    for (let rest = steps; rest.length > 0; ) {
      const input = setsInput(rest);
      try {
        await this.#xtables.run('ipset', ['-exist', 'restore'], { input, timeoutMs: RESTORE_TIMEOUT });
        for (const { type, set } of rest) if (type === 'destroy-set') this.#used.delete(set);
        break;
      } catch (error) {
        const { subject = '' } = error as NatError;
        // What precedes it is done.
        const at = rest.findIndex(({ type, set }) => type === 'destroy-set' && set === subject);
        if (!isKind(error, 'in-use') || at === -1) throw error;
        rest = rest.slice(at);
        const pause = this.#used.has(subject) ? undefined : RELEASE[tries++];
        if (pause !== undefined) await this.#pause(pause);
        else {
          this.#used.add(subject);
          inUse ??= error as NatError;
          rest = rest.slice(1);
        }
      }
    }
    return inUse;
  }

  /** A chain of nf_tables; undefined when it cannot be listed. One that does not exist has no rules. */
  async #listChain(family: Family, table: string, name: string): Promise<NftChain | undefined> {
    const args = ['-j', 'list', 'chain', family === 4 ? 'ip' : 'ip6', table, name];
    const { stdout, stderr, exitCode } = await this.#exec('nft', args, { timeoutMs: NFT_TIMEOUT });
    if (exitCode === 0) return parseNftChain(stdout);
    return /^Error: No such file or directory/m.test(stderr) ? { rules: 0, targets: [] } : undefined;
  }

  async #countsOf(family: Family, chains: readonly string[]): Promise<ChainCounts> {
    const refused = chains.includes(CHAIN_REFUSED) ? this.#gate?.refused(family) : undefined;
    // What mangle counts is there instead.
    if (refused !== undefined) return [{ family, table: 'gate', chain: CHAIN_REFUSED, packets: refused }];
    const mangle = (await this.#xtables.table(family, 'mangle', COUNTS_TIMEOUT))?.get('mangle');
    return chains.flatMap((chain): ChainCounts => {
      const packets = mangle?.get(chain)?.rules[0]?.packets;
      return packets === undefined ? [] : [{ family, table: 'mangle', chain, packets }];
    });
  }
}

/** Puts the sets into the state; where they cannot be read, the families that need them have failed. */
function recordSets(
  found: Map<string, AddressSet> | NatError,
  { sets = [] }: NatNeeds,
  state: ObservedNat,
): void {
  if (!(found instanceof NatError)) {
    state.sets = found;
    return;
  }
  const missing = isKind(found, 'not-installed', 'unsupported');
  for (const family of FAMILIES) {
    const used = allRules(state.tables[family]).flatMap(setsOf).some(isOwnedName);
    if (used || (!missing && sets.includes(family))) state.failed[family] ??= found;
  }
}
