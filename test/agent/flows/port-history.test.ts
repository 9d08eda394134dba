// Who was behind an address and a port of a block, at any time that is remembered.
import t from 'tap';
import { logCoverage } from '../../../agent/flows/log-coverage.ts';
import {
  type PolicyBlocks,
  PortHistory,
  parseHistory,
  portBlocksOf,
} from '../../../agent/flows/port-history.ts';
import {
  parseLookup,
  translationsDocument,
  translationsTable,
} from '../../../agent/flows/translations-query.ts';
import { address, type Family, prefix } from '../../../lib/prefix.ts';

const tenants = (...sources: string[]): PolicyBlocks => ({
  policy: 'tenants',
  sources: sources.map(prefix),
  addresses: [address('172.17.0.50')],
  size: 64,
});
const DAY = 24 * 3600 * 1000;
const NOON = Date.parse('2026-11-21T12:00:00Z');
const NO_LOG = logCoverage(false, undefined, { from: 0, to: NOON });
const at = (hours: number): string => new Date(NOON + hours * 3_600_000).toISOString();
const moment = (hours: number): number => NOON + hours * 3_600_000;

/** From 12 to 14 o'clock one list, from then to 16 another, then none. */
function history(): PortHistory {
  const made = new PortHistory();
  made.record(4, [tenants('10.17.0.0/24')], moment(0));
  made.record(4, [tenants('10.18.0.0/24', '10.17.0.0/24')], moment(2));
  made.record(4, [], moment(4));
  return made;
}

const told = (of: PortHistory, question: Record<string, string>): string[] =>
  of
    .answers(parseLookup(question))
    .map(({ sourceIP, externalIP, ports, since, until }) =>
      [sourceIP, externalIP, `${ports.start}-${ports.end}`, since.slice(11, 13), until?.slice(11, 13)].join(
        ' ',
      ),
    );

t.test('the policy of that time answers, by either side', async (t) => {
  const external = '172.17.0.50:1600';
  t.same(told(history(), { external, at: at(1) }), ['10.17.0.9 172.17.0.50 1600-1663 12 14']);
  t.same(told(history(), { external, at: at(3) }), ['10.18.0.9 172.17.0.50 1600-1663 14 16']);
  t.same(told(history(), { external, at: at(5) }), [], 'none is in force');
  t.same(told(history(), { external, at: at(-1) }), [], 'nothing is known');
  t.same(told(history(), { external, at: at(1), proto: 'tcp' }).length, 1);
  t.same(told(history(), { external, at: at(1), proto: 'icmp' }).length, 1);
  t.same(told(history(), { external, at: at(1), proto: 'gre' }), [], 'its ports are not divided');
  t.same(
    told(history(), { internal: '10.17.0.9' }),
    ['10.17.0.9 172.17.0.50 17984-18047 14 16', '10.17.0.9 172.17.0.50 1600-1663 12 14'],
    'the newest first',
  );
  t.same(told(history(), { internal: '10.17.0.9', external, at: at(1) }).length, 1);
  t.same(told(history(), { internal: '10.17.0.8', external, at: at(1) }), []);
  t.same(told(history(), { external: '172.17.0.50', at: at(1) }), [], 'an address alone is nobody’s');
  t.same(told(history(), { dest: '203.0.113.1', at: at(1) }), []);
  t.same(told(history(), { external, since: at(0), limit: '1' }).length, 1);
});

t.test('an edit that leaves a source its block does not cut its time in two', async (t) => {
  const made = new PortHistory();
  made.record(4, [tenants('10.17.0.0/24')], moment(0));
  made.record(4, [tenants('10.17.0.0/24', '10.18.0.0/24')], moment(2));
  t.same(told(made, { external: '172.17.0.50:1600' }), ['10.17.0.9 172.17.0.50 1600-1663 12 ']);
});

t.test('only news is news, and what was kept is taken up', async (t) => {
  const made = new PortHistory();
  t.equal(made.record(4, [], moment(0)), false);
  t.equal(made.any, false);
  t.equal(made.record(4, [tenants('10.17.0.0/24')], moment(0)), true);
  t.equal(made.record(4, [tenants('10.17.0.0/24')], moment(1)), false);
  t.equal(made.record(6, [], moment(1)), false, 'the other family has a history of its own');
  const kept = JSON.stringify(made.entries);
  const again = new PortHistory(JSON.parse(kept));
  t.equal(again.record(4, [tenants('10.17.0.0/24')], moment(2)), false);
  t.equal(again.any, true);
  t.same(told(again, { external: '172.17.0.50:1600' }), ['10.17.0.9 172.17.0.50 1600-1663 12 ']);
});

