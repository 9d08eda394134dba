import t from 'tap';
import {
  desiredSysctls,
  guardsAddresses,
  isOwnChange,
  vpnSysctls,
} from '../../../agent/pod/desired-sysctls.ts';
import type { Family } from '../../../lib/prefix.ts';

const INTERFACES = { internal: 'eth0', external: 'net1' };
const EVENTS = 'net/netfilter/nf_conntrack_events';

const desired = (families: Family[], counting: boolean, groups: Family[]) =>
  desiredSysctls(families, INTERFACES, counting, groups);
const pairs = (...wanted: Parameters<typeof desired>) =>
  desired(...wanted).map(({ path, value }) => `${path}=${value}`);

t.test('a family that does not forward is blocked, and only forwarding blocks it', async (t) => {
  const required = desired([4, 6], true, [4, 6]).filter((sysctl) => sysctl.required !== undefined);
  t.strictSame(required, [
    { path: 'net/ipv4/ip_forward', value: '1', required: 4 },
    { path: 'net/ipv6/conf/all/forwarding', value: '1', required: 6 },
  ]);
});

t.test(
  'the interfaces of each family are set by name: rp_filter inside, own addresses on both',
  async (t) => {
    const set = pairs([4, 6], false, []);
    t.strictSame(
      set.filter((pair) => pair.includes('rp_filter')),
      ['net/ipv4/conf/all/rp_filter=0', 'net/ipv4/conf/eth0/rp_filter=0'],
    );
    t.strictSame(
      set.filter((pair) => pair.includes('use_oif_addrs_only')),
      ['net/ipv6/conf/eth0/use_oif_addrs_only=1', 'net/ipv6/conf/net1/use_oif_addrs_only=1'],
    );
  },
);

t.test(
  'a member of a group answers at once and redirects nobody, in the families of its groups',
  async (t) => {
    const four = [
      'net/ipv4/conf/all/send_redirects=0',
      'net/ipv4/conf/net1/send_redirects=0',
      'net/ipv4/neigh/net1/proxy_delay=0',
    ];
    const six = ['net/ipv6/conf/all/proxy_ndp=1', 'net/ipv6/neigh/net1/proxy_delay=0'];
    t.strictSame(pairs([], false, [4]), [...four, `${EVENTS}=1`]);
    t.strictSame(pairs([], false, [6]), [...six, `${EVENTS}=1`]);
    t.strictSame(pairs([], false, [4, 6]), [...four, ...six, `${EVENTS}=1`]);
  },
);

t.test('a group needs the events of conntrack, also where flows are not counted', async (t) => {
  const netfilter = (...wanted: Parameters<typeof desired>) =>
    desired(...wanted).filter(({ path }) => path.startsWith('net/netfilter/'));
  t.strictSame(netfilter([4, 6], false, []), [], 'a gateway by itself needs nothing of conntrack');
  t.strictSame(netfilter([4, 6], false, [4, 6]), [
    { path: EVENTS, value: '1', otherwise: 'the group does not learn of new connections' },
  ]);
  t.match(
    netfilter([4], true, [4]).find(({ path }) => path === EVENTS)?.otherwise,
    'the group does not learn of new connections',
    'what the group lacks matters more than what the log does',
  );
  for (const groups of [[], [4], [6], [4, 6]] as Family[][]) {
    t.strictSame(
      netfilter([4, 6], true, groups).map(({ path }) => path),
      ['net/netfilter/nf_conntrack_acct', 'net/netfilter/nf_conntrack_timestamp', EVENTS],
      `counting, groups ${groups}: each once`,
    );
  }
});

t.test('whatever is set can be set back: cleanup takes each for the agent’s own', async (t) => {
  for (const counting of [false, true]) {
    for (const { path, value } of desired([4, 6], counting, [4, 6])) {
      t.ok(isOwnChange(path, value === '1' ? '0' : '1', value), path);
    }
  }
});

t.test(
  'those of a VRF can be restored, and the one that keeps addresses is set before the interface enters it',
  async (t) => {
    const settings = vpnSysctls([4, 6], 'eth0', true);
    for (const { path, value } of settings) t.ok(isOwnChange(path, '0', value), path);
    t.ok(isOwnChange('net/ipv6/conf/eth0/keep_addr_on_down', '-1', '1'));
    t.notOk(isOwnChange('net/ipv6/conf/eth0/keep_addr_on_down', '7', '1'));
    t.same(
      settings.filter(({ path }) => guardsAddresses(path)).map(({ path }) => path),
      ['net/ipv6/conf/eth0/keep_addr_on_down'],
    );
    t.same(vpnSysctls([4], 'eth0', false), []);
    t.same(vpnSysctls([], 'eth0', true), [], 'a VRF of another program is no matter');
  },
);
