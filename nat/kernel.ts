/**
 * Reads and writes the kernel's packet filter with iptables and ipset: one `iptables-save` a family to observe,
 * one `iptables-restore --noflush` transaction a family to apply.
 *
 * iptables has two backends with separate rules in the same kernel. The one that the pod already uses is ours;
 * looking must not change that, and merely listing a legacy table creates it, so only those are listed that
 * /proc says are there; where /proc does not say it (to another user than root), those that hold something of ours
 * or shall.
 *
 * What cannot be read is told, and never taken for empty: a table that only `nft` can list, a family whose program
 * fails. The other tables and the other family are read all the same.
 */
import { FAMILIES, type Family } from '../lib/prefix.ts';
import type { NatStep } from './diff.ts';
import { incompatible, NatError, type NatErrorKind, natError } from './errors.ts';
import { type NftChain, parseNftChain, parseSets, parseTables } from './parse.ts';
import type { PortKernel } from './port-kernel.ts';
import type { PortStep } from './port-steps.ts';
import { isRuleStep, isSetStep, rulesInput, setsInput } from './render.ts';
import { isOwnedName, namesOurs, setsOf } from './rules.ts';
import type { AddressSet, NatState, Table, Tables } from './state.ts';

/** Runs a program to its end: exit code -1 when it could not be started; never throws. */
export type Exec = (
  file: string,
  args: string[],
  options?: { input?: string; timeoutMs?: number },
) => Promise<{ stdout: string; stderr: string; exitCode: number }>;

export type Backend = 'nft' | 'legacy';

export interface ObservedNat extends NatState {
  /** The backend in use; absent for a family that could not be observed and was not required. */
  backend: { 4?: Backend; 6?: Backend };
  /** The tables of which nothing is known, and why. They are absent from `tables`. */
  unreadable: Record<Family, ReadonlyMap<string, NatError>>;
  /** Why nothing is known of a family. */
  failed: Partial<Record<Family, NatError>>;
}

/** What may not be missing in a look. */
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

/** The packets that the first rule of a chain of ours in mangle has counted. */
export type ChainCounts = { family: Family; chain: string; packets: number }[];

export interface NatKernel {
  /**
   * Reads the state. A family that is not needed may be missing in this kernel or image; it then has no rules. What
   * this kernel does not have is empty; what cannot be read for another reason is in `failed`.
   */
  observe(needs: NatNeeds): Promise<ObservedNat>;
  /**
   * Carries steps out. A family that fails does not hold up the other; what failed is thrown afterwards, as a
   * `NatError`.
   */
  apply(steps: readonly NatStep[]): Promise<void>;
  /**
   * The first of the hooks that a table which only `nft` can list has no longer, or whose chain is empty. Undefined:
   * all are there, or that cannot be told.
   */
  missingHook(family: Family, table: string, hooks: readonly Hook[]): Promise<Hook | undefined>;
  /** What these chains have counted; those that are not there, or cannot be read, are left out. */
  counts(families: readonly Family[], chains: readonly string[]): Promise<ChainCounts>;
}

/** How long iptables waits for the xtables lock, seconds. */
const LOCK_WAIT = 5;
/** Who reads counters waits for them no longer, ms. */
const COUNTS_TIMEOUT = 2000;
/** The tables that may hold something of ours, in the order in which packets meet them. */
export const OUR_TABLES = ['raw', 'mangle', 'nat'];
/** How long a chain is waited for that nft lists, ms. */
const NFT_TIMEOUT = 5000;
/** Long enough for a set of a million blocks on a slow machine, ms. */
const RESTORE_TIMEOUT = 60_000;

/** What a look at a family found. */
interface Listing {
  tables: Tables;
  unreadable: Map<string, NatError>;
}

const program = (family: Family): string => (family === 4 ? 'iptables' : 'ip6tables');
const allRules = (tables: Tables): string[] =>
  [...tables.values()].flatMap((table) =>
    [...table.values()].flatMap((chain) => chain.rules.map((r) => r.text)),
  );

