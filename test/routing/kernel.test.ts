import t from 'tap';
import { address, prefix } from '../../lib/prefix.ts';
import type { RoutingStep } from '../../routing/diff.ts';
import { createRoutingKernel, type RoutingNetlink } from '../../routing/kernel.ts';
import type { LinkStep } from '../../routing/links.ts';
import { formatNewLink, formatRoute, formatRule, MessageType } from '../../routing/parse.ts';
import type { Route, Rule } from '../../routing/state.ts';

const eth0 = Buffer.from('0000010003000000431001000000000009000300657468300000000008000400dc050000', 'hex');
const route: Route = {
  family: 4,
  table: 254,
  destination: prefix('10.17.0.0/16'),
  gateway: address('10.16.0.1'),
  dev: 'eth0',
  protocol: 178,
  scope: 0,
  type: 1,
  metric: 0,
  foreign: false,
};
const rule: Rule = { family: 4, priority: 1001, iif: 'eth0', table: 253, foreign: false };

const refusal = (code: string) => Object.assign(new Error(`the kernel says (${code})`), { code });

/** A transport with one link. `answers`: the error of each request; `dumps`: that of each type of dump. */
function transport(answers: string[], dumps: Record<number, string> = {}) {
  const requests: { type: number; flags?: number; data: Uint8Array }[] = [];
  const netlink: RoutingNetlink = {
    dump(type, _, parse) {
      if (dumps[type] !== undefined) throw refusal(dumps[type]);
      const item = type === MessageType.GETLINK ? parse(eth0) : undefined;
      return item === undefined ? [] : [item];
    },
    transact: async (batch) => netlink.transactSync([...batch]),
    transactSync(batch) {
      requests.push(...batch);
      return batch.map((_, i) => (answers[i] ? refusal(answers[i]) : undefined));
    },
  };
  return { kernel: createRoutingKernel(netlink), requests };
}

t.test('each kind of step has its message and flags', async (t) => {
  const { kernel, requests } = transport([]);
  const steps: RoutingStep[] = [
    { kind: 'addRoute', route },
    { kind: 'prependRoute', route },
    { kind: 'replaceRoute', route },
    { kind: 'delRoute', route },
    { kind: 'addRule', rule },
    { kind: 'delRule', rule },
  ];
  t.strictSame(await kernel.apply(steps), []);
  t.strictSame(
    requests.map(({ type, flags }) => [type, flags]),
    [
      [24, 0x600],
      [24, 0x400],
      [24, 0x500],
      [25, 0],
      [32, 0x400],
      [33, 0],
    ],
  );
});

t.test('to add what exists and to delete what does not is no failure', async (t) => {
  const steps: RoutingStep[] = [
    { kind: 'addRoute', route },
    { kind: 'delRoute', route },
    { kind: 'delRule', rule },
  ];
  t.strictSame(await transport(['EEXIST', 'ESRCH', 'ENOENT']).kernel.apply(steps), []);
});

t.test('a failure names the step and the reason, and the other steps are applied', async (t) => {
  const { kernel, requests } = transport(['ENETUNREACH', '']);
  const failures = await kernel.apply([
    { kind: 'addRoute', route },
    { kind: 'addRule', rule },
    { kind: 'addRoute', route: { ...route, dev: 'net9' } },
  ]);
  t.equal(requests.length, 2);
  t.strictSame(failures.map(({ message }) => message).sort(), [
    'ip route add 10.17.0.0/16 via 10.16.0.1 dev eth0 proto 178: the kernel says (ENETUNREACH); 10.16.0.1 is on no network of eth0 (no address)',
    'ip route add 10.17.0.0/16 via 10.16.0.1 dev net9 proto 178: there is no interface net9',
  ]);
});

t.test('a missing capability is named', async (t) => {
  const [failure] = await transport(['EPERM']).kernel.apply([{ kind: 'delRule', rule }]);
  t.match(failure?.message, /^ip rule del .* \(EPERM\); the container needs the capability NET_ADMIN$/);
});

t.test('what is applied at once is done when the call returns, with the same failures', async (t) => {
  const { kernel, requests } = transport(['EPERM', 'ESRCH']);
  const steps = Array.from({ length: 300 }, (): RoutingStep => ({ kind: 'delRoute', route }));
  const failures = kernel.applyAtOnce(steps);
  t.equal(requests.length, 300);
  t.match(failures, [{ code: 'EPERM', message: /NET_ADMIN/ }]);
  t.equal(failures.length, 1, 'what is gone already is no failure');
});

