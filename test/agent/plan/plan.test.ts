import t from 'tap';
import { makePlan } from '../../../agent/plan/plan.ts';
import type { Facts } from '../../../agent/pod/interfaces.ts';
import type { Policy } from '../../../agent/policy/model.ts';
import { address, prefix } from '../../../lib/prefix.ts';
import { link, on, POD } from './pod.ts';

const POLICY: Policy = {
  name: 'default/gateway1',
  origin: { file: 'p.yaml', kind: 'GatewayPolicy', name: 'gateway1' },
  internal: { gateways: [address('10.16.0.1'), address('fd00:10:16::1')] },
  external: { gateways: [address('172.17.0.1'), address('fd00:172:17::1')] },
  bfd: {
    enabled: true,
    peers: [address('10.255.255.255'), address('fd00:ffff::1')],
    minTX: 100,
    minRX: 200,
    multiplier: 5,
    mode: 'passive',
    minTTL: 254,
    adoptDiscriminator: true,
    anySource: false,
  },
  rules: [
    { name: 'web', snat: true, ipBlocks: [prefix('10.17.0.0/16'), prefix('fd00:10:17::/64')] },
    { name: 'legacy', snat: false, ipBlocks: [prefix('10.18.0.0/16'), prefix('10.16.7.0/24')] },
  ],
  warnings: [],
};

t.test('the seeds: routes to blocks and peers, forwarded blocks, sessions in microseconds', async (t) => {
  const plan = makePlan(POLICY, POD, {});
  t.strictSame(plan.families, [
    { family: 4, state: 'programmed', source: '172.17.0.11' },
    { family: 6, state: 'programmed', source: 'fd00:172:17::11' },
  ]);
  const [v4] = plan.routing;
  t.strictSame(
    v4!.internalBlocks,
    ['10.17.0.0/16', '10.18.0.0/16'],
    'a block inside the subnet needs no route',
  );
  t.strictSame(plan.internalNetworks, ['10.16.0.0/16', 'fd00:10:16::/64']);
  t.strictSame(v4!.peers, ['10.255.255.255']);
  t.strictSame(plan.nat[0]!.forward, ['10.18.0.0/16', '10.16.7.0/24'], 'but is forwarded all the same');
  t.match(plan.peers, [
    { local: '10.16.0.12', remote: '10.255.255.255', desiredMinTx: 100_000, requiredMinRx: 200_000 },
    { local: 'fd00:10:16::12', remote: 'fd00:ffff::1', detectMult: 5, interface: 'eth0' },
  ]);
});

t.test(
  'a peer behind the internal gateway is to be heard through it alone; one of the subnet itself is not',
  async (t) => {
    const mac = '02:00:00:00:00:12';
    const pod = { ...POD, links: POD.links.map((one) => ({ ...one, mac })) };
    const vias = (policy: Policy, facts = pod) => makePlan(policy, facts, {}).peers.map(({ via }) => via);
    t.strictSame(vias(POLICY), [
      { gateway: '10.16.0.1', mac },
      { gateway: 'fd00:10:16::1', mac },
    ]);
    const { bfd } = POLICY;
    t.strictSame(vias({ ...POLICY, bfd: { ...bfd, anySource: true } }), [undefined, undefined]);
    t.strictSame(vias({ ...POLICY, bfd: { ...bfd, peers: [address('10.16.0.7')] } }), [undefined]);
    t.strictSame(vias(POLICY, POD), [undefined, undefined], 'nor on a link without Ethernet addresses');
  },
);

t.test('an internal dual stack with a v4-only external network works for v4 and says so', async (t) => {
  const plan = makePlan({ ...POLICY, external: { gateways: [address('172.17.0.1')] } }, POD, {});
  t.strictSame(plan.families, [
    { family: 4, state: 'programmed', source: '172.17.0.11' },
    { family: 6, state: 'unused' },
  ]);
  t.strictSame(plan.notes, [
    'IPv6 is left out: the external network has no IPv6 gateway',
    'BFD peer fd00:ffff::1 is left out: IPv6 is not programmed',
  ]);
  t.equal(plan.routing.length, 1);
});

