import t from 'tap';
import { TrafficMeter } from '../../../agent/flows/traffic.ts';
import { policyVolumes } from '../../../nat/conntrack/totals.ts';
import type { Total } from '../../../nat/conntrack/tracker.ts';

const total = (more: Partial<Total>): Total => ({
  ...{
    verdict: 'translated',
    policy: 'web',
    family: 4,
    protocol: 6,
    snat: true,
    dnat: false,
    inbound: false,
  },
  ...{ started: 3, ended: 2, counters: [10, 1000, 20, 2000] },
  ...more,
});

const volumes = (...totals: Total[]) => ({
  snat: policyVolumes(totals, 'snat'),
  forward: policyVolumes(totals, 'forward'),
});

t.test('a policy has the sum of its flows, out and in as seen from the VPC', async (t) => {
  const meter = new TrafficMeter();
  t.equal(meter.traffic, undefined);
  meter.update(
    volumes(
      total({}),
      total({ family: 6 }),
      total({ protocol: 17, inbound: true, counters: [1, 100, 2, 200] }),
      total({ verdict: 'forwarded' }),
      total({ verdict: 'local', policy: '' }),
    ),
    [{ policy: 'web', treatment: 'snat', flows: 5 }],
    0,
  );
  t.same(meter.traffic, [
    {
      ...{ policy: 'web', treatment: 'snat', open: 5, connections: 9 },
      ...{ packets: { out: 22, in: 41 }, bytes: { out: 2200, in: 4100 } },
    },
    {
      ...{ policy: 'web', treatment: 'forward', open: 0, connections: 3 },
      ...{ packets: { out: 10, in: 20 }, bytes: { out: 1000, in: 2000 } },
    },
  ]);
  meter.clear();
  t.equal(meter.traffic, undefined);
});

t.test('rates are the growth between two readings, by the second', async (t) => {
  const meter = new TrafficMeter();
  meter.update(volumes(total({})), [], 10_000);
  meter.update(
    volumes(total({ started: 13, counters: [110, 5000, 20, 2000] }), total({ policy: 'new', started: 4 })),
    [],
    12_000,
  );
  t.match(meter.traffic, [
    { rates: { connections: 5, packets: { out: 50, in: 0 }, bytes: { out: 2000, in: 0 } } },
    { policy: 'new', rates: { connections: 2, packets: { out: 5, in: 10 } } },
  ]);
  meter.update(volumes(total({ started: 1 })), [], 13_000);
  t.equal(meter.traffic?.[0]?.rates?.connections, 0, 'never below nothing');
});
