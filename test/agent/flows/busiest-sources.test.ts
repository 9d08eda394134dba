// Who has most of the connections, and when that is looked for.
import t from 'tap';
import {
  BusiestSources,
  type BusySource,
  isFromVpc,
  SourceCounter,
} from '../../../agent/flows/busiest-sources.ts';
import { address, addressBytes, prefix } from '../../../lib/prefix.ts';
import { type ConntrackEntry, PROTOCOL } from '../../../nat/conntrack/wire.ts';
import { prefixMatcher } from '../../../nat/prefix-matcher.ts';

/** An entry from a source to a destination, whose answers come from the latter or from somebody else. */
function entry(from: string, to: string, answers = to, answered = '172.17.0.11'): ConntrackEntry {
  const bytes = (text: string) => addressBytes(address(text));
  const tuple = (source: string, destination: string) => ({
    ...{ source: bytes(source), destination: bytes(destination), sourcePort: 1, destinationPort: 2 },
  });
  return {
    ...{ family: 4, protocol: PROTOCOL.udp, id: 1, zone: 0, status: 0 },
    ...{ original: tuple(from, to), reply: tuple(answers, answered) },
  };
}

t.test('the three with most connections, whatever order they come in', async (t) => {
  const counter = new SourceCounter();
  const add = (source: string, times: number) => {
    for (let i = 0; i < times; i++) counter.add(entry(source, '192.0.2.1'));
  };
  for (let i = 1; i < 200; i++) add(`10.17.1.${i}`, 2);
  add('10.17.0.7', 7);
  add('10.17.0.5', 5);
  add('10.17.1.9', 7);
  add('fd00:10:17::6', 6);
  for (let i = 0; i < 50; i++) {
    counter.add(entry('198.51.100.1', '172.17.0.60', '10.17.0.9'));
    counter.add({ ...entry('10.17.0.8', '192.0.2.1'), mark: 0xa600_0000 });
  }
  t.strictSame(
    counter.top(),
    [
      { source: '10.17.1.9', connections: 9 },
      { source: '10.17.0.7', connections: 7 },
      { source: 'fd00:10:17::6', connections: 6 },
    ],
    'but not a client of an EIP, nor one whose connections go through another gateway of the group',
  );
});

t.test('the limit is about what the VPC opens through the gateway', async (t) => {
  const own = prefixMatcher(['127.0.0.1', '10.16.0.12', '172.17.0.11'].map(prefix));
  const forwarded = prefixMatcher([prefix('10.18.0.0/16')]);
  const counts = (one: ConntrackEntry) => isFromVpc(one, own, forwarded);
  const unchanged = (from: string, to: string) => entry(from, to, to, from);
  t.ok(counts(entry('10.17.0.9', '192.0.2.1')), 'translated');
  t.ok(counts(unchanged('10.18.0.9', '192.0.2.1')), 'forwarded');
  t.ok(counts(unchanged('10.18.0.9', '10.18.5.1')), 'from one forwarded block to another');
  t.notOk(counts(unchanged('192.0.2.1', '10.18.0.9')), 'from outside');
  t.notOk(counts(unchanged('127.0.0.1', '127.0.0.1')), 'of the gateway with itself');
  t.notOk(counts(unchanged('172.17.0.11', '192.0.2.1')), 'of the gateway with the outside');
  t.notOk(counts(unchanged('10.17.0.9', '10.16.0.12')), 'of the VPC with the gateway');
  t.ok(isFromVpc(unchanged('10.17.0.9', '192.0.2.1'), undefined, undefined));
});

t.test(
  'the table is read in trouble only, once a minute, and the log and the status say what was found',
  async (t) => {
    let now = 0;
    let entries = 100;
    let dropped = 40;
    let reads = 0;
    const told: unknown[] = [];
    const sources: BusySource[] = [{ source: address('10.17.0.9'), connections: 90 }];
    const fewer = { source: address('10.17.0.11'), connections: 89 };
    const all = [{ source: address('127.0.0.1'), connections: 95 }, ...sources, fewer];
    const busiest = new BusiestSources({
      use: () => ({ entries, limit: 1000 }),
      limit: () => 90,
      limited: async () => dropped,
      read: async () => {
        reads++;
        return { all, fromVpc: [...sources, fewer] };
      },
      logger: { warn: (fields: unknown) => told.push(fields) } as never,
      clock: () => now,
    });
    const after = async (ms: number): Promise<void> => {
      now += ms;
      await busiest.check();
    };
    await after(5000);
    t.same([reads, told.length, busiest.sources], [0, 0, []], 'what was dropped before it began is no news');
    dropped = 47;
    await after(5000);
    t.strictSame(told.splice(0), [{ connectionsPerSource: 90, packets: 7, sources }]);
    t.strictSame(busiest.sources, sources, 'those at the limit');
    dropped = 50;
    await after(5000);
    t.equal(reads, 1, 'not again within a minute');
    dropped = 52;
    await after(60_000);
    t.strictSame(
      told.splice(0),
      [{ connectionsPerSource: 90, packets: 5, sources }],
      'all since the last time',
    );
    await after(60_000);
    t.same(busiest.sources, [], 'it is over');
    entries = 850;
    await after(5000);
    t.strictSame(told.splice(0), [{ entries: 850, limit: 1000, sources: all }]);
    t.equal(busiest.sources, all);
    t.equal(reads, 3);
  },
);
