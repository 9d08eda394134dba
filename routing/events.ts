/** Multicast rtnetlink messages as events: what changed, in words. Pure. */
import type { Family } from '../lib/prefix.ts';
import { isOurTable } from './numbers.ts';
import { MessageType, parseInterfaceAddress, parseLink, parseRoute, parseRule } from './parse.ts';
import { renderRoute, renderRule } from './render.ts';

/** The groups to listen to (RTNLGRP_*): links, and addresses, routes and rules of both families. */
export const ROUTING_GROUPS: readonly number[] = [1, 5, 9, 7, 11, 8, 19];

export interface RoutingEvent {
  object: 'link' | 'address' | 'route' | 'rule';
  /** Absent for a link. */
  family?: Family;
  /** What happened: `rule removed: priority 1003 from 10.16.0.12 iif lo lookup 1000`. */
  what: string;
}

/** A notification as an event. Undefined for what does not concern the agent: other tables, other families. */
export function routingEvent(
  { type, data }: { type: number; data: Buffer },
  nameOf: (ifindex: number) => string | undefined,
): RoutingEvent | undefined {
  switch (type) {
    case MessageType.NEWLINK:
    case MessageType.DELLINK: {
      const link = parseLink(data);
      if (link === undefined) return undefined;
      const state = `${link.up ? 'up' : 'down'}${link.up && !link.carrier ? ', no carrier' : ''}`;
      const what =
        type === MessageType.NEWLINK ? `link ${link.name} is ${state}` : `link removed: ${link.name}`;
      return { object: 'link', what };
    }
    case MessageType.NEWADDR:
    case MessageType.DELADDR: {
      const found = parseInterfaceAddress(data);
      if (found === undefined) return undefined;
      const { family, address, prefixLength, ifindex } = found;
      const verb = type === MessageType.NEWADDR ? 'set' : 'removed';
      const dev = nameOf(ifindex) ?? `if${ifindex}`;
      return { object: 'address', family, what: `address ${verb}: ${address}/${prefixLength} dev ${dev}` };
    }
    case MessageType.NEWROUTE:
    case MessageType.DELROUTE: {
      const route = parseRoute(data, nameOf);
      if (route === undefined || !isOurTable(route.table)) return undefined;
      const verb = type === MessageType.NEWROUTE ? 'set' : 'removed';
      return { object: 'route', family: route.family, what: `route ${verb}: ${renderRoute(route)}` };
    }
    case MessageType.NEWRULE:
    case MessageType.DELRULE: {
      const rule = parseRule(data);
      if (rule === undefined) return undefined;
      const verb = type === MessageType.NEWRULE ? 'added' : 'removed';
      return { object: 'rule', family: rule.family, what: `rule ${verb}: ${renderRule(rule)}` };
    }
    default:
      return undefined;
  }
}
