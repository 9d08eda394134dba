import t from 'tap';
import { endpointsOf, type Listening } from '../../bfd/endpoints.ts';

const session = (local: string, remote: string, intent = {}, multihop = false): Listening => ({
  ...{ local, remote, multihop },
  intent: { minTTL: 254, ...intent },
});
const DEFAULTS = { minTTL: 255, interface: 'eth0' };
const none = () => [];

t.test('one endpoint for each local address and port, with the lowest TTL of its sessions', async (t) => {
  const endpoints = endpointsOf(
    [
      session('10.0.0.1', '10.0.0.2'),
      session('10.0.0.1', '10.0.0.3', { minTTL: 200 }),
      session('10.0.0.1', '10.0.0.4', { minTTL: 1, interface: 'eth0' }, true),
      session('fd00::1', 'fd00::2', { interface: 'eth0' }),
    ],
    none,
    ['10.0.0.1', '10.0.0.9'],
    DEFAULTS,
  );
  const guard = { remotes: [], macs: [] };
  t.same(endpoints, [
    { local: '10.0.0.1', multihop: false, minTTL: 200, interface: 'eth0', guard },
    { local: '10.0.0.1', multihop: true, minTTL: 1, interface: undefined, guard },
    { local: 'fd00::1', multihop: false, minTTL: 254, interface: 'eth0', guard },
    { local: '10.0.0.9', multihop: false, minTTL: 255, interface: 'eth0', guard },
  ]);
});

t.test('peers behind a known next hop are guarded, the others are not', async (t) => {
  const macs: Record<string, string[]> = { '10.0.0.2': ['a', 'b'], '10.0.0.3': ['b'] };
  const [endpoint] = endpointsOf(
    [session('10.0.0.1', '10.0.0.2'), session('10.0.0.1', '10.0.0.3'), session('10.0.0.1', '10.0.0.4')],
    ({ remote }) => macs[remote] ?? [],
    [],
    DEFAULTS,
  );
  t.same(endpoint!.guard, { remotes: ['10.0.0.2', '10.0.0.3'], macs: ['a', 'b'] });
});
