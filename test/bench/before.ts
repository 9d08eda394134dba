/** An earlier commit, built to be measured in turn with this one: `npm run bench -- --before REF`. */
import { cpSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { must, NODE, ROOT } from '../support/netns.ts';

export interface Before {
  /** Its short hash. */
  commit: string;
  /** What `npm run build` made of it, and the bundle. */
  dist: string;
  bundle: string;
  /** Node's flags in its image, for a container of 96 MiB or less. */
  flags: string;
}

/** How the runner tells a part of it. */
export const BEFORE_VARIABLE = 'VEG_BENCH_BEFORE';

const MINUTES = 60_000;

/** Builds a commit in an empty directory. Throws when git does not know it, or it cannot be built. */
export function buildBefore(ref: string, directory: string): Before {
  const commit = must('git', ['-C', ROOT, 'rev-parse', '--short', '--verify', `${ref}^{commit}`]).trim();
  const tree = join(directory, 'tree');
  const unpack = 'mkdir "$2" && git -C "$1" archive "$3" | tar -x -C "$2"';
  must('sh', ['-c', unpack, 'sh', ROOT, tree, commit], { timeoutMs: MINUTES });
  const lock = (root: string) => readFileSync(join(root, 'package-lock.json'), 'utf8');
  if (lock(tree) === lock(ROOT)) {
    cpSync(join(ROOT, 'node_modules'), join(tree, 'node_modules'), {
      recursive: true,
      verbatimSymlinks: true,
    });
  } else must('npm', ['ci', '--prefix', tree], { timeoutMs: 10 * MINUTES });
  must('npm', ['run', '--prefix', tree, 'build'], { timeoutMs: 5 * MINUTES });
  const bundle = join(directory, 'bundle');
  must(NODE, [join(tree, 'images/gateway/bundle.ts'), bundle], { timeoutMs: 5 * MINUTES });
  const flags = readFileSync(join(tree, 'images/gateway/rootfs/usr/libexec/veg-agent/small-flags'), 'utf8');
  return { commit, dist: join(tree, 'dist'), bundle, flags: flags.trim() };
}