t.test('nothing to do asks the kernel nothing', async (t) => {
  const kernel = createRoutingKernel({
    dump: () => t.fail('a dump') as never,
    transact: () => t.fail('a request') as never,
    transactSync: () => t.fail('a request') as never,
  });
  t.strictSame(await kernel.apply([]), []);
});

t.test('a table that does not exist and a family that the kernel lacks are empty', async (t) => {
  const { kernel } = transport([], {
    [MessageType.GETROUTE]: 'ENOENT',
    [MessageType.GETRULE]: 'EAFNOSUPPORT',
  });
  t.has(await kernel.observe(), { routes: [], rules: [], links: [{ name: 'eth0', index: 3 }] });
  await t.rejects(transport([], { [MessageType.GETROUTE]: 'EPERM' }).kernel.observe(), { code: 'EPERM' });
});

t.test(
  'what a kernel without IPv6 answers when asked for IPv6 routes, those of IPv4, is not taken for them',
  async (t) => {
    const answer = formatRoute(route, 3);
    const kernel = createRoutingKernel({
      dump(type, _, parse) {
        const payload = new Map([
          [MessageType.GETLINK as number, eth0],
          [MessageType.GETROUTE, Buffer.from(answer)],
        ]).get(type);
        const item = payload && parse(payload);
        return item === undefined ? [] : [item];
      },
      transact: async () => [],
      transactSync: () => [],
    });
    const { routes } = await kernel.observe();
    t.equal(routes.length, 3, 'one in each of the three tables of IPv4, none in those of IPv6');
  },
);

const proxy = { family: 4, address: address('172.17.0.50'), dev: 'eth0' } as const;

t.test('a refused proxy entry is a failure of its own', async (t) => {
  const steps: RoutingStep[] = [
    { kind: 'addProxy', proxy },
    { kind: 'delProxy', proxy },
    { kind: 'addRule', rule },
  ];
  const { kernel, requests } = transport(['EPERM', 'ENOTSUP', '']);
  const failures = await kernel.apply(steps);
  t.equal(requests.length, 3, 'the steps after it are applied');
  t.strictSame(
    failures.map(({ code, message }) => [code, message]),
    [
      [
        'EPERM',
        'ip neigh add proxy 172.17.0.50 dev eth0 proto 178: the kernel says (EPERM); the container needs the capability NET_ADMIN',
      ],
      ['ENOTSUP', 'ip neigh del proxy 172.17.0.50 dev eth0: the kernel says (ENOTSUP)'],
    ],
  );
  t.strictSame(await transport(['EEXIST', 'ENOENT']).kernel.apply(steps.slice(0, 2)), []);
  const gone = { ...proxy, dev: 'net9' };
  const [missing] = await transport([]).kernel.apply([{ kind: 'addProxy', proxy: gone }]);
  t.match(missing, { code: 'ENODEV', message: /: there is no interface net9$/ });
  t.strictSame(await transport(['ENODEV']).kernel.apply([{ kind: 'delProxy', proxy: gone }]), []);
});

t.test(
  'an interface that disappears while steps are applied fails what is added, not what is deleted',
  async (t) => {
    const virtual = { family: 4, address: address('172.17.0.51'), dev: 'eth0' } as const;
    const { kernel } = transport(['ENODEV', 'ESRCH', 'ENODEV', 'ENODEV']);
    const failures = await kernel.apply([
      { kind: 'addRoute', route },
      { kind: 'delRoute', route },
      { kind: 'addAddress', address: virtual },
      { kind: 'delAddress', address: virtual },
    ]);
    t.strictSame(
      failures.map(({ step, code }) => [step.kind, code]),
      [
        ['addRoute', 'ENODEV'],
        ['addAddress', 'ENODEV'],
      ],
    );
  },
);

t.test('ESRCH is no failure of a delete, and one of an add', async (t) => {
  const failures = await transport(['ESRCH', 'ESRCH', 'ESRCH', 'ESRCH']).kernel.apply([
    { kind: 'delRule', rule },
    { kind: 'delRoute', route },
    { kind: 'addRule', rule },
    { kind: 'addRoute', route },
  ]);
  t.strictSame(
    failures.map(({ step, code }) => [step.kind, code]),
    [
      ['addRule', 'ESRCH'],
      ['addRoute', 'ESRCH'],
    ],
  );
});

