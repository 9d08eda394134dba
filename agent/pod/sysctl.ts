/**
 * Sets the sysctls of desired-sysctls.ts where /proc/sys can be written, and reports them where it cannot (in a Kube-OVN
 * pod only the init container may). The former value is kept in `<state-dir>/sysctl.json`, so that `cleanup` can
 * restore it; as long as that file cannot be written, in memory, with a note. Only changes that the agent itself can
 * have made are read from that file.
 */
import { readFileSync } from 'node:fs';
import { mkdir, open, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { readState, replaceState } from '../../lib/files.ts';
import { parseJson } from '../../lib/json.ts';
import type { Family } from '../../lib/prefix.ts';
import { isOwnChange, type Sysctl } from './desired-sysctls.ts';

/** Limits of the state file: octets, and values. */
const MAX_SIZE = 1 << 16;
const MAX_VALUES = 1 << 10;

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
  /** The current values as one text. */
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

/** `base` is /proc/sys; `stateFile` is made when the first setting is changed. */
export function createSysctls(base: string, stateFile: string): Sysctls {
  const read = async (path: string): Promise<string> => (await readFile(join(base, path), 'utf8')).trim();

  /** What the state file should hold, and why it could not be written; undefined when it does. */
  let unkept: { all: Remembered; reason: string } | undefined;

  /** The content of the state file. Throws when it is invalid. */
  const recall = (): Remembered => {
    const content = readState(stateFile, MAX_SIZE);
    return content === undefined ? {} : parseRemembered(content, stateFile);
  };

  const remembered = (): Remembered => {
    if (unkept !== undefined) return { ...unkept.all };
    try {
      return recall();
    } catch {
      // `observe` notes it.
      return {};
    }
  };

  const remember = async (all: Remembered): Promise<void> => {
    if (Object.keys(all).length === 0) {
      unkept = undefined;
      return rm(stateFile, { force: true, recursive: true });
    }
    try {
      await mkdir(dirname(stateFile), { recursive: true });
      replaceState(stateFile, [`${JSON.stringify(all, undefined, 2)}\n`]);
      unkept = undefined;
    } catch (error) {
      // A gateway forwards without it.
      unkept = { all: { ...all }, reason: (error as Error).message };
    }
  };

  return {
    async observe(settings) {
      const found: SysctlObservation = { steps: [], problems: {}, notes: [] };
      if (unkept !== undefined) await remember(unkept.all);
      if (unkept !== undefined) {
        found.notes.push(
          `cleanup cannot put back settings as long as ${stateFile} cannot be written: ${unkept.reason}; make room there, or make it writable`,
        );
      }
      try {
        recall();
      } catch (error) {
        const { code, message } = error as NodeJS.ErrnoException;
        // The init container's root wrote it; a process that may not read it could not restore anything either.
        if (code !== 'EACCES') found.notes.push(`cleanup will not put back settings: ${message}; remove it`);
      }
      for (const wanted of settings) {
        try {
          const actual = await read(wanted.path);
          if (actual === wanted.value) continue;
          // Opening shows whether writing is permitted; access(2) checks the real user, without capabilities.
          await (await open(join(base, wanted.path), 'r+')).close();
          found.steps.push(step(wanted));
        } catch (error) {
          const text = problem(wanted, error as NodeJS.ErrnoException);
          if (wanted.required === undefined) found.notes.push(text);
          else found.problems[wanted.required] = text;
        }
      }
      return found;
    },

    fingerprint(settings) {
      return settings
        .map(({ path }) => {
          try {
            return readFileSync(join(base, path), 'utf8').trim();
          } catch {
            return '';
          }
        })
        .join(' ');
    },

    async apply(steps) {
      const changed = remembered();
      for (const { path, value } of steps) {
        const before = changed[path]?.before ?? (await read(path));
        if (isOwnChange(path, before, value)) {
          changed[path] = { before, ours: value };
          await remember(changed);
        }
        await writeFile(join(base, path), value);
        if (value === before) delete changed[path];
      }
      await remember(changed);
    },

    async planCleanup() {
      const steps: SysctlStep[] = [];
      for (const [path, { before, ours }] of Object.entries(remembered())) {
        // An interface that is gone took its sysctls with it.
        const actual = await read(path).catch(() => undefined);
        if (actual === ours) steps.push(step({ path, value: before }));
      }
      return steps;
    },
  };
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
  const wish = `sysctl ${name} has to be ${value}${otherwise === undefined ? '' : `, or ${otherwise}`}`;
  switch (error.code) {
    case 'ENOENT':
      return `${wish}, but this kernel or pod has no such setting`;
    case 'EROFS':
    case 'EACCES':
    case 'EPERM':
      return `${wish}, and cannot be set here (${error.code}): set it in an init container that is privileged, or in the pod's securityContext.sysctls`;
    default:
      return `${wish}: ${error.message}`;
  }
}