t.test('what the pod lacks blocks a family and names the cause', async (t) => {
  const reason = (facts: Facts) => makePlan(POLICY, facts, {}).families[0]!.reason;
  t.match(
    reason({ ...POD, links: POD.links.slice(0, 2) }),
    /^the external interface net1 does not exist; attach it/,
  );
  t.equal(
    reason({ ...POD, links: [link(2, 'eth0', false), link(3, 'net1')] }),
    'the internal interface eth0 is down',
  );
  const v6only = { ...POD, addresses: POD.addresses.filter(({ family }) => family === 6) };
  t.equal(reason(v6only), 'the internal interface eth0 has no usable IPv4 address');
  t.equal(makePlan(POLICY, v6only, {}).families[1]!.state, 'programmed', 'the other family goes on');
});

t.test('an address that duplicate address detection has not passed is not used', async (t) => {
  const IFA_F_TENTATIVE = 0x40;
  const addresses = [...POD.addresses.slice(0, 3), on(3, 'fd00:172:17::11/64', IFA_F_TENTATIVE)];
  t.match(makePlan(POLICY, { ...POD, addresses }, {}).families[1], {
    state: 'blocked',
    reason: /net1 has no usable IPv6 address; what would be masqueraded is dropped$/,
  });
  const IFA_F_DADFAILED = 0x08;
  const taken = [
    ...POD.addresses.slice(0, 3),
    on(3, 'fd00:172:17::11/64', IFA_F_TENTATIVE | IFA_F_DADFAILED),
  ];
  t.match(makePlan(POLICY, { ...POD, addresses: taken }, {}).families[1], {
    state: 'blocked',
    reason: /net1 has no usable IPv6 address: another host on the link has fd00:172:17::11; what would/,
  });
});

t.test('BFD answers from the address that shares a network with the gateway', async (t) => {
  const addresses = [on(2, '192.0.2.7/32'), ...POD.addresses];
  t.equal(makePlan(POLICY, { ...POD, addresses }, {}).peers[0]!.local, '10.16.0.12');
});

t.test('without BFD there are no sessions and nothing is kept from conntrack', async (t) => {
  const plan = makePlan({ ...POLICY, bfd: { ...POLICY.bfd, enabled: false } }, POD, {});
  t.strictSame(plan.peers, []);
  t.strictSame(plan.routing[0]!.peers, []);
  t.equal(plan.nat[0]!.notrackBfd, false);
});

/** NAT of one family for rules and more of the policy. */
const natOf = (more: Partial<Policy>, family: 4 | 6 = 4) =>
  makePlan({ ...POLICY, ...more }, POD, {}).nat.find((nat) => nat.family === family)!;
const web = POLICY.rules[0]!;
const all = [prefix('10.17.0.0/16'), prefix('fd00:10:17::/64')];

t.test('what masquerading and forwarded blocks can do needs no decisions', async (t) => {
  t.strictSame(natOf({}), {
    family: 4,
    internalInterface: 'eth0',
    forward: ['10.18.0.0/16', '10.16.7.0/24'],
    notrackBfd: true,
    dropInvalid: true,
  });
});

t.test(
  'a block that an earlier rule translates, wholly or in part, is not forwarded before it',
  async (t) => {
    const late = (...blocks: string[]) =>
      natOf({
        rules: [web, { name: 'late', snat: false, ipBlocks: [...blocks, '10.18.0.0/16'].map(prefix) }],
      });
    for (const block of ['10.17.0.0/16', '10.17.3.0/24', '10.16.0.0/14', '0.0.0.0/0']) {
      const { forward, policies } = late(block);
      t.strictSame(forward, ['10.18.0.0/16'], block);
      t.match(policies, [
        { name: 'web', action: 'masquerade' },
        { name: 'late', action: 'forward', sources: [block] },
      ]);
    }
    t.equal(late('10.19.0.0/16').policies, undefined);
    const first = { name: 'first', snat: false, ipBlocks: all, priority: 5 };
    t.match(natOf({ rules: [web, first] }), { forward: ['10.17.0.0/16'], policies: undefined });
  },
);

