/** Programs of another architecture, which QEMU's user mode runs once the kernel has been told so (binfmt_misc). */
import { execFileSync } from 'node:child_process';
import { arch } from 'node:os';
import type { Architecture } from './release-rules.ts';

const HANDLERS: Readonly<Record<Architecture, string>> = { amd64: 'qemu-x86_64', arm64: 'qemu-aarch64' };

/** Makes this machine run programs of an architecture. Throws when it cannot. */
export function runProgramsOf(architecture: Architecture): void {
  if (architecture === (arch() === 'x64' ? 'amd64' : arch())) return;
  const runs = () => {
    try {
      return execFileSync('arch-test', [architecture], { stdio: 'pipe' }).length > 0;
    } catch {
      return false;
    }
  };
  const handler = HANDLERS[architecture];
  if (!runs()) execFileSync('update-binfmts', ['--enable', handler], { stdio: 'ignore' });
  if (!runs())
    throw new Error(
      `this machine cannot run programs of ${architecture} (binfmt_misc has no ${handler}), which a machine of that architecture can`,
    );
}
