// What is announced by BGP, by which routes, and which external addresses are held besides.
import t from 'tap';
import { makePlan, type Plan } from '../../../agent/plan/plan.ts';
import type { Facts } from '../../../agent/pod/interfaces.ts';
import { address, prefix } from '../../../lib/prefix.ts';
import { desiredRouting, withdrawal } from '../../../routing/desired.ts';
import { renderRoute, renderStep } from '../../../routing/render.ts';
import { GATEWAY, policyOf } from '../policy/support.ts';
import { link, on, POD as SEEDS_POD } from './pod.ts';

const POD: Facts = { ...SEEDS_POD, names: ['gateway1-0'], announcing: { 4: true, 6: true } };

const NEIGHBOURS = '{ address: 172.17.0.1, asn: 65000 }, { address: "fd00:172:17::1", asn: 65000 }';
const ALL = 'announce: [egressIPs, eips, dnats, forwarded]';
function planOf(spec: string, facts: Partial<Facts> = {}, bgp = ALL): Plan {
  const text = `${GATEWAY}  bgp: { localASN: 65001, neighbours: [${NEIGHBOURS}], ${bgp} }\n${spec}`;
  return makePlan(policyOf({ 'a.yaml': text }), { ...POD, ...facts }, {});
}
const egress = (fields: string) => `  policies: [{ ipBlocks: [10.17.0.0/16], egressIP: { ${fields} } }]\n`;
const forwards = (blocks: string) => `  policies: [{ snat: false, ipBlocks: [${blocks}] }]\n`;

const prefixes = ({ announcements }: Plan) =>
  announcements.map(
    ({ prefix, reasons, announced }) => `${prefix} ${reasons}${announced ? '' : ' withdrawn'}`,
  );
/** The main table's routes with the mark, and the others for the same destinations. */
const routes = ({ routing }: Plan): string[] =>
  desiredRouting(routing)
    .routes.filter(({ table }) => table === 254)
    .map(renderRoute)
    .filter((text) => !text.startsWith('default'));
const held = ({ addresses }: Plan) => addresses.map(({ address }) => address);
const proxied = ({ proxies }: Plan) =>
  proxies.map(({ address, contested = false }) => `${address} ${contested}`);

t.test('an egress address that is on no Ethernet leads nowhere, and is not held', async (t) => {
  const plan = planOf(egress('address: [198.51.100.50, "fd00:5::50"]'));
  t.same(prefixes(plan), ['198.51.100.50/32 egressIPs', 'fd00:5::50/128 egressIPs']);
  t.same(routes(plan), [
    '10.17.0.0/16 via 10.16.0.1 dev eth0 proto 178',
    'unreachable 198.51.100.50 proto 178 metric 178',
    'unreachable fd00:5::50 dev lo proto 178 metric 178',
  ]);
  t.same([held(plan), proxied(plan)], [[], []]);
});

t.test('one on the external Ethernet is answered for, and is no address of the interface', async (t) => {
  const plan = planOf(egress('address: [172.17.0.50, "fd00:172:17::50"]'));
  t.same([held(plan), proxied(plan)], [[], ['172.17.0.50 false', 'fd00:172:17::50 false']]);
  const names = plan.sysctls.map(({ path }) => path);
  t.ok(names.includes('net/ipv6/conf/all/proxy_ndp') && names.includes('net/ipv4/neigh/net1/proxy_delay'));
});

t.test('announce says by which way', async (t) => {
  const ways = (fields: string, bgp?: string) => {
    const plan = planOf(egress(fields), {}, bgp);
    return [prefixes(plan).length, held(plan).length, proxied(plan).length];
  };
  t.same(ways('address: [172.17.0.50], announce: arp'), [0, 1, 0]);
  t.same(ways('address: [172.17.0.50], announce: bgp'), [1, 0, 0]);
  t.same(ways('address: [172.17.0.50], announce: false'), [0, 0, 0]);
  t.same(ways('address: [198.51.100.50], announce: arp'), [0, 1, 0]);
  t.same(ways('address: [172.17.0.50]', 'announce: [eips]'), [0, 1, 0], 'true, and BGP does not apply');
  t.same(ways('address: [172.17.0.50], owner: other'), [0, 0, 0], 'another gateway has it');
  t.same(ways('address: [172.17.0.50], owner: gateway1-0'), [1, 0, 1]);
});

