/**
 * The protocol of a group against a model (model.ts): random histories of starts, deaths, restarts with and without the
 * kernel's table, partitions of the exchange alone and of everything, lost and delayed messages, drains, and policies of
 * which one member has the newer, another the older version.
 *
 * `VEG_HISTORIES` and `VEG_SEED` set how many, and the first seed.
 */
import t from 'tap';
import { type GroupAction, type GroupEvent, startGroup, step } from '../../../agent/group/core.ts';
import { type Address, address } from '../../../lib/prefix.ts';
import { flowOf, SHARED } from './flows.ts';
import { Model } from './model.ts';

const HISTORIES = Number(process.env.VEG_HISTORIES ?? 100);
const FIRST = Number(process.env.VEG_SEED ?? 1);
/** Events of a history; the first that fails is tried with fewer. */
const EVENTS = 120;

function failure(seed: number, events: number): string | undefined {
  const model = new Model(seed);
  try {
    model.run(events);
    return undefined;
  } catch (error) {
    return `seed ${seed}, ${events} events: ${(error as Error).message}\n${model.trace.slice(-60).join('\n')}`;
  }
}

t.test('slices, holders and replicas hold in every history, and all agree when it is over', async (t) => {
  for (let seed = FIRST; seed < FIRST + HISTORIES; seed++) {
    const found = failure(seed, EVENTS);
    if (found === undefined) continue;
    let shortest = found;
    for (let events = 1; events < EVENTS; events++) {
      const shorter = failure(seed, events);
      if (shorter === undefined) continue;
      shortest = shorter;
      break;
    }
    t.fail(shortest);
    return;
  }
  t.pass(`${HISTORIES} histories`);
});

const [A, B] = ['10.16.0.12', '10.16.0.13'].map(address) as [Address, Address];

/** A member with one flow of its own that drains, connected with another one. */
function draining() {
  const external = address('172.17.0.12');
  let state = startGroup({ family: 4, self: A, members: [A, B], external, shared: [SHARED[4]] }, 0);
  const handedOver: boolean[] = [];
  let digest = 0;
  const take = (action: GroupAction) => {
    if (action.type === 'handed-over') handedOver.push(action.complete);
    if (action.type === 'send' && action.message.type === 'digest') digest = action.message.number;
  };
  const feed = (event: GroupEvent, now = 0) => {
    const next = step(state, event, now);
    state = next.state;
    next.actions.forEach(take);
  };
  /** The other member has everything. */
  const confirm = () =>
    feed({ type: 'message', member: B, message: { type: 'want', number: digest, buckets: [] } });
  const connect = () => feed({ type: 'connected', member: B, instance: 1, uptime: 0 });
  feed({ type: 'flows', events: [{ type: 'update', flow: flowOf(4, 1, 50_000) }] });
  feed({ type: 'path', member: B, up: true });
  connect();
  feed({
    type: 'message',
    member: B,
    message: { type: 'state', state: 'live', external: address('172.17.0.13'), claims: [] },
  });
  return { feed, confirm, connect, handedOver };
}

t.test('a handover waits for a member whose connection ends, while BFD with it is Up', async (t) => {
  for (const when of ['before', 'during'] as const) {
    const { feed, confirm, connect, handedOver } = draining();
    if (when === 'before') feed({ type: 'disconnected', member: B });
    feed({ type: 'drain', limit: 10_000 });
    if (when === 'during') feed({ type: 'disconnected', member: B });
    feed({ type: 'tick' }, 9999);
    t.same(handedOver, [], `it ends ${when} the drain`);
    connect();
    t.same(handedOver, []);
    confirm();
    t.same(handedOver, [true]);
  }
});

t.test('a handover ends without a member that BFD has lost too, and at its limit', async (t) => {
  const lost = draining();
  lost.feed({ type: 'drain', limit: 10_000 });
  lost.feed({ type: 'disconnected', member: B });
  lost.feed({ type: 'path', member: B, up: false });
  t.same(lost.handedOver, [true]);
  const late = draining();
  late.feed({ type: 'drain', limit: 10_000 });
  late.feed({ type: 'disconnected', member: B });
  late.feed({ type: 'tick' }, 10_000);
  t.same(late.handedOver, [false]);
});
