/**
 * The root file system of the image without the image: this machine's, with the image's own files laid over it and
 * its file capabilities set. What runs in it runs as a container of Kube-OVN's gateway pod would: with its user, its
 * bounding set and its environment, in a namespace of the test. It takes a second, where an image takes a minute.
 */
import {
  chmodSync,
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { type Daemon, must, type Namespace, NODE, type Output, ROOT, type Scope } from '../support/netns.ts';

/** The capabilities of Kube-OVN's BFD container. */
const BFD_CAPABILITIES = ['net_admin', 'net_bind_service', 'net_raw'];
/** Its user. */
export const NOBODY = 65534;
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export interface ContainerOptions {
  /** Nothing of this process's environment is passed on. */
  env?: Record<string, string>;
  /** Default: privileged, as the init container is. */
  user?: 'root' | 'nobody';
  /** The bounding set of `nobody`; default: that of Kube-OVN's BFD container. */
  capabilities?: readonly string[];
  /** `allowPrivilegeEscalation: false`. */
  noNewPrivileges?: boolean;
}

/** The bundle, made once. It goes with this process. */
let bundled: string | undefined;
function bundle(): string {
  if (bundled === undefined) {
    const directory = mkdtempSync(join(tmpdir(), 'vegt-bundle-'));
    process.once('exit', () => rmSync(directory, { recursive: true }));
    must(NODE, [join(ROOT, 'images/gateway/bundle.ts'), directory]);
    bundled = directory;
  }
  return bundled;
}

export class ImageRoot {
  readonly #dir: string;

  /** Needs root, and overlayfs. It goes with the scope. */
  constructor(scope: Scope) {
    const base = scope.directory('image');
    must('mount', ['-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', base]);
    const [upper, work, dir] = ['upper', 'work', 'root'].map((name) => join(base, name)) as [
      string,
      string,
      string,
    ];
    for (const made of [upper, work, dir]) mkdirSync(made);
    cpSync(join(ROOT, 'images/gateway/rootfs'), upper, { recursive: true });
    cpSync(bundle(), join(upper, 'opt/veg-agent'), { recursive: true });
    chmodSync(join(upper, 'opt/veg-agent'), 0o755);
    copyFileSync(join(ROOT, 'images/gateway/bfdd-control'), join(upper, 'usr/bin/bfdd-control'));
    symlinkSync(NODE, join(upper, 'usr/bin/node'));
    const layers = `lowerdir=/,upperdir=${upper},workdir=${work}`;
    must('mount', ['-t', 'overlay', '-o', layers, 'overlay', dir]);
    must('mount', ['-t', 'proc', 'proc', join(dir, 'proc')]);
    must('mount', ['--bind', '/dev', join(dir, 'dev')]);
    must('mount', ['-t', 'tmpfs', '-o', 'mode=1777', 'tmpfs', join(dir, 'dev/shm')]);
    must('mount', ['-t', 'tmpfs', '-o', 'mode=777', 'tmpfs', join(dir, 'usr/local/sbin')]);
    must('sh', [join(ROOT, 'images/gateway/prepare.sh'), dir]);
    this.#dir = dir;
  }

  /** Writes a file, such as a cgroup's limit. */
  write(path: string, text: string): void {
    const file = join(this.#dir, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
  }

  #command(argv: readonly string[], options: ContainerOptions): string[] {
    const { env = {}, user = 'root', capabilities = BFD_CAPABILITIES, noNewPrivileges = false } = options;
    const identity = [
      ...['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups', '--inh-caps=-all'],
      `--bounding-set=${['-all', ...capabilities.map((name) => `+${name}`)].join(',')}`,
      ...(noNewPrivileges ? ['--no-new-privs'] : []),
    ];
    const settings = Object.entries({ PATH, ...env }).map(([name, value]) => `${name}=${value}`);
    return [this.#dir, ...(user === 'nobody' ? identity : []), 'env', '-i', ...settings, ...argv];
  }

  /** Runs a command to its end, in a network namespace. */
  run(ns: Namespace, argv: readonly string[], options: ContainerOptions = {}): Output {
    return ns.run('chroot', this.#command(argv, options));
  }

  /** Starts a command that goes on running. */
  spawn(ns: Namespace, argv: readonly string[], options: ContainerOptions = {}): Daemon {
    return ns.spawn('chroot', this.#command(argv, options), { name: 'container' });
  }
}
