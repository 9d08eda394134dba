import t from 'tap';
import { addressFromBytes } from '../../../lib/prefix.ts';
import { type Flow, FlowTable } from '../../../nat/conntrack/table.ts';
import { counters, entry } from './entries.ts';

const shown = (flow: Flow): string =>
  [
    `${addressFromBytes(flow.source)} ${flow.sourcePort}`,
    `${addressFromBytes(flow.translatedSource)} ${flow.translatedSourcePort}`,
    `${addressFromBytes(flow.destination)} ${flow.destinationPort}`,
    `${addressFromBytes(flow.translatedDestination)} ${flow.translatedDestinationPort}`,
    `${flow.snat ? 'snat ' : ''}${flow.dnat ? 'dnat' : ''}`.trim(),
  ].join(' | ');

t.test('a flow keeps what its entry says', async (t) => {
  const table = new FlowTable(8);
  const flow = table.add(
    entry({ flow: '10.17.0.9 1000 1.1.1.1 443', snat: '172.17.0.11 2000', id: 0xfffffff0, zone: 7 }),
  )!;
  t.equal(shown(flow), '10.17.0.9 1000 | 172.17.0.11 2000 | 1.1.1.1 443 | 1.1.1.1 443 | snat');
  t.match(flow, { id: 0xfffffff0, zone: 7, family: 4, protocol: 6, counters: undefined });
  const v6 = table.add(entry({ flow: 'fd00::9 1 2001:db8::1 2', dnat: 'fd00::7 3', protocol: 17 }))!;
  t.equal(shown(v6), 'fd00::9 1 | fd00::9 1 | 2001:db8::1 2 | fd00::7 3 | dnat');
  const icmp = table.add(entry({ flow: '10.17.0.9 7 1.1.1.1 7', snat: '172.17.0.11 9', protocol: 1 }))!;
  t.equal(
    shown(icmp),
    '10.17.0.9 7 | 172.17.0.11 9 | 1.1.1.1 7 | 1.1.1.1 7 | snat',
    'the identifier of ICMP is translated as a source port is',
  );
});

t.test('what is decided about a flow is kept apart from what it is', async (t) => {
  const flow = new FlowTable(1).add(entry({ flow: '10.17.0.9 1 1.1.1.1 2', snat: '2.2.2.2 3' }))!;
  flow.policy = 65_535;
  flow.start = 1_790_000_000_123.25;
  flow.generation = 255;
  for (const verdict of ['forwarded', 'translated', 'local'] as const) {
    for (const value of [true, false]) {
      Object.assign(flow, { verdict, inbound: value, announced: !value, exactStart: value });
      t.match(flow, {
        verdict,
        inbound: value,
        announced: !value,
        exactStart: value,
        snat: true,
        dnat: false,
      });
    }
  }
  flow.counters = counters([2 ** 53 - 1, 2, 3, 4]);
  t.same(flow.counters, counters([2 ** 53 - 1, 2, 3, 4]));
  t.match(flow, { policy: 65_535, start: 1_790_000_000_123.25, generation: 255, sourcePort: 1 });
});

t.test('two flows with the same id are told apart by addresses, ports, protocol and zone', async (t) => {
  const table = new FlowTable(16);
  const entries = [
    entry({ flow: '10.17.0.9 1 1.1.1.1 2' }),
    entry({ flow: '10.17.0.9 1 1.1.1.1 2', protocol: 17 }),
    entry({ flow: '10.17.0.9 1 1.1.1.1 2', zone: 3 }),
    entry({ flow: '10.17.0.9 1 1.1.1.1 3' }),
    entry({ flow: '10.17.0.10 1 1.1.1.1 2' }),
  ];
  for (const [i, one] of entries.entries()) table.add(one)!.policy = i;
  t.same(
    entries.map((one) => table.find(one)?.policy),
    [0, 1, 2, 3, 4],
  );
  t.equal(table.find(entry({ flow: '10.17.0.9 1 1.1.1.1 2', id: 2 })), undefined, 'nor without its id');
});

t.test('a full table takes no more until one is removed', async (t) => {
  const table = new FlowTable(2);
  const [a, b, c] = [1, 2, 3].map((id) => entry({ flow: '10.17.0.9 1 1.1.1.1 2', id }));
  table.add(a!);
  table.add(b!);
  t.equal(table.add(c!), undefined);
  table.remove(table.find(a!)!);
  t.ok(table.add(c!));
  t.same(Array.from(table, ({ id }) => id).sort(), [2, 3]);
});

t.test('in any order of adding, finding and removing it holds what a map would', async (t) => {
  const table = new FlowTable(6000);
  const model = new Map<number, number>();
  let seed = 42;
  const random = (below: number) => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    return (seed >> 8) % below;
  };
  // Few buckets' worth of ids, so that chains are long.
  const make = (n: number) => entry({ flow: `10.17.0.9 ${n} 1.1.1.1 2`, id: (n % 50) * 8192 + (n % 3) });
  let wrong = 0;
  for (let step = 0; step < 60_000; step++) {
    const n = random(8000);
    const one = make(n);
    const flow = table.find(one);
    if ((flow?.policy ?? -1) !== (model.get(n) ?? -1)) wrong++;
    if (flow !== undefined && random(2) === 0) {
      table.remove(flow);
      model.delete(n);
    } else if (flow === undefined) {
      const added = table.add(one);
      if ((added === undefined) !== (model.size === 6000)) wrong++;
      if (added !== undefined) {
        added.policy = step & 0xffff;
        model.set(n, step & 0xffff);
      }
    }
  }
  t.equal(wrong, 0);
  t.equal(table.size, model.size);
  const all = new Map(Array.from(table, (flow) => [flow.sourcePort, flow.policy]));
  t.same(all, model);

  const copy = new FlowTable(6000);
  copy.load(Buffer.concat(table.save()));
  t.same(new Map(Array.from(copy, (flow) => [flow.sourcePort, flow.policy])), model, 'saved and loaded');
  t.equal([...model.keys()].filter((n) => copy.find(make(n)) === undefined).length, 0);
  const small = new FlowTable(10);
  small.load(Buffer.concat(table.save()));
  t.equal(small.size, 10, 'a smaller table takes what it has room for');
});

t.test('while all are walked, the one at hand may be removed', async (t) => {
  const table = new FlowTable(10);
  for (let id = 0; id < 10; id++) table.add(entry({ flow: '10.17.0.9 1 1.1.1.1 2', id }));
  for (const flow of table) if (flow.id % 2 === 0) table.remove(flow);
  t.same(
    Array.from(table, ({ id }) => id),
    [1, 3, 5, 7, 9],
  );
});
