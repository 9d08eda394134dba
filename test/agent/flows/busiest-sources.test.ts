// Who has most of the connections, and when that is looked for.
import t from 'tap';
import { BusiestSources, type BusySource, SourceCounter } from '../../../agent/flows/busiest-sources.ts';
import { address, addressBytes } from '../../../lib/prefix.ts';
import { type ConntrackEntry, PROTOCOL } from '../../../nat/conntrack/wire.ts';

/** An entry from a source to a destination, whose answers come from the latter or from somebody else. */
function entry(from: string, to: string, answers = to): ConntrackEntry {
  const bytes = (text: string) => addressBytes(address(text));
  const tuple = (source: string, destination: string) => ({
    ...{ source: bytes(source), destination: bytes(destination), sourcePort: 1, destinationPort: 2 },
  });
  return {
    ...{ family: 4, protocol: PROTOCOL.udp, id: 1, zone: 0, status: 0 },
    ...{ original: tuple(from, to), reply: tuple(answers, '172.17.0.11') },
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

t.test(
  'the table is read in trouble only, once a minute, and the log and the status say what was found',
  async (t) => {
    let now = 0;
    let entries = 100;
    let dropped = 40;
    let reads = 0;
    const told: unknown[] = [];
    const sources: BusySource[] = [{ source: address('10.17.0.9'), connections: 90 }];
    const busiest = new BusiestSources({
      use: () => ({ entries, limit: 1000 }),
      limit: () => 90,
      limited: async () => dropped,
      read: async () => {
        reads++;
        return sources;
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
    t.equal(busiest.sources, sources);
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
    t.strictSame(told.splice(0), [{ entries: 850, limit: 1000, sources }]);
    t.equal(reads, 3);
  },
);
