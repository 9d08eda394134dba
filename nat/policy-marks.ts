/**
 * The connection mark of a policy: bits 0 to 23 of `ct mark`. The upper octet is the group's (conntrack/wire.ts).
 *
 *     bits 0–21  the number of the policy that the connection belongs to; 0: none that is counted
 *     bit 22     the connection was opened from outside
 *     bit 23     its addresses are forwarded unchanged
 *
 * It promises: a connection that a packet has left with, on its way out or in, has the mark of the policy that the
 * translation log would name; it keeps that mark until it ends, also when the policy is edited or removed.
 *
 * Where it is known: a chain of the table VEG-COUNTERS sets it in POSTROUTING at priority `POLICY_MARK_PRIORITY`, behind
 * NAT (what NAT did decides which policy it was), at a connection's first packet, or the next one of a connection that has
 * none. So chains behind that priority see it on every packet, in both directions, the first one included, and so does the
 * egress of net1 and of eth0. There the addresses before translation are those of the connection (`ct original saddr`,
 * and `ct reply saddr` of one that was opened from outside). In front of it, and at the ingress of an interface after a
 * look-up (act_connmark, act_ctinfo), every packet but the first has it. Compare with `POLICY_NUMBER_MASK`, or a policy's
 * connections from outside have another value.
 *
 * An EIP has no number: its packets have its external address as their source at the egress of net1, and its internal
 * one as their destination at the egress of eth0.
 *
 * Pure.
 */
import { identities } from './marks.ts';

/** The bits that are the agent's, the group's octet excluded. */
export const POLICY_MARK_MASK = 0x00ff_ffff;
/** Those that identify the policy, whichever way its connections were opened. */
export const POLICY_NUMBER_MASK = 0x003f_ffff;
/** Behind nat (100) and the port blocks (101). */
export const POLICY_MARK_PRIORITY = 105;
const INBOUND = 0x0040_0000;
const FORWARDED = 0x0080_0000;

/** No policy has this name, so that none has its number. */
const UNCOUNTED = { '\0': 0 };

/** What a connection counts for. `policy`: a name, `default`, or empty for the gateway's own. */
export interface PolicyLabel {
  policy: string;
  /** It was opened from outside. */
  inbound: boolean;
  /** Its addresses are forwarded unchanged. */
  forwarded: boolean;
}

/**
 * The number of each policy by name: 1 to 2^22 − 1, a hash of the name, the same on each gateway and after each restart.
 * Of two names with one hash the first in alphabetical order has it; the other one has a hash with salt.
 */
export function policyNumbers(names: Iterable<string>): Map<string, number> {
  const numberOf = identities(UNCOUNTED, POLICY_NUMBER_MASK);
  return new Map([...new Set(names)].sort().map((name) => [name, numberOf(name)]));
}

/** Whether a connection with that mark was opened from outside. */
export const isOpenedFromOutside = (mark: number): boolean => (mark & INBOUND) !== 0;

/** The mark of a connection, without the group's octet. */
export const policyMark = (number: number, { inbound, forwarded }: Omit<PolicyLabel, 'policy'>): number =>
  number | (inbound ? INBOUND : 0) | (forwarded ? FORWARDED : 0);
