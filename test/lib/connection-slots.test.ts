/** Which connections keep their slot and which are closed. Connections are named by strings. */
import t from 'tap';
import { ConnectionSlots, clientOf, isLocalConnection, isLoopback } from '../../lib/connection-slots.ts';

const LIMITS = { total: 6, perClient: 3, octets: 100, readTimeout: 10 };

/** Connections `a1`, `a2`, … of the client `a`, each a moment after the other. */
function slotsOf(...names: string[]): ConnectionSlots<string> {
  const made = new ConnectionSlots<string>(LIMITS);
  for (const [now, name] of names.entries()) made.add(name, name[0]!, false, now);
  return made;
}

t.test('an IPv4 address is a client, and so is an IPv6 /64', async (t) => {
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

t.test('loopback and a connection of an address to itself are local', async (t) => {
  for (const address of ['127.0.0.1', '127.9.9.9', '::ffff:127.0.0.1', '::1'])
    t.ok(isLoopback(address), address);
  for (const address of ['128.0.0.1', '::ffff:10.0.0.127', '::127.0.0.1', '::2', '']) {
    t.notOk(isLoopback(address), address);
  }
  t.ok(isLocalConnection('127.0.0.1', '10.16.0.12'), 'masqueraded on its way to loopback');
  t.ok(isLocalConnection('fd00::1', 'fd00::1'));
  t.notOk(isLocalConnection('fd00::1', 'fd00::2'), 'a neighbour of the same /64');
});

t.test('a client at its limit loses its own worst connection', async (t) => {
  const held = slotsOf('a1', 'b1', 'a2', 'a3');
  t.same(held.add('a4', 'a', false, 9), ['a1'], 'the one that has waited longest');
  t.equal(held.size, 5);
});

t.test('when all slots are taken, the client with the most loses one, never the new one', async (t) => {
  const held = slotsOf('a1', 'b1', 'b2', 'c1', 'c2', 'c3');
  t.same(held.add('d1', 'd', false, 9), ['c1']);
  held.remove('c1');
  t.same(held.add('e1', 'e', false, 10), ['b1'], 'of two with as many, the one that has waited longest');
});

t.test('among clients with one connection each, the one that waited longest is closed', async (t) => {
  const held = slotsOf('a', 'b', 'c', 'd', 'e', 'f');
  held.setBusy('a', true, 6);
  held.setBusy('a', false, 7);
  held.setBusy('b', true, 6);
  t.same(held.add('g', 'g', false, 8), ['c'], 'a has been answered since, and b is being served');
});

t.test('a local connection is only evicted by a local one', async (t) => {
  const held = new ConnectionSlots<string>(LIMITS);
  for (const name of ['l1', 'l2', 'l3']) held.add(name, 'l', true, 0);
  for (const name of ['a', 'b', 'c']) held.add(name, name, false, 1);
  t.same(held.add('d', 'd', false, 2), ['a']);
  held.remove('a');
  t.same(held.add('l4', 'l', true, 3), ['l1']);
});

t.test('a connection that is being served is closed last', async (t) => {
  const held = slotsOf('a1', 'a2', 'a3');
  held.setBusy('a1', true, 5);
  held.setBusy('a2', true, 5);
  held.setPending('a2', 10, 6);
  t.same(held.add('a4', 'a', false, 9), ['a3'], 'silent');
  held.remove('a3');
  t.same(held.add('a5', 'a', false, 9), ['a2'], 'unread');
  held.remove('a2');
  held.setBusy('a4', true, 10);
  held.setBusy('a5', true, 11);
  t.same(held.add('a6', 'a', false, 12), ['a1'], 'and if all are, the oldest');
});

t.test('unread responses are bounded in octets, by client', async (t) => {
  const held = slotsOf('a1', 'a2', 'b1');
  t.same(held.setPending('b1', 30, 10), []);
  t.same(held.setPending('a1', 30, 11), []);
  t.same(held.setPending('a2', 40, 12), []);
  held.add('c1', 'c', false, 13);
  t.same(held.setPending('c1', 30, 13), ['a1'], 'of the client that has most, the oldest');
  held.remove('a1');
  held.setBusy('c1', false, 14);
  t.same(held.setPending('c1', 1000, 15), ['a2', 'b1'], 'one may be larger, alone');
});

t.test('unread responses are bounded in time', async (t) => {
  const held = slotsOf('a1', 'a2');
  held.setPending('a1', 10, 0);
  held.setBusy('a2', true, 0);
  t.same(held.overdue(10), []);
  t.same(held.overdue(11), ['a1']);
  held.setBusy('a1', false, 11);
  t.same(held.overdue(100), []);
});
