// What a lookup of a group gives: each flow once, with its member, and who did not answer.
import t from 'tap';
import { findInGroup } from '../../../agent/flows/group-lookup.ts';
import { groupDocument, lookupFamily, memberQuery } from '../../../agent/flows/group-translations.ts';
import {
  parseLookup,
  type TranslationRecord,
  type TranslationsDocument,
  translationsTable,
} from '../../../agent/flows/translations-query.ts';
import type { MemberAnswer } from '../../../agent/group/lookups.ts';
import { address, type Family } from '../../../lib/prefix.ts';

const [A, B, C, B6] = ['10.16.0.12', '10.16.0.13', '10.16.0.14', 'fd00::13'].map(address) as [
  ReturnType<typeof address>,
  ReturnType<typeof address>,
  ReturnType<typeof address>,
  ReturnType<typeof address>,
];
const LOG = { enabled: true, since: '2026-11-20T08:00:00.000Z', covers: 'all' as const };

const record = (port: number, more: Partial<TranslationRecord> = {}): TranslationRecord => ({
  ...{ zone: 0, addressFamily: 'ipv4', protocol: 'tcp', protocolNumber: 6, natType: ['snat'] },
  original: { sourceIP: '10.17.0.9', sourcePort: port, destinationIP: '203.0.113.10', destinationPort: 443 },
  translated: {
    ...{ sourceIP: '172.17.0.50', sourcePort: port, destinationIP: '203.0.113.10', destinationPort: 443 },
  },
  ...{ policy: 'web', verdict: 'translated', startTime: '2026-11-21T14:03:00.000Z', duration: 60 },
  ...more,
});
const document = (translations: TranslationRecord[], more = {}): TranslationsDocument => ({
  ...{ schemaVersion: 'v1', translations, more: false, gaps: [], log: LOG },
  ...more,
});
const answer = (member: MemberAnswer['member'], body: TranslationsDocument): MemberAnswer => ({
  member,
  answer: { status: 200, body: JSON.stringify(body) },
});
const shown = ({ translations }: TranslationsDocument): string[] =>
  translations.map(
    ({ translated, member, verdict }) => `${translated.sourcePort} ${verdict} ${member ?? '-'}`,
  );

t.test('a flow is there once, with the member that it goes through', async (t) => {
  const replica = { verdict: 'replica', startTime: '2026-11-21T14:03:00.020Z' } as const;
  const found = groupDocument(
    document([record(1000), record(2000, replica), record(3000, replica)]),
    { 4: A },
    [answer(B, document([record(2000), record(1000, replica), record(3000, replica)])), { member: C }],
    100,
  );
  t.same(shown(found).sort(), [
    '1000 translated 10.16.0.12',
    '2000 translated 10.16.0.13',
    '3000 replica 10.16.0.12',
  ]);
  t.same(found.members, [
    { member: B, answered: true, log: LOG },
    { member: C, answered: false, reason: 'no answer' },
  ]);
  const text = translationsTable(found);
  t.match(text, /POLICY +THROUGH +BYTES/);
  t.match(text, /web +10\.16\.0\.13\n/);
  t.match(text, /web +replica at 10\.16\.0\.12\n/);
  t.match(text, /the flows of 10\.16\.0\.14 are missing: no answer\n$/);
});

t.test('a replica of a flow is no replica of one that had the ports before', async (t) => {
  const ended = record(1000, { startTime: '2026-11-21T13:00:00.000Z', endTime: '2026-11-21T13:05:00.000Z' });
  const replica = record(1000, { verdict: 'replica' });
  t.same(shown(groupDocument(document([ended, replica]), { 4: A }, [], 100)), [
    '1000 replica 10.16.0.12',
    '1000 translated 10.16.0.12',
  ]);
});

t.test('the newest come first, at most as many as were asked for', async (t) => {
  const at = (second: number) => ({ startTime: `2026-11-21T14:03:0${second}.000Z` });
  const own = document([record(4, at(4)), record(2, at(2))]);
  const other = document([record(3, at(3)), record(1, at(1))]);
  const found = groupDocument(own, { 4: A }, [answer(B, other)], 3);
  t.same(
    found.translations.map(({ original }) => original.sourcePort),
    [4, 3, 2],
  );
  t.ok(found.more);
  const more = groupDocument(own, { 4: A }, [answer(B, { ...other, more: true })], 9);
  t.ok(more.more, 'a member has more');
  t.notOk(groupDocument(own, { 4: A }, [answer(B, other)], 4).more);
});