t.test(
  'what is a week out of force is forgotten, and what is too much; never what is in force',
  async (t) => {
    const made = new PortHistory();
    for (let day = 0; day < 20; day++) made.record(4, [tenants(`10.17.${day}.0/24`)], NOON + day * DAY);
    t.equal(made.entries[0]!.from, NOON + 11 * DAY, 'it was in force until a week ago');
    const long = Array.from({ length: 30_000 }, (_, i) => `10.${i >> 8}.${i & 255}.1`);
    for (let i = 0; i < 12; i++) {
      made.record(4, [tenants(`10.200.${i}.0/24`, ...long)], NOON + 20 * DAY + i);
    }
    t.ok(JSON.stringify(made.entries).length <= 4 << 20);
    t.ok(made.entries.length > 3);
    const family: Family = 6;
    made.record(family, [], NOON + 40 * DAY);
    made.record(4, [tenants('10.17.0.0/24')], NOON + 40 * DAY);
    t.equal(made.entries.at(-1)!.from, NOON + 40 * DAY);
  },
);

t.test('what NAT is told to do is what is remembered', async (t) => {
  const sources = [prefix('10.17.0.0/24')];
  const addresses = [address('172.17.0.50')];
  const common = { sources, destinations: [], excluded: [] };
  const found = portBlocksOf({
    ...{ family: 4, internalInterface: 'eth0', forward: [], notrackBfd: false },
    policies: [
      { name: 'web', action: 'masquerade', ...common },
      { name: 'bank', action: { snat: addresses }, ...common },
      { name: 'tenants', action: { snat: addresses, portBlockSize: 64 }, ...common },
    ],
  });
  t.same(found, [tenants('10.17.0.0/24')]);
});

t.test('the answer says that it was computed', async (t) => {
  const computed = history().answers(parseLookup({ external: '172.17.0.50:1600', at: at(1) }));
  const document = translationsDocument({ flows: [], more: false, gaps: [] }, NO_LOG, NOON, computed);
  t.match(document, { translations: [], computed: [{ policy: 'tenants', sourceIP: '10.17.0.9' }] });
  t.equal(
    translationsTable(document),
    [
      'COMPUTED: PORTS OF  SEEN AS                POLICY   IN FORCE',
      '10.17.0.9           172.17.0.50 1600-1663  tenants  since 2026-11-21T12:00:00.000Z until 2026-11-21T14:00:00.000Z',
      '',
    ].join('\n'),
  );
  t.notOk('computed' in translationsDocument({ flows: [], more: false, gaps: [] }, NO_LOG, NOON));
});

t.test('what is kept is read again, and nothing that a history cannot hold', async (t) => {
  const kept = JSON.parse(JSON.stringify(history().entries));
  t.strictSame(parseHistory(kept), history().entries);
  const [entry] = kept;
  const [blocks] = entry.policies;
  const withBlocks = (change: object) => [{ ...entry, policies: [{ ...blocks, ...change }] }];
  for (const wrong of [
    undefined,
    null,
    {},
    [null],
    [{ ...entry, family: 5 }],
    [{ ...entry, family: 6 }],
    [{ ...entry, from: 9e15 }],
    [{ ...entry, from: '1' }],
    [{ ...entry, policies: {} }],
    [{ ...entry, policies: [null] }],
    withBlocks({ policy: 1 }),
    withBlocks({ sources: [] }),
    withBlocks({ sources: ['10.17.0.1/24'] }),
    withBlocks({ sources: [1] }),
    withBlocks({ addresses: ['172.17.0.50/32'] }),
    withBlocks({ addresses: '172.17.0.50' }),
    withBlocks({ size: 0 }),
    withBlocks({ size: 1e9 }),
    withBlocks({ size: Number.NaN }),
  ]) {
    t.equal(parseHistory(wrong), undefined, JSON.stringify(wrong));
  }
});
