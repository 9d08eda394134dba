/** From what the gateway is meant to translate to the chains, rules and sets that do it. */
import type { Family, Prefix } from '../routing/prefix.ts';

/** What NAT has to do in one family. */
export interface FamilyNat {
  family: Family;
  internalInterface: string;
  /** Blocks that are forwarded unchanged in both directions, in the policy's order, without repetitions. */
  forward: Prefix[];
  /** Keep BFD out of connection tracking. */
  notrackBfd: boolean;
}

/** The families that are programmed; one that is not in it is taken away. */
export type NatIntent = FamilyNat[];
