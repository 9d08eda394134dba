// Who is live and who holds which address, told as what happens to one member.
import t from 'tap';
import type { Claim } from '../../../agent/group/codec.ts';
import {
  BALANCE_AFTER,
  FORWARDED_AFTER,
  JOIN_LIMIT,
  JOIN_WAIT,
  type Membership,
  type MembershipAction,
  type MembershipEvent,
  SETTLE_AFTER,
  startMembership,
  step,
  viewMembership,
} from '../../../agent/group/membership.ts';
import type { GroupConfig, MemberState } from '../../../agent/group/model.ts';
import { type Address, address } from '../../../lib/prefix.ts';

const [A, B, C] = ['10.16.0.12', '10.16.0.13', '10.16.0.14'].map(address) as [Address, Address, Address];
const [X, Y, Z] = ['172.17.0.50', '172.17.0.51', '172.17.0.52'].map(address) as [Address, Address, Address];
const outside = (member: Address): Address => address(member.replace('10.16', '172.17'));

/** One member, and what is done to it. */
class One {
  state: Membership;
  now = 0;
  actions: MembershipAction[] = [];

  constructor(self: Address, shared: Address[] = [X], members: Address[] = [A, B, C]) {
    const config: GroupConfig = { family: 4, self, members, external: outside(self), shared };
    this.state = startMembership(config, 0);
  }

  do(event: MembershipEvent): this {
    const { state, actions } = step(this.state, event, this.now);
    this.state = state;
    this.actions.push(...actions);
    return this;
  }

  /** Time passes, in ticks. */
  pass(ms: number): this {
    for (const end = this.now + ms; this.now < end; ) {
      this.now += Math.min(100, end - this.now);
      this.do({ type: 'tick' });
    }
    return this;
  }

  /** A member is reachable, connected, and its table taken over. */
  meet(member: Address, claims: Claim[] = [], state: MemberState = 'live'): this {
    this.do({ type: 'path', member, up: true });
    this.do({ type: 'connected', member, startedAt: 0 });
    this.hear(member, claims, state);
    return this.do({ type: 'synced', member });
  }

  hear(member: Address, claims: Claim[], state: MemberState = 'live'): this {
    return this.do({
      type: 'state',
      member,
      message: { type: 'state', state, external: outside(member), claims },
    });
  }

  get view() {
    return viewMembership(this.state);
  }

  count(type: MembershipAction['type']): number {
    return this.actions.filter((action) => action.type === type).length;
  }
}

t.test('a member joins when it has the table of every member that it can reach', async (t) => {
  const one = new One(A).do({ type: 'path', member: B, up: true }).pass(JOIN_WAIT);
  t.equal(one.view.state, 'joining', 'it waits for the exchange with a reachable member');
  t.notOk(one.view.ready);
  one.do({ type: 'connected', member: B, startedAt: 0 }).pass(1000);
  t.equal(one.view.state, 'joining', 'and for its table');
  one.do({ type: 'synced', member: B });
  t.equal(one.view.state, 'live', 'C was not to be reached for 3 s');
});

t.test('a member is ready a second after it is live, when the others forward its slice', async (t) => {
  const one = new One(A).meet(B).meet(C);
  t.same([one.view.state, one.view.ready], ['live', false]);
  t.notOk(one.pass(FORWARDED_AFTER - 100).view.ready);
  t.ok(one.pass(100).view.ready);
  one.do({ type: 'drain' });
  t.ok(one.view.ready, 'and goes on while it drains');
  one.do({ type: 'undrain' });
  t.same([one.view.state, one.view.ready], ['live', true], 'the others have not stopped');
  t.notOk(one.do({ type: 'leave' }).view.ready);
  const alone = new One(A).pass(JOIN_WAIT);
  t.ok(alone.view.ready, 'with no other member there is nothing to wait for');
  t.ok(alone.meet(B).view.ready, 'nor with one that comes later');
});

t.test('the reason for another holder is what became of the former one', async (t) => {
  const holderB = () => new One(A, [X], [A, B]).meet(B, [{ address: X, term: 7 }]);
  const last = ({ actions }: One) => actions.findLast(({ type }) => type === 'holder');
  t.match(last(holderB()), { from: undefined, to: B, reason: 'none before' });
  const config: GroupConfig = { family: 4, self: A, members: [A], external: outside(A), shared: [X] };
  for (const [reason, event] of [
    ['unreachable', (one: One) => one.do({ type: 'path', member: B, up: false })],
    ['draining', (one: One) => one.hear(B, [{ address: X, term: 7 }], 'draining')],
    ['left', (one: One) => one.hear(B, [{ address: X, term: 7 }], 'left')],
    ['joining', (one: One) => one.hear(B, [], 'joining')],
    ['no member', (one: One) => one.do({ type: 'configure', config })],
  ] as const) {
    t.match(last(event(holderB())), { from: B, to: A, reason });
  }
  const other = holderB().do({ type: 'path', member: B, up: false });
  other.do({ type: 'path', member: B, up: true }).hear(B, [{ address: X, term: 99 }]);
  t.match(last(other), { from: A, to: B, reason: 'claimed' });
});

