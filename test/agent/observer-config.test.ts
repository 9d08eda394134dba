import t from 'tap';
import { readObserverConfig } from '../../agent/observer-config.ts';

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

t.test('what cannot be used is said', async (t) => {
  t.match(readObserverConfig([]), { problem: 'there is no config.json' });
  t.match(readObserverConfig({ unreadable: 'cannot read' }), { problem: 'cannot read' });
  t.match(read('{'), { problem: /config\.json: / });
  t.match(read({ ...BASE, externalNetwork: undefined }), { problem: /externalNetwork must be there/ });
  t.match(read({ ...BASE, observability: { conntrack: { log: { enabled: true, events: ['middle'] } } } }), {
    problem: /spec\.observability\.conntrack\.log\.events\[0\].*"middle"/,
  });
});
