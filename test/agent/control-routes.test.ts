// The control socket's words about a drain: what an undrain that comes meanwhile means.
import t from 'tap';
import { type ControlParts, controlRoutes } from '../../agent/control-routes.ts';

/** Handlers over parts that say what they were asked, and a drain whose waits end when the test says so. */
function setUp() {
  const asked: string[] = [];
  const routers = Promise.withResolvers<void>();
  const traffic = Promise.withResolvers<boolean>();
  const note = (what: string) => void asked.push(what);
  const parts = {
    options: { drainTimeout: 20_000 },
    queries: {},
    gateway: { withdraw: (on: boolean) => note(`withdraw ${on}`) },
    bfd: { drain: () => note('bfd drain'), undrain: () => note('bfd undrain') },
    drain: { drained: () => traffic.promise, undrain: () => note('drain undrain') },
    group: { drain: async () => true, undrain: () => note('group undrain') },
    routersMove: () => routers.promise,
  } as unknown as ControlParts;
  const routes = controlRoutes(parts);
  const ask = async (name: string) =>
    routes[name]!({ query: new URLSearchParams(), body: '' } as Parameters<(typeof routes)[string]>[0]);
  return { asked, routers, traffic, ask };
}

t.test('a drain sends AdminDown when routers have moved, and ends when traffic has', async (t) => {
  const { asked, routers, traffic, ask } = setUp();
  const drained = ask('POST /v1/drain');
  t.same(asked, []);
  routers.resolve();
  traffic.resolve(true);
  t.match(await drained, { status: 200, body: 'drained: traffic has moved\n' });
  t.same(asked, ['bfd drain']);
});

t.test('an undrain while routers move ends the drain: BFD stays Up', async (t) => {
  const { asked, routers, ask } = setUp();
  const drained = ask('POST /v1/drain');
  t.match(await ask('POST /v1/undrain'), { status: 200 });
  routers.resolve();
  t.match(await drained, { status: 409, body: /ended by an undrain/ });
  t.notOk(asked.includes('bfd drain'));
});

t.test('an undrain while traffic moves ends the drain too', async (t) => {
  const { asked, routers, traffic, ask } = setUp();
  const drained = ask('POST /v1/drain');
  routers.resolve();
  await new Promise(setImmediate);
  t.same(asked, ['bfd drain']);
  await ask('POST /v1/undrain');
  traffic.resolve(false);
  t.match(await drained, { status: 409 });
  t.equal(asked.filter((what) => what === 'bfd drain').length, 1);
});
