/** What the live tests of nat share: the access to the packet filter of a namespace, and datagrams that tell. */

import type { Exec } from '../../lib/exec.ts';
import { exec } from '../../lib/exec.ts';
import { FAMILIES } from '../../lib/prefix.ts';
import { desiredNat, type NatIntent } from '../../nat/desired.ts';
import { diffNat } from '../../nat/diff.ts';
import { createNatKernel, type NatKernel } from '../../nat/kernel.ts';
import { commandLines } from '../../nat/render.ts';
import type { NatState } from '../../nat/state.ts';
import type { Backend } from '../../nat/xtables.ts';
import { type Daemon, type Namespace, NODE, type Scope, until } from '../support/netns.ts';

export const BACKENDS: Backend[] = ['nft', 'legacy'];
export const program = { 4: 'iptables', 6: 'ip6tables' } as const;

/** Commands as the agent runs them, but in a namespace. */
export const execIn =
  (ns: Namespace, wrapper: string[] = []): Exec =>
  (file, args, options) =>
    exec('ip', ['netns', 'exec', ns.name, ...wrapper, file, ...args], options);

export const readFileIn =
  (ns: Namespace) =>
  async (path: string): Promise<string> => {
    const { code, stdout, stderr } = ns.run('cat', [path]);
    if (code === 0) return stdout;
    throw Object.assign(new Error(stderr), { code: 'ENOENT' });
  };

/** A fresh namespace that uses a backend, as its tables show, and the access to it. */
export function system(scope: Scope, name: string, backend: Backend): { ns: Namespace; kernel: NatKernel } {
  const ns = scope.namespace(`${name}-${backend}`);
  if (backend === 'legacy') {
    for (const family of FAMILIES) ns.sh(`${program[family]}-legacy -t nat -N OPERATOR`);
  }
  return { ns, kernel: createNatKernel({ exec: execIn(ns), readFile: readFileIn(ns) }) };
}

/** Reconciles once; the commands that it took. */
export async function reconcile(
  kernel: NatKernel,
  wanted: NatIntent,
  previous?: NatState,
): Promise<string[]> {
  const steps = diffNat(await kernel.observe({ families: FAMILIES }), desiredNat(wanted), previous);
  await kernel.apply(steps);
  return commandLines(steps);
}

export const rulesIn = (ns: Namespace, backend: Backend, family: 4 | 6, table: string): string[] =>
  ns.sh(`${program[family]}-${backend} -t ${table} -S`).trim().split('\n');

const MIRROR = (port: number): string => `
  const socket = require('node:dgram').createSocket('udp6');
  socket.on('message', (_, from) => socket.send(from.address.replace('::ffff:', ''), from.port, from.address));
  socket.bind(${port}, '::', () => console.log('ready'));`;

/** Starts what answers each datagram with the address that it came from. */
export async function startMirror(ns: Namespace, port: number): Promise<Daemon> {
  const daemon = ns.spawn(NODE, ['-e', MIRROR(port)], { name: `mirror-${port}` });
  await until(() => daemon.log().includes('ready'), { what: `the mirror listens on ${port}` });
  return daemon;
}

const ASK = (host: string, port: number): string => `
  const socket = require('node:dgram').createSocket('${host.includes(':') ? 'udp6' : 'udp4'}');
  socket.on('message', (text) => { console.log(text.toString()); process.exit(0); });
  setTimeout(() => process.exit(1), 2000);
  socket.send('?', ${port}, '${host}');`;

/** Sends a datagram from a port of its own and returns the answer, empty if none came within 2 s. */
export const ask = (ns: Namespace, host: string, port: number): string =>
  ns.run(NODE, ['-e', ASK(host, port)]).stdout.trim();
