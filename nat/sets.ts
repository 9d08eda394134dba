/** The edits that bring a set from what it holds to what it shall hold. Pure. */
import { type Family, type Prefix, prefixLength } from '../lib/prefix.ts';
import type { AddressSet } from './state.ts';

export type SetStep =
  /** `hashsize` and `maxelem` as ipset takes them: the buckets to begin with, the most elements ever. */
  | {
      type: 'create-set';
      family: Family;
      set: string;
      hashsize: number;
      maxelem: number;
      marked: boolean;
    }
  /** With `marks`: each element with its mark; one that is there already gets it. */
  | {
      type: 'add-elements';
      family: Family;
      set: string;
      elements: Prefix[];
      marks?: ReadonlyMap<Prefix, number>;
    }
  | { type: 'delete-elements'; family: Family; set: string; elements: Prefix[] }
  /** Exchanges the contents of two sets at once; what uses a set by name uses the new content. */
  | { type: 'swap-sets'; family: Family; set: string; other: string }
  | { type: 'destroy-set'; family: Family; set: string };

/** Whether a set that is there cannot become what is wanted: not even a swap mends its type. */
export const isOtherKind = (observed: AddressSet | undefined, desired: AddressSet): boolean =>
  observed !== undefined && (observed.type !== desired.type || observed.family !== desired.family);

/** The step that adds some elements of a set. */
const addStep = (
  set: string,
  { family, marked, elements: marks }: AddressSet,
  elements: Prefix[],
): SetStep => ({ type: 'add-elements', family, set, elements, ...(marked && { marks }) });

function create(set: string, desired: AddressSet): SetStep[] {
  const { family, maxelem, elements } = desired;
  // Buckets for all elements from the start: adding 100 000 to a table that grows takes a fifth longer.
  const hashsize = Math.max(64, 2 ** Math.ceil(Math.log2(elements.size + 1)));
  const created: SetStep = {
    type: 'create-set',
    family,
    set,
    hashsize,
    maxelem,
    marked: desired.marked,
  };
  if (elements.size === 0) return [created];
  return [created, addStep(set, desired, [...elements.keys()])];
}

/**
 * The steps for one set, in two parts: what comes before the rules that use it, and what comes after.
 * A whole replacement is built aside and swapped in, when that is less work than single edits or when the set
 * that is there has options that ours has not.
 * @param taken the names of all sets there are
 */
export function editSet(
  observed: AddressSet | undefined,
  desired: AddressSet,
  taken: ReadonlySet<string>,
): { before: SetStep[]; after: SetStep[] } {
  const { name: set, family, elements } = desired;
  if (observed === undefined) return { before: create(set, desired), after: [] };
  const added = [...elements.keys()].filter(
    (element) => observed.elements.get(element) !== elements.get(element),
  );
  const gone = [...observed.elements.keys()].filter((element) => !elements.has(element));
  const whole =
    !observed.plain ||
    observed.marked !== desired.marked ||
    observed.maxelem < elements.size ||
    added.length + gone.length > elements.size;
  if (whole) {
    let other = `VEG-NEW-${family}`;
    for (let i = 1; taken.has(other); i++) other = `VEG-NEW${i}-${family}`;
    return {
      before: [
        ...create(other, desired),
        { type: 'swap-sets', family, set, other },
        { type: 'destroy-set', family, set: other },
      ],
      after: [],
    };
  }
  if (desired.marked) {
    // The longest block around an address decides. In this order it is the old one's mark or the new one's that
    // is found at any moment, never that of a third.
    added.sort((a, b) => prefixLength(b) - prefixLength(a));
    gone.sort((a, b) => prefixLength(a) - prefixLength(b));
  }
  return {
    before: added.length > 0 ? [addStep(set, desired, added)] : [],
    after: gone.length > 0 ? [{ type: 'delete-elements', family, set, elements: gone }] : [],
  };
}