t.test(
  'rules decide by priority, then in order; a family that a rule does not speak about lacks it',
  async (t) => {
    const rules = [
      { ...web, name: 'a', egressIP: { addresses: [address('172.17.0.50')], announce: true } },
      { ...web, name: 'b', priority: 2000 },
      { ...web, name: 'c', priority: 10, destinationCIDRs: [prefix('192.0.2.0/24')], snat: false },
    ];
    t.match(natOf({ rules }).policies, [
      { name: 'c', action: 'forward', destinations: ['192.0.2.0/24'], sources: ['10.17.0.0/16'] },
      { name: 'a', action: { snat: ['172.17.0.50'] } },
      { name: 'b', action: 'masquerade' },
    ]);
    t.equal(natOf({ rules }, 6).policies, undefined, 'IPv6 is only masqueraded');
    t.strictSame(makePlan({ ...POLICY, rules }, POD, {}).notes, [
      'policy a has no IPv6 egress address and says nothing about IPv6',
    ]);
  },
);

t.test(
  'the addresses to hold: announced ones while this is their owner, and those of EIPs and DNATs',
  async (t) => {
    const held = (more: object) =>
      makePlan(
        {
          ...POLICY,
          rules: [{ ...web, egressIP: { addresses: [address('172.17.0.50')], announce: true, ...more } }],
        },
        POD,
        {},
      ).addresses;
    const one = [{ family: 4, address: '172.17.0.50', dev: 'net1' }];
    t.strictSame(held({}), one);
    t.strictSame(held({ owner: 'gateway1-0' }), one);
    t.strictSame(held({ owner: 'node1' }), one);
    t.strictSame(held({ owner: 'gateway1-1' }), []);
    t.strictSame(held({ owner: '' }), []);
    t.strictSame(held({ announce: false }), []);
    const eips = [{ externalIP: address('fd00:172:17::60'), internalIP: address('fd00:99::9') }];
    const plan = makePlan({ ...POLICY, eips }, POD, {});
    t.strictSame(plan.addresses, [{ family: 6, address: 'fd00:172:17::60', dev: 'net1' }]);
    t.strictSame(
      plan.routing[1]!.internalBlocks,
      ['fd00:10:17::/64', 'fd00:99::9/128'],
      'it needs a way inside',
    );
  },
);

t.test('an EIP or DNAT is translated everywhere, and held by its owner', async (t) => {
  const pair = { externalIP: address('172.17.0.60'), internalIP: address('10.99.0.9') };
  const ports = { first: 80, last: 80 };
  const dnat = {
    protocol: 'tcp',
    externalPorts: ports,
    internalPorts: ports,
    preserveClientIP: false,
  } as const;
  const plan = (...owners: (string | undefined)[]) => {
    const [eip, ...dnats] = owners.map((owner) => ({ ...pair, ...(owner !== undefined && { owner }) }));
    return makePlan({ ...POLICY, eips: [eip!], dnats: dnats.map((one) => ({ ...one, ...dnat })) }, POD, {});
  };
  const one = [{ family: 4, address: '172.17.0.60', dev: 'net1' }];
  t.strictSame(plan('gateway1-0').addresses, one);
  t.strictSame(plan('node1').addresses, one);
  t.strictSame(plan('gateway1-1').addresses, []);
  t.strictSame(plan('').addresses, []);
  t.strictSame(plan(undefined, 'node1').addresses, one, 'an owner that one names is that of all');
  t.strictSame(plan(undefined, 'node2').addresses, []);
  t.strictSame(plan('node2').nat, plan('node1').nat, 'so that the next owner is ready');
  const rules = [{ ...web, egressIP: { addresses: [pair.externalIP], announce: true, owner: 'node2' } }];
  t.strictSame(makePlan({ ...POLICY, rules, eips: [pair] }, POD, {}).addresses, []);
});