t.test('EIPs and DNATs, and what the pod has itself', async (t) => {
  const plan = planOf(`  eips:
    - { externalIP: 172.17.0.60, internalIP: 10.17.0.9 }
    - { externalIP: 198.51.100.60, internalIP: 10.17.0.10, owner: other }
  dnats:
    - { externalIP: 172.17.0.11, protocol: tcp, externalPort: 80, internalIP: 10.17.0.9, internalPort: 80 }
    - { externalIP: 172.17.0.61, protocol: tcp, externalPort: 81, internalIP: 10.17.0.9, internalPort: 80 }
`);
  t.same(prefixes(plan), ['172.17.0.60/32 eips', '172.17.0.61/32 dnats']);
  t.same([held(plan), proxied(plan)], [['172.17.0.11'], ['172.17.0.60 false', '172.17.0.61 false']]);
});

t.test('a forwarded block has the mark on its route into the VPC', async (t) => {
  const plan = planOf(forwards('10.18.0.0/16, "fd00:10:18::/64"'));
  t.same(prefixes(plan), ['10.18.0.0/16 forwarded', 'fd00:10:18::/64 forwarded']);
  t.same(routes(plan), [
    '10.18.0.0/16 via 10.16.0.1 dev eth0 proto 178 metric 178',
    'fd00:10:18::/64 via fd00:10:16::1 dev eth0 proto 178 metric 178',
  ]);
  t.same(plan.routing.flatMap(withdrawal).map(renderStep), [
    'ip route add 10.18.0.0/16 via 10.16.0.1 dev eth0 proto 178',
    'ip route del 10.18.0.0/16 via 10.16.0.1 dev eth0 proto 178 metric 178',
    'ip -6 route add fd00:10:18::/64 via fd00:10:16::1 dev eth0 proto 178',
    'ip -6 route del fd00:10:18::/64 via fd00:10:16::1 dev eth0 proto 178 metric 178',
  ]);
});

t.test('a network of the internal link is announced as two halves, a part of it as it is', async (t) => {
  t.same(routes(planOf(forwards('10.16.0.0/16, "fd00:10:16::/64"'))), [
    '10.16.0.0/17 dev eth0 proto 178 metric 178',
    '10.16.128.0/17 dev eth0 proto 178 metric 178',
    'fd00:10:16::/65 dev eth0 proto 178 metric 178',
    'fd00:10:16:0:8000::/65 dev eth0 proto 178 metric 178',
  ]);
  t.same(routes(planOf(forwards('10.16.5.0/24'))), ['10.16.5.0/24 dev eth0 proto 178 metric 178']);
});

t.test('a block that another program has a better route for is announced as two halves', async (t) => {
  const foreign = (destination: string, gateway: string, metric: number) => ({
    ...{ family: destination.includes(':') ? (6 as const) : (4 as const), table: 254, dev: 'eth0' },
    ...{ destination: prefix(destination), gateway: address(gateway) },
    ...{ protocol: 3, scope: 0, type: 1, metric, foreign: false },
  });
  const found = [foreign('10.18.0.0/16', '10.16.0.1', 0), foreign('fd00:10:18::/64', 'fd00:10:16::1', 1024)];
  t.same(routes(planOf(forwards('10.18.0.0/16, "fd00:10:18::/64"'), { routes: found })), [
    '10.18.0.0/16 via 10.16.0.1 dev eth0 proto 178',
    '10.18.0.0/17 via 10.16.0.1 dev eth0 proto 178 metric 178',
    '10.18.128.0/17 via 10.16.0.1 dev eth0 proto 178 metric 178',
    'fd00:10:18::/64 via fd00:10:16::1 dev eth0 proto 178 metric 178',
  ]);
  const host = planOf(forwards('10.18.0.9'), { routes: [foreign('10.18.0.9/32', '10.16.0.1', 0)] });
  t.same(prefixes(host), []);
  t.match(host.notes, ['10.18.0.9/32 is not announced: another program has a route for it']);
});

t.test('neither everything nor what is outside nor what is translated is announced', async (t) => {
  t.same(prefixes(planOf(forwards('0.0.0.0/0, "::/0", 172.16.0.0/12'))), []);
  t.same(
    prefixes(
      planOf(
        '  policies: [{ ipBlocks: [10.18.0.0/16] }, { snat: false, ipBlocks: [10.18.1.0/24, 10.0.0.0/8] }]\n',
      ),
    ),
    ['10.0.0.0/8 forwarded'],
  );
});

t.test('what is not ready is withdrawn, and forwarding goes on', async (t) => {
  const spec = `${forwards('10.18.0.0/16').trimEnd().slice(0, -1)}, { egressIP: { address: [198.51.100.50] } }]\n`;
  const plan = planOf(spec, { announcing: { 4: false, 6: true } });
  t.same(prefixes(plan), ['198.51.100.50/32 egressIPs withdrawn', '10.18.0.0/16 forwarded withdrawn']);
  t.same(routes(plan), ['10.18.0.0/16 via 10.16.0.1 dev eth0 proto 178']);
  t.same(held(plan), []);
});

