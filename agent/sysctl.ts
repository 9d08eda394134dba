/**
 * The three kernel settings that a gateway needs. Set where /proc/sys can be written, reported where it cannot
 * (in a Kube-OVN pod only the init container may). The value that was there before is kept in
 * `<state-dir>/sysctl.json`, so that `cleanup` can put it back.
 */
import { readFileSync } from 'node:fs';
import { mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Family } from '../routing/prefix.ts';

/** A setting, by its path below /proc/sys: an interface name may hold dots, which dotted names confuse. */
export interface Sysctl {
  path: string;
  value: string;
  /** The family that forwards nothing without it; absent: it may work all the same. */
  required?: Family;
}

/** A change of one setting. `line`: the command that would do the same. */
export interface SysctlStep extends Sysctl {
  line: string;
}

export interface SysctlLook {
  steps: SysctlStep[];
  problems: Partial<Record<Family, string>>;
  notes: string[];
}

export interface Sysctls {
  /**
   * What has to be changed for these families, and what is wrong and cannot be changed from here: a problem of
   * its family, or a note where it may work all the same.
   */
  look(families: readonly Family[], internalInterface: string): Promise<SysctlLook>;
  /** The present values as one text. */
  fingerprint(families: readonly Family[], internalInterface: string): string;
  /** Makes the changes, remembering what was there until it is there again. Rejects with the first error. */
  apply(steps: readonly SysctlStep[]): Promise<void>;
  /** What puts back the settings that still have the value that `apply` gave them. */
  lookForCleanup(): Promise<SysctlStep[]>;
}

/** What was there before and what the agent put in its place. */
type Remembered = Record<string, { before: string; ours: string }>;

/**
 * The settings. The kernel takes the larger of `all` and the interface's own rp_filter, so both must be 0:
 * packets from the VPC have sources whose way back the filter looks for in the main table, outside.
 */
export function desiredSysctls(families: readonly Family[], internalInterface: string): Sysctl[] {
  const settings: Sysctl[] = [];
  if (families.includes(4)) {
    settings.push(
      { path: 'net/ipv4/ip_forward', value: '1', required: 4 },
      { path: 'net/ipv4/conf/all/rp_filter', value: '0' },
      { path: `net/ipv4/conf/${internalInterface}/rp_filter`, value: '0' },
    );
  }
  if (families.includes(6)) {
    settings.push({ path: 'net/ipv6/conf/all/forwarding', value: '1', required: 6 });
  }
  return settings;
}

const step = ({ path, value }: Sysctl): SysctlStep => ({ path, value, line: `sysctl -w ${path}=${value}` });

/** `base` is /proc/sys; `stateFile` is made when the first setting is changed. */
export function createSysctls(base: string, stateFile: string): Sysctls {
  const read = async (path: string): Promise<string> => (await readFile(join(base, path), 'utf8')).trim();

  const remembered = async (): Promise<Remembered> => {
    try {
      return JSON.parse(await readFile(stateFile, 'utf8')) as Remembered;
    } catch {
      return {};
    }
  };

  const remember = async (all: Remembered): Promise<void> => {
    if (Object.keys(all).length === 0) return rm(stateFile, { force: true });
    await mkdir(dirname(stateFile), { recursive: true });
    await writeFile(`${stateFile}.new`, `${JSON.stringify(all, undefined, 2)}\n`, { mode: 0o600 });
    await rename(`${stateFile}.new`, stateFile);
  };

  return {
    async look(families, internalInterface) {
      const found: SysctlLook = { steps: [], problems: {}, notes: [] };
      for (const wanted of desiredSysctls(families, internalInterface)) {
        try {
          const actual = await read(wanted.path);
          if (actual === wanted.value) continue;
          // Opening tells whether writing is permitted; access(2) would ask for the real user, without capabilities.
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

    fingerprint(families, internalInterface) {
      return desiredSysctls(families, internalInterface)
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
      const changed = await remembered();
      for (const { path, value } of steps) {
        const before = changed[path]?.before ?? (await read(path));
        changed[path] = { before, ours: value };
        await remember(changed);
        await writeFile(join(base, path), value);
        if (value === before) delete changed[path];
      }
      await remember(changed);
    },

    async lookForCleanup() {
      const steps: SysctlStep[] = [];
      for (const [path, { before, ours }] of Object.entries(await remembered())) {
        // An interface that has gone took its settings with it.
        const actual = await read(path).catch(() => undefined);
        if (actual === ours) steps.push(step({ path, value: before }));
      }
      return steps;
    },
  };
}

function problem({ path, value }: Sysctl, error: NodeJS.ErrnoException): string {
  // As sysctl(8) names it, unless an interface name with a dot would make that ambiguous.
  const name = path.includes('.') ? path : path.replaceAll('/', '.');
  const wish = `sysctl ${name} has to be ${value}`;
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