t.test('a member of both families is asked in both, and answers with each family’s flows once', async (t) => {
  const v6 = record(6, { addressFamily: 'ipv6' });
  const both = document([record(4), v6]);
  const found = groupDocument(
    document([]),
    { 4: A, 6: address('fd00::12') },
    [answer(B, both), answer(B6, both)],
    9,
  );
  t.same(shown(found).sort(), ['4 translated 10.16.0.13', '6 translated fd00::13']);
  const four = groupDocument(document([v6]), { 4: A }, [], 9);
  t.same(shown(four), ['6 translated -'], 'a family without a group has no member');
});

t.test('gaps have the member that has them', async (t) => {
  const gap = { from: '2026-11-21T14:00:00.000Z', to: '2026-11-21T14:00:01.000Z', lost: 3 };
  const found = groupDocument(
    document([], { gaps: [gap] }),
    { 4: A },
    [answer(B, document([], { gaps: [gap] }))],
    9,
  );
  t.same(found.gaps, [gap, { ...gap, member: B }]);
  t.match(translationsTable(found), /3 events may be missing at 10\.16\.0\.13\n/);
});

t.test('a refusal or junk of a member says why its flows are missing', async (t) => {
  for (const [status, body, reason] of [
    [409, 'the policy has no translation log\n', 'the policy has no translation log'],
    [200, 'null', 'the answer is invalid'],
    [200, '{"translations":', 'the answer is invalid'],
    [200, '{"translations":{}}', 'the answer is invalid'],
  ] as const) {
    const found = groupDocument(
      document([record(1)]),
      { 4: A },
      [{ member: B, answer: { status, body } }],
      9,
    );
    t.same(found.members, [{ member: B, answered: false, reason }], body);
    t.equal(found.translations.length, 1);
  }
});

t.test(
  'members are asked in the family that the lookup names, for no more than an answer holds',
  async (t) => {
    t.equal(lookupFamily(parseLookup({ external: '172.17.0.50:1' })), 4);
    t.equal(lookupFamily(parseLookup({ dest: '[fd00::1]:1' })), 6);
    t.equal(lookupFamily(parseLookup({ proto: 'tcp' })), undefined);
    const query = (limit: string) =>
      memberQuery(new URLSearchParams({ proto: 'tcp', limit }), parseLookup({ limit }));
    t.equal(query('2000'), 'proto=tcp&limit=1000');
    t.equal(query('5'), 'proto=tcp&limit=5');
  },
);

t.test('only a lookup that was answered here goes on to the others, unless it is a local one', async (t) => {
  const asked: { query: string; families: readonly Family[] }[] = [];
  const group = {
    self: { 4: A },
    async lookup(query: string, families: readonly Family[]) {
      asked.push({ query, families });
      return [answer(B, document([record(2)]))];
    },
  };
  const own: string[] = [];
  const find = async (query: URLSearchParams) => {
    own.push(query.toString());
    return query.has('at') ? { status: 400, body: 'no\n' } : { status: 200, body: document([record(1)]) };
  };
  const count = async (query: string, of: Parameters<typeof findInGroup>[2] = group) => {
    const { body } = await findInGroup(new URLSearchParams(query), find, of);
    return (body as TranslationsDocument).translations?.length;
  };
  t.equal(await count('external=172.17.0.50'), 2);
  t.same(asked.splice(0), [{ query: 'external=172.17.0.50&limit=1000', families: [4] }]);
  t.equal(await count('scope=local&limit=5'), 1);
  t.equal(await count('at=never'), undefined);
  t.equal(await count('limit=5', { ...group, self: {} }), 1, 'without a group');
  t.same(asked, []);
  t.same(own, ['external=172.17.0.50', 'limit=5', 'at=never', 'limit=5']);
});