t.test('a member that can reach nobody is live after 3 s and holds what is shared', async (t) => {
  const one = new One(A).pass(JOIN_WAIT - 100);
  t.same([one.view.state, one.view.held], ['joining', []]);
  one.pass(100);
  t.same([one.view.state, one.view.held], ['live', [X]]);
  t.same(new One(A, [X], [A]).pass(100).view.held, [X], 'a group of one waits for nobody');
});

t.test('a member whose exchange works with nobody that is reachable is never live', async (t) => {
  const one = new One(A).do({ type: 'path', member: B, up: true }).pass(JOIN_LIMIT * 2);
  t.same([one.view.state, one.view.held], ['joining', []]);
  one.do({ type: 'connected', member: C, startedAt: 0 }).do({ type: 'synced', member: C }).pass(100);
  t.equal(one.view.state, 'live', 'with another one it is, as late as it is');
});

t.test(
  'a claim of another member stands, and is taken over when the member is gone, drains or leaves',
  async (t) => {
    const held = () => new One(A).meet(B, [{ address: X, term: 7 }]).meet(C);
    t.same(held().view.held, []);
    t.equal(held().view.holders[0]!.holder, B);
    const rescued = (one: One) => one.state.claims.get(X) === 8 || one.hear(C, [{ address: X, term: 8 }]);
    for (const [what, event] of [
      ['BFD is down', (one: One) => one.do({ type: 'path', member: B, up: false })],
      ['it drains', (one: One) => one.hear(B, [{ address: X, term: 7 }], 'draining')],
      ['it leaves', (one: One) => one.hear(B, [{ address: X, term: 7 }], 'left')],
      ['it starts again', (one: One) => one.hear(B, [], 'joining')],
    ] as const) {
      const one = event(held());
      // Which of the two is first is the order's business; both agree on it.
      const other = event(new One(C).meet(B, [{ address: X, term: 7 }]).meet(A));
      t.equal(one.view.held.length + other.view.held.length, 1, what);
      t.ok(rescued(one), `${what}: with a higher term`);
    }
  },
);

t.test('a member keeps its claim when the exchange is down, and is not made holder then', async (t) => {
  const one = new One(A).meet(B, [{ address: X, term: 1 }]).meet(C);
  one.do({ type: 'disconnected', member: B });
  t.equal(one.view.holders[0]!.holder, B, 'B holds on');
  t.same(
    one.view.forward.map(({ via }) => via),
    [outside(B), outside(C)],
    'and is forwarded to',
  );
  const alone = new One(A).meet(B, [{ address: X, term: 1 }]).meet(C);
  alone.do({ type: 'disconnected', member: B }).do({ type: 'disconnected', member: C });
  alone.do({ type: 'path', member: B, up: false }).pass(1000);
  t.same(alone.view.held, [], 'C is reachable and the exchange with it is down');
  alone.do({ type: 'path', member: C, up: false });
  t.same(alone.view.held, [X], 'nobody is reachable');
});

t.test(
  'a member without one of its links holds nothing, and waits for the others when it is back',
  async (t) => {
    const one = new One(A).meet(B).meet(C);
    one.hear(B, [], 'draining').hear(C, [], 'draining');
    t.same(one.view.held, [X]);
    const { config } = one.state;
    one.do({ type: 'configure', config: { ...config, cutOff: true } });
    t.same([one.view.held, one.view.state], [[], 'live'], 'its flows are its own still');
    t.match(
      one.actions.findLast(({ type }) => type === 'holder'),
      { from: A, reason: 'unreachable' },
    );
    for (const member of [B, C]) {
      one.do({ type: 'path', member, up: false }).do({ type: 'disconnected', member });
    }
    t.same(one.pass(JOIN_WAIT * 2).view.held, [], 'although it reaches nobody');
    one.do({ type: 'configure', config }).pass(JOIN_WAIT - 100);
    t.same(one.view.held, [], 'BFD with the holder takes a while');
    const met = new One(A).meet(B).meet(C);
    met.state = one.state;
    met.now = one.now;
    t.same(met.meet(C, [{ address: X, term: 9 }]).pass(JOIN_WAIT).view.held, [], 'another one holds it');
    t.same(one.pass(100).view.held, [X], 'nobody else is there');
  },
);

