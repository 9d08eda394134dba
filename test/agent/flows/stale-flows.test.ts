import t from 'tap';
import { staleFlows } from '../../../agent/flows/stale-flows.ts';
import { address, addressBytes, type Family, familyOf, prefix } from '../../../lib/prefix.ts';
import { type ConntrackEntry, IPS_OFFLOAD, PROTOCOL } from '../../../nat/conntrack/wire.ts';
import type { FamilyNat } from '../../../nat/desired.ts';

const OWN = ['10.16.0.12', '172.17.0.11', 'fd00:10:16::12', 'fd00:172:17::11'].map(address);
const OUTSIDE = '203.0.113.5:53';

/** An entry by its two tuples as `conntrack -L` shows them: `source > destination`, and of the replies the same. */
function flow(
  original: string,
  reply: string,
  { protocol = 'udp', tcpState }: { protocol?: keyof typeof PROTOCOL; tcpState?: number } = {},
): ConntrackEntry {
  const tuple = (text: string) => {
    const [from, to] = text.split(' > ').map((end) => {
      const cut = end.lastIndexOf(':');
      return { at: address(end.slice(0, cut).replace(/[[\]]/g, '')), port: Number(end.slice(cut + 1)) };
    });
    return {
      family: familyOf(from!.at) as Family,
      source: addressBytes(from!.at),
      sourcePort: from!.port,
      destination: addressBytes(to!.at),
      destinationPort: to!.port,
    };
  };
  const { family, ...first } = tuple(original);
  const { family: _, ...second } = tuple(reply);
  return {
    family,
    protocol: PROTOCOL[protocol],
    id: 1,
    zone: 0,
    status: 0,
    original: first,
    reply: second,
    ...(tcpState !== undefined && { tcpState }),
  };
}

/** A flow from inside to `OUTSIDE`, its source left as it is or made `became`. */
const outwards = (source: string, became = source, more = {}) =>
  flow(`${source} > ${OUTSIDE}`, `${OUTSIDE} > ${became}`, more);

const intent = (more: Partial<FamilyNat> = {}): FamilyNat[] => [
  { family: 4, internalInterface: 'eth0', forward: [prefix('10.18.0.0/16')], notrackBfd: true, ...more },
];
const INSIDE = [prefix('10.17.0.0/16'), prefix('10.18.0.0/16')];
const stale = (entry: ConntrackEntry, more: Partial<FamilyNat> = {}) =>
  staleFlows(intent(more), OWN, INSIDE)(entry);

t.test('what masquerading gave an address of the other side, or an EIP, begins anew', async (t) => {
  const goes = (entry: ConntrackEntry, more: Partial<FamilyNat> = {}) =>
    staleFlows(
      intent(more),
      [...OWN, address('172.17.0.60')],
      [prefix('10.19.0.0/16')],
      [address('10.16.0.12')],
    )(entry);
  t.equal(goes(outwards('10.17.0.9:1000', '10.16.0.12:2000')), true);
  t.equal(goes(flow('10.17.0.9:1000 > 10.19.0.9:53', '10.19.0.9:53 > 10.16.0.12:2000')), false, 'inside');
  const eips = [{ externalIP: address('172.17.0.60'), internalIP: address('10.17.0.10') }];
  t.equal(goes(outwards('10.17.0.9:1000', '172.17.0.60:2000'), { eips }), true);
  t.equal(goes(outwards('10.17.0.10:1000', '172.17.0.60:1000'), { eips }), false);
});

t.test('a source is translated or forwarded as the policy says now', async (t) => {
  t.equal(stale(outwards('10.17.0.9:1000', '172.17.0.11:2000')), false);
  t.equal(stale(outwards('10.17.0.9:1000')), true, 'it left untranslated');
  t.equal(stale(outwards('10.18.0.9:1000')), false);
  t.equal(stale(outwards('10.18.0.9:1000', '172.17.0.11:1000')), true, 'it was translated');
  t.equal(
    stale(outwards('10.17.0.9:1000', '172.17.0.99:1000')),
    true,
    'by an address that is no longer here',
  );
  const inwards = flow('203.0.113.5:99 > 10.18.0.9:80', '10.18.0.9:80 > 203.0.113.5:99');
  t.equal(stale(inwards), false, 'forwarding goes both ways');
});

