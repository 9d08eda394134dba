import t from 'tap';
import { address, prefix } from '../../lib/prefix.ts';
import { routingEvent } from '../../routing/events.ts';
import { formatRoute, formatRule, MessageType } from '../../routing/parse.ts';
import type { Route, Rule } from '../../routing/state.ts';

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
const rule: Rule = { family: 6, priority: 1001, iif: 'eth0', table: 253, foreign: false };
const eth0 = (ifindex: number): string | undefined => (ifindex === 3 ? 'eth0' : undefined);
const event = (type: number, data: Uint8Array) => routingEvent({ type, data: Buffer.from(data) }, eth0);
const bytes = (hex: string): Buffer => Buffer.from(hex.replace(/\s/g, ''), 'hex');

t.test('a change is told as the thing that changed', async (t) => {
  t.strictSame(event(MessageType.DELROUTE, formatRoute(route, 3)), {
    object: 'route',
    family: 4,
    what: 'route removed: 10.17.0.0/16 via 10.16.0.1 dev eth0 proto 178',
  });
  t.strictSame(event(MessageType.NEWROUTE, formatRoute({ ...route, table: 1000 }, 3)), {
    object: 'route',
    family: 4,
    what: 'route set: 10.17.0.0/16 via 10.16.0.1 dev eth0 table 1000 proto 178',
  });
  t.strictSame(event(MessageType.NEWRULE, formatRule(rule)), {
    object: 'rule',
    family: 6,
    what: 'rule added: priority 1001 iif eth0 lookup default',
  });
  t.strictSame(event(MessageType.DELRULE, formatRule(rule)), {
    object: 'rule',
    family: 6,
    what: 'rule removed: priority 1001 iif eth0 lookup default',
  });
  const ours = bytes('0210800003000000 080001000a10000c 080002000a10000c');
  t.strictSame(event(MessageType.DELADDR, ours), {
    object: 'address',
    family: 4,
    what: 'address removed: 10.16.0.12/16 dev eth0',
  });
  t.strictSame(event(MessageType.NEWADDR, bytes('0210800009000000 080002000a10000c')), {
    object: 'address',
    family: 4,
    what: 'address set: 10.16.0.12/16 dev if9',
  });
});

t.test('links say their state', async (t) => {
  const link = (flags: string) => bytes(`0000010003000000 ${flags} 00000000 090003006574683000000000`);
  t.strictSame(event(MessageType.NEWLINK, link('43100100')), { object: 'link', what: 'link eth0 is up' });
  t.equal(event(MessageType.NEWLINK, link('03100000'))?.what, 'link eth0 is up, no carrier');
  t.equal(event(MessageType.NEWLINK, link('02100000'))?.what, 'link eth0 is down');
  t.equal(event(MessageType.DELLINK, link('02100000'))?.what, 'link removed: eth0');
});

t.test('other tables, families and messages are no events', async (t) => {
  t.equal(event(MessageType.NEWROUTE, formatRoute({ ...route, table: 255 }, 3)), undefined);
  t.equal(event(MessageType.NEWROUTE, formatRoute({ ...route, table: 77 }, 3)), undefined);
  t.equal(event(MessageType.NEWNEIGH, Buffer.alloc(12)), undefined);
  t.equal(event(MessageType.NEWADDR, Buffer.alloc(8)), undefined);
  t.equal(event(MessageType.NEWRULE, Buffer.alloc(12)), undefined);
  t.equal(event(MessageType.NEWLINK, Buffer.concat([Buffer.from([7]), Buffer.alloc(15)])), undefined);
});