/** Whether a backend's tables show that somebody works with it, and whether that was us. */
function evidence(tables: Tables): 'ours' | 'used' | 'empty' {
  const chains = [...tables.values()].flatMap((table: Table) => [...table]);
  if (chains.some(([name]) => isOwnedName(name)) || allRules(tables).some(namesOurs)) return 'ours';
  return chains.some(([, { policy, rules }]) => policy !== 'ACCEPT' || rules.length > 0) ? 'used' : 'empty';
}

/** The chain or set that a restore program complains about. */
function refusedName(stderr: string, input = ''): string | undefined {
  const named = /\b(?:rule in )?chain (VEG-\S+)/.exec(stderr)?.[1];
  if (named !== undefined) return named;
  const line = Number(/\bline:? (\d+)/.exec(stderr)?.[1]);
  const command = line > 0 ? input.split('\n')[line - 1] : undefined;
  return command === undefined ? undefined : /\b(VEG-[\w.:-]+)/.exec(command)?.[1];
}

const isPortStep = (step: NatStep): step is PortStep => !isRuleStep(step) && !isSetStep(step);
const partOf = (step: NatStep): 'rules' | 'sets' | 'ports' =>
  isRuleStep(step) ? 'rules' : isSetStep(step) ? 'sets' : 'ports';

const isKind = (error: unknown, ...kinds: NatErrorKind[]): boolean =>
  error instanceof NatError && kinds.includes(error.kind);

/**
 * The access to the packet filter of this network namespace.
 * @param backend chooses the backend instead of finding out which one the pod uses
 * @param ports the access to port blocks; without it there are none
 */
