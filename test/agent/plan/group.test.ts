/** What a group adds to the plan, by what the exchange has reported. */
import t from 'tap';
import { type GroupFacts, groupFacts } from '../../../agent/group/model.ts';
import { portSlice } from '../../../agent/group/slices.ts';
import {
  familyGroup,
  groupNat,
  groupObstacle,
  groupProxies,
  groupRouting,
  groupSessions,
  sharedAction,
} from '../../../agent/plan/group.ts';
import type { Policy } from '../../../agent/policy/model.ts';
import { address, prefix } from '../../../lib/prefix.ts';

const SHARED = address('172.17.0.50');
const GROUP: NonNullable<Policy['group']> = {
  members: ['10.16.0.12', '10.16.0.13', 'fd00:10:16::12'].map(address),
  port: 10_667,
  credentials: { keyFile: '/etc/veg-agent/secret/group' },
  minTX: 100,
  minRX: 200,
  multiplier: 3,
};
const POLICY = {
  group: GROUP,
  rules: [
    {
      name: 'web',
      snat: true,
      ipBlocks: [prefix('10.17.0.0/16')],
      egressIP: { addresses: [SHARED], announce: true, shared: true },
    },
  ],
} as unknown as Policy;
const OWN = { internal: [address('10.16.0.12')], external: address('172.17.0.11'), carrier: true };
const FACTS: GroupFacts = {
  ...{ self: address('10.16.0.12'), state: 'live', slice: portSlice(12), ready: true },
  ...{ takingOverFrom: [], notConnectedWith: [] },
  ...{ held: [SHARED], forward: [{ slice: portSlice(13), via: address('172.17.0.12') }] },
};

const group = (facts?: GroupFacts, own = OWN) => {
  const found = familyGroup(POLICY, 4, own, facts);
  if (found === undefined || 'reason' in found) throw new Error('not a member');
  return found;
};

t.test('a gateway is a member by its internal address, and the reason names what it compared', async (t) => {
  t.same(group().config, {
    ...{ family: 4, self: '10.16.0.12', members: ['10.16.0.12', '10.16.0.13'] },
    ...{ external: '172.17.0.11', shared: ['172.17.0.50'] },
  });
  const stranger = { ...OWN, internal: [address('10.16.0.99')] };
  t.same(familyGroup(POLICY, 4, stranger, undefined), {
    reason:
      'none of the internal addresses (10.16.0.99) is among spec.group.members (10.16.0.12, 10.16.0.13)',
  });
  const outside = { ...stranger, external: address('10.16.0.13') };
  t.match(familyGroup(POLICY, 4, outside, undefined), {
    reason: /\(10.16.0.12, 10.16.0.13\); 10.16.0.13 is the external one, name members by their internal one$/,
  });
  t.same(familyGroup(POLICY, 4, { ...OWN, external: undefined }, undefined), {
    reason: 'the external interface has no IPv4 address, and the other members of the group forward to it',
  });
  t.equal(familyGroup({ ...POLICY, group: undefined } as unknown as Policy, 4, OWN, undefined), undefined);
});

t.test('a shared address is translated to from the own slice, whatever the exchange knows', async (t) => {
  const { firstPort, lastPort } = portSlice(12);
  for (const facts of [undefined, FACTS, { ...FACTS, state: 'joining' as const }]) {
    t.same(sharedAction(group(facts), [SHARED]), {
      snat: ['172.17.0.50'],
      slice: { first: firstPort, last: lastPort },
    });
  }
});

t.test('what the exchange reports of another address does not count', async (t) => {
  t.equal(group({ ...FACTS, self: address('10.16.0.13') }).view, undefined);
});

t.test('NAT, routing and proxies follow the view', async (t) => {
  const { firstPort: first, lastPort: last } = portSlice(13);
  t.same(groupNat(group(FACTS), 'net1'), {
    ...{
      self: '10.16.0.12',
      shared: ['172.17.0.50'],
      externalInterface: 'net1',
      forward: [{ slot: 13, first, last }],
    },
  });
  t.same(
    groupRouting(group(FACTS), () => true),
    {
      shared: ['172.17.0.50'],
      neighbours: ['10.16.0.13'],
      forward: [{ slot: 13, via: '172.17.0.12' }],
    },
  );
  t.same(
    groupProxies(group(FACTS), 'net1'),
    [{ family: 4, address: '172.17.0.50', dev: 'net1', contested: true }],
    'not defended: another member may hold it for a while too',
  );
  t.same(groupNat(group(), 'net1').forward, []);
  t.same(groupProxies(group(), 'net1'), []);
});

t.test('without its internal link a gateway answers for no address at once', async (t) => {
  const cutOff = group(FACTS, { ...OWN, carrier: false });
  t.ok(cutOff.config.cutOff, 'and the exchange gives up its claims');
  t.same(groupProxies(cutOff, 'net1'), [], 'whatever it has reported before');
});

t.test('a family carries no traffic before the tables of the others are here', async (t) => {
  t.equal(groupObstacle(group(FACTS)), undefined);
  t.equal(groupObstacle(group()), 'waiting until the exchange of the group starts');
  const joining = {
    ...FACTS,
    state: 'joining' as const,
    ready: false,
    takingOverFrom: [address('10.16.0.13')],
  };
  t.equal(groupObstacle(group(joining)), 'taking over the flows of the group from 10.16.0.13');
  t.equal(
    groupObstacle(group({ ...joining, notConnectedWith: [address('10.16.0.14')] })),
    'taking over the flows of the group from 10.16.0.13, not connected with 10.16.0.14',
  );
  t.equal(
    groupObstacle(group({ ...joining, takingOverFrom: [] })),
    'taking over the flows of the group',
    'it waits for members that it may reach soon',
  );
  t.equal(
    groupObstacle(group({ ...FACTS, ready: false })),
    'waiting until the group forwards the answers for this gateway to it',
  );
  const empty = { ...POLICY, rules: [] } as unknown as Policy;
  const found = familyGroup(empty, 4, OWN, undefined);
  t.equal(found && 'config' in found && groupObstacle(found), undefined, 'nothing is shared');
});

t.test('the sessions between members do not depend on readiness', async (t) => {
  t.match(groupSessions(group(), GROUP, 'eth0'), [
    {
      ...{ local: '10.16.0.12', remote: '10.16.0.13', interface: 'eth0', unconditional: true },
      ...{ desiredMinTx: 100_000, requiredMinRx: 200_000, detectMult: 3, minTTL: 255 },
    },
  ]);
});

t.test('what the plan needs of a view leaves out what changes all the time', async (t) => {
  const peer = {
    ...{ member: address('10.16.0.13'), slice: portSlice(13), path: true, exchange: true },
    ...{ reachability: 'live' as const, replicas: 7, inSync: false },
  };
  const view = {
    ...{ family: 4 as const, self: FACTS.self, state: 'joining' as const, slice: FACTS.slice, ready: false },
    ...{ peers: [peer], holders: [], held: [], forward: [], flows: 3, replicas: 7 },
  };
  t.same(groupFacts(view).takingOverFrom, ['10.16.0.13']);
  t.same(groupFacts(view), groupFacts({ ...view, flows: 4, replicas: 8, peers: [{ ...peer, replicas: 8 }] }));
  t.same(groupFacts({ ...view, ready: true }).takingOverFrom, []);
  const apart = { ...view, peers: [{ ...peer, exchange: false }] };
  t.same(groupFacts(apart).notConnectedWith, ['10.16.0.13']);
  t.same(groupFacts({ ...apart, peers: [{ ...apart.peers[0]!, path: false }] }).notConnectedWith, []);
});
