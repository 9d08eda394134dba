/**
 * Sets the sysctls of desired-sysctls.ts where /proc/sys can be written, and reports them where it cannot (in a Kube-OVN
 * pod only the init container may). The former value is kept in `<state-dir>/sysctl.json`, so that `cleanup` can
 * restore it; as long as that file cannot be written, in memory, with a note. Only changes that the agent itself can
 * have made are read from that file.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { mkdir, open, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { readState, replaceState } from '../../lib/files.ts';
import { parseJson } from '../../lib/json.ts';
import type { Family } from '../../lib/prefix.ts';
import { isOwnChange, type Sysctl } from './desired-sysctls.ts';

/** Limits of the state file: octets, and values. */
const MAX_SIZE = 1 << 16;
const MAX_VALUES = 1 << 10;
/** More than the value of a sysctl has, octets. */
const SIZE = 256;

/** A change of one sysctl. `line`: the command that would do the same. */
export interface SysctlStep extends Pick<Sysctl, 'path' | 'value' | 'required'> {
  line: string;
}

export interface SysctlObservation {
  steps: SysctlStep[];
  problems: Partial<Record<Family, string>>;
  notes: string[];
}

export interface Sysctls {
  /**
   * What has to be changed, and what is wrong and cannot be changed from here: a problem of its family, or a note
   * where the gateway may work without.
   */
  observe(settings: readonly Sysctl[]): Promise<SysctlObservation>;
  /** The current values as one text. Their files stay open until `close`. */
  fingerprint(settings: readonly Sysctl[]): string;
  /**
   * Makes the changes, and keeps the former values until they are restored. Rejects with the first error; a state
   * file that cannot be written is none, and each observation retries it.
   */
  apply(steps: readonly SysctlStep[]): Promise<void>;
  /** The steps that restore the sysctls that still have the value that `apply` set. */
  planCleanup(): Promise<SysctlStep[]>;
}

/** The former value of a sysctl, and the agent's. */
type Remembered = Record<string, { before: string; ours: string }>;

const step = ({ path, value, required }: Pick<Sysctl, 'path' | 'value' | 'required'>): SysctlStep => ({
  path,
  value,
  ...(required && { required }),
  line: `sysctl -w ${path}=${value}`,
});

/** `base` is /proc/sys; `stateFile` is created when the first sysctl is changed. */
export const createSysctls = (base: string, stateFile: string): Sysctls & { close(): void } =>
  new ProcSysctls(base, stateFile);

class ProcSysctls implements Sysctls {
  readonly #base: string;
  readonly #former: FormerValues;
  /** The files that are read again and again, by their sysctl. */
  readonly #files = new Map<string, number>();
  readonly #buffer = Buffer.alloc(SIZE);

  constructor(base: string, stateFile: string) {
    this.#base = base;
    this.#former = new FormerValues(stateFile);
  }

