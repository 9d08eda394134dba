/** Change events of the kernel over listeners that are driven by hand, with the faults of real ones. */
import t from 'tap';
import { type KernelEvent, netfilterEvent, type OpenListener, watchKernel } from '../../agent/events.ts';
import type { NetlinkHandlers, NetlinkMessage } from '../../lib/netlink.ts';
import { prefix } from '../../lib/prefix.ts';
import { formatRoute, formatRule, MessageType } from '../../routing/parse.ts';
import type { Route } from '../../routing/state.ts';

const OWN = 100;
const CHILD = 200;
const OTHER = 300;

const ROUTE: Route = {
  ...{ family: 4, table: 254, destination: prefix('10.17.0.0/16'), dev: 'eth0' },
  ...{ protocol: 4, scope: 0, type: 1, metric: 0, foreign: false },
};
const LINK = Buffer.from(
  '0000010003000000 43100100 00000000 090003006574683000000000'.replaceAll(' ', ''),
  'hex',
);

/** NFT_MSG_NEWGEN: generation 7, by pid 4711, `nft`. */
const GENERATION = Buffer.from(
  '00000007 08000100 00000007 08000200 00001267 08000300 6e667400'.replaceAll(' ', ''),
  'hex',
);
const NEW_GENERATION = (10 << 8) | 15;

const message = (type: number, data: Uint8Array, port: number): NetlinkMessage =>
  ({ type, data: Buffer.from(data), port }) as NetlinkMessage;

/** A watch, its events, and the listeners that were opened. `refuse`: opening that one throws. */
function watch(refuse?: 'routing' | 'netfilter') {
  const events: KernelEvent[] = [];
  const listeners: { handlers: NetlinkHandlers; closed: boolean; reads: number; only: unknown }[] = [];
  const open: OpenListener = (_protocol, _groups, handlers, { only } = {}) => {
    const name = listeners.length === 0 ? 'routing' : 'netfilter';
    if (name === refuse) throw new Error(`${name}: EMFILE`);
    const listener = { handlers, closed: false, reads: 0, only };
    listeners.push(listener);
    return {
      read: () => void listener.reads++,
      close() {
        listener.closed = true;
      },
    };
  };
  const netlink = { port: OWN, dump: () => [{ index: 3, name: 'eth0' }] as never[] };
  const made = watchKernel(
    netlink,
    (event) => events.push(event),
    (portid) => portid === CHILD,
    open,
  );
  return { made, events, listeners };
}

t.test(
  "changes through the agent's own socket are left out, those of others name their socket",
  async (t) => {
    const { events, listeners } = watch();
    const { onMessage } = listeners[0]!.handlers;
    onMessage(message(MessageType.NEWROUTE, formatRoute(ROUTE, 3), OWN));
    t.same(events, []);
    onMessage(message(MessageType.DELROUTE, formatRoute(ROUTE, 3), OTHER));
    t.match(events, [{ object: 'route', portid: OTHER, what: /^route removed: 10\.17\.0\.0\/16 dev eth0/ }]);
  },
);

t.test('links that appear later are known by name', async (t) => {
  const { events, listeners } = watch();
  const { onMessage } = listeners[0]!.handlers;
  const later = Buffer.from(LINK);
  later.writeInt32LE(9, 4);
  later.write('net1\0', later.length - 8);
  onMessage(message(MessageType.NEWLINK, later, 0));
  onMessage(message(MessageType.DELROUTE, formatRoute(ROUTE, 9), 0));
  t.match(events, [{ object: 'link' }, { object: 'route', what: /dev net1/ }]);
});

t.test(
  'an nf_tables transaction is one event, with its process, and whether it is a child of the agent',
  async (t) => {
    const { events, listeners } = watch();
    const { handlers, only } = listeners[1]!;
    t.equal(only, NEW_GENERATION, 'the elements of a change are not received');
    handlers.onMessage(message(NEW_GENERATION, GENERATION, OTHER));
    handlers.onMessage(message(NEW_GENERATION, GENERATION, CHILD));
    handlers.onMessage(message((10 << 8) | 6, Buffer.alloc(4), OTHER));
    t.match(events, [
      { object: 'netfilter', portid: OTHER, own: false, what: 'nf_tables changed by nft (pid 4711)' },
      { object: 'netfilter', portid: CHILD, own: true },
    ]);
    t.equal(events.length, 2);
  },
);

t.test('a transaction without a name is one too', async (t) => {
  const unnamed = netfilterEvent(message(NEW_GENERATION, GENERATION.subarray(0, 4), OTHER));
  t.match(unnamed, { object: 'netfilter', what: /an unnamed process/ });
});

t.test('lost notifications of either kind are an overrun', async (t) => {
  const { events, listeners } = watch();
  for (const { handlers } of listeners) handlers.onOverrun();
  t.match(events, [{ object: 'overrun' }, { object: 'overrun' }]);
});

t.test('without nf_tables events the routing ones still come, and the error is kept', async (t) => {
  const { made, events, listeners } = watch('netfilter');
  t.match(made.netfilterError, { message: 'netfilter: EMFILE' });
  listeners[0]!.handlers.onMessage(
    message(MessageType.NEWRULE, formatRule({ family: 4, priority: 5, table: 254, foreign: false }), OTHER),
  );
  t.match(events, [{ object: 'rule' }]);
  made.read();
  made.close();
  t.match(listeners, [{ reads: 1, closed: true }]);
});

t.test('without routing events there is no watch', async (t) => {
  t.throws(() => watch('routing'), /EMFILE/);
});

t.test('reading and closing reach both listeners', async (t) => {
  const { made, listeners } = watch();
  made.read();
  made.close();
  t.match(listeners, [
    { reads: 1, closed: true },
    { reads: 1, closed: true },
  ]);
});