t.test('of two holders the higher term stays; the winner announces when the other has let go', async (t) => {
  const winner = new One(A).pass(JOIN_WAIT);
  t.same(winner.view.held, [X]);
  winner.meet(B, [{ address: X, term: 0 }]);
  t.same(winner.view.held, [X]);
  t.equal(winner.count('announce'), 0);
  winner.hear(B, []);
  t.equal(winner.count('announce'), 1);
  const loser = new One(A).pass(JOIN_WAIT).meet(B, [{ address: X, term: 2 }]);
  t.same(loser.view.held, []);
  const sides = [A, B].map((self) => {
    return new One(self).pass(JOIN_WAIT).meet(self === A ? B : A, [{ address: X, term: 1 }]);
  });
  t.equal(sides.filter((one) => one.view.held.length === 1).length, 1, 'of equal terms one stays');
});

t.test('who comes back takes nothing but what balances', async (t) => {
  const two = [X, Y].map((shared) => ({ address: shared, term: 3 }));
  const one = new One(A, [X, Y, Z]).meet(B, [two[0]!, two[1]!]).meet(C, [{ address: Z, term: 1 }]);
  t.same(one.view.held, []);
  one.pass(BALANCE_AFTER - 1000);
  t.same(one.view.held, []);
  one.pass(2000);
  t.equal(one.view.held.length, 1, 'after a minute with none beside two it takes one');
  t.equal(one.state.claims.get(one.view.held[0]!), 4);
  one
    .hear(
      B,
      two.filter(({ address: shared }) => shared !== one.view.held[0]),
    )
    .pass(2 * BALANCE_AFTER);
  t.equal(one.view.held.length, 1, 'one each is balanced');
});

t.test('several addresses that nobody holds are spread', async (t) => {
  const members = [A, B, C].map((self) => {
    const one = new One(self, [X, Y, Z]);
    for (const other of [A, B, C]) if (other !== self) one.meet(other);
    return one;
  });
  t.same(
    members.map((one) => one.view.held.length),
    [1, 1, 1],
  );
  t.equal(new Set(members.flatMap((one) => one.view.held)).size, 3);
});

t.test('a drain gives up the address only when another one has it, and undrain joins again', async (t) => {
  const one = new One(A).pass(JOIN_WAIT);
  one.do({ type: 'drain' });
  t.same([one.view.state, one.view.held], ['draining', [X]], 'there is nobody else');
  one.meet(B);
  t.same(one.view.held, [X], 'B has not claimed it yet');
  one.hear(B, [{ address: X, term: 2 }]);
  t.same(one.view.held, []);
  one.do({ type: 'undrain' });
  t.same([one.view.state, one.view.held], ['live', []]);
});

t.test(
  'slices are forwarded to members that are reachable and live or draining, and to no other',
  async (t) => {
    const to = (one: One) => one.view.forward.map(({ via }) => via);
    const one = new One(A).meet(B).meet(C);
    t.same(to(one), [outside(B), outside(C)]);
    t.same(to(one.hear(B, [], 'draining')), [outside(B), outside(C)]);
    t.same(to(one.hear(B, [], 'left')), [outside(C)]);
    t.same(to(one.hear(C, [], 'joining')), []);
    t.same(to(one.hear(C, []).do({ type: 'path', member: C, up: false })), []);
  },
);

t.test('a policy may add and remove members and addresses', async (t) => {
  const one = new One(A).pass(JOIN_WAIT);
  const config = one.state.config;
  one.do({ type: 'configure', config: { ...config, shared: [Y], members: [A, B] } });
  t.same(one.view.held, [Y]);
  t.same(
    one.view.peers.map(({ member }) => member),
    [B],
  );
  one.do({ type: 'configure', config }).meet(B, [{ address: X, term: 9 }]);
  t.equal(one.view.holders[0]!.holder, B);
});

t.test('what a former process has left is settled when all have reported, or after a minute', async (t) => {
  const all = new One(A);
  all.now = 100_000;
  all.state = startMembership(all.state.config, all.now);
  all.meet(B).meet(C);
  t.match(
    all.actions.filter(({ type }) => type === 'settle'),
    [{ slots: [13, 14] }],
    'both are older than we',
  );
  const alone = new One(A).pass(SETTLE_AFTER - 100);
  t.equal(alone.count('settle'), 0);
  t.match(
    alone.pass(200).actions.filter(({ type }) => type === 'settle'),
    [{ slots: [] }],
  );
});

t.test('who resumes is live at once, and claims nothing before it has heard who does', async (t) => {
  const one = new One(A);
  one.state = startMembership(one.state.config, 0, true);
  one.pass(200);
  t.same([one.view.state, one.view.ready, one.view.held], ['live', true, []]);
  one.meet(B, [{ address: X, term: 4 }]).pass(JOIN_WAIT);
  t.same(one.view.held, []);
  const alone = new One(A);
  alone.state = startMembership(alone.state.config, 0, true);
  t.same(alone.pass(JOIN_WAIT).view.held, [X]);
});