export function createNatKernel({
  exec,
  readFile,
  backend: forced,
  ports,
}: {
  exec: Exec;
  readFile: (path: string) => Promise<string>;
  backend?: Backend;
  ports?: PortKernel;
}): NatKernel {
  /** The prefix of the programs of a backend: `iptables-nft`, or `iptables` when that is the same thing. */
  const programs = new Map<string, string>();
  /** Decided once: rules that somebody makes later in the other backend do not draw ours over. */
  const chosen = new Map<Family, Backend>();

  async function run(
    file: string,
    args: string[],
    options?: { input?: string; timeoutMs?: number },
  ): Promise<string> {
    const { stdout, stderr, exitCode } = await exec(file, args, options);
    if (exitCode === 0) return stdout;
    throw natError([file, ...args].join(' '), stderr, exitCode, {
      object: file === 'ipset' ? 'set' : 'chain',
      subject: refusedName(stderr, options?.input),
    });
  }

  /** The programs of a backend. Throws `NatError` when there are none. */
  async function find(family: Family, backend: Backend): Promise<string> {
    const named = `${program(family)}-${backend}`;
    const known = programs.get(named);
    if (known !== undefined) return known;
    let found = named;
    const version = await exec(`${named}-save`, ['--version']);
    if (version.exitCode !== 0) {
      const plain = await run(`${program(family)}-save`, ['--version']);
      if (plain.includes('nf_tables') !== (backend === 'nft')) {
        throw natError(`${named}-save`, version.stderr, version.exitCode);
      }
      found = program(family);
    }
    programs.set(named, found);
    return found;
  }

  /** The legacy tables that exist; undefined when this user may not know. */
  async function legacyTables(family: Family): Promise<string[] | undefined> {
    try {
      const names = await readFile(`/proc/net/${family === 4 ? 'ip' : 'ip6'}_tables_names`);
      return names.split('\n').filter(Boolean);
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === 'ENOENT' ? [] : undefined;
    }
  }

  /** The tables of a backend; `wanted`: those to ask for by name where nobody says which there are. */
  async function save(family: Family, backend: Backend, wanted: ReadonlySet<string>): Promise<Listing> {
    const file = `${await find(family, backend)}-save`;
    const unreadable = new Map<string, NatError>();
    if (backend === 'nft') {
      const text = await run(file, ['-c']);
      for (const [line, name = ''] of text.matchAll(/^# Table `(.+)' is incompatible, .*$/gm)) {
        unreadable.set(name, incompatible(family, name, `${file}: ${line.slice(2)}`));
      }
      return { tables: parseTables(text, family), unreadable };
    }
    const names = await legacyTables(family);
    if (names !== undefined) {
      const text = names.length === 0 ? '' : await run(file, ['-c']);
      return { tables: parseTables(text, family), unreadable };
    }
    const tables: Tables = new Map();
    for (const name of OUR_TABLES.filter((table) => wanted.has(table))) {
      try {
        const text = await run(file, ['-c', '-t', name]);
        for (const [found, table] of parseTables(text, family)) tables.set(found, table);
      } catch (error) {
        // A table that this kernel has not is empty; writing to it will say so.
        if (!isKind(error, 'unsupported')) throw error;
      }
    }
    return { tables, unreadable };
  }

  /** The backend that the pod uses, and its tables where they were read to find out. */
  async function choose(
    family: Family,
    wanted: ReadonlySet<string>,
  ): Promise<{ backend: Backend; listing?: Listing }> {
    if (forced !== undefined) return { backend: forced };
    const names = await legacyTables(family);
    let nft: Listing;
    try {
      nft = await save(family, 'nft', wanted);
    } catch (error) {
      // Neither program nor kernel has to know nf_tables, if they know legacy.
      if (!isKind(error, 'not-installed', 'unsupported')) throw error;
      return find(family, 'legacy').then(
        () => ({ backend: 'legacy' }),
        () => {
          throw error;
        },
      );
    }
    if (names?.length === 0) return { backend: 'nft', listing: nft };
    // Legacy tables are there, or this user may not know: then only our own mark in one of the two decides.
    const inNft = evidence(nft.tables);
    if (names === undefined && inNft === 'ours') return { backend: 'nft', listing: nft };
    // Whatever is ours is in nat first of all; to ask for another table would make it.
    const legacy = await save(family, 'legacy', new Set(['nat'])).catch((error: unknown): Listing => {
      if (isKind(error, 'not-installed', 'unsupported')) return { tables: new Map(), unreadable: new Map() };
      throw error;
    });
    const inLegacy = evidence(legacy.tables);
    const used = inLegacy === 'used' && names !== undefined && inNft !== 'ours';
    if (inLegacy !== 'ours' && !used) return { backend: 'nft', listing: nft };
    return names === undefined ? { backend: 'legacy' } : { backend: 'legacy', listing: legacy };
  }

  async function backendOf(
    family: Family,
    wanted: ReadonlySet<string> = new Set(OUR_TABLES),
  ): Promise<Awaited<ReturnType<typeof choose>>> {
    const known = chosen.get(family);
    if (known !== undefined) return { backend: known };
    const choice = await choose(family, wanted);
    chosen.set(family, choice.backend);
    return choice;
  }

  /** A chain of nf_tables; undefined when nothing can be told of it. One that is not there has no rules. */
  async function listChain(family: Family, table: string, name: string): Promise<NftChain | undefined> {
    const args = ['-j', 'list', 'chain', family === 4 ? 'ip' : 'ip6', table, name];
    const { stdout, stderr, exitCode } = await exec('nft', args, { timeoutMs: NFT_TIMEOUT });
    if (exitCode !== 0) {
      return /^Error: No such file or directory/m.test(stderr) ? { rules: 0, targets: [] } : undefined;
    }
    return parseNftChain(stdout);
  }

  /** The sets, or why they could not be read. */
  async function observeSets(): Promise<Map<string, AddressSet> | NatError> {
    try {
      return parseSets(await run('ipset', ['save'], { timeoutMs: RESTORE_TIMEOUT }));
    } catch (error) {
      if (error instanceof NatError) return error;
      throw error;
    }
  }

  async function applyFamily(family: Family, steps: readonly NatStep[]): Promise<void> {
    for (let i = 0; i < steps.length; ) {
      const part = partOf(steps[i]!);
      let end = i;
      while (end < steps.length && partOf(steps[end]!) === part) end++;
      const batch = steps.slice(i, end);
      if (part === 'rules') {
        const file = `${await find(family, (await backendOf(family)).backend)}-restore`;
        const input = rulesInput(batch.filter(isRuleStep));
        await run(file, ['--noflush', '-w', `${LOCK_WAIT}`], { input, timeoutMs: RESTORE_TIMEOUT });
      } else if (part === 'sets') {
        const input = setsInput(batch.filter(isSetStep));
        await run('ipset', ['-exist', 'restore'], { input, timeoutMs: RESTORE_TIMEOUT });
      } else {
        await ports?.apply(batch.filter(isPortStep));
      }
      i = end;
    }
  }

  async function countsOf(family: Family, chains: readonly string[]): Promise<ChainCounts> {
    const backend = chosen.get(family);
    if (backend === undefined) return [];
    const file = `${await find(family, backend)}-save`;
    const text = await run(file, ['-c', '-t', 'mangle'], { timeoutMs: COUNTS_TIMEOUT });
    const mangle = parseTables(text, family).get('mangle');
    return chains.flatMap((chain) => {
      const packets = mangle?.get(chain)?.rules[0]?.packets;
      return packets === undefined ? [] : [{ family, chain, packets }];
    });
  }

  return {
    async observe({ families, tables = new Set(OUR_TABLES), sets = [], ports: blocks = [] }) {
      const state: ObservedNat = {
        ...{ tables: { 4: new Map(), 6: new Map() }, sets: new Map(), backend: {}, failed: {} },
        unreadable: { 4: new Map(), 6: new Map() },
      };
      const look = async (family: Family): Promise<void> => {
        try {
          const { backend, listing } = await backendOf(family, tables);
          const found = listing ?? (await save(family, backend, tables));
          state.tables[family] = found.tables;
          state.unreadable[family] = found.unreadable;
          state.backend[family] = backend;
        } catch (error) {
          if (!(error instanceof NatError)) throw error;
          const needed = families.includes(family) || !isKind(error, 'not-installed', 'unsupported');
          if (needed) state.failed[family] = error;
        }
      };
      // Three programs side by side take as long as the slowest of them.
      const [found] = await Promise.all([observeSets(), look(4), look(6)]);
      if (!(found instanceof Error)) state.sets = found;
      else {
        const missing = isKind(found, 'not-installed', 'unsupported');
        for (const family of FAMILIES) {
          const used = allRules(state.tables[family]).flatMap(setsOf).some(isOwnedName);
          if (used || (!missing && sets.includes(family))) state.failed[family] ??= found;
        }
      }
      if (ports !== undefined) {
        try {
          state.ports = await ports.observe(blocks.length > 0);
        } catch (error) {
          if (!(error instanceof NatError)) throw error;
          // Where there can be none there are none; making them will say why.
          if (!isKind(error, 'unsupported')) for (const family of blocks) state.failed[family] ??= error;
        }
      }
      return state;
    },

    async missingHook(family, table, hooks) {
      const found = new Map<string, NftChain>();
      for (const name of new Set(hooks.flatMap(({ chain, target }) => [chain, target]))) {
        const chain = await listChain(family, table, name);
        if (chain === undefined) return undefined;
        found.set(name, chain);
      }
      return hooks.find(
        ({ chain, target }) => !found.get(chain)!.targets.includes(target) || found.get(target)!.rules === 0,
      );
    },

    async apply(steps) {
      const failures: NatError[] = [];
      for (const family of FAMILIES) {
        const own = steps.filter((step) => step.family === family);
        await applyFamily(family, own).catch((error: unknown) => {
          if (!(error instanceof NatError)) throw error;
          failures.push(error);
        });
      }
      const [first, second] = failures;
      if (first === undefined) return;
      throw second === undefined ? first : new NatError(first.kind, `${first.message}; ${second.message}`);
    },

    async counts(families, chains) {
      const results = await Promise.allSettled(families.map((family) => countsOf(family, chains)));
      return results.flatMap((result) => (result.status === 'fulfilled' ? result.value : []));
    },
  };
}