t.test('established TCP goes on, attempts do not', async (t) => {
  const tcp = (tcpState: number, became: string) =>
    stale(outwards('10.17.0.9:1000', became, { protocol: 'tcp', tcpState }));
  t.equal(tcp(1, '10.17.0.9:1000'), true, 'SYN_SENT');
  for (const state of [2, 3, 4, 5, 6, 7]) t.equal(tcp(state, '10.17.0.9:1000'), false, `state ${state}`);
  t.equal(tcp(8, '10.17.0.9:1000'), true, 'CLOSE');
  t.equal(tcp(3, '172.17.0.99:1000'), true, 'but without its address it cannot live');
  t.equal(tcp(3, '172.17.0.11:1000'), false);
});

t.test('TCP in a flowtable is established, although the kernel does not say so', async (t) => {
  const entry = (protocol: 'tcp' | 'udp', status: number) => ({
    ...outwards('10.17.0.9:1000', '10.17.0.9:1000', { protocol }),
    status,
  });
  t.equal(stale(entry('tcp', IPS_OFFLOAD)), false);
  t.equal(stale(entry('tcp', 0)), true);
  t.equal(stale(entry('udp', IPS_OFFLOAD)), true, 'UDP follows the policy');
});

t.test('the pod’s own flows and what is never forwarded stay', async (t) => {
  t.equal(stale(outwards('172.17.0.11:1000')), false, 'from here');
  t.equal(
    stale(flow('10.16.0.1:1000 > 10.16.0.12:10669', '10.16.0.12:10669 > 10.16.0.1:1000')),
    false,
    'to here',
  );
  for (const destination of ['224.0.0.1:5353', '255.255.255.255:67', '169.254.1.1:53']) {
    t.equal(
      stale(flow(`10.17.0.9:68 > ${destination}`, `${destination} > 10.17.0.9:68`)),
      false,
      destination,
    );
  }
  t.equal(stale(flow('127.0.0.1:1 > 127.0.0.1:2', '127.0.0.1:2 > 127.0.0.1:1')), false, 'loopback');
  const loop = flow('[::1]:1 > [::1]:2', '[::1]:2 > [::1]:1');
  t.equal(staleFlows([{ ...intent()[0]!, family: 6, forward: [] }], OWN)(loop), false);
  const six = flow('[fe80::1]:546 > [ff02::1:2]:547', '[ff02::1:2]:547 > [fe80::1]:546');
  t.equal(staleFlows([{ ...intent()[0]!, family: 6, forward: [] }], OWN)(six), false, 'IPv6 alike');
  t.equal(
    stale(flow('[fd00:10:17::9]:1 > [2001:db8::1]:2', '[2001:db8::1]:2 > [fd00:10:17::9]:1')),
    false,
    'a family that is not programmed',
  );
});

t.test('an ICMP identifier is translated without meaning anything', async (t) => {
  const ping = (became: string, id: number) =>
    flow('10.17.0.9:7 > 203.0.113.5:7', `203.0.113.5:${id} > ${became}:${id}`, { protocol: 'icmp' });
  t.equal(stale(ping('172.17.0.11', 4711)), false);
  t.equal(stale(ping('10.17.0.9', 7)), true);
});

