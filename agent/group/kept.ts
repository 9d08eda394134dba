/**
 * The view of the group as a process keeps it for the next one: `group.json` in the state directory. Whoever may write to the
 * directory may have written it, so every value is checked, and the slices are calculated again. Pure.
 */
import { type Address, FAMILIES, type Family, familyOf, parseAddress } from '../../lib/prefix.ts';
import type { GroupFacts } from './model.ts';
import { portSlice, SLICES, slotOf } from './slices.ts';

export interface Kept {
  /** When it was written, seconds since the machine started. */
  uptime: number;
  facts: Partial<Record<Family, GroupFacts>>;
}

/** More addresses than a policy may share, and than a group has members, are not read. */
const MAX_ADDRESSES = 64;

/** The file's content. */
export const keptText = ({ uptime, facts }: Kept): string =>
  `${JSON.stringify({
    uptime,
    facts: Object.fromEntries(
      FAMILIES.flatMap((family) => {
        const one = facts[family];
        if (one === undefined) return [];
        const forward = one.forward.map(({ slice: { slot }, via }) => ({ slot, via }));
        return [[family, { self: one.self, held: one.held, forward }]];
      }),
    ),
  })}\n`;

/** The content as far as it is valid: a family with anything else is left out. Undefined when nothing is. */
export function parseKept(value: unknown): Kept | undefined {
  const { uptime, facts } = (value ?? {}) as { uptime?: unknown; facts?: unknown };
  if (typeof uptime !== 'number' || !Number.isFinite(uptime) || typeof facts !== 'object') return undefined;
  const found: Kept = { uptime, facts: {} };
  for (const family of FAMILIES) {
    const one = parseFacts((facts as Record<string, unknown> | null)?.[family], family);
    if (one !== undefined) found.facts[family] = one;
  }
  return found;
}

function parseFacts(value: unknown, family: Family): GroupFacts | undefined {
  const { self, held, forward } = (value ?? {}) as Record<string, unknown>;
  const own = addressOf(self, family);
  if (own === undefined || !Array.isArray(held) || !Array.isArray(forward)) return undefined;
  const addresses = held.slice(0, MAX_ADDRESSES).map((one) => addressOf(one, family));
  const others = forward.slice(0, SLICES).map((one) => forwardOf(one, family));
  if (addresses.includes(undefined) || others.includes(undefined)) return undefined;
  return {
    ...{ self: own, state: 'live', slice: portSlice(slotOf(own)), ready: true },
    ...{ takingOverFrom: [], notConnectedWith: [] },
    ...{ held: addresses as Address[], forward: others as GroupFacts['forward'] },
  };
}

function addressOf(value: unknown, family: Family): Address | undefined {
  const address = typeof value === 'string' ? parseAddress(value) : undefined;
  return address !== undefined && familyOf(address) === family ? address : undefined;
}

function forwardOf(value: unknown, family: Family): GroupFacts['forward'][number] | undefined {
  const { slot, via } = (value ?? {}) as Record<string, unknown>;
  const address = addressOf(via, family);
  if (!Number.isInteger(slot) || (slot as number) < 0 || (slot as number) >= SLICES) return undefined;
  return address && { slice: portSlice(slot as number), via: address };
}
