/** Answers `GET /v1/translations` for the whole group, whichever member is asked. */
import type { ControlReply } from '../../lib/control/server.ts';
import { FAMILIES } from '../../lib/prefix.ts';
import type { Group } from '../group/group.ts';
import { groupDocument, lookupFamily, memberQuery } from './group-translations.ts';
import { parseLookup, type TranslationsDocument } from './translations-query.ts';

/** How long the other members have to answer, ms. */
const TIMEOUT = 2000;

/**
 * Answers a lookup from this gateway's own flows, and those of the other members; with `scope=local` from its own alone.
 * @param findOwn answers from this gateway's flows; what other members ask is answered by it, and so never asked again
 */
export async function findInGroup(
  query: URLSearchParams,
  findOwn: (query: URLSearchParams) => Promise<ControlReply>,
  group: Pick<Group, 'lookup' | 'self'>,
): Promise<ControlReply> {
  const asked = new URLSearchParams(query);
  const isLocal = asked.get('scope') === 'local';
  if (isLocal) asked.delete('scope');
  const reply = await findOwn(asked);
  const { self } = group;
  if (reply.status !== 200 || isLocal || Object.keys(self).length === 0) return reply;
  const lookup = parseLookup(Object.fromEntries(asked));
  const family = lookupFamily(lookup);
  const families = family === undefined ? FAMILIES : [family];
  const answers = await group.lookup(memberQuery(asked, lookup), families, TIMEOUT);
  if (answers.length === 0) return reply;
  return {
    status: 200,
    body: groupDocument(reply.body as TranslationsDocument, self, answers, lookup.limit),
  };
}
