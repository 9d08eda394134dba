/**
 * The answer of a group to a lookup: what this gateway found, and what the other members did. Pure.
 *
 * Every flow is in it once, as long as its member answers: the replicas that other members have of it are left out.
 */
import { type Address, type Family, familyOf } from '../../lib/prefix.ts';
import type { Lookup } from '../../nat/conntrack/lookup.ts';
import { familyLabel } from '../../nat/conntrack/records.ts';
import type { MemberAnswer } from '../group/lookups.ts';
import type { MemberResult, TranslationRecord, TranslationsDocument } from './translations-query.ts';

/** Records that a member is asked for at most: an answer has 1 MiB. */
const MEMBER_LIMIT = 1000;

/** The families that a lookup can find flows of; undefined: both. */
export function lookupFamily({ internal, external, dest }: Lookup): Family | undefined {
  const octets = (internal ?? external ?? dest)?.address.length;
  return octets === undefined ? undefined : octets === 4 ? 4 : 6;
}

/** The query that the other members are asked. */
export function memberQuery(query: URLSearchParams, { limit }: Lookup): string {
  const asked = new URLSearchParams(query);
  asked.set('limit', String(Math.min(limit, MEMBER_LIMIT)));
  return asked.toString();
}

/** A member's document, or why there is none. */
function readAnswer({ answer }: MemberAnswer): TranslationsDocument | string {
  if (answer === undefined) return 'no answer';
  if (answer.status !== 200) return answer.body.trim();
  try {
    const document = JSON.parse(answer.body) as TranslationsDocument | null;
    if (Array.isArray(document?.translations) && Array.isArray(document.gaps)) return document;
  } catch {
    // As one of another shape.
  }
  return 'the answer is invalid';
}

/** What two records of one flow have in common. */
const flowKey = ({ zone, protocolNumber, original, translated }: TranslationRecord): string =>
  JSON.stringify([zone, protocolNumber, original, translated]);

/** The records without replicas of flows that are there themselves, and with one replica of each other flow. */
function withoutKnown(records: readonly TranslationRecord[]): TranslationRecord[] {
  const known = new Map<string, TranslationRecord[]>();
  for (const record of records) {
    if (record.verdict === 'replica') continue;
    const key = flowKey(record);
    known.set(key, [...(known.get(key) ?? []), record]);
  }
  return records.filter((record) => {
    if (record.verdict !== 'replica') return true;
    const key = flowKey(record);
    const same = known.get(key) ?? [];
    // A flow that ended before may have had the same ports.
    if (same.some(({ endTime }) => endTime === undefined || endTime > record.startTime)) return false;
    known.set(key, [...same, record]);
    return true;
  });
}

/**
 * Adds the answers of the other members. A member is asked as a member of one family, and gives the flows of that one.
 * @param self this gateway's address by family, where it has a group
 */
export function groupDocument(
  own: TranslationsDocument,
  self: Partial<Record<Family, Address>>,
  answers: readonly MemberAnswer[],
  limit: number,
): TranslationsDocument {
  const selfOf = (label: string) => (label === familyLabel(4) ? self[4] : self[6]);
  const records = own.translations.map((record): TranslationRecord => {
    const member = selfOf(record.addressFamily);
    return member === undefined ? record : { ...record, member };
  });
  const gaps = [...own.gaps];
  let { more } = own;
  const members = answers.map((one): MemberResult => {
    const { member } = one;
    const document = readAnswer(one);
    if (typeof document === 'string') return { member, answered: false, reason: document };
    const family = familyLabel(familyOf(member));
    for (const record of document.translations) {
      if (record.addressFamily === family) records.push({ ...record, member });
    }
    gaps.push(...document.gaps.map((gap) => ({ ...gap, member })));
    more ||= document.more;
    return { member, answered: true, log: document.log };
  });
  const found = withoutKnown(records).sort((a, b) => Date.parse(b.startTime) - Date.parse(a.startTime));
  return {
    ...own,
    translations: found.slice(0, limit),
    more: more || found.length > limit,
    gaps,
    members,
  };
}
