/**
 * Which ports of a shared address a member may allocate. Pure.
 *
 * A slice depends on the member's own address and on nothing else: its last four bits are the number of the slice.
 * So a slice never moves, whatever a member knows of the others, and two members whose addresses differ in those
 * bits cannot share one. Members that do not differ in them cannot be in one policy (`slotConflicts`).
 */
import { type Address, addressBytes } from '../../lib/prefix.ts';

/** Slices of each shared address, and members of a family at most: Kube-OVN allows 10 replicas. */
export const SLICES = 16;

/** The ports below 1024 are left to sources that used one themselves, as the kernel's SNAT has it. */
const FIRST_PORT = 1024;

/** Ports of a slice: 4032, all of 1024 to 65535 together. */
export const SLICE_PORTS = (65_536 - FIRST_PORT) / SLICES;

export interface PortSlice {
  /** 0 to 15. */
  slot: number;
  /** Inclusive. */
  firstPort: number;
  lastPort: number;
}

/** The number of a member's slice. */
export const slotOf = (member: Address): number => addressBytes(member).at(-1)! % SLICES;

/** The ports of a slice. */
export function portSlice(slot: number): PortSlice {
  const firstPort = FIRST_PORT + slot * SLICE_PORTS;
  return { slot, firstPort, lastPort: firstPort + SLICE_PORTS - 1 };
}

/** The slice that a port of a shared address is in; undefined below 1024. */
export const slotOfPort = (port: number): number | undefined =>
  port < FIRST_PORT ? undefined : Math.floor((port - FIRST_PORT) / SLICE_PORTS);

/** Members of one family that would share a slice, each with the first one before it that has the same. */
export function slotConflicts(members: readonly Address[]): { member: Address; other: Address }[] {
  const owners = new Map<number, Address>();
  const conflicts: { member: Address; other: Address }[] = [];
  for (const member of members) {
    const other = owners.get(slotOf(member));
    if (other === undefined) owners.set(slotOf(member), member);
    else if (other !== member) conflicts.push({ member, other });
  }
  return conflicts;
}
