/** Who gets a place, and who has to give way. Connections are called by their names. */
import t from 'tap';
import { clientOf, isFromHere, isLoopback, Places } from '../../lib/places.ts';

const LIMITS = { total: 6, perClient: 3, octets: 100, patience: 10 };

/** Connections `a1`, `a2`, … of the client `a`, each a moment after the other. */
function places(...names: string[]): Places<string> {
  const made = new Places<string>(LIMITS);
  for (const [now, name] of names.entries()) made.enter(name, name[0]!, false, now);
  return made;
}

t.test('an address is a client, and so is a /64', async (t) => {
  t.equal(clientOf('10.16.0.9'), '10.16.0.9');
  t.equal(clientOf('::ffff:10.16.0.9'), '10.16.0.9');
  t.equal(clientOf('::FFFF:10.16.0.9'), '10.16.0.9');
  const client = clientOf('fd00:10:16::9');
  for (const same of ['fd00:10:16::a', 'fd00:10:16:0:1:2:3:4', 'fd00:10:16:0:ffff::']) {
    t.equal(clientOf(same), client, same);
  }
  for (const other of ['fd00:10:16:1::9', 'fd00:10:17::9', 'fd00::10:16:0:9', '::', '::1', 'fe80::9%eth0']) {
    t.not(clientOf(other), client, other);
  }
  t.equal(clientOf('fe80::1%eth0'), clientOf('fe80::2%eth1'));
  t.equal(clientOf('1:2:3::'), clientOf('1:2:3:0::1'));
});

t.test('loopback, and an address that speaks to itself, are this machine', async (t) => {
  for (const address of ['127.0.0.1', '127.9.9.9', '::ffff:127.0.0.1', '::1'])
    t.ok(isLoopback(address), address);
  for (const address of ['128.0.0.1', '::ffff:10.0.0.127', '::127.0.0.1', '::2', '']) {
    t.notOk(isLoopback(address), address);
  }
  t.ok(isFromHere('127.0.0.1', '10.16.0.12'), 'masqueraded on its way to loopback');
  t.ok(isFromHere('fd00::1', 'fd00::1'));
  t.notOk(isFromHere('fd00::1', 'fd00::2'), 'a neighbour of the same /64');
});

t.test('who has as many as one may have gives way to himself', async (t) => {
  const held = places('a1', 'b1', 'a2', 'a3');
  t.same(held.enter('a4', 'a', false, 9), ['a1'], 'the one that has waited longest');
  t.equal(held.size, 5);
});

t.test('where all is taken, who has most gives way, and a newcomer never', async (t) => {
  const held = places('a1', 'b1', 'b2', 'c1', 'c2', 'c3');
  t.same(held.enter('d1', 'd', false, 9), ['c1']);
  held.leave('c1');
  t.same(held.enter('e1', 'e', false, 10), ['b1'], 'of two with as many, the one that has waited longest');
});

t.test('among clients with one each the one that has waited longest gives way', async (t) => {
  const held = places('a', 'b', 'c', 'd', 'e', 'f');
  held.turn('a', true, 6);
  held.turn('a', false, 7);
  held.turn('b', true, 6);
  t.same(held.enter('g', 'g', false, 8), ['c'], 'a has been answered since, and b is being served');
});

t.test('this machine gives way to itself only', async (t) => {
  const held = new Places<string>(LIMITS);
  for (const name of ['l1', 'l2', 'l3']) held.enter(name, 'l', true, 0);
  for (const name of ['a', 'b', 'c']) held.enter(name, name, false, 1);
  t.same(held.enter('d', 'd', false, 2), ['a']);
  held.leave('a');
  t.same(held.enter('l4', 'l', true, 3), ['l1']);
});

t.test('whoever is served gives way last', async (t) => {
  const held = places('a1', 'a2', 'a3');
  held.turn('a1', true, 5);
  held.turn('a2', true, 5);
  held.answer('a2', 10, 6);
  t.same(held.enter('a4', 'a', false, 9), ['a3'], 'silent');
  held.leave('a3');
  t.same(held.enter('a5', 'a', false, 9), ['a2'], 'unread');
  held.leave('a2');
  held.turn('a4', true, 10);
  held.turn('a5', true, 11);
  t.same(held.enter('a6', 'a', false, 12), ['a1'], 'and if all are, the oldest');
});

t.test('answers that nobody reads are bounded in octets, by client', async (t) => {
  const held = places('a1', 'a2', 'b1');
  t.same(held.answer('b1', 30, 10), []);
  t.same(held.answer('a1', 30, 11), []);
  t.same(held.answer('a2', 40, 12), []);
  held.enter('c1', 'c', false, 13);
  t.same(held.answer('c1', 30, 13), ['a1'], 'of the client that has most, the oldest');
  held.leave('a1');
  held.turn('c1', false, 14);
  t.same(held.answer('c1', 1000, 15), ['a2', 'b1'], 'one may be larger, alone');
});

t.test('and in time', async (t) => {
  const held = places('a1', 'a2');
  held.answer('a1', 10, 0);
  held.turn('a2', true, 0);
  t.same(held.overdue(10), []);
  t.same(held.overdue(11), ['a1']);
  held.turn('a1', false, 11);
  t.same(held.overdue(100), []);
});
