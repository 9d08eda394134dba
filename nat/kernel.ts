/**
 * Reads and writes the kernel's packet filter with iptables and ipset: one `iptables-save` a family to observe,
 * one `iptables-restore --noflush` transaction a family to apply.
 *
 * iptables has two backends with separate rules in the same kernel. The one that the pod already uses is ours;
 * looking must not change that, and merely listing a legacy table creates it, so only those are listed that
 * /proc says are there.
 */
import { FAMILIES, type Family } from '../routing/prefix.ts';
import type { NatStep } from './diff.ts';
import { NatError, type NatErrorKind, natError } from './errors.ts';
import { parseSets, parseTables } from './parse.ts';
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
}

/** The packets that the first rule of a chain of ours in mangle has counted. */
export type ChainCounts = { family: Family; chain: string; packets: number }[];

export interface NatKernel {
  /**
   * Reads the state. A family that is not required may be missing in this kernel or image; it then has no rules.
   * Throws `NatError`. `needsPorts`: the port blocks must not be missing.
   */
  observe(required: readonly Family[], needsPorts?: boolean): Promise<ObservedNat>;
  /**
   * Carries steps out. A family that fails does not hold up the other; what failed is thrown afterwards, as a
   * `NatError`.
   */
  apply(steps: readonly NatStep[]): Promise<void>;
  /** What these chains have counted; those that are not there, or cannot be read, are left out. */
  counts(families: readonly Family[], chains: readonly string[]): Promise<ChainCounts>;
}

/** How long iptables waits for the xtables lock, seconds. */
const LOCK_WAIT = 5;
/** Who reads counters waits for them no longer, ms. */
const COUNTS_TIMEOUT = 2000;
/** Long enough for a set of a million blocks on a slow machine, ms. */
const RESTORE_TIMEOUT = 60_000;

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
    if (exitCode !== 0) throw natError([file, ...args].join(' '), stderr, exitCode);
    return stdout;
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

  async function save(family: Family, backend: Backend): Promise<Tables> {
    const file = `${await find(family, backend)}-save`;
    if (backend === 'legacy') {
      const names = await legacyTables(family);
      if (names?.length === 0) return new Map();
      // Without the list iptables-save cannot walk the tables either, and has to be told ours by name.
      const selections =
        names === undefined
          ? [
              ['-t', 'raw'],
              ['-t', 'nat'],
            ]
          : [[]];
      const tables: Tables = new Map();
      for (const selection of selections) {
        const text = await run(file, ['-c', ...selection]);
        for (const [name, table] of parseTables(text, family)) tables.set(name, table);
      }
      return tables;
    }
    const text = await run(file, ['-c']);
    const incompatible = /^# Table `(?:raw|nat)' is incompatible, .*$/m.exec(text);
    if (incompatible !== null) throw natError(file, incompatible[0].slice(2), 0);
    return parseTables(text, family);
  }

  /** The backend that the pod uses, and its tables where they were read to find out. */
  async function choose(family: Family): Promise<{ backend: Backend; tables?: Tables }> {
    if (forced !== undefined) return { backend: forced };
    const names = await legacyTables(family);
    let nft: Tables;
    try {
      nft = await save(family, 'nft');
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
    if (names?.length === 0) return { backend: 'nft', tables: nft };
    // Legacy tables are there, or this user may not know: then only our own mark in one of the two decides.
    const inNft = evidence(nft);
    if (names === undefined && inNft === 'ours') return { backend: 'nft', tables: nft };
    const legacy = await save(family, 'legacy').catch((error: unknown) => {
      if (isKind(error, 'not-installed', 'unsupported')) return new Map() as Tables;
      throw error;
    });
    const inLegacy = evidence(legacy);
    const used = inLegacy === 'used' && names !== undefined && inNft !== 'ours';
    return inLegacy === 'ours' || used
      ? { backend: 'legacy', tables: legacy }
      : { backend: 'nft', tables: nft };
  }

  async function backendOf(family: Family): Promise<Awaited<ReturnType<typeof choose>>> {
    const known = chosen.get(family);
    if (known !== undefined) return { backend: known };
    const choice = await choose(family);
    chosen.set(family, choice.backend);
    return choice;
  }

  /** The sets, or why this kernel or image has none. */
  async function observeSets(): Promise<Map<string, AddressSet> | NatError> {
    try {
      return parseSets(await run('ipset', ['save'], { timeoutMs: RESTORE_TIMEOUT }));
    } catch (error) {
      if (error instanceof NatError && isKind(error, 'not-installed', 'unsupported')) return error;
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
    async observe(required, needsPorts = false) {
      const tablesOf = async (family: Family): Promise<{ backend?: Backend; tables: Tables }> => {
        try {
          const { backend, tables } = await backendOf(family);
          return { backend, tables: tables ?? (await save(family, backend)) };
        } catch (error) {
          if (required.includes(family) || !isKind(error, 'not-installed', 'unsupported')) throw error;
          return { tables: new Map() };
        }
      };
      // Three programs side by side take as long as the slowest of them.
      const [ip4, ip6, found] = await Promise.all([tablesOf(4), tablesOf(6), observeSets()]);
      const matched = [ip4, ip6].flatMap(({ tables }) => allRules(tables).flatMap(setsOf));
      if (found instanceof Error && matched.some(isOwnedName)) throw found;
      const state: ObservedNat = {
        tables: { 4: ip4.tables, 6: ip6.tables },
        sets: found instanceof Error ? new Map() : found,
        backend: { ...(ip4.backend && { 4: ip4.backend }), ...(ip6.backend && { 6: ip6.backend }) },
      };
      if (ports !== undefined) state.ports = await ports.observe(needsPorts);
      return state;
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