t.test('as long as it is not known whether the gateway is ready, what the kernel has stays', async (t) => {
  const { announcing: _, ...unknown } = POD;
  const found = { ...unknown, announced: [prefix('10.18.0.0/16'), prefix('10.16.0.0/17')] };
  const text = `${GATEWAY}  bgp: { localASN: 1, neighbours: [${NEIGHBOURS}], ${ALL} }\n${forwards('10.18.0.0/16, 10.19.0.0/16, 10.16.0.0/16')}`;
  t.same(prefixes(makePlan(policyOf({ 'a.yaml': text }), found, {})), [
    '10.18.0.0/16 forwarded',
    '10.19.0.0/16 forwarded withdrawn',
    '10.16.0.0/16 forwarded withdrawn',
  ]);
});

t.test('a family without a neighbour announces nothing, and holds its addresses', async (t) => {
  const text = `${GATEWAY}  bgp: { localASN: 1, neighbours: [{ address: "fd00:172:17::1", asn: 2 }] }\n${egress('address: [172.17.0.50]')}`;
  const plan = makePlan(policyOf({ 'a.yaml': text }), POD, {});
  t.same([prefixes(plan), held(plan)], [[], ['172.17.0.50']]);
});

t.test('with one interface an address on its link is held, and not announced', async (t) => {
  const one: Partial<Facts> = {
    links: [link(1, 'lo'), link(2, 'eth0')],
    addresses: [on(2, '10.16.0.12/16'), on(2, '172.17.0.11/16')],
    connected: [
      { dev: 'eth0', network: prefix('10.16.0.0/16') },
      { dev: 'eth0', network: prefix('172.17.0.0/16') },
    ],
  };
  const text = `${GATEWAY.replaceAll(/, "fd00[^"]*"/g, '')
    .replace('internal: {', 'internal: { interface: eth0,')
    .replace(
      'external: {',
      'external: { interface: eth0,',
    )}  bgp: { localASN: 1, neighbours: [{ address: 172.17.0.1, asn: 2 }] }
${egress('address: [172.17.0.50, 198.51.100.50]')}`;
  const plan = makePlan(policyOf({ 'a.yaml': text }), { ...POD, ...one }, {});
  t.same([prefixes(plan), held(plan)], [['198.51.100.50/32 egressIPs'], ['172.17.0.50']]);
  t.match(plan.notes, [/^172.17.0.50\/32 is not announced: the gateway has one interface/]);
});

t.test('the pod’s own sessions are not translated', async (t) => {
  const [nat] = planOf(forwards('10.18.0.0/16')).nat;
  t.same(nat!.bgp, { own: ['172.17.0.11'], routers: ['172.17.0.1'] });
});

t.test(
  'an address on no interface is closed where the policy lets connections from outside in',
  async (t) => {
    const nowhere = (policies: string, more = '') =>
      planOf(`  policies: [${policies}]\n${more}`).nat.map(({ nowhere = [] }) => nowhere.join());
    const web = (fields = '') =>
      `{ ipBlocks: [10.17.0.0/16], egressIP: { address: [172.17.0.50, 198.51.100.50]${fields} } }`;
    const any = '  inbound: any\n';
    t.same(nowhere(web()), ['', ''], 'it is refused');
    t.same(nowhere(web(), any), ['172.17.0.50,198.51.100.50', '']);
    t.same(nowhere(web(), '  defaultAction: forward\n'), ['172.17.0.50,198.51.100.50', '']);
    t.same(nowhere(`{ snat: false }, ${web()}`), ['172.17.0.50,198.51.100.50', '']);
    t.same(nowhere(`{ snat: false, ipBlocks: [198.51.100.0/24, 10.18.0.0/16] }, ${web()}`), [
      '198.51.100.50',
      '',
    ]);
    t.same(nowhere(web(', announce: arp'), any), ['', ''], 'they are on the interface');
    t.same(
      nowhere(web(', announce: false'), any),
      ['172.17.0.50,198.51.100.50', ''],
      'the network leads them here',
    );
    const dnat =
      '  dnats: [{ externalIP: 198.51.100.60, protocol: tcp, externalPort: 80, internalIP: 10.17.0.9, internalPort: 80 }]\n';
    t.same(nowhere('', any + dnat), ['198.51.100.60', ''], 'its other ports');
    const eip = '  eips: [{ externalIP: 198.51.100.60, internalIP: 10.17.0.9 }]\n';
    t.same(nowhere('', any + eip), ['', ''], 'all of it leads to its pod');
  },
);
