import t from 'tap';
import {
  LookupError,
  parseEndpoint,
  parseLookup,
  parseTime,
  translationsDocument,
  translationsTable,
} from '../../../agent/flows/translations-query.ts';
import { addressFromBytes } from '../../../lib/prefix.ts';
import { viewFlow } from '../../../nat/conntrack/flow.ts';
import { Flow } from '../../../nat/conntrack/table.ts';
import { counters, type EntrySpec, entry } from '../../nat/conntrack/entries.ts';

t.test('an endpoint is an address of either family, with a port or without', async (t) => {
  const shown = (text: string): string | undefined => {
    const endpoint = parseEndpoint(text);
    return endpoint && `${addressFromBytes(endpoint.address)} ${endpoint.port}`;
  };
  t.equal(shown('172.17.0.11'), '172.17.0.11 undefined');
  t.equal(shown('172.17.0.11:39449'), '172.17.0.11 39449');
  t.equal(shown('FD00::0:11'), 'fd00::11 undefined');
  t.equal(shown('[fd00::11]:39449'), 'fd00::11 39449');
  t.equal(shown('fd00::11:39449'), undefined, 'a fifth digit is no group of an address');
  for (const wrong of [
    '',
    'x',
    '1.2.3',
    '1.2.3.4:',
    '1.2.3.4:65536',
    '1.2.3.4:-1',
    '[1.2.3.4]:5',
    '[fd00::1]',
    '1.2.3.4/24',
    ':80',
    '::ffff:172.17.0.11',
    '[::ffff:ac11:b]:80',
  ]) {
    t.equal(shown(wrong), undefined, wrong);
  }
});

t.test('a time names the span that its last digit names', async (t) => {
  const second = Date.parse('2026-11-21T14:03:00Z');
  t.same(parseTime('2026-11-21T14:03:00Z'), { from: second, to: second + 999 });
  t.same(parseTime('2026-11-21t15:03:00+01:00'), { from: second, to: second + 999 });
  t.same(parseTime('2026-11-21T14:03:00.2Z'), { from: second + 200, to: second + 299 });
  t.same(parseTime('2026-11-21T14:03:00.250Z'), { from: second + 250, to: second + 250 });
  t.same(parseTime('2026-11-21T14:03:00.250999999Z'), { from: second + 250, to: second + 250 });
  for (const wrong of [
    ...['', 'now', '14:03', '2026-11-21', '2026-11-21T14:03:00', '2026-11-21 14:03:00Z', '2026-11-21T14:03Z'],
    ...[
      '2026-13-21T14:03:00Z',
      '2026-02-30T14:03:00Z',
      '2026-11-21T25:03:00Z',
      '2026-11-21T14:03:60Z',
      '1763733780',
    ],
    ...['2026-11-21T14:03:00.Z', '2026-11-21T14:03:00+1:00'],
  ]) {
    t.equal(parseTime(wrong), undefined, wrong);
  }
});

t.test('a question is understood', async (t) => {
  t.match(parseLookup({}), { from: 0, to: Number.MAX_SAFE_INTEGER, limit: 1000 });
  t.match(parseLookup({ external: '172.17.0.11:39449', proto: 'TCP', at: '2026-11-21T14:03:00Z' }), {
    external: { port: 39449 },
    protocols: [6],
    from: Date.parse('2026-11-21T14:03:00Z'),
    to: Date.parse('2026-11-21T14:03:00.999Z'),
  });
  t.match(parseLookup({ since: '2026-11-21T14:03:00Z', until: '2026-11-21T14:03:00Z' }), {
    from: Date.parse('2026-11-21T14:03:00Z'),
    to: Date.parse('2026-11-21T14:03:00.999Z'),
  });
  t.same(parseLookup({ proto: 'icmp' }).protocols, [1, 58], 'of either family');
  t.same(parseLookup({ proto: 'icmpv6' }).protocols, [58]);
  t.same(parseLookup({ proto: '99' }).protocols, [99]);
  t.equal(parseLookup({ limit: '5' }).limit, 5);
});

