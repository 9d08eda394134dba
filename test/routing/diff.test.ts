import t from 'tap';
import { address, type Family, prefix } from '../../lib/prefix.ts';
import { type DesiredRouting, desiredRouting, type FamilyRouting } from '../../routing/desired.ts';
import { diffRouting } from '../../routing/diff.ts';
import { ownsRoute, ownsRule } from '../../routing/ownership.ts';
import { renderRule, renderStep } from '../../routing/render.ts';
import type { Route, Rule } from '../../routing/state.ts';
import { ModelKernel, randomSource } from './model.ts';

const intent: FamilyRouting = {
  family: 4,
  internal: { interface: 'eth0', addresses: [address('10.16.0.12')], gateway: address('10.16.0.1') },
  external: { interface: 'net1', addresses: [address('172.17.0.11')], gateway: address('172.17.0.1') },
  externalBlocks: [],
  internalBlocks: [prefix('10.17.0.0/16')],
  peers: [],
};
const intent6: FamilyRouting = {
  family: 6,
  internal: { interface: 'eth0', addresses: [address('fd00:16::12')], gateway: address('fd00:16::1') },
  external: { interface: 'net1', addresses: [address('fd00:17::11')], gateway: address('fd00:17::1') },
  externalBlocks: [],
  internalBlocks: [prefix('fd00:18::/64')],
  peers: [],
};
const wanted = desiredRouting([intent]);
const wanted6 = desiredRouting([intent6]);

/** A route of the main table as somebody else would put it there. */
function route(
  destination: string,
  gateway: string | undefined,
  dev: string,
  more: Partial<Route> = {},
): Route {
  const family: Family = destination.includes(':') ? 6 : 4;
  return {
    family,
    table: 254,
    destination: prefix(destination),
    ...(gateway === undefined ? {} : { gateway: address(gateway) }),
    dev,
    protocol: 3,
    scope: 0,
    type: 1,
    metric: family === 4 ? 0 : 1024,
    foreign: false,
    ...more,
  };
}

/** The steps, as text, from the wanted state with something changed in it. */
function steps(
  desired: DesiredRouting,
  change: (state: { routes: Route[]; rules: Rule[] }) => void,
  goal = desired,
): string[] {
  const state = { routes: [...desired.routes], rules: [...desired.rules] };
  change(state);
  return diffRouting(state, goal).map(renderStep);
}

const replaceRoute = (routes: Route[], destination: string, by: Route[], table = 254) => {
  const at = routes.findIndex((r) => r.table === table && r.destination === destination);
  routes.splice(at, 1, ...by);
};

t.test('from nothing: routes first, so that no rule leads into an empty table', async (t) => {
  t.strictSame(diffRouting({ routes: [], rules: [] }, wanted).map(renderStep), [
    'ip route add default via 10.16.0.1 dev eth0 table 1000',
    'ip route add default via 172.17.0.1 dev net1 proto 178',
    'ip route add 10.17.0.0/16 via 10.16.0.1 dev eth0 proto 178',
    'ip rule add priority 1001 iif eth0 lookup default',
    'ip rule add priority 1002 iif net1 lookup 1000',
    'ip rule add priority 1003 from 10.16.0.12 iif lo lookup 1000',
    'ip rule add priority 1004 from 172.17.0.11 iif lo lookup default',
  ]);
});

t.test('to nothing: the same backwards', async (t) => {
  t.strictSame(
    steps(wanted, () => {}, desiredRouting([])),
    [
      'ip rule del priority 1001 iif eth0 lookup default',
      'ip rule del priority 1002 iif net1 lookup 1000',
      'ip rule del priority 1003 from 10.16.0.12 iif lo lookup 1000',
      'ip rule del priority 1004 from 172.17.0.11 iif lo lookup default',
      'ip route del default via 10.16.0.1 dev eth0 table 1000',
      'ip route del default via 172.17.0.1 dev net1 proto 178',
      'ip route del 10.17.0.0/16 via 10.16.0.1 dev eth0 proto 178',
    ],
  );
});

