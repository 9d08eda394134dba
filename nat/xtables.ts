/**
 * The iptables programs of this network namespace: which backend they work with, what its tables hold, and restores.
 *
 * iptables has two backends with separate rules in the same kernel. The agent uses the one that the pod already uses.
 * Finding out must not change that, and listing a legacy table creates it: so only those are listed that /proc names;
 * where this user may not read /proc, those that the caller needs.
 */
import { type Exec, isInstalled } from '../lib/exec.ts';
import type { Family } from '../lib/prefix.ts';
import { incompatible, NatError, type NatErrorKind, natError } from './errors.ts';
import { parseTables } from './parse.ts';
import { isOwnedName, namesOurs } from './rules.ts';
import type { Tables } from './state.ts';

export type Backend = 'nft' | 'legacy';

/** The tables that may hold something of the agent's, in the order in which packets traverse them. */
export const OUR_TABLES: readonly string[] = ['raw', 'mangle', 'nat'];

/** How long iptables waits for the xtables lock, seconds. */
const LOCK_WAIT = 5;
/** Long enough for a set of a million blocks on a slow machine, ms. */
export const RESTORE_TIMEOUT = 60_000;

/** The tables of one family, and those that cannot be listed. */
export interface Listing {
  tables: Tables;
  unreadable: Map<string, NatError>;
}

/** The backend in use, and its tables where they were read to find out. */
interface Choice {
  backend: Backend;
  listing?: Listing;
}

export interface XtablesParts {
  exec: Exec;
  /** Whether a program can be run. Default: whether `exec` of lib finds it. */
  isInstalled?(program: string): boolean;
  readFile: (path: string) => Promise<string>;
  /** The backend to use, instead of the one that the pod uses. */
  backend?: Backend;
}

export const isKind = (error: unknown, ...kinds: NatErrorKind[]): boolean =>
  error instanceof NatError && kinds.includes(error.kind);

const program = (family: Family): string => (family === 4 ? 'iptables' : 'ip6tables');

export const allRules = (tables: Tables): string[] =>
  [...tables.values()].flatMap((table) =>
    [...table.values()].flatMap((chain) => chain.rules.map(({ text }) => text)),
  );