t.test('policies decide in their order, by destination too', async (t) => {
  const policies: FamilyNat['policies'] = [
    { name: 'near', action: 'forward', sources: [], destinations: [prefix('10.0.0.0/8')], excluded: [] },
    {
      name: 'egress',
      action: { snat: [address('172.17.0.50')] },
      sources: [prefix('10.17.0.0/16')],
      destinations: [],
      excluded: [prefix('198.51.100.0/24')],
    },
  ];
  const more: Partial<FamilyNat> = { forward: [], policies, defaultAction: 'drop' };
  const to = (destination: string, became = '10.17.0.9:1000') =>
    stale(flow(`10.17.0.9:1000 > ${destination}`, `${destination} > ${became}`), more);
  t.equal(to('10.99.0.1:80'), false, 'forwarded by destination');
  t.equal(to('10.99.0.1:80', '172.17.0.50:1000'), true);
  t.equal(to(OUTSIDE, '172.17.0.50:1000'), false, 'with the egress address');
  t.equal(to(OUTSIDE, '172.17.0.11:1000'), true, 'masqueraded instead');
  t.equal(to(OUTSIDE), true, 'untranslated');
  t.equal(to('198.51.100.7:80', '172.17.0.50:1000'), true, 'excluded, and nothing else allows it');
  const established = outwards('10.17.0.9:1000', '172.17.0.50:1000', { protocol: 'tcp', tcpState: 3 });
  t.equal(stale(established, more), false, 'an egress address need not be on an interface');
  t.equal(stale(established), true, 'but has to be in the policy');
  t.equal(
    stale(flow('10.44.0.1:5 > 10.17.0.9:80', '10.17.0.9:80 > 10.44.0.1:5'), more),
    false,
    'from outside a forward policy counts the other way round',
  );
});

t.test('inbound flows lead where the policy says', async (t) => {
  const more: Partial<FamilyNat> = {
    eips: [{ externalIP: address('172.17.0.60'), internalIP: address('10.17.0.60') }],
    dnats: [
      {
        externalIP: address('172.17.0.11'),
        protocol: 'udp',
        externalPorts: { first: 8000, last: 8010 },
        internalIP: address('10.17.0.9'),
        internalPorts: { first: 9000, last: 9010 },
        preserveClientIP: false,
      },
    ],
  };
  const inbound = (to: string, leadsTo: string, protocol: 'udp' | 'icmp' = 'udp') =>
    stale(flow(`203.0.113.5:99 > ${to}`, `${leadsTo} > 10.16.0.12:99`, { protocol }), more);
  t.equal(inbound('172.17.0.11:8003', '10.17.0.9:9003'), false);
  t.equal(inbound('172.17.0.11:8003', '10.17.0.8:9003'), true, 'another host');
  t.equal(inbound('172.17.0.11:8003', '10.17.0.9:9004'), true, 'another port');
  t.equal(inbound('172.17.0.11:8003', '172.17.0.11:8003'), true, 'it began before the rule');
  t.equal(inbound('172.17.0.11:8011', '10.17.0.9:9011'), true, 'the rule is gone');
  t.equal(inbound('172.17.0.11:8011', '172.17.0.11:8011'), false, 'to the pod itself');
  t.equal(inbound('172.17.0.60:5', '10.17.0.60:5'), false);
  t.equal(inbound('172.17.0.60:5', '10.17.0.61:5'), true);
  t.equal(inbound('172.17.0.60:5', '10.17.0.60:5', 'icmp'), false);
  t.equal(stale(outwards('10.17.0.60:1', '172.17.0.60:1'), more), false, 'an EIP outwards');
  t.equal(stale(outwards('10.17.0.60:1', '172.17.0.11:1'), more), true);
});

t.test(
  'with port blocks a flow outside the block of its source has to go, but for established TCP',
  async (t) => {
    const more: Partial<FamilyNat> = {
      policies: [
        {
          ...{ name: 'tenants', sources: [prefix('10.17.0.0/28')], destinations: [], excluded: [] },
          action: { snat: [address('172.17.0.50')], portBlockSize: 64 },
        },
      ],
    };
    t.equal(stale(outwards('10.17.0.9:1000', '172.17.0.50:1600'), more), false);
    t.equal(stale(outwards('10.17.0.9:1000', '172.17.0.50:1663'), more), false);
    t.equal(stale(outwards('10.17.0.9:1000', '172.17.0.50:1664'), more), true, "the neighbour's");
    t.equal(stale(outwards('10.17.0.9:1000', '172.17.0.11:1600'), more), true, 'another address');
    t.equal(stale(outwards('10.17.0.9:0', '172.17.0.50:0', { protocol: 'gre' }), more), false, 'no ports');
    const established = { protocol: 'tcp', tcpState: 3 } as const;
    t.equal(stale(outwards('10.17.0.9:1000', '172.17.0.50:1664', established), more), false);
  },
);