t.test('what is as wanted needs nothing', async (t) => {
  t.strictSame(
    steps(wanted, () => {}),
    [],
  );
  t.strictSame(
    steps(wanted6, () => {}),
    [],
  );
});

t.test(
  'onlink is part of a desired route, but a foreign route satisfies the agent with it or without',
  async (t) => {
    const off = desiredRouting([{ ...intent, external: { ...intent.external, onlink: true as const } }]);
    const said = 'ip route replace default via 172.17.0.1 dev net1 onlink proto 178';
    t.strictSame(
      steps(wanted, () => {}, off),
      [said],
    );
    t.strictSame(
      steps(off, () => {}, wanted),
      [said.replace(' onlink', '')],
    );
    for (const goal of [wanted, off]) {
      for (const more of [{}, { onlink: true as const }]) {
        const foreign = route('0.0.0.0/0', '172.17.0.1', 'net1', more);
        t.strictSame(
          steps(goal, ({ routes }) => replaceRoute(routes, '0.0.0.0/0', [foreign])),
          [],
        );
      }
    }
    const inTable = desiredRouting([{ ...intent, internal: { ...intent.internal, onlink: true } }]);
    t.strictSame(
      steps(wanted, () => {}, inTable),
      [
        'ip route replace default via 10.16.0.1 dev eth0 onlink table 1000',
        'ip route replace 10.17.0.0/16 via 10.16.0.1 dev eth0 onlink proto 178',
      ],
    );
  },
);

t.test(
  'a block that holds the external network leads outside, before a route that leads it inside',
  async (t) => {
    const block = prefix('172.16.0.0/12');
    const outside = desiredRouting([{ ...intent, externalBlocks: [block] }]);
    const cni = route(block, '10.16.0.1', 'eth0');
    t.strictSame(
      steps(wanted, ({ routes }) => routes.push(cni), outside),
      ['ip route prepend 172.16.0.0/12 via 172.17.0.1 dev net1 proto 178'],
    );
  },
);

t.test('rules', async (t) => {
  const rule = wanted.rules[2]!;
  t.test('a missing one comes back', async (t) => {
    t.strictSame(
      steps(wanted, ({ rules }) => rules.splice(2, 1)),
      ['ip rule add priority 1003 from 10.16.0.12 iif lo lookup 1000'],
    );
  });
  t.test('a doubled one goes once', async (t) => {
    t.strictSame(
      steps(wanted, ({ rules }) => rules.push({ ...rule })),
      ['ip rule del priority 1003 from 10.16.0.12 iif lo lookup 1000'],
    );
  });
  t.test('another one at an owned priority goes', async (t) => {
    t.strictSame(
      steps(wanted, ({ rules }) => rules.push({ ...rule, from: prefix('10.16.0.99') })),
      ['ip rule del priority 1003 from 10.16.0.99 iif lo lookup 1000'],
    );
  });
  t.test('one that a delete request would mistake for a wanted one does not take it along', async (t) => {
    const wide: Rule = { family: 4, priority: 1003, table: 1000, foreign: false };
    t.strictSame(
      steps(wanted, ({ rules }) => rules.push(wide)),
      [
        'ip rule del priority 1003 lookup 1000',
        'ip rule add priority 1003 from 10.16.0.12 iif lo lookup 1000',
        'ip rule del priority 1003 lookup 1000',
      ],
    );
    t.strictSame(
      steps(wanted, ({ rules }) => rules.unshift(wide)),
      ['ip rule del priority 1003 lookup 1000'],
      'standing first, it is what the request means',
    );
  });
  t.test('at any other priority they are foreign', async (t) => {
    t.strictSame(
      steps(wanted, ({ rules }) =>
        rules.push({ ...rule, priority: 1005 }, { ...rule, priority: 1000, foreign: true }),
      ),
      [],
    );
  });
});

