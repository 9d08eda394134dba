import t from 'tap';
import { addressFromBytes } from '../../../lib/prefix.ts';
import { exhaustedRange, insertFailures } from '../../../nat/conntrack/exhaustion.ts';
import { Flow } from '../../../nat/conntrack/table.ts';
import { type EntrySpec, entry } from './entries.ts';

function flow(spec: EntrySpec): Flow {
  const made = new Flow();
  made.set(entry(spec));
  made.verdict = made.snat || made.dnat ? 'translated' : 'forwarded';
  return made;
}

/** So many flows from a source port towards one destination. */
const many = (
  count: number,
  { source = '10.17.0.9', port = 600, to = '1.1.1.1 2049', as = '172.17.0.11', protocol = 6 } = {},
) =>
  Array.from({ length: count }, (_, i) =>
    flow({ flow: `${source} ${port} ${to}`, snat: `${as} ${600 + i}`, protocol }),
  );

const none = () => 0;

t.test('a range is exhausted towards one destination, by source port, address and protocol', async (t) => {
  const found = exhaustedRange([...many(10, { to: '2.2.2.2 2049' }), ...many(400)], none, none)!;
  t.match(
    { ...found, address: addressFromBytes(found.address), destination: addressFromBytes(found.destination) },
    {
      ...{ address: '172.17.0.11', protocol: 6, destination: '1.1.1.1', destinationPort: 2049 },
      ...{ used: 400, of: 424 },
    },
  );
  t.equal(
    exhaustedRange(many(400, { port: 80 }), none, none)!.of,
    511,
    'NAT keeps privileged ports privileged',
  );
  t.equal(exhaustedRange(many(400, { port: 1024 }), none, none), undefined, 'of 64 512 ports 400 are few');
  const spread = [1, 2, 3].flatMap((n) => many(150, { to: `1.1.1.${n} 2049` }));
  t.equal(
    exhaustedRange(spread, none, none),
    undefined,
    'a port can be used again towards another destination',
  );
  const apart = [...many(150), ...many(150, { protocol: 17 }), ...many(150, { as: '172.17.0.12' })];
  t.equal(exhaustedRange(apart, none, none), undefined);
  const forwarded = Array.from({ length: 424 }, (_, i) => flow({ flow: `10.18.0.9 ${600 + i} 1.1.1.1 53` }));
  t.equal(exhaustedRange(forwarded, none, none), undefined, 'what is not translated takes no port');
});

t.test('of a shared address a gateway has one slice', async (t) => {
  const flows = many(3000, { port: 1024 });
  t.equal(exhaustedRange(flows, none, none), undefined);
  t.match(
    exhaustedRange(flows, none, () => 4032),
    { used: 3000, of: 4032 },
  );
  t.match(
    exhaustedRange(
      many(60),
      () => 64,
      () => 4032,
    ),
    { used: 60, of: 64 },
  );
});

t.test('of several the fullest', async (t) => {
  const flows = [...many(300), ...many(420, { as: '172.17.0.12' }), ...many(310, { protocol: 17 })];
  t.equal(addressFromBytes(exhaustedRange(flows, none, none)!.address), '172.17.0.12');
});

t.test('a source with a port block exhausts that, however many there are beside it', async (t) => {
  const sources = Array.from({ length: 20 }, (_, i) =>
    many(i === 7 ? 64 : 20, { source: `10.17.0.${i}`, port: 5000 }),
  );
  const found = exhaustedRange(sources.flat(), () => 64, none)!;
  t.match(found, { used: 64, of: 64 });
  t.equal(
    exhaustedRange(sources.toSpliced(7, 1).flat(), () => 64, none),
    undefined,
  );
});

t.test('ICMP echo has its identifiers as ports, of which its destination has none', async (t) => {
  const pings = Array.from({ length: 40_000 }, (_, i) =>
    flow({ flow: `10.17.0.9 ${i} 1.1.1.1 ${i}`, snat: `172.17.0.11 ${i}`, protocol: 1 }),
  );
  t.match(exhaustedRange(pings, none, none), { used: 40_000, of: 65_536, destinationPort: 0 });
});

t.test(
  'failed insertions are those of all processors, and unknown where the kernel has no such column',
  async (t) => {
    const text = `entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop
00000010  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 0000000a 00000000 00000000
00000010  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000100 00000000 00000000
`;
    t.equal(insertFailures(text), 266);
    t.equal(insertFailures('entries found\n00000001 00000002\n'), undefined);
    t.equal(insertFailures(''), undefined);
  },
);
