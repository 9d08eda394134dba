import t from 'tap';
import { address, prefix } from '../../lib/prefix.ts';
import type { RoutingStep } from '../../routing/diff.ts';
import { createRoutingKernel, type RoutingNetlink } from '../../routing/kernel.ts';
import { formatRoute, MessageType } from '../../routing/parse.ts';
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

/** A transport that knows one link, and answers requests and dumps as told. */
function transport(answers: string[], dumps: Record<number, string> = {}) {
  const requests: { type: number; flags?: number; data: Uint8Array }[] = [];
  const netlink: RoutingNetlink = {
    dump(type, _, parse) {
      if (dumps[type] !== undefined) throw refusal(dumps[type]);
      const item = type === MessageType.GETLINK ? parse(eth0) : undefined;
      return item === undefined ? [] : [item];
    },
    async transact(batch) {
      const made = [...batch];
      requests.push(...made);
      return made.map((_, i) => (answers[i] ? refusal(answers[i]) : undefined));
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

t.test('there already and gone already are no failures', async (t) => {
  const steps: RoutingStep[] = [
    { kind: 'addRoute', route },
    { kind: 'delRoute', route },
    { kind: 'delRule', rule },
  ];
  t.strictSame(await transport(['EEXIST', 'ESRCH', 'ENOENT']).kernel.apply(steps), []);
});

t.test('a failure names the step and the reason, and the others are made', async (t) => {
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

t.test('nothing to do asks the kernel nothing', async (t) => {
  const kernel = createRoutingKernel({
    dump: () => t.fail('a dump') as never,
    transact: () => t.fail('a request') as never,
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
    });
    const { routes } = await kernel.observe();
    t.equal(routes.length, 3, 'one in each of the three tables of IPv4, none in those of IPv6');
  },
);