t.test('what came from outside stays where all may come in, and only where it may', async (t) => {
  const inwards = flow('203.0.113.5:53 > 10.17.0.9:1000', '10.17.0.9:1000 > 203.0.113.5:53');
  t.equal(stale(inwards), true);
  t.equal(stale(inwards, { inbound: 'any' }), false);
  const elsewhere = flow('203.0.113.5:53 > 10.19.0.9:1000', '10.19.0.9:1000 > 203.0.113.5:53');
  t.equal(stale(elsewhere), true);
  t.equal(stale(elsewhere, { inbound: 'any' }), false, 'to a pod that no block of the policy holds');
  t.equal(stale(outwards('10.17.0.9:1000'), { inbound: 'any' }), true, 'it left untranslated');
  t.equal(stale(flow('203.0.113.5:53 > 10.18.0.9:1000', '10.18.0.9:1000 > 203.0.113.5:53')), false);
});

t.test(
  'deciding about a flow walks over neither EIPs nor DNATs: there may be thousands, and flows as well',
  async (t) => {
    let reads = 0;
    const counted = <T extends object>(value: T): T =>
      new Proxy(value, {
        get(of, name) {
          reads++;
          return Reflect.get(of, name);
        },
      });
    const eips = Array.from({ length: 1000 }, (_, i) =>
      counted({
        externalIP: address(`172.18.${i >> 8}.${i & 255}`),
        internalIP: address(`10.17.${i >> 8}.${i & 255}`),
      }),
    );
    const dnats = Array.from({ length: 1000 }, (_, i) =>
      counted({
        ...{ externalIP: address('172.17.0.60'), protocol: 'udp' as const, internalIP: address('10.17.9.9') },
        ...{
          externalPorts: { first: i + 1, last: i + 1 },
          internalPorts: { first: 5000 + i, last: 5000 + i },
          preserveClientIP: true,
        },
      }),
    );
    const isStale = staleFlows(intent({ eips, dnats }), OWN, INSIDE);
    reads = 0;
    t.equal(isStale(outwards('10.17.3.9:1000', '172.18.3.9:1000')), false, 'the source has an EIP');
    t.equal(isStale(outwards('10.17.3.9:1000', '172.17.0.11:1000')), true);
    t.equal(isStale(flow('1.1.1.1:9 > 172.18.3.9:80', '10.17.3.9:80 > 1.1.1.1:9')), false, 'to an EIP');
    t.equal(isStale(flow('1.1.1.1:9 > 172.18.3.9:80', '10.17.3.8:80 > 1.1.1.1:9')), true);
    t.equal(isStale(flow('1.1.1.1:9 > 172.17.0.60:700', '10.17.9.9:5699 > 1.1.1.1:9')), false, 'to a DNAT');
    t.equal(isStale(flow('1.1.1.1:9 > 172.17.0.60:700', '10.17.9.9:5700 > 1.1.1.1:9')), true);
    t.equal(reads, 0);
  },
);

t.test('a replica is its gateway’s to remove, unless its address is not given any more', async (t) => {
  const replica = (became: string) => ({ ...outwards('10.17.0.9:4242', became), mark: 0xa600_0000 });
  const policies = [
    {
      ...{ name: 'web', sources: [prefix('10.17.0.0/16')], destinations: [], excluded: [] },
      action: { snat: [address('172.17.0.50')], slice: { first: 5056, last: 9087 } },
    },
  ];
  t.notOk(stale(replica('172.17.0.50:33574'), { policies }), 'a port of another slice');
  t.notOk(stale(replica('172.17.0.50:33574'), { policies, forward: [prefix('10.17.0.0/16')] }), 'forwarded');
  t.ok(stale(replica('172.17.0.50:33574')), 'the policy shares no address');
  t.ok(stale(replica('172.17.0.51:33574'), { policies }), 'it shares another one');
});
