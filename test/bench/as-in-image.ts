/** The agent as the image starts it: bundled, with the flags that images/gateway gives Node for the container's memory. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { AgentOptions } from '../support/agent.ts';
import { must, NODE, ROOT } from '../support/netns.ts';

/** Of a container with 96 MiB or less. */
export const SMALL_FLAGS = readFileSync(
  join(ROOT, 'images/gateway/rootfs/usr/libexec/veg-agent/small-flags'),
  'utf8',
).trim();

/** The rest of its environment then. */
const SMALL_ENVIRONMENT = {
  ...{ UV_THREADPOOL_SIZE: '3', MALLOC_TOP_PAD_: '16384' },
  ...{ MALLOC_MMAP_THRESHOLD_: '65536', MALLOC_TRIM_THRESHOLD_: '65536' },
};

/** Makes the bundle in a directory that goes with this process. */
export function makeBundle(): string {
  const directory = mkdtempSync(join(tmpdir(), 'veg-bundle-'));
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }));
  must(NODE, [join(ROOT, 'images/gateway/bundle.ts'), directory]);
  return directory;
}

/** Options that start the bundle as in a container with this much memory, MiB; `small`: Node's flags up to 96 MiB. */
export function imageOptions(
  bundle: string,
  memory = 64,
  small = SMALL_FLAGS,
): Required<Pick<AgentOptions, 'wrapper' | 'env'>> {
  const isSmall = memory <= 96;
  const flags = isSmall ? small : `--max-old-space-size=${(memory * 3) >> 3} --max-semi-space-size=4`;
  const script = `node=$1; shift 2; exec "$node" ${flags} ${bundle}/dist/agent/main.js "$@"`;
  return {
    wrapper: ['sh', '-c', script, 'sh'],
    env: { MALLOC_ARENA_MAX: '1', ...(isSmall && SMALL_ENVIRONMENT) },
  };
}
