/** When a next hop is asked for, whom the question goes to, and what is logged, over a link in memory. */
import { mock } from 'node:test';
import t, { type Test } from 'tap';
import {
  type NextHop,
  NextHopResolver,
  nextHopKey,
  type QuestionSocket,
} from '../../bfd/next-hop-resolver.ts';
import { SystemError } from '../../lib/libc.ts';
import { rememberingLog } from './silent.ts';

const HOP: NextHop = {
  interface: 'eth0',
  gateway: '10.16.0.1',
  local: '10.16.0.12',
  mac: '02:00:00:00:00:12',
};
const KEY = nextHopKey(HOP);
const ROUTER = '02:00:00:00:00:01';
const THIEF = '02:00:00:00:00:66';
/** Everybody on the link. */
const ALL = undefined;

/** Lets time pass; what a timer starts on the way counts from then. */
const pass = (ms: number): void => {
  for (let i = 0; i < ms; i++) mock.timers.tick(1);
};
/** Until a question of two rounds is decided. */
const decide = (): void => pass(200);

/** A link whose hosts answer for the gateway. */
class Link {
  hosts: string[] = [ROUTER];
  ifindex = 2;
  openError: Error | undefined;
  sendError = 0;
  /** Whom each question was sent to. */
  asked: (string | undefined)[] = [];
  sockets = 0;

  readonly ifindexOf = () => this.ifindex;
  readonly open = (_hop: NextHop, ifindex: number): QuestionSocket => {
    if (this.openError !== undefined) throw this.openError;
    this.sockets++;
    const answers: string[] = [];
    return {
      ifindex,
      ask: (mac) => {
        this.asked.push(mac);
        if (this.sendError < 0) return this.sendError;
        answers.push(...this.hosts.filter((host) => mac === ALL || mac === host));
        return 0;
      },
      answers: () => answers.splice(0),
      close: () => {
        this.sockets--;
      },
    };
  };
}

/** A resolver on a link, its clock stopped. */
function setUp(t: Test, link = new Link()) {
  mock.timers.enable({ apis: ['setTimeout'] });
  t.teardown(() => mock.timers.reset());
  const log = rememberingLog();
  let changes = 0;
  const resolver = new NextHopResolver(log, () => changes++, { open: link.open, ifindex: link.ifindexOf });
  t.teardown(() => resolver.close());
  resolver.watch([HOP]);
  decide();
  /** Asks again; returns whom the questions went to. */
  const ask = (interval?: number) => {
    link.asked = [];
    resolver.ask(KEY, interval);
    decide();
    return link.asked;
  };
  const macs = () => resolver.macsOf(KEY);
  const messages = () => log.lines.map(({ message }) => message);
  return { link, resolver, ask, macs, messages, changes: () => changes };
}

t.test('a next hop is asked for when it is watched, and its answer is trusted', async (t) => {
  const { link, macs, messages, changes } = setUp(t);
  t.same(link.asked, [ALL]);
  t.same(macs(), [ROUTER]);
  t.equal(changes(), 1);
  t.same(messages(), ['learned the Ethernet address of the gateway of BFD peers']);
});

t.test('the trusted address is asked alone, and stays while it answers', async (t) => {
  const { link, ask, macs, changes } = setUp(t);
  link.hosts = [THIEF, ROUTER];
  t.same(ask(), [ROUTER], 'nobody else hears the question');
  t.same(macs(), [ROUTER]);
  t.equal(changes(), 1);
});

t.test('an address that only the others answer with is replaced', async (t) => {
  const { link, ask, macs } = setUp(t);
  link.hosts = [THIEF];
  t.same(ask(), [ROUTER, ALL]);
  t.same(macs(), [THIEF]);
});

t.test('both rounds are over within half of the peer’s interval', async (t) => {
  const { link, resolver, macs } = setUp(t);
  link.hosts = [THIEF];
  resolver.ask(KEY, 100);
  pass(49);
  t.same(macs(), [ROUTER]);
  pass(1);
  t.same(macs(), [THIEF]);
});

t.test('several that answer are trusted until one is alone, and are logged once', async (t) => {
  const link = new Link();
  link.hosts = [ROUTER, THIEF];
  const { ask, macs, messages, resolver } = setUp(t, link);
  t.same(macs(), [ROUTER, THIEF]);
  const several = () => messages().filter((message) => message.startsWith('several')).length;
  t.equal(several(), 1);
  t.same(ask(), [ALL], 'all are asked');
  t.equal(several(), 1);
  link.hosts = [ROUTER];
  resolver.retry();
  decide();
  t.same(macs(), [ROUTER]);
});

t.test('one question is open at a time', async (t) => {
  const { link, resolver } = setUp(t);
  link.asked = [];
  for (let i = 0; i < 10; i++) resolver.ask(KEY);
  t.same(link.asked, [ROUTER]);
});

t.test('a gateway that does not answer is asked again and again, and logged once', async (t) => {
  const link = new Link();
  link.hosts = [];
  const { resolver, macs, messages } = setUp(t, link);
  for (let i = 0; i < 10; i++) {
    resolver.retry();
    decide();
  }
  t.same(macs(), []);
  t.match(messages(), [/^the gateway does not answer; accepting packets/]);
  t.equal(messages().length, 1);
  link.hosts = [ROUTER];
  resolver.retry();
  decide();
  t.same(macs(), [ROUTER]);
});

t.test('silence changes nothing', async (t) => {
  const { link, ask, macs } = setUp(t);
  link.hosts = [];
  ask();
  t.same(macs(), [ROUTER]);
});

t.test('fault: a socket that cannot be opened is logged once for each cause, and opened later', async (t) => {
  const link = new Link();
  link.openError = new SystemError('socket', 1);
  const { resolver, macs, messages } = setUp(t, link);
  resolver.retry();
  resolver.retry();
  t.match(messages(), [/^cannot ask for the Ethernet address/]);
  t.equal(messages().length, 1);
  link.openError = new SystemError('bind', 99);
  resolver.retry();
  t.equal(messages().length, 2, 'another cause');
  link.openError = undefined;
  resolver.retry();
  decide();
  t.same(macs(), [ROUTER]);
});

t.test('fault: a question that cannot be sent is logged once, and sent later', async (t) => {
  const link = new Link();
  link.sendError = -105;
  const { resolver, macs, messages } = setUp(t, link);
  for (let i = 0; i < 3; i++) {
    resolver.retry();
    decide();
  }
  t.equal(messages().filter((message) => message.startsWith('cannot ask')).length, 1);
  link.sendError = 0;
  resolver.retry();
  decide();
  t.same(macs(), [ROUTER]);
});

t.test('an interface that was recreated gets a new socket; one that is not watched has none', async (t) => {
  const { link, resolver, ask, macs } = setUp(t);
  t.equal(link.sockets, 1);
  link.ifindex = 9;
  t.same(ask(), [ROUTER]);
  t.equal(link.sockets, 1, 'the former one is closed');
  resolver.watch([{ ...HOP, gateway: '10.16.0.2' }]);
  decide();
  t.same(macs(), []);
  t.equal(link.sockets, 1);
  resolver.watch([]);
  t.equal(link.sockets, 0);
});
