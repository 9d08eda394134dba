/** What happened, for the time line of the plots: found by comparing what was known with what is known now. Pure. */
import type { EngineReport } from '../../../bfd/intent.ts';
import type { Family } from '../../../lib/prefix.ts';
import type { GroupView } from '../../group/model.ts';

export const MARK_KINDS = ['start', 'policy', 'repair', 'session', 'uplink', 'drain', 'holder'] as const;

export type MarkKind = (typeof MARK_KINDS)[number];

/** Something that happened, `count` times in a minute. `at`: milliseconds, of the clock of whoever has the mark. */
export interface Mark {
  at: number;
  kind: MarkKind;
  text: string;
  count: number;
}

/** Marks kept of each kind, and the octets of a text. */
export const KEPT_MARKS = 32;
export const MAX_TEXT = 120;

/** The same within this time is one mark, ms. */
const TOGETHER = 60_000;

/** What marks are made of. */
export interface Facts {
  generation: number;
  /** Of the newest policy input. */
  valid: boolean;
  /** Objects restored, by kind. */
  repaired: Readonly<Record<string, number>>;
  sessions: readonly Pick<EngineReport['sessions'][number], 'local' | 'remote' | 'transitions'>[];
  /** Whether the uplink works; undefined: not known, or not watched. */
  uplinks: Readonly<Record<Family, boolean | undefined>>;
  draining: boolean;
  groups: readonly Pick<GroupView, 'family' | 'holders'>[];
}

type Found = Omit<Mark, 'at'>;

const found = (kind: MarkKind, text: string, count = 1): Found => ({ kind, text, count });

function policyMarks(before: Facts, now: Facts): Found[] {
  if (now.generation !== before.generation) return [found('policy', `generation ${now.generation}`)];
  return before.valid && !now.valid ? [found('policy', 'invalid input')] : [];
}

function repairMarks(before: Facts, now: Facts): Found[] {
  const grown = Object.entries(now.repaired)
    .map(([object, count]) => ({ object, count: count - (before.repaired[object] ?? 0) }))
    .filter(({ count }) => count > 0);
  if (grown.length === 0) return [];
  const objects = grown.map(({ object }) => object).join(', ');
  return [
    found(
      'repair',
      `repaired ${objects}`,
      grown.reduce((sum, { count }) => sum + count, 0),
    ),
  ];
}

type Session = Facts['sessions'][number];

type Transition = Session['transitions'][number];

function sessionMarks(before: Facts, now: Facts): Found[] {
  return now.sessions.flatMap((session) => {
    const earlier = before.sessions.find(
      ({ local, remote }) => local === session.local && remote === session.remote,
    );
    if (earlier === undefined) return [];
    const earlierCount = ({ from, to, diagnostic }: Transition): number =>
      earlier.transitions.find((one) => one.from === from && one.to === to && one.diagnostic === diagnostic)
        ?.count ?? 0;
    return session.transitions.flatMap((one) => {
      const more = one.count - earlierCount(one);
      return one.from !== 'Up' || more <= 0
        ? []
        : [found('session', `BFD ${session.remote} Up → ${one.to}`, more)];
    });
  });
}

function uplinkMarks(before: Facts, now: Facts): Found[] {
  return ([4, 6] as const).flatMap((family) => {
    const [was, is] = [before.uplinks[family], now.uplinks[family]];
    if (is === undefined || is === was || (was === undefined && is)) return [];
    return [found('uplink', `IPv${family} uplink ${is ? 'up' : 'down'}`)];
  });
}

const drainMarks = (before: Facts, now: Facts): Found[] =>
  before.draining === now.draining ? [] : [found('drain', now.draining ? 'drain' : 'drain ended')];

const holdersOf = ({ groups }: Facts): Map<string, string | undefined> =>
  new Map(groups.flatMap(({ holders }) => holders.map(({ address, holder }) => [address, holder])));

function holderMarks(before: Facts, now: Facts): Found[] {
  const earlier = holdersOf(before);
  return [...holdersOf(now)].flatMap(([address, holder]) =>
    !earlier.has(address) || earlier.get(address) === holder
      ? []
      : [found('holder', holder === undefined ? `${address} has no holder` : `${address} held by ${holder}`)],
  );
}

/** What happened between two looks. */
export const marksBetween = (before: Facts, now: Facts): Found[] =>
  [policyMarks, repairMarks, sessionMarks, uplinkMarks, drainMarks, holderMarks].flatMap((compare) =>
    compare(before, now),
  );

/** The newest marks of each kind. Times are milliseconds of a monotonic clock. */
export class Marks {
  #kept: Mark[] = [];

  add({ kind, text, count }: Found, at: number): void {
    const short = text.slice(0, MAX_TEXT);
    const same = this.#kept.findLast((mark) => mark.kind === kind && mark.text === short);
    if (same !== undefined && at - same.at < TOGETHER) {
      same.count += count;
      return;
    }
    this.#kept.push({ at, kind, text: short, count });
    const alike = this.#kept.filter((mark) => mark.kind === kind);
    if (alike.length > KEPT_MARKS) this.#kept.splice(this.#kept.indexOf(alike[0]!), 1);
  }

  /** Takes those of an earlier process. */
  restore(marks: readonly Mark[]): void {
    this.#kept = [...marks];
  }

  /** The oldest first. */
  get all(): readonly Mark[] {
    return this.#kept;
  }
}
