/** Opens what reads and writes the kernel of this network namespace. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { exec, isChild } from '../lib/exec.ts';
import * as libc from '../lib/libc.ts';
import { AF_NETLINK, SOCK_RAW } from '../lib/linux.ts';
import { NetlinkSocket, Protocol } from '../lib/netlink.ts';
import { dumpRequest } from '../nat/conntrack/wire.ts';
import { createFingerprint } from '../nat/fingerprint.ts';
import { createNatKernel } from '../nat/kernel.ts';
import { createPortKernel } from '../nat/port-kernel.ts';
import { createRoutingKernel, readProxies } from '../routing/kernel.ts';
import type { KernelEvent } from './events.ts';
import { type KernelWatch, watchKernel } from './events.ts';
import type { Options } from './options.ts';
import { readFacts } from './pod/facts.ts';
import { createSysctls } from './pod/sysctl.ts';
import type { Kernels, ObservedState } from './reconcile/observation.ts';
import { Claims } from './uplink/claims.ts';
import { permanentEntries, removeEntries } from './uplink/next-hop.ts';

export interface OpenKernels extends Kernels {
  claims: Claims;
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
    libc.sendto(fd, dumpRequest(1));
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
  let netfilter: NetlinkSocket | undefined;
  const ports = createPortKernel(() => {
    netfilter = open(Protocol.NETFILTER);
    return netfilter;
  });
  loadConntrack();
  const fingerprint = createFingerprint();
  const claims = new Claims();
  const sysctls = createSysctls('/proc/sys', join(options.stateDir, 'sysctl.json'));
  return {
    routing: createRoutingKernel(netlink),
    nat: createNatKernel({ exec, readFile: (path) => readFile(path, 'utf8'), ports }),
    sysctls,
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
      watchKernel(netlink, onEvent, (portid) => portid === netfilter?.port || isChild(portid)),
    close() {
      netlink.close();
      netfilter?.close();
      claims.close();
      fingerprint.close();
    },
  };
}