t.test('table 1000 is exactly what is wanted', async (t) => {
  const table = { table: 1000 };
  t.strictSame(
    steps(wanted, ({ routes }) => routes.push(route('10.9.0.0/16', '10.16.0.1', 'eth0', table))),
    ['ip route del 10.9.0.0/16 via 10.16.0.1 dev eth0 table 1000'],
  );
  t.strictSame(
    steps(wanted, ({ routes }) =>
      replaceRoute(routes, '0.0.0.0/0', [route('0.0.0.0/0', '10.16.0.9', 'eth0', table)], 1000),
    ),
    ['ip route replace default via 10.16.0.1 dev eth0 table 1000'],
    'another gateway is replaced without a gap',
  );
  t.strictSame(
    steps(wanted, ({ routes }) =>
      routes.unshift(route('0.0.0.0/0', '10.16.0.1', 'eth0', { ...table, protocol: 4, metric: 7 })),
    ),
    ['ip route del default via 10.16.0.1 dev eth0 table 1000 proto static metric 7'],
  );
});

t.test('main table: a route that already says it is adopted, and stays', async (t) => {
  const cni = route('10.17.0.0/16', '10.16.0.1', 'eth0');
  const adopt = ({ routes }: { routes: Route[] }) => replaceRoute(routes, '10.17.0.0/16', [cni]);
  t.strictSame(steps(wanted, adopt), []);
  t.notOk(
    steps(wanted, adopt, desiredRouting([])).some((line) => line.includes('10.17.0.0/16')),
    'nor is it removed when the wish is gone',
  );
  t.strictSame(
    steps(wanted, ({ routes }) =>
      replaceRoute(routes, '10.17.0.0/16', [{ ...cni, metric: 300, protocol: 16 }]),
    ),
    [],
    'whatever its protocol and metric',
  );
});

t.test('main table: our route goes when the wish is gone, and changes in place', async (t) => {
  t.strictSame(
    steps(wanted, () => {}, desiredRouting([{ ...intent, internalBlocks: [] }])),
    ['ip route del 10.17.0.0/16 via 10.16.0.1 dev eth0 proto 178'],
  );
  const moved = { ...intent, external: { ...intent.external, gateway: address('172.17.0.2') } };
  t.strictSame(
    steps(wanted, () => {}, desiredRouting([moved])),
    ['ip route replace default via 172.17.0.2 dev net1 proto 178'],
  );
});

t.test('main table: ours goes in front of a foreign route that says something else', async (t) => {
  const cni = route('0.0.0.0/0', '10.16.0.1', 'eth0');
  t.strictSame(
    steps(wanted, ({ routes }) => replaceRoute(routes, '0.0.0.0/0', [cni])),
    ['ip route prepend default via 172.17.0.1 dev net1 proto 178'],
  );
  t.strictSame(
    steps(wanted, ({ routes }) => replaceRoute(routes, '0.0.0.0/0', [wanted.routes[1]!, cni])),
    [],
    'and then all is well',
  );
  t.strictSame(
    steps(wanted, ({ routes }) => replaceRoute(routes, '0.0.0.0/0', [cni, wanted.routes[1]!])),
    [
      'ip route del default via 172.17.0.1 dev net1 proto 178',
      'ip route prepend default via 172.17.0.1 dev net1 proto 178',
    ],
    'ours behind it has to move, because the kernel refuses an equal one',
  );
  t.strictSame(
    steps(wanted, ({ routes }) => replaceRoute(routes, '0.0.0.0/0', [{ ...cni, metric: 100 }])),
    ['ip route add default via 172.17.0.1 dev net1 proto 178'],
    'a worse metric is no contest',
  );
});

t.test('main table, IPv6: ours wins by its metric', async (t) => {
  const ra = route('::/0', 'fd00:16::1', 'eth0');
  const contest = ({ routes }: { routes: Route[] }) => replaceRoute(routes, '::/0', [ra]);
  t.strictSame(steps(wanted6, contest), [
    'ip -6 route add default via fd00:17::1 dev net1 proto 178 metric 1',
  ]);
  t.strictSame(
    steps(wanted6, ({ routes }) => replaceRoute(routes, '::/0', [{ ...wanted6.routes[1]!, metric: 1 }, ra])),
    [],
  );
  t.strictSame(
    steps(wanted6, ({ routes }) => routes.push(ra)),
    [
      'ip -6 route add default via fd00:17::1 dev net1 proto 178 metric 1',
      'ip -6 route del default via fd00:17::1 dev net1 proto 178',
    ],
    'an equal metric would share the packets',
  );
  t.strictSame(
    steps(wanted6, ({ routes }) => replaceRoute(routes, '::/0', [{ ...ra, metric: 1 }])),
    ['ip -6 route replace default via fd00:17::1 dev net1 proto 178 metric 1'],
    'only a foreign route with the best metric there is has to yield',
  );
});

