/**
 * Change events of the kernel's routing and of nf_tables. Changes through the agent's own request socket are left out.
 * The legacy iptables backend announces nothing; there the check for drift finds changes.
 */

import { NFGEN_HEADER } from '../lib/linux.ts';
import {
  exceptFrom,
  NetlinkListener,
  type NetlinkMessage,
  type NetlinkSocket,
  Protocol,
} from '../lib/netlink.ts';
import { Attributes } from '../lib/netlink-codec.ts';
import { NFNLGRP_NFTABLES, NFT_NEW } from '../lib/nft-codec.ts';
import { ROUTING_GROUPS, type RoutingEvent, routingEvent } from '../routing/events.ts';
import { linkDump, MessageType, parseLink } from '../routing/parse.ts';
import type { Link } from '../routing/state.ts';
import { shapingEvent, TC_GROUP } from '../shaping/events.ts';

/** A change. `overrun`: changes were lost, read everything again. */
export interface KernelEvent {
  object: RoutingEvent['object'] | 'qdisc' | 'netfilter' | 'overrun';
  family?: RoutingEvent['family'];
  /** The netlink address that made the change, often a process id; 0 for the kernel itself. */
  portid?: number;
  /** The agent made it, or a child of its own. */
  own?: boolean;
  what: string;
}

type Listener = Pick<NetlinkListener, 'read' | 'close'>;

/** Opens a listener. Throws `SystemError`. */
export type OpenListener = (...parameters: ConstructorParameters<typeof NetlinkListener>) => Listener;

const openListener: OpenListener = (...parameters) => new NetlinkListener(...parameters);

export interface KernelWatch {
  /** Why there are no `netfilter` events; undefined: there are. */
  readonly netfilterError: Error | undefined;
  /** Reports the changes until now. */
  read(): void;
  close(): void;
}

// linux/netfilter/nf_tables.h
const NFTA_GEN_PROC_PID = 2;
const NFTA_GEN_PROC_NAME = 3;

/** The message that ends every nf_tables transaction, with the process that made it. Undefined for any other. */
export function netfilterEvent({ type, port, data }: NetlinkMessage): KernelEvent | undefined {
  if (type !== NFT_NEW.generation) return undefined;
  let pid = 0;
  let name = 'an unnamed process';
  const attributes = new Attributes(data, NFGEN_HEADER);
  while (attributes.next()) {
    if (attributes.type === NFTA_GEN_PROC_PID) pid = attributes.u32Be;
    if (attributes.type === NFTA_GEN_PROC_NAME) name = attributes.string;
  }
  return { object: 'netfilter', portid: port, what: `nf_tables changed by ${name} (pid ${pid})` };
}

/**
 * Reports every change until it is closed. Main thread only. `netlink`: the socket of the agent's own routing changes;
 * `isOwn`: whether the agent, or a child of its own, has another netlink address. Throws `SystemError` when routing
 * cannot be listened to.
 */
export function watchKernel(
  netlink: Pick<NetlinkSocket, 'dump' | 'port'>,
  onEvent: (event: KernelEvent) => void,
  isOwn: (portid: number) => boolean = () => false,
  listen: OpenListener = openListener,
): KernelWatch {
  const names = new Map<number, string>();
  const learn = (link: Link | undefined): void => {
    if (link !== undefined) names.set(link.index, link.name);
  };
  const onOverrun = (): void => onEvent({ object: 'overrun', what: 'the kernel dropped notifications' });
  const handlers = {
    onMessage(message: NetlinkMessage) {
      if (message.type === MessageType.NEWLINK) learn(parseLink(message.data));
      if (message.port === netlink.port) return;
      const nameOf = (ifindex: number) => names.get(ifindex);
      const event = routingEvent(message, nameOf) ?? shapingEvent(message, nameOf);
      if (event !== undefined) onEvent({ ...event, portid: message.port });
    },
    onOverrun,
  };
  // The agent's own routes are announced as well: twice as many as there are blocks when all are exchanged.
  const routing = listen(Protocol.ROUTE, [...ROUTING_GROUPS, TC_GROUP], handlers, {
    only: exceptFrom(netlink.port),
  });
  netlink.dump(MessageType.GETLINK, linkDump(), parseLink).forEach(learn);

  let netfilter: Listener | undefined;
  let netfilterError: Error | undefined;
  try {
    const handlers = {
      onMessage(message: NetlinkMessage) {
        const event = netfilterEvent(message);
        if (event !== undefined) onEvent({ ...event, own: isOwn(message.port) });
      },
      onOverrun,
    };
    // Every element of a map and every rule is announced as well: a hundred thousand when port blocks change.
    netfilter = listen(Protocol.NETFILTER, [NFNLGRP_NFTABLES], handlers, { only: NFT_NEW.generation });
  } catch (error) {
    netfilterError = error as Error;
  }
  return {
    netfilterError,
    read() {
      routing.read();
      netfilter?.read();
    },
    close() {
      routing.close();
      netfilter?.close();
    },
  };
}
