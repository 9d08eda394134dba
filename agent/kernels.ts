/** Opens what reads and writes the kernel of this network namespace. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { exec, isChild } from '../lib/exec.ts';
import * as libc from '../lib/libc.ts';
import { AF_NETLINK, SOCK_RAW } from '../lib/linux.ts';
import { NetlinkSocket, Protocol } from '../lib/netlink.ts';
import { countRequest } from '../nat/conntrack/wire.ts';
import { createCounterKernel, type Reading } from '../nat/counters/kernel.ts';
import { createFastPathKernel } from '../nat/fast-path/kernel.ts';
import { createFingerprint } from '../nat/fingerprint.ts';
import { createGateKernel } from '../nat/gate-kernel.ts';
import { createNatKernel } from '../nat/kernel.ts';
import { createPortKernel } from '../nat/port-kernel.ts';
import { SetHeaders } from '../nat/set-headers.ts';
import { createRoutingKernel, type RoutingKernel, readIndexes, readProxies } from '../routing/kernel.ts';
import { createShapingKernel, type ShapingKernel } from '../shaping/kernel.ts';
import type { KernelEvent } from './events.ts';
import { type KernelWatch, watchKernel } from './events.ts';
import type { Options } from './options.ts';
import { readFacts } from './pod/facts.ts';
import { createSysctls } from './pod/sysctl.ts';
import type { Kernels, ObservedState } from './reconcile/observation.ts';
import { Claims } from './uplink/claims.ts';
import { permanentEntries, removeEntries } from './uplink/next-hop.ts';

export interface OpenKernels extends Kernels {
  routing: RoutingKernel;
  claims: Claims;
  shaping: ShapingKernel;
  /** What the rules of `counters` have counted until now. */
  readCounters(): Promise<Reading[]>;
  /** Changes with what no event announces: the elements of a set, a legacy table, a sysctl, a proxy entry. */
  fingerprint(observed: ObservedState): string;
  /** Reports changes, and which are the agent's own. */
  watch(onEvent: (event: KernelEvent) => void): KernelWatch;
  close(): void;
}

/** Makes the kernel load its connection tracking: its sysctls exist from then on. */
function loadConntrack(): void {
  try {
    const fd = libc.socket(AF_NETLINK, SOCK_RAW, Protocol.NETFILTER);
    libc.sendto(fd, countRequest(1));
    libc.close(fd);
  } catch {
    // A kernel without it has no such sysctls either; there is a note.
  }
}

/** Opens the sockets. Throws when netlink cannot be used at all. */
export function createKernels(
  options: Pick<Options, 'stateDir' | 'networkStatus'>,
  open = (protocol: (typeof Protocol)[keyof typeof Protocol]) => new NetlinkSocket(protocol),
): OpenKernels {
  const netlink = open(Protocol.ROUTE);
  const netfilter: NetlinkSocket[] = [];
  /** Each part has its own: one reads in turns, between which the others may read. */
  const openNetfilter = (): NetlinkSocket => {
    const socket = open(Protocol.NETFILTER);
    netfilter.push(socket);
    return socket;
  };
  const ports = createPortKernel(openNetfilter);
  const reader = createCounterKernel(openNetfilter);
  loadConntrack();
  const sets = new SetHeaders();
  const fingerprint = createFingerprint(libc, sets);
  const claims = new Claims();
  const sysctls = createSysctls('/proc/sys', join(options.stateDir, 'sysctl.json'));
  return {
    routing: createRoutingKernel(netlink),
    nat: createNatKernel({
      exec,
      readFile: (path) => readFile(path, 'utf8'),
      ports,
      gate: createGateKernel(openNetfilter),
      setsExist: () => sets.exist(),
    }),
    counters: createCounterKernel(openNetfilter),
    fastPath: createFastPathKernel(openNetfilter),
    readCounters: () => reader.read(),
    sysctls,
    shaping: createShapingKernel({
      tc: netlink,
      openFilter: openNetfilter,
      indexes: () => readIndexes(netlink),
    }),
    claims,
    neighbours: {
      permanent: () => permanentEntries(netlink),
      remove: (entries) => removeEntries(netlink, entries),
    },
    facts: (observed) => readFacts(observed, options.networkStatus),
    fingerprint({ plan, backend, desiredNat }) {
      const proxies = plan.proxies.length === 0 ? '' : JSON.stringify(readProxies(netlink, String));
      return `${sysctls.fingerprint(plan.sysctls)} ${fingerprint.read(backend, desiredNat)} ${proxies}`;
    },
    watch: (onEvent) =>
      watchKernel(
        netlink,
        onEvent,
        (portid) => netfilter.some(({ port }) => port === portid) || isChild(portid),
      ),
    close() {
      netlink.close();
      for (const socket of netfilter) socket.close();
      claims.close();
      fingerprint.close();
      sysctls.close();
    },
  };
}
