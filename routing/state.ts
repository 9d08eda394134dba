/** What the kernel's routing looks like, as plain values. Read by `kernel.ts`, compared by `diff.ts`. Pure. */
import type { Address, Family, Prefix } from '../lib/prefix.ts';
import type { ObservedProxy } from './proxies.ts';

/** The kinds of devices that the agent makes, with what it compares of them (IFLA_LINKINFO). */
export type Device =
  | { kind: 'vrf'; table: number }
  | { kind: 'bridge' }
  | {
      kind: 'vxlan';
      vni: number;
      /** Where its packets come from; absent: any address. */
      local?: Address;
      /** UDP. */
      port: number;
      learning: boolean;
    };

/** A network interface (RTM_NEWLINK). */
export interface Link {
  index: number;
  name: string;
  /** IFF_UP: administratively up. */
  up: boolean;
  /** IFF_LOWER_UP: the lower layer has a carrier. */
  carrier: boolean;
  /** Octets. */
  mtu: number;
  /** `02:42:ac:11:00:02`; empty when the link has none. */
  mac: string;
  /** How often it has got or lost its carrier. */
  carrierChanges?: number;
  /** The index of the bridge or VRF that it belongs to; absent: none. */
  master?: number;
  /** IFLA_GROUP; absent: 0, the default. */
  group?: number;
  /** Absent: a device of another kind. */
  device?: Device;
}

/** An address on an interface (RTM_NEWADDR). */
export interface InterfaceAddress {
  family: Family;
  ifindex: number;
  address: Address;
  /** The length of the on-link prefix, bits. */
  prefixLength: number;
  /** rt_scope_t: 0 global, 253 link, 254 host. */
  scope: number;
  /** IFA_F_*: tentative (0x40) and dadfailed (0x08) addresses are not usable. */
  flags: number;
  /** IFA_RT_PRIORITY; absent when the address has none. */
  metric?: number;
}

/** A route (RTM_NEWROUTE). */
export interface Route {
  family: Family;
  table: number;
  destination: Prefix;
  /** The next hop; absent for an on-link or multipath route. */
  gateway?: Address;
  /** RTNH_F_ONLINK: the next hop is on the link although no network of the interface holds it. */
  onlink?: true;
  /** The name of the outgoing interface; absent for a multipath route or one without a device. */
  dev?: string;
  /** rtm_protocol. */
  protocol: number;
  /** rtm_scope. */
  scope: number;
  /** rtm_type: 1 unicast. */
  type: number;
  /** RTA_PRIORITY; 0 when absent. the default of IPv6 routes is 1024. */
  metric: number;
  /**
   * TOS or source prefix, as iproute2 writes it: the route is for some packets only, and competes with no
   * route that lacks it.
   */
  qualifier?: string;
  /** True with several next hops or an encapsulation: never equal to a wanted route. */
  foreign: boolean;
  /**
   * The kernel's message, kept where the agent may have to delete a route that holds more than these fields: a
   * delete sends it back.
   */
  message?: Uint8Array;
}

/** A rule (RTM_NEWRULE). */
export interface Rule {
  family: Family;
  priority: number;
  table: number;
  /** FRA_SRC; absent: from all. */
  from?: Prefix;
  /** FRA_DST; absent: to all. */
  to?: Prefix;
  /** FRA_IIFNAME. */
  iif?: string;
  /** FRA_FWMARK and FRA_FWMASK, at the priority of a group's rules. */
  mark?: { value: number; mask: number };
  /** FRA_PROTOCOL, where it is the agent's. */
  protocol?: number;
  /** FRA_L3MDEV, at the priorities of EVPN mode: for packets of a VRF; to its table, or to nowhere. `table` is 0. */
  l3mdev?: 'lookup' | 'unreachable';
  /** Selectors, an action or a protocol that the agent never writes, in words. */
  qualifier?: string;
  /** True with a qualifier, an inversion or a suppressor: never equal to a wanted rule. */
  foreign: boolean;
  /** The kernel's message, kept where the agent may have to delete the rule: a delete sends it back. */
  message?: Uint8Array;
}

export interface RoutingState {
  links: Link[];
  addresses: InterfaceAddress[];
  /**
   * Tables main, 1000, 1001 and those of a group and of a VRF only, both families; cloned (cached) routes left out. In the
   * kernel's order: of two routes with the same destination and metric the earlier one is used.
   */
  routes: Route[];
  rules: Rule[];
  /** Proxy neighbours; absent: none. */
  proxies?: ObservedProxy[];
}