/** Whether the tables of a backend show that it is in use, and whether by the agent. */
function usage(tables: Tables): 'ours' | 'used' | 'empty' {
  const chains = [...tables.values()].flatMap((table) => [...table]);
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

export class Xtables {
  readonly #parts: XtablesParts;
  /** The prefix of the programs of a backend: `iptables-nft`, or `iptables` when that is the same. */
  readonly #programs = new Map<string, string>();
  /** Decided once: rules that another program makes later in the other backend do not move the agent's there. */
  readonly #backends = new Map<Family, Backend>();

  constructor(parts: XtablesParts) {
    this.#parts = parts;
  }

  /** Runs a program and returns its output. Throws `NatError`. */
  async run(file: string, args: string[], options?: { input?: string; timeoutMs?: number }): Promise<string> {
    const { stdout, stderr, exitCode } = await this.#parts.exec(file, args, options);
    if (exitCode === 0) return stdout;
    throw natError([file, ...args].join(' '), stderr, exitCode, {
      object: file === 'ipset' ? 'set' : 'chain',
      subject: refusedName(stderr, options?.input),
    });
  }

  /**
   * The backend of a family, and its tables. Throws `NatError`.
   * @param wanted the tables to list by name where it is not known which there are
   */
  async list(family: Family, wanted: ReadonlySet<string>): Promise<Required<Choice>> {
    const { backend, listing } = await this.#backendOf(family, wanted);
    return { backend, listing: listing ?? (await this.#save(family, backend, wanted)) };
  }

  /** Applies a transaction of rules. Throws `NatError`. */
  async restore(family: Family, input: string): Promise<void> {
    const { backend } = await this.#backendOf(family);
    const file = `${await this.#find(family, backend)}-restore`;
    await this.run(file, ['--noflush', '-w', `${LOCK_WAIT}`], { input, timeoutMs: RESTORE_TIMEOUT });
  }

  /** One table with its counters; undefined when the family has no backend yet. Throws `NatError`. */
  async table(family: Family, name: string, timeoutMs: number): Promise<Tables | undefined> {
    const backend = this.#backends.get(family);
    if (backend === undefined) return undefined;
    const file = `${await this.#find(family, backend)}-save`;
    return parseTables(await this.run(file, ['-c', '-t', name], { timeoutMs }), family);
  }

  /** The programs of a backend. Throws `NatError` when there are none. */
  async #find(family: Family, backend: Backend): Promise<string> {
    const named = `${program(family)}-${backend}`;
    const known = this.#programs.get(named);
    if (known !== undefined) return known;
    let found = named;
    if (!(this.#parts.isInstalled ?? isInstalled)(`${named}-save`)) {
      const version = await this.run(`${program(family)}-save`, ['--version']);
      if (version.includes('nf_tables') !== (backend === 'nft')) {
        throw natError(`${named}-save`, `${named}-save: not found`, -1);
      }
      found = program(family);
    }
    this.#programs.set(named, found);
    return found;
  }

  /** The legacy tables that exist; undefined when this user may not know. */
  async #legacyTables(family: Family): Promise<string[] | undefined> {
    try {
      const names = await this.#parts.readFile(`/proc/net/${family === 4 ? 'ip' : 'ip6'}_tables_names`);
      return names.split('\n').filter(Boolean);
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === 'ENOENT' ? [] : undefined;
    }
  }

  /** The tables of a backend. */
  async #save(family: Family, backend: Backend, wanted: ReadonlySet<string>): Promise<Listing> {
    const file = `${await this.#find(family, backend)}-save`;
    if (backend === 'nft') return this.#saveNft(family, file);
    const unreadable = new Map<string, NatError>();
    const names = await this.#legacyTables(family);
    if (names !== undefined) {
      const text = names.length === 0 ? '' : await this.run(file, ['-c']);
      return { tables: parseTables(text, family), unreadable };
    }
    const tables: Tables = new Map();
    for (const name of OUR_TABLES.filter((table) => wanted.has(table))) {
      try {
        const text = await this.run(file, ['-c', '-t', name]);
        for (const [found, table] of parseTables(text, family)) tables.set(found, table);
      } catch (error) {
        // A table that this kernel does not have is empty; writing to it fails with the reason.
        if (!isKind(error, 'unsupported')) throw error;
      }
    }
    return { tables, unreadable };
  }

  async #saveNft(family: Family, file: string): Promise<Listing> {
    const text = await this.run(file, ['-c']);
    const unreadable = new Map<string, NatError>();
    for (const [line, name = ''] of text.matchAll(/^# Table `(.+)' is incompatible, .*$/gm)) {
      unreadable.set(name, incompatible(family, name, `${file}: ${line.slice(2)}`));
    }
    return { tables: parseTables(text, family), unreadable };
  }

  async #backendOf(family: Family, wanted: ReadonlySet<string> = new Set(OUR_TABLES)): Promise<Choice> {
    const known = this.#backends.get(family);
    if (known !== undefined) return { backend: known };
    const choice = await this.#choose(family, wanted);
    this.#backends.set(family, choice.backend);
    return choice;
  }

  async #choose(family: Family, wanted: ReadonlySet<string>): Promise<Choice> {
    const { backend: forced } = this.#parts;
    if (forced !== undefined) return { backend: forced };
    const names = await this.#legacyTables(family);
    let nft: Listing;
    try {
      nft = await this.#save(family, 'nft', wanted);
    } catch (error) {
      // Neither program nor kernel has to know nf_tables, if they know legacy.
      if (!isKind(error, 'not-installed', 'unsupported')) throw error;
      return this.#find(family, 'legacy').then(
        () => ({ backend: 'legacy' }),
        () => {
          throw error;
        },
      );
    }
    return names?.length === 0 ? { backend: 'nft', listing: nft } : this.#chooseBetween(family, nft, names);
  }

  /**
   * Chooses when legacy tables exist, or this user may not know (`names` undefined): then only tables of the agent's own
   * decide.
   */
  async #chooseBetween(family: Family, nft: Listing, names: string[] | undefined): Promise<Choice> {
    const inNft = usage(nft.tables);
    if (names === undefined && inNft === 'ours') return { backend: 'nft', listing: nft };
    // Whatever is the agent's is in nat first of all; listing another table would create it.
    const legacy = await this.#save(family, 'legacy', new Set(['nat'])).catch((error: unknown): Listing => {
      if (isKind(error, 'not-installed', 'unsupported')) return { tables: new Map(), unreadable: new Map() };
      throw error;
    });
    const inLegacy = usage(legacy.tables);
    const used = inLegacy === 'used' && names !== undefined && inNft !== 'ours';
    if (inLegacy !== 'ours' && !used) return { backend: 'nft', listing: nft };
    return names === undefined ? { backend: 'legacy' } : { backend: 'legacy', listing: legacy };
  }
}
