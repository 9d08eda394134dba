import t from 'tap';
import { addressFromBytes } from '../../../lib/prefix.ts';
import { topSources } from '../../../nat/conntrack/sources.ts';
import { Flow, type Verdict } from '../../../nat/conntrack/table.ts';
import { counters, type EntrySpec, entry } from './entries.ts';

function flow(spec: EntrySpec, inbound = false, verdict: Verdict = 'translated'): Flow {
  const flow = new Flow();
  flow.set(entry(spec));
  if (spec.counters) flow.counters = counters(spec.counters);
  flow.inbound = inbound;
  flow.verdict = verdict;
  return flow;
}

const top = (flows: Flow[], most: number) => {
  const { sources, total } = topSources(flows, most);
  const texts = sources.map(
    (use) => `${addressFromBytes(use.address)} ${use.flows} out ${use.out} in ${use.in}`,
  );
  return { texts, total };
};

t.test('the end inside is the source, in either direction', async (t) => {
  t.same(
    top(
      [
        flow({ flow: '10.17.0.9 1 1.1.1.1 443', counters: [1, 100, 1, 50] }),
        flow({ flow: '10.17.0.9 2 1.1.1.1 443', counters: [1, 100, 1, 50] }, false, 'forwarded'),
        flow({ flow: '8.8.8.8 9 172.17.0.11 80', dnat: '10.17.0.9 8080', counters: [1, 7, 1, 1000] }, true),
        flow({ flow: 'fd00::9 3 2001::1 443' }),
        flow({ flow: '10.16.0.12 3 10.16.0.1 1', counters: [9, 9000, 9, 9000] }, false, 'local'),
        flow({ flow: '10.17.0.9 4 1.1.1.1 443', counters: [1, 100, 1, 50] }, false, 'replica'),
      ],
      10,
    ),
    { texts: ['10.17.0.9 3 out 1200 in 107', 'fd00::9 1 out 0 in 0'], total: 2 },
  );
});

t.test('of many those with most octets and those with most flows are named', async (t) => {
  const flows = [
    flow({ flow: '10.17.0.1 1 1.1.1.1 443', counters: [1, 900, 1, 900] }),
    flow({ flow: '10.17.0.2 1 1.1.1.1 443', counters: [1, 500, 1, 500] }),
    ...[1, 2, 3].map((port) => flow({ flow: `10.17.0.3 ${port} 1.1.1.1 443`, counters: [1, 1, 1, 1] })),
  ];
  t.same(top(flows, 1), { texts: ['10.17.0.1 1 out 900 in 900', '10.17.0.3 3 out 3 in 3'], total: 3 });
});
