import t from 'tap';
import { readObserverConfig } from '../../../agent/kube-ovn/observer-config.ts';

const read = (config: unknown) =>
  readObserverConfig([
    { name: 'config.json', text: typeof config === 'string' ? config : JSON.stringify(config) },
  ]);

const BASE = { namespace: 'default', name: 'gateway1', externalNetwork: 'default/macvlan1' };

t.test('a configuration as Kube-OVN’s controller writes it', async (t) => {
  const log = {
    enabled: true,
    events: ['end'],
    rateLimit: { recordsPerSecond: 50, burst: 200 },
    filters: { exclude: [{ protocols: ['udp'], original: { destinationPorts: [{ start: 53, end: 53 }] } }] },
  };
  const observability = {
    interfaceMetrics: { enabled: true },
    conntrack: { metrics: { enabled: true }, log },
  };
  t.match(read({ ...BASE, observability }), {
    interfaces: true,
    externalNetwork: 'default/macvlan1',
    policy: {
      name: 'default/gateway1',
      rules: [],
      translationLog: {
        events: ['end'],
        rateLimit: { recordsPerSecond: 50, burst: 200 },
        filters: {
          include: [],
          exclude: [{ protocols: ['udp'], original: { destinationPorts: [{ first: 53, last: 53 }] } }],
        },
      },
    },
  });
});

t.test('metrics without a log make no records', async (t) => {
  const config = read({ ...BASE, observability: { conntrack: { metrics: { enabled: true } } } });
  t.match(config, { interfaces: false, policy: { translationLog: { events: [] } } });
});

t.test('nothing is observed that is not asked for', async (t) => {
  t.notOk(Object.hasOwn((read(BASE) as { policy: object }).policy, 'translationLog'));
});

t.test('an invalid configuration is reported', async (t) => {
  t.match(readObserverConfig([]), { problem: 'there is no config.json' });
  t.match(readObserverConfig({ path: '/etc/x', unreadable: 'cannot be read' }), {
    problem: '/etc/x cannot be read',
  });
  t.match(read('{'), { problem: /config\.json: / });
  t.match(read({ ...BASE, externalNetwork: undefined }), { problem: /externalNetwork must be there/ });
  t.match(read({ ...BASE, observability: { conntrack: { log: { enabled: true, events: ['middle'] } } } }), {
    problem: /spec\.observability\.conntrack\.log\.events\[0\].*"middle"/,
  });
});

t.test('JSON of any shape is read or refused, and never taken for what it is not', async (t) => {
  const junk = [null, true, 0, -1, 1e308, '', 'x', [], [null], {}, { enabled: 'yes' }, { enabled: null }];
  for (const value of junk) {
    t.match(
      read(JSON.stringify(value)),
      { problem: /^config\.json: / },
      `the whole: ${JSON.stringify(value)}`,
    );
  }
  const places: ((value: unknown) => object)[] = [
    (value) => ({ ...BASE, namespace: value }),
    (value) => ({ ...BASE, name: value }),
    (value) => ({ ...BASE, externalNetwork: value }),
    (value) => ({ ...BASE, observability: value }),
    (value) => ({ ...BASE, observability: { interfaceMetrics: value } }),
    (value) => ({ ...BASE, observability: { conntrack: value } }),
    (value) => ({ ...BASE, observability: { conntrack: { metrics: value } } }),
    (value) => ({ ...BASE, observability: { conntrack: { log: value } } }),
    ...['events', 'rateLimit', 'filters'].map((field) => (value: unknown) => ({
      ...BASE,
      observability: { conntrack: { log: { enabled: true, [field]: value } } },
    })),
    ...['recordsPerSecond', 'burst'].map((field) => (value: unknown) => ({
      ...BASE,
      observability: {
        conntrack: { log: { enabled: true, rateLimit: { recordsPerSecond: 1, burst: 1, [field]: value } } },
      },
    })),
  ];
  for (const place of places) {
    for (const value of junk) {
      const config = read(place(value));
      if ('problem' in config) continue;
      const { rateLimit, events } = config.policy.translationLog ?? {};
      t.equal(typeof config.interfaces, 'boolean');
      t.ok(rateLimit === undefined || (rateLimit.recordsPerSecond > 0 && rateLimit.burst > 0));
      t.ok(events === undefined || events.every((event) => event === 'start' || event === 'end'));
    }
  }
  for (const observability of [[], 'x', 1, { conntrack: [] }, { conntrack: { log: { enabled: 'yes' } } }]) {
    t.match(read({ ...BASE, observability }), { problem: /observability/ }, JSON.stringify(observability));
  }
  t.match(read('['.repeat(100_000)), { problem: /^config\.json: / });
  t.match(read(`{"namespace":"a","name":"b","externalNetwork":"c","observability":${'[['.repeat(50_000)}`), {
    problem: /^config\.json: /,
  });
  const deep = `${'['.repeat(50_000)}${']'.repeat(50_000)}`;
  t.match(read(JSON.stringify({ ...BASE, observability: 0 }).replace(':0}', `:${deep}}`)), {
    problem: /^config\.json/,
  });
  t.match(readObserverConfig([{ name: 'config.json', text: '', problem: 'is a FIFO, not a regular file' }]), {
    problem: 'config.json is a FIFO, not a regular file',
  });
});