t.test('an invalid query is refused, with the valid values', async (t) => {
  const refused = (params: Record<string, string>, message: string) =>
    t.throws(() => parseLookup(params), new LookupError(message));
  refused(
    { external: 'x' },
    'external must be IP or IP:PORT, an IPv6 address with a port in brackets, is "x"',
  );
  refused({ internal: 'x' }, 'internal must be an IP address, is "x"');
  refused(
    { internal: '::ffff:10.17.0.9' },
    'internal must be an IPv4 address as such (10.17.0.9), is "::ffff:10.17.0.9"',
  );
  refused(
    { external: '[::ffff:172.17.0.11]:80' },
    'external must be an IPv4 address as such (172.17.0.11:80), is "[::ffff:172.17.0.11]:80"',
  );
  refused({ proto: 'tpc' }, 'proto must be tcp, udp, sctp, icmp, icmpv6, gre or a number, is "tpc"');
  refused({ proto: '256' }, 'proto must be tcp, udp, sctp, icmp, icmpv6, gre or a number, is "256"');
  refused({ at: 'noon' }, 'at must be a time such as 2026-11-21T14:03:00Z, is "noon"');
  refused({ limit: '0' }, 'limit must be a number above 0, is "0"');
  refused({ limit: '9999' }, 'limit must be at most 2000, is "9999"');
  refused({ from: '1' }, 'from is none of internal, external, dest, proto, at, since, until, limit');
  refused({ at: '2026-11-21T14:03:00Z', since: '2026-11-21T14:03:00Z' }, 'at goes without since and until');
  refused({ since: '2026-11-21T14:03:01Z', until: '2026-11-21T14:03:00Z' }, 'until lies before since');
});

const START = Date.parse('2026-11-21T14:03:00.250Z');

function view(spec: EntrySpec, end?: number) {
  const flow = new Flow();
  flow.set(entry(spec));
  Object.assign(flow, { start: START, verdict: flow.snat || flow.dnat ? 'translated' : 'forwarded' });
  flow.counters = counters([1, 624, 1, 591]);
  return viewFlow(flow, 'web', end);
}

const LOG = { enabled: true, since: '2026-11-20T08:00:00.000Z', covers: 'all' as const };

t.test('an answer as a document, and as a table', async (t) => {
  const found = {
    flows: [
      view({ flow: '10.17.0.9 42136 203.0.113.10 443', snat: '172.17.0.11 39449' }),
      {
        ...view({ flow: 'fd00::9 7 2001:db8::1 7', snat: 'fd00::11 9', protocol: 58 }, START + 1500),
        endEstimated: true as const,
      },
      view({ flow: '1.1.1.1 5 172.17.0.60 80', dnat: '10.17.0.9 8080' }, START + 40),
      view({ flow: '10.18.0.9 0 1.1.1.1 0', protocol: 99 }, START + 40),
    ],
    more: true,
    gaps: [{ from: START, to: START + 1000, lost: 3 }],
  };
  const document = translationsDocument(found, LOG, START + 60_000);
  t.match(document, {
    schemaVersion: 'v1',
    more: true,
    gaps: [{ from: '2026-11-21T14:03:00.250Z', to: '2026-11-21T14:03:01.250Z', lost: 3 }],
  });
  t.match(document.translations[0], {
    policy: 'web',
    verdict: 'translated',
    duration: 60,
    endTime: undefined,
  });
  t.match(document.translations[1], {
    endTime: '2026-11-21T14:03:01.750Z',
    duration: 1.5,
    endEstimated: true,
  });
  t.equal(
    translationsTable(document),
    [
      'START                     LASTED         PROTO   FROM             SEEN AS            TO                               POLICY  BYTES SENT / RECEIVED',
      '2026-11-21T14:03:00.250Z  alive          tcp     10.17.0.9 42136  172.17.0.11 39449  203.0.113.10 443                 web     624 / 591',
      '2026-11-21T14:03:00.250Z  1.5 s at most  icmpv6  fd00::9 7        fd00::11 9         2001:db8::1                      web     624 / 591',
      '2026-11-21T14:03:00.250Z  0.04 s         tcp     1.1.1.1 5        1.1.1.1 5          172.17.0.60 80 → 10.17.0.9 8080  web     624 / 591',
      '2026-11-21T14:03:00.250Z  0.04 s         99      10.18.0.9        itself             1.1.1.1                          web     624 / 591',
      'there are more: narrow the question, or raise --limit',
      'between 2026-11-21T14:03:00.250Z and 2026-11-21T14:03:01.250Z 3 events may be missing',
      '',
    ].join('\n'),
  );
  t.equal(
    translationsTable({ schemaVersion: 'v1', translations: [], more: false, gaps: [], log: LOG }),
    'none found: the translation log begins at 2026-11-20T08:00:00.000Z\n',
  );
});