t.test('main table: a network on one of the pod’s own links needs no gateway', async (t) => {
  const connected = route('10.17.0.0/16', undefined, 'eth0', { protocol: 2, scope: 253 });
  t.strictSame(
    steps(wanted, ({ routes }) => replaceRoute(routes, '10.17.0.0/16', [connected])),
    [],
  );
});

t.test('main table: a route for some packets only neither satisfies nor competes', async (t) => {
  const narrow = route('10.17.0.0/16', '10.16.0.1', 'eth0', { qualifier: 'tos 0x10' });
  t.strictSame(
    steps(wanted, ({ routes }) => replaceRoute(routes, '10.17.0.0/16', [narrow])),
    ['ip route add 10.17.0.0/16 via 10.16.0.1 dev eth0 proto 178'],
  );
});

t.test('from any state to any wish, in one go, and foreign things survive', async (t) => {
  const random = randomSource(20260801);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
  const some = <T>(list: readonly T[]): T[] => list.filter(() => random() < 0.5);
  const sides = {
    4: {
      internal: ['10.16.0.12', '10.16.0.13'],
      external: ['172.17.0.11', '172.17.0.12'],
      gateways: ['10.16.0.1', '10.16.0.2', '172.17.0.1', '172.17.0.2'],
      blocks: ['0.0.0.0/0', '10.17.0.0/16', '10.18.0.0/16', '10.0.0.0/8', '172.17.0.0/16'],
      peers: ['10.255.255.255', '10.255.255.254'],
    },
    6: {
      internal: ['fd00:16::12', 'fd00:16::13'],
      external: ['fd00:17::11', 'fd00:17::12'],
      gateways: ['fd00:16::1', 'fd00:16::2', 'fd00:17::1', 'fe80::2'],
      blocks: ['::/0', 'fd00:17::/64', 'fd00:18::/64', 'fd00::/16'],
      peers: ['fd00:ff::1'],
    },
  } as const;
  const family = (family: Family): FamilyRouting => {
    const { internal, external, gateways, blocks, peers } = sides[family];
    return {
      family,
      internal: {
        interface: 'eth0',
        addresses: some(internal).map(address),
        gateway: address(pick(gateways)),
      },
      external: {
        interface: 'net1',
        addresses: some(external).map(address),
        gateway: address(pick(gateways)),
      },
      externalBlocks: [],
      internalBlocks: some(blocks).map(prefix),
      peers: some(peers).map(address),
    };
  };
  const foreignRoute = (): Route => {
    const { gateways, blocks } = sides[pick([4, 6] as const)];
    return route(pick(blocks), pick(gateways), pick(['eth0', 'net1']), {
      protocol: pick([2, 3, 4, 9, 178]),
      table: pick([254, 254, 254, 1000]),
      ...(random() < 0.3 ? { metric: pick([2, 50, 1024, 2000]) } : {}),
      ...(random() < 0.1 ? { qualifier: 'tos 0x10' } : {}),
      ...(random() < 0.1 ? { foreign: true } : {}),
    });
  };
  const foreignRule = (): Rule => {
    const of = pick([4, 6] as const);
    return {
      family: of,
      priority: pick([900, 1001, 1002, 1003, 1004, 1005]),
      table: pick([1000, 253, 254, 77]),
      foreign: false,
      ...(random() < 0.5 ? { from: prefix(pick(sides[of].internal)) } : {}),
      ...(random() < 0.5 ? { iif: pick(['eth0', 'net1', 'lo']) } : {}),
      ...(random() < 0.3
        ? { foreign: true, ...(random() < 0.5 ? { qualifier: 'fwmark 0x01000000' } : {}) }
        : {}),
    };
  };

  const kernel = new ModelKernel();
  for (let round = 0; round < 3000; round++) {
    // Other hands change things.
    for (let n = Math.floor(random() * 4); n > 0; n--) {
      const added = foreignRoute();
      kernel.apply([{ kind: pick(['prependRoute', 'replaceRoute'] as const), route: added }]);
      kernel.apply([{ kind: 'addRule', rule: foreignRule() }]);
      if (random() < 0.5) kernel.routes.splice(Math.floor(random() * kernel.routes.length), 1);
      if (random() < 0.5) kernel.rules.splice(Math.floor(random() * kernel.rules.length), 1);
      if (random() < 0.2)
        kernel.rules.push({ ...pick(kernel.rules.length > 0 ? kernel.rules : [foreignRule()]) });
      kernel.rules.sort((a, b) => a.priority - b.priority);
    }
    const before = { routes: [...kernel.routes], rules: [...kernel.rules] };
    const desired = desiredRouting(some([4, 6] as const).map(family));
    const plan = diffRouting(before, desired);
    kernel.apply(plan);

    const trouble: string[] = diffRouting(kernel, desired).map((step) => `left to do: ${renderStep(step)}`);
    for (const wish of desired.routes) {
      for (const used of kernel.used(wish.family, wish.table, wish.destination)) {
        const connected = used.protocol === 2;
        if (!connected && (used.gateway !== wish.gateway || used.dev !== wish.dev || used.foreign)) {
          trouble.push(`${wish.destination} goes via ${used.gateway} dev ${used.dev}`);
        }
      }
      if (kernel.used(wish.family, wish.table, wish.destination).length === 0) {
        trouble.push(`${wish.destination} goes nowhere`);
      }
    }
    const strangers = {
      routes: before.routes.filter((r) => !ownsRoute(r)),
      rules: before.rules.filter((r) => !ownsRule(r)),
    };
    if (strangers.routes.some((r) => !kernel.routes.includes(r))) trouble.push('a foreign route is gone');
    if (strangers.rules.some((r) => !kernel.rules.includes(r))) trouble.push('a foreign rule is gone');
    const ownRules = kernel.rules.filter(ownsRule).map((r) => `${r.family} ${renderRule(r)}`);
    const wishedRules = desired.rules.map((r) => `${r.family} ${renderRule(r)}`);
    if (ownRules.sort().join() !== wishedRules.sort().join())
      trouble.push('the rules are not the wanted ones');
    if (trouble.length > 0) {
      t.fail(`round ${round}`, {
        before: before.routes.filter(({ family: f }) => f === 4 || f === 6),
        rules: before.rules.map(renderRule),
        plan: plan.map(renderStep),
        trouble,
      });
      return;
    }
  }
  t.pass('3000 rounds');
});

t.test('an announced route stands beside a foreign one, and the plain one follows it', async (t) => {
  for (const plain of [intent, intent6]) {
    const [block] = plain.internalBlocks as [(typeof plain.internalBlocks)[number]];
    const marked = desiredRouting([{ ...plain, announced: [{ destination: block, to: 'inside' }] }]);
    const unmarked = desiredRouting([plain]);
    const [ip, text] =
      plain.family === 4 ? ['ip', '10.17.0.0/16 via 10.16.0.1'] : ['ip -6', 'fd00:18::/64 via fd00:16::1'];
    t.same(
      steps(unmarked, () => {}, marked),
      [`${ip} route add ${text} dev eth0 proto 178 metric 178`, `${ip} route del ${text} dev eth0 proto 178`],
    );
    t.same(
      steps(marked, () => {}, unmarked),
      [`${ip} route add ${text} dev eth0 proto 178`, `${ip} route del ${text} dev eth0 proto 178 metric 178`],
    );
    t.same(
      steps(marked, () => {}),
      [],
    );
    const foreign = route(block, plain.internal.gateway, 'eth0', { metric: 2000 });
    t.same(
      steps(marked, ({ routes }) => routes.push(foreign)),
      [],
      'which stays',
    );
  }
});