t.test('addresses of other owners are named, a note for each owner', async (t) => {
  const notes = (owners: (string | undefined)[], facts = POD) => {
    const eips = owners.map((owner, i) => ({
      ...{ externalIP: address(`172.17.0.${60 + i}`), internalIP: address(`10.99.0.${i}`) },
      ...(owner !== undefined && { owner }),
    }));
    return makePlan({ ...POLICY, eips }, facts, {}).elsewhere;
  };
  t.strictSame(notes([undefined, 'node1', 'gateway1-0']), []);
  t.strictSame(notes(['node2', 'node1', '', 'node2']), [
    {
      family: 4,
      note: '172.17.0.60, 172.17.0.63 are neither held nor announced here: node2 owns them, and this gateway is gateway1-0 on node1',
    },
    { family: 4, note: '172.17.0.62 is neither held nor announced here: no gateway owns it' },
  ]);
  t.match(notes(Array.from({ length: 7 }, () => 'a'))[0]!.note, /172\.17\.0\.64 and 2 more are neither/);
  t.match(notes(['a'], { ...POD, names: [] })[0]!.note, /has no name, for want of POD_NAME and NODE_NAME$/);
  const eips = [{ externalIP: address('172.17.0.11'), internalIP: address('10.99.0.9'), owner: 'node2' }];
  t.strictSame(makePlan({ ...POLICY, eips }, POD, {}).elsewhere, [], 'the pod has it');
});

t.test('an address that the agent has added is not one that the pod sends from', async (t) => {
  const addresses = [...POD.addresses, { ...on(3, '172.17.0.50/32'), metric: 178 }];
  t.strictSame(makePlan(POLICY, { ...POD, addresses }, {}).routing[0]!.external!.addresses, ['172.17.0.11']);
});

t.test(
  'conntrack counts where the policy has a translation log, and where Kube-OVN may have an observer',
  async (t) => {
    const paths = (policy: Policy) => makePlan(policy, POD, {}).sysctls.map(({ path }) => path);
    const acct = 'net/netfilter/nf_conntrack_acct';
    t.notOk(paths(POLICY).includes(acct));
    const translationLog: NonNullable<Policy['translationLog']> = {
      events: ['start', 'end'],
      rateLimit: { recordsPerSecond: 100, burst: 1000 },
      filters: { include: [], exclude: [] },
    };
    t.ok(paths({ ...POLICY, translationLog }).includes(acct));
    t.ok(paths({ ...POLICY, origin: { ...POLICY.origin, kind: 'Environment' } }).includes(acct));
  },
);

