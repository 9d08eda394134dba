/**
 * The recorder as octets and back: a line of JSON, then the values of each ring. What is read is checked field by field,
 * for anyone in the pod may write to the state directory. Pure.
 */
import { parseJson } from '../../../lib/json.ts';
import { type Kind, MAX_NAME, SLOTS } from './busiest-policies.ts';
import { KEPT_MARKS, MARK_KINDS, MAX_TEXT, type Mark } from './marks.ts';
import { COMBINED, type Recorder } from './recorder.ts';
import { RANGES, type Range } from './series.ts';

/** Changes when the layout does; a file of another version is ignored. */
const VERSION = 1;

const NAMES = Object.keys(RANGES) as Range[];
const MAX_MARKS = MARK_KINDS.length * KEPT_MARKS;
/** Octets of the JSON, and of all. */
const MAX_HEAD = 128 << 10;
const octetsOf = (range: Range): number =>
  RANGES[range].points * COMBINED.length * Float32Array.BYTES_PER_ELEMENT;
export const MAX_OCTETS = MAX_HEAD + NAMES.reduce((sum, range) => sum + octetsOf(range), 0);
const MAX_VALUES = 10_000;

/** A moment on the clock of one boot of the machine, ms, and by the wall clock. */
export interface BootMoment {
  boot: string;
  uptime: number;
  wall: number;
}

/** The content of the file. */
export function encode({ series, policies, marks }: Recorder, moment: BootMoment): (string | Uint8Array)[] {
  const head = {
    version: VERSION,
    ...moment,
    slots: policies.slots.map((kind) => kind ?? null),
    marks: marks.all,
    rings: NAMES.map((range) => {
      const { last, counts } = series.rings[range];
      return { last: last ?? null, counts: [...counts] };
    }),
  };
  const rings = NAMES.map((range) => {
    const { buffer, byteOffset, byteLength } = series.rings[range].values;
    return new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
  });
  return [`${JSON.stringify(head)}\n`, ...rings];
}

interface Head extends BootMoment {
  slots: (Kind | null)[];
  marks: Mark[];
  rings: { last: number | null; counts: number[] }[];
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const isTime = (value: unknown): value is number =>
  typeof value === 'number' && Math.abs(value) < Number.MAX_SAFE_INTEGER;
const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const isText = (value: unknown, most: number): value is string =>
  typeof value === 'string' && value.length <= most;

const isList = <T>(value: unknown, most: number, isOne: (one: unknown) => one is T): value is T[] =>
  Array.isArray(value) && value.length <= most && value.every(isOne);

const isSlot = (value: unknown): value is Kind | null =>
  value === null ||
  (isObject(value) &&
    isText(value.policy, MAX_NAME) &&
    (value.treatment === 'snat' || value.treatment === 'forward'));

const isMark = (value: unknown): value is Mark =>
  isObject(value) &&
  isTime(value.at) &&
  MARK_KINDS.some((kind) => kind === value.kind) &&
  isText(value.text, MAX_TEXT) &&
  isCount(value.count);

const isRing = (value: unknown): value is Head['rings'][number] =>
  isObject(value) &&
  (value.last === null || Number.isSafeInteger(value.last)) &&
  isList(value.counts, COMBINED.length, isCount) &&
  value.counts.length === COMBINED.length;

const isHead = (value: unknown): value is Head =>
  isObject(value) &&
  isText(value.boot, 100) &&
  isTime(value.uptime) &&
  isTime(value.wall) &&
  isList(value.slots, SLOTS, isSlot) &&
  value.slots.length === SLOTS &&
  isList(value.marks, MAX_MARKS, isMark) &&
  isList(value.rings, NAMES.length, isRing) &&
  value.rings.length === NAMES.length;

/** Throws when the content is not a line of JSON before so many octets. */
function split(content: Uint8Array): { head: unknown; values: Float32Array[] } {
  const length = NAMES.reduce((sum, range) => sum + octetsOf(range), 0);
  const end = content.length - length - 1;
  if (end < 0 || end > MAX_HEAD || content[end] !== 0x0a) throw new Error('its length is wrong');
  const head = parseJson(content.subarray(0, end), MAX_VALUES);
  // A copy is aligned.
  const octets = content.slice(end + 1);
  let offset = octets.byteOffset;
  const values = NAMES.map((range) => {
    const ring = new Float32Array(octets.buffer.slice(offset, offset + octetsOf(range)) as ArrayBuffer);
    offset += octetsOf(range);
    return ring;
  });
  return { head, values };
}

/** Fills a new recorder with what was saved. Throws, with what is wrong, when the agent cannot have written it. */
export function restore(recorder: Recorder, content: Uint8Array, now: BootMoment): void {
  const { head, values } = split(content);
  if (isObject(head) && isCount(head.version) && head.version !== VERSION) {
    throw new Error(`it has the layout ${head.version}`);
  }
  if (!isHead(head)) throw new Error('its head is wrong');
  if (values.some((ring) => ring.some((value) => value < 0 || value === Number.POSITIVE_INFINITY))) {
    throw new Error('it has values that cannot be');
  }
  // Within one boot the monotonic clock goes on; otherwise only the wall clock knows how old it is.
  const age = now.boot === head.boot ? now.uptime - head.uptime : now.wall - head.wall;
  if (age < 0) throw new Error('it is from the future');
  const savedAt = now.uptime - age;
  for (const [i, range] of NAMES.entries()) {
    const { last, counts } = head.rings[i]!;
    const ring = recorder.series.rings[range];
    if (last === null) continue;
    // How old the newest column was when it was saved.
    const behind = ring.indexOf(head.uptime) - last;
    if (behind < 0) throw new Error('it is from the future');
    ring.restore(values[i]!, last, ring.indexOf(savedAt) - behind, Uint16Array.from(counts));
  }
  recorder.policies.slots.splice(0, SLOTS, ...head.slots.map((kind) => kind ?? undefined));
  recorder.marks.restore(
    head.marks.map(({ at, kind, text, count }) => ({ at: at - head.uptime + savedAt, kind, text, count })),
  );
}