  async observe(settings: readonly Sysctl[]): Promise<SysctlObservation> {
    const found: SysctlObservation = { steps: [], problems: {}, notes: await this.#former.check() };
    for (const wanted of settings) {
      try {
        if ((await this.#read(wanted.path)) === wanted.value) continue;
        // Opening shows whether writing is permitted; access(2) checks the real user, without capabilities.
        await (await open(join(this.#base, wanted.path), 'r+')).close();
        found.steps.push(step(wanted));
      } catch (error) {
        const text = problem(wanted, error as NodeJS.ErrnoException);
        if (wanted.required === undefined) found.notes.push(text);
        else found.problems[wanted.required] = text;
      }
    }
    return found;
  }

  fingerprint(settings: readonly Sysctl[]): string {
    const wanted = new Set(settings.map(({ path }) => path));
    for (const path of this.#files.keys()) if (!wanted.has(path)) this.#closeFile(path);
    return [...wanted].map((path) => this.#poll(path)).join(' ');
  }

  /** Reads a file that stays open; it is opened again when its interface was recreated. Empty when there is none. */
  #poll(path: string): string {
    for (const known of this.#files.has(path) ? [true, false] : [false]) {
      try {
        const fd = this.#files.get(path) ?? openSync(join(this.#base, path), 'r');
        this.#files.set(path, fd);
        return this.#buffer.toString('latin1', 0, readSync(fd, this.#buffer, 0, SIZE, 0)).trim();
      } catch {
        if (known) this.#closeFile(path);
      }
    }
    return '';
  }

  #closeFile(path: string): void {
    closeSync(this.#files.get(path)!);
    this.#files.delete(path);
  }

  close(): void {
    for (const path of this.#files.keys()) this.#closeFile(path);
  }

  async apply(steps: readonly SysctlStep[]): Promise<void> {
    const changed = this.#former.read();
    for (const { path, value } of steps) {
      const before = changed[path]?.before ?? (await this.#read(path));
      if (isOwnChange(path, before, value)) {
        changed[path] = { before, ours: value };
        await this.#former.write(changed);
      }
      await writeFile(join(this.#base, path), value);
      if (value === before) delete changed[path];
    }
    await this.#former.write(changed);
  }

  async planCleanup(): Promise<SysctlStep[]> {
    const steps: SysctlStep[] = [];
    for (const [path, { before, ours }] of Object.entries(this.#former.read())) {
      // An interface that is gone took its sysctls with it.
      const actual = await this.#read(path).catch(() => undefined);
      if (actual === ours) steps.push(step({ path, value: before }));
    }
    return steps;
  }

  async #read(path: string): Promise<string> {
    return (await readFile(join(this.#base, path), 'utf8')).trim();
  }
}

/** The former values in the state file, or in memory as long as it cannot be written. */
class FormerValues {
  readonly #file: string;
  /** What the file should hold, and why it could not be written; undefined when it does. */
  #unwritten: { all: Remembered; reason: string } | undefined;

  constructor(file: string) {
    this.#file = file;
  }

  /** Retries a write that failed. Returns notes about the file. */
  async check(): Promise<string[]> {
    const notes: string[] = [];
    if (this.#unwritten !== undefined) await this.write(this.#unwritten.all);
    if (this.#unwritten !== undefined) {
      notes.push(
        `cleanup cannot restore sysctls while ${this.#file} cannot be written: ${this.#unwritten.reason}; free space there, or make it writable`,
      );
    }
    try {
      this.#parse();
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      // The init container's root wrote it; a process that may not read it could not restore anything either.
      if (code !== 'EACCES') notes.push(`cleanup will not restore sysctls: ${message}; remove it`);
    }
    return notes;
  }

  read(): Remembered {
    if (this.#unwritten !== undefined) return { ...this.#unwritten.all };
    try {
      return this.#parse();
    } catch {
      // `check` notes it.
      return {};
    }
  }

  async write(all: Remembered): Promise<void> {
    if (Object.keys(all).length === 0) {
      this.#unwritten = undefined;
      await rm(this.#file, { force: true, recursive: true });
      return;
    }
    try {
      await mkdir(dirname(this.#file), { recursive: true });
      replaceState(this.#file, [`${JSON.stringify(all, undefined, 2)}\n`]);
      this.#unwritten = undefined;
    } catch (error) {
      // A gateway forwards without it.
      this.#unwritten = { all: { ...all }, reason: (error as Error).message };
    }
  }

  /** Throws when the file is invalid. */
  #parse(): Remembered {
    const content = readState(this.#file, MAX_SIZE);
    return content === undefined ? {} : parseRemembered(content, this.#file);
  }
}

/** Parses the state file. Throws when it holds what the agent does not write. */
function parseRemembered(content: Buffer, file: string): Remembered {
  let value: unknown;
  try {
    value = parseJson(content, MAX_VALUES);
  } catch {
    throw new Error(`${file} is damaged`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Error(`${file} is damaged`);
  }
  for (const [path, change] of Object.entries(value)) {
    const { before, ours } = (change ?? {}) as Partial<Remembered[string]>;
    const known = typeof before === 'string' && typeof ours === 'string' && isOwnChange(path, before, ours);
    if (!known) throw new Error(`${file} names a setting or a value that is not the agent's`);
  }
  return value as Remembered;
}

function problem({ path, value, otherwise }: Sysctl, error: NodeJS.ErrnoException): string {
  // As sysctl(8) names it, unless an interface name with a dot would make that ambiguous.
  const name = path.includes('.') ? path : path.replaceAll('/', '.');
  const required = `sysctl ${name} has to be ${value}${otherwise === undefined ? '' : `, or ${otherwise}`}`;
  switch (error.code) {
    case 'ENOENT':
      return `${required}, but this kernel or pod has no such sysctl`;
    case 'EROFS':
    case 'EACCES':
    case 'EPERM':
      return `${required}, and cannot be set here (${error.code}): set it in an init container that is privileged, or in the pod's securityContext.sysctls`;
    default:
      return `${required}: ${error.message}`;
  }
}
