/** The kernel's answers that a seal (seal.ts) is about, and its file. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { readState, replaceState } from '../lib/files.ts';
import { NetlinkListener, NetlinkSocket, Protocol } from '../lib/netlink.ts';
import { generationOf, generationQuestion, NFNLGRP_NFTABLES, NFT_GET } from '../lib/nft-codec.ts';
import { SetHeaders } from '../nat/set-headers.ts';
import type { RoutingStep } from '../routing/diff.ts';
import { ROUTING_GROUPS } from '../routing/events.ts';
import { createRoutingKernel } from '../routing/kernel.ts';
import type { Sysctl } from './pod/desired-sysctls.ts';
import { type KernelAnswers, MAX_SEAL, parseSeal, type Seal } from './seal.ts';

/** What is asked for besides: sets only where there are some of the agent's, because that makes a kernel look for its module. */
export interface Questions {
  sysctls: readonly Sysctl[];
  hasSets: boolean;
}

/** The kernel of this network namespace, as far as a seal needs it. */
export interface SealKernel {
  /** For the uplink. */
  readonly netlink: NetlinkSocket;
  /** Throws what the kernel answers instead, or when a sysctl cannot be read. */
  ask(questions: Questions): Promise<KernelAnswers>;
  /** Adds routes. Returns those that were refused. */
  apply(steps: readonly RoutingStep[]): Promise<Error[]>;
  /** Reports that something may have changed, until `close`. Throws `SystemError`. */
  watch(onEvent: () => void): void;
  close(): void;
}

/** Opens the sockets. Throws `SystemError`. */
export function openSealKernel(): SealKernel {
  const netlink = new NetlinkSocket(Protocol.ROUTE);
  const netfilter = new NetlinkSocket(Protocol.NETFILTER);
  const headers = new SetHeaders();
  const routing = createRoutingKernel(netlink);
  const listeners: NetlinkListener[] = [];
  return {
    netlink,
    async ask({ sysctls, hasSets }) {
      const generation = generationOf(netfilter.ask(NFT_GET.generation, generationQuestion()));
      const sets: string[] = [];
      if (hasSets) headers.read((header) => void sets.push(header.toString('latin1')));
      return {
        ...{ generation, sets, routing: await routing.observe() },
        sysctls: sysctls.map(({ path }) => readFileSync(join('/proc/sys', path), 'utf8')),
      };
    },
    apply: (steps) => routing.apply(steps),
    watch(onEvent) {
      const handlers = { onMessage: onEvent, onOverrun: onEvent };
      listeners.push(new NetlinkListener(Protocol.ROUTE, ROUTING_GROUPS, handlers));
      listeners.push(new NetlinkListener(Protocol.NETFILTER, [NFNLGRP_NFTABLES], handlers));
    },
    close() {
      netlink.close();
      netfilter.close();
      headers.close();
      for (const listener of listeners) listener.close();
    },
  };
}

/** Writes a seal for everybody to read; a file that cannot be written is an error. */
export const writeSeal = (file: string, seal: Seal): void => replaceState(file, [JSON.stringify(seal)]);

/** Reads a seal; undefined where there is none. */
export function readSeal(file: string): Seal | undefined {
  try {
    const content = readState(file, MAX_SEAL);
    return content && parseSeal(JSON.parse(content.toString()));
  } catch {
    return undefined;
  }
}
