/** From what the gateway is meant to do to the routes and rules that do it. */
import type { Address, Family, Prefix } from './prefix.ts';

/** One side of the gateway in one family, with everything known. */
export interface RoutingSide {
  interface: string;
  /** The pod's own addresses on that interface. */
  addresses: Address[];
  gateway: Address;
}

/** What the pod's routing has to do in one family. */
export interface FamilyRouting {
  family: Family;
  internal: RoutingSide;
  external: RoutingSide;
  /** Blocks behind the internal gateway, without those that are on-link there. */
  internalBlocks: Prefix[];
  /** BFD peers behind the internal gateway. */
  peers: Address[];
}

/** The families that are programmed; one that is not in it is taken away. */
export type RoutingIntent = FamilyRouting[];