t.test('a family that the kernel lacks is left out, and told, while the other works', async (t) => {
  const plan = makePlan(POLICY, { ...POD, missing: [6] }, {});
  t.strictSame(plan.families, [
    { family: 4, state: 'programmed', source: '172.17.0.11' },
    { family: 6, state: 'unused' },
  ]);
  t.match(plan.notes, [
    /^IPv6 is left out: this kernel has no IPv6 \(ipv6\.disable=1/,
    'BFD peer fd00:ffff::1 is left out: IPv6 is not programmed',
  ]);
  t.strictSame(
    plan.peers.map(({ remote }) => remote),
    ['10.255.255.255'],
  );
  t.ok([...plan.routing, ...plan.nat].every(({ family }) => family === 4));
  t.notMatch(plan.sysctls.map(({ path }) => path).join(), 'ipv6');
});

t.test('a policy for nothing but a family that the kernel lacks is blocked', async (t) => {
  const only6: Policy = {
    ...POLICY,
    internal: { gateways: [address('fd00:10:16::1')] },
    external: { gateways: [address('fd00:172:17::1')] },
  };
  const [ip4, ip6] = makePlan(only6, { ...POD, missing: [6] }, {}).families;
  t.strictSame(ip4, { family: 4, state: 'unused' });
  t.match(ip6, { state: 'blocked', reason: /^this kernel has no IPv6/ });
});

t.test(
  'without an own address outside, what would be masqueraded is dropped and the family is not ready',
  async (t) => {
    const addresses = POD.addresses.filter(({ ifindex, family }) => ifindex !== 3 || family !== 4);
    const bare = { ...POD, addresses };
    const plan = makePlan(POLICY, bare, {});
    const reason =
      'the external interface net1 has no usable IPv4 address; what would be masqueraded is dropped';
    t.strictSame(plan.families[0], { family: 4, state: 'blocked', reason });
    t.strictSame(plan.leftAlone, [], 'nothing stays as it is');
    t.match(plan.nat[0], { defaultAction: 'drop', policies: [{ name: 'web', action: 'drop' }] });
    t.equal(plan.peers.length, 2, 'its sessions are there, not Up');
    const eips = [{ externalIP: address('172.17.0.60'), internalIP: address('10.17.0.9') }];
    const only = makePlan({ ...POLICY, rules: [POLICY.rules[1]!], defaultAction: 'drop', eips }, bare, {});
    t.strictSame(only.families[0], { family: 4, state: 'programmed' }, 'unless nothing is masqueraded');
  },
);

t.test(
  'what is masqueraded gets its address spelt out beside virtual ones, whoever holds them',
  async (t) => {
    const eips = (owner: string) => [
      { externalIP: address('172.17.0.60'), internalIP: address('10.17.0.9'), owner },
    ];
    const source = { interface: 'net1', address: '172.17.0.11' };
    for (const owner of ['node1', 'node2']) {
      const [v4, v6] = makePlan({ ...POLICY, eips: eips(owner) }, POD, {}).nat;
      t.strictSame([v4?.source, v6?.source], [source, undefined], owner);
    }
    const late = { ...POD, addresses: [on(3, '172.17.0.60/16'), ...POD.addresses] };
    t.match(makePlan({ ...POLICY, eips: eips('node1') }, late, {}).families[0], { source: '172.17.0.11' });
  },
);

t.test('a gateway off the networks of its link is reached by onlink routes', async (t) => {
  const off = { ...POD, connected: POD.connected.filter(({ dev }) => dev === 'eth0') };
  for (const { internal, external } of makePlan(POLICY, off, {}).routing) {
    t.strictSame([internal.onlink, external!.onlink], [undefined, true]);
  }
  const gateways = [address('172.17.0.1'), address('fe80::1')];
  const local = makePlan({ ...POLICY, external: { gateways } }, POD, {}).routing;
  t.equal(local[1]!.external!.onlink, undefined, 'a link-local one is on its link');
  t.strictSame(makePlan(POLICY, POD, {}).notes, []);
});

t.test(
  'an internal gateway off the networks of its interface is left for the kernel to refuse',
  async (t) => {
    const policy = { ...POLICY, internal: { gateways: [address('10.99.0.1')] } };
    t.equal(makePlan(policy, POD, {}).routing[0]!.internal.onlink, undefined);
    const elsewhere = { ...POD, connected: [] };
    t.equal(
      makePlan(POLICY, elsewhere, {}).routing[0]!.internal.onlink,
      true,
      'unless its network is in another table',
    );
    const host = { ...POD, addresses: [on(2, '10.16.0.12/32'), on(3, '172.17.0.11/16')], connected: [] };
    const alone = makePlan(policy, host, {});
    t.equal(alone.routing[0]!.internal.onlink, true, 'a host address says nothing about its link');
    t.match(alone.notes, [
      /^the internal gateway 10\.99\.0\.1 is on no network of eth0 \(10\.16\.0\.12\/32\)/,
    ]);
  },
);

t.test('blocks that hold what is outside lead outside, and the more specific ones inside', async (t) => {
  const routed = (...blocks: string[]) => {
    const rules = [{ name: 'web', snat: true, ipBlocks: blocks.map(prefix) }];
    const { routing, notes } = makePlan({ ...POLICY, rules }, POD, {});
    return {
      inside: routing.flatMap(({ internalBlocks }) => internalBlocks),
      outside: routing.flatMap(({ externalBlocks }) => externalBlocks),
      notes,
    };
  };
  t.strictSame(routed('172.16.0.0/12', '172.20.0.0/16', 'fd00::/16', 'fd00:10:17::/64'), {
    inside: ['172.20.0.0/16', 'fd00:10:17::/64'],
    outside: ['172.16.0.0/12', 'fd00::/16'],
    notes: [],
  });
  for (const block of ['172.17.0.0/16', '172.17.0.0/24', '0.0.0.0/0', '::/0', 'fd00:172:17::/64']) {
    t.strictSame(
      routed(block),
      { inside: [], outside: [], notes: [] },
      `${block} is on the link, or everywhere`,
    );
  }
  const note = 'is wider than any private network: it leads outside, not into the VPC';
  t.strictSame(routed('0.0.0.0/1', '2000::/3').notes, [`0.0.0.0/1 ${note}`, `2000::/3 ${note}`]);
  t.strictSame(
    routed('10.0.0.0/8', 'fc00::/8').inside,
    ['10.0.0.0/8', 'fc00::/8'],
    'the internal network may be in it',
  );
  const beside = { ...POD, addresses: [...POD.addresses, on(3, '192.0.2.7/24')] };
  const rules = [{ name: 'web', snat: true, ipBlocks: [prefix('192.0.0.0/16')] }];
  t.strictSame(makePlan({ ...POLICY, rules }, beside, {}).notes, [
    '192.0.0.0/16 holds a network of net1: it leads outside, not into the VPC',
  ]);
});

t.test(
  'a primary network that is neither side: its own table, and metrics and probes answer there',
  async (t) => {
    const harvester: Facts = {
      ...POD,
      links: [...POD.links, link(4, 'net2')],
      addresses: [
        on(2, '10.52.0.189/32'),
        on(3, '10.16.0.12/16'),
        on(3, 'fd00:10:16::12/64'),
        on(4, '172.17.0.11/16'),
        on(4, 'fd00:172:17::11/64'),
      ],
      connected: [
        { dev: 'net1', network: prefix('10.16.0.0/16') },
        { dev: 'net1', network: prefix('fd00:10:16::/64') },
        { dev: 'net2', network: prefix('172.17.0.0/16') },
        { dev: 'net2', network: prefix('fd00:172:17::/64') },
      ],
      podIPs: [address('10.52.0.189')],
    };
    const plan = makePlan(POLICY, harvester, {});
    t.strictSame(plan.interfaces, { internal: 'net1', external: 'net2' });
    t.strictSame(plan.listenAddresses, ['10.16.0.12', 'fd00:10:16::12', '10.52.0.189']);
    t.strictSame(
      plan.peers.map(({ local, interface: name }) => `${local} ${name}`),
      ['10.16.0.12 net1', 'fd00:10:16::12 net1'],
      'BFD is the internal interface’s, whatever Kubernetes knows the pod by',
    );
    t.match(plan.routing[0]!.primary, { interface: 'eth0', addresses: ['10.52.0.189'], routes: [] });
    t.strictSame(plan.nat[0]!.primary, { interface: 'eth0', addresses: ['10.52.0.189'] });
    t.equal(plan.routing[1]!.primary, undefined, 'the other CNI has no IPv6');
    t.strictSame(plan.notes, [
      'no IPv4 gateway of the primary interface eth0 is known: what comes to its addresses from another network is answered through net2; give it a default route',
    ]);
    const usual = makePlan(
      POLICY,
      { ...POD, podIPs: [address('10.16.0.12')], services: [address('10.53.0.1')] },
      {},
    );
    t.strictSame(usual.listenAddresses, ['10.16.0.12', 'fd00:10:16::12']);
    t.strictSame(
      [usual.routing[0]!.primary, usual.nat[0]!.primary],
      [undefined, undefined],
      'nothing changes there',
    );
  },
);

t.test(
  'BGP mode: sessions and forwarding in the families that have an internal gateway, and nothing else',
  async (t) => {
    const external = { gateways: [address('172.17.0.1')] };
    const policy: Policy = { ...POLICY, external, forwardOnly: true, defaultAction: 'forward' };
    const plan = makePlan(policy, POD, {});
    t.strictSame(plan.families, [
      { family: 4, state: 'programmed' },
      { family: 6, state: 'programmed' },
    ]);
    t.strictSame([plan.routing, plan.nat, plan.addresses, plan.notes], [[], [], [], []]);
    t.strictSame(
      plan.peers.map(({ local, remote }) => `${local} ${remote}`),
      ['10.16.0.12 10.255.255.255', 'fd00:10:16::12 fd00:ffff::1'],
    );
    const forwarding = [
      'net/ipv4/ip_forward',
      'net/ipv6/conf/all/forwarding',
      'net/ipv4/conf/eth0/rp_filter',
    ];
    const set = plan.sysctls.map(({ path }) => path);
    for (const path of forwarding) t.ok(set.includes(path), path);
    const down = { ...POD, links: [link(2, 'eth0', false), link(3, 'net1')] };
    t.match(makePlan(policy, down, {}).families[0], {
      state: 'blocked',
      reason: /internal interface eth0 is down/,
    });
    const noOutside = { ...POD, links: [link(2, 'eth0')] };
    t.match(
      makePlan(policy, noOutside, {}).families[0],
      { state: 'programmed' },
      'FRR’s side is not looked at',
    );
  },
);