t.test('a dump that fails is an error of the whole observation: nothing is taken for absent', async (t) => {
  const { GETLINK, GETADDR, GETROUTE, GETRULE, GETNEIGH } = MessageType;
  for (const type of [GETLINK, GETADDR, GETROUTE, GETRULE, GETNEIGH]) {
    for (const code of ['EINTR', 'ENOBUFS', 'EPERM']) {
      await t.rejects(transport([], { [type]: code }).kernel.observe(), { code }, `${type} ${code}`);
    }
  }
  const { kernel, requests } = transport([], { [GETLINK]: 'EINTR' });
  await t.rejects(kernel.apply([{ kind: 'addRule', rule }]), { code: 'EINTR' });
  t.equal(requests.length, 0, 'without the links no step is applied');
});

t.test('a kernel without proxy entries of a family has none', async (t) => {
  for (const code of ['EAFNOSUPPORT', 'ENOTSUP']) {
    t.same((await transport([], { [MessageType.GETNEIGH]: code }).kernel.observe()).proxies, [], code);
  }
});

t.test('answers that are lost are an error of the whole batch', async (t) => {
  const lost = refusal('ENOBUFS');
  const kernel = createRoutingKernel({
    dump: (_type, _data, parse) => [parse(eth0)!],
    transact: () => Promise.reject(lost),
    transactSync: () => {
      throw lost;
    },
  });
  await t.rejects(kernel.apply([{ kind: 'delRoute', route }]), lost);
  t.throws(() => kernel.applyAtOnce([{ kind: 'delRoute', route }]), lost);
});

t.test(
  'with a VRF its table is read once; the rule that the kernel adds for it does not mean all tables',
  async (t) => {
    const asked: number[] = [];
    const tablesOf = async (links: Buffer[]) => {
      asked.length = 0;
      const kernel = createRoutingKernel({
        dump(type, data, parse) {
          const rule: Rule = { family: 4, priority: 1000, table: 0, foreign: false };
          const payloads = new Map<number, Buffer[]>([
            [MessageType.GETLINK, links],
            [MessageType.GETRULE, [Buffer.from(formatRule(rule))]],
          ]);
          // struct rtmsg, and RTA_TABLE.
          if (type === MessageType.GETROUTE && data[0] === 2) asked.push(Buffer.from(data).readUInt32LE(16));
          return (payloads.get(type) ?? []).flatMap((payload) => parse(payload) ?? []);
        },
        transact: async () => [],
        transactSync: () => [],
      });
      await kernel.observe();
      return asked;
    };
    const vrf = formatNewLink({ name: 'vrf-vpn', device: { kind: 'vrf', table: 2000 } }, undefined);
    t.same(await tablesOf([eth0]), [254, 1000, 1001]);
    t.same(await tablesOf([eth0, Buffer.from(vrf)]), [254, 1000, 1001, 2000]);
  },
);

t.test('devices: their messages, and what to do about a refusal', async (t) => {
  const vrf = { name: 'vrf-vpn', device: { kind: 'vrf', table: 2000 }, up: true } as const;
  const step = (kind: 'addLink' | 'setLink' | 'delLink', link: object) =>
    ({ kind, family: 4, link }) as LinkStep;
  const made = transport([]);
  t.strictSame(
    await made.kernel.apply([
      step('addLink', vrf),
      step('setLink', { name: 'eth0', master: 'eth0' }),
      step('delLink', { name: 'eth0' }),
      step('delLink', { name: 'gone' }),
    ]),
    [],
    'a device that is gone is deleted',
  );
  t.strictSame(
    made.requests.map(({ type, flags }) => [type, flags]),
    [
      [16, 0x600],
      [16, 0],
      [17, 0],
    ],
  );
  const refused = async (code: string, link: object = vrf) =>
    (await transport([code]).kernel.apply([step('addLink', link)])).map(({ message }) => message)[0];
  t.match(
    await refused('ENOTSUP'),
    /^ip link add vrf-vpn .*; EVPN needs devices of kind vrf, .*modprobe vrf/,
  );
  t.match(await refused('EEXIST'), /a device of another program has this name or this VNI/);
  t.match(await refused('EPERM'), /NET_ADMIN/);
  t.match(
    await refused('EBUSY'),
    /^ip link add vrf-vpn group 178 up type vrf table 2000: the kernel says \(EBUSY\)$/,
  );
  const inside = { name: 'br-vpn', device: { kind: 'bridge' }, master: 'vrf-vpn' };
  t.match(await refused('', inside), /: there is no interface vrf-vpn$/);
});
