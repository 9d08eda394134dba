/** When sessions run their timers, on a clock that the test moves. */
import t, { type Test } from 'tap';
import { Scheduler } from '../../bfd/scheduler.ts';
import { createSession, type Session } from '../../bfd/session.ts';
import { NEVER } from '../../bfd/timers.ts';
import { EventLoop } from './event-loop.ts';
import { CONFIG } from './simulation.ts';

/** A full batch of one reading of a socket. */
const BATCH = 32;

function setUp(t: Test) {
  const loop = new EventLoop(t);
  const sessions = new Map<number, { session: Session }>();
  const events: string[] = [];
  const scheduler: Scheduler<{ session: Session }> = new Scheduler(
    sessions,
    (due, readUntil) => {
      const [id] = [...sessions].find(([, scheduled]) => scheduled === due)!;
      const { transmitAt, detectAt } = due.session;
      if (transmitAt <= loop.now * 1000) {
        events.push(`${loop.now} ${id} sends`);
        due.session = { ...due.session, transmitAt: NEVER };
      }
      if (readUntil >= detectAt) {
        events.push(`${loop.now} ${id} expires`);
        due.session = { ...due.session, detectAt: NEVER };
      }
      scheduler.update(due.session);
    },
    () => loop.now * 1000,
  );
  t.teardown(() => scheduler.close());
  /** Gives a session deadlines, ms. */
  const set = (id: number, deadlines: { transmitAt?: number; detectAt?: number }) => {
    const before = sessions.get(id)?.session ?? createSession(CONFIG, id, 1);
    const us = Object.entries(deadlines).map(([name, at]) => [name, at * 1000]);
    const session: Session = { ...before, ...Object.fromEntries(us) };
    const scheduled = sessions.get(id) ?? { session };
    scheduled.session = session;
    sessions.set(id, scheduled);
    scheduler.update(session);
  };
  return { scheduler, events, set, loop };
}

t.test('each session runs its timers at its own deadline', async (t) => {
  const { set, loop, events } = setUp(t);
  set(1, { transmitAt: 30 });
  set(2, { transmitAt: 10 });
  set(3, { transmitAt: 20 });
  loop.pass(9);
  t.same(events, []);
  loop.pass(31);
  t.same(events, ['10 2 sends', '20 3 sends', '30 1 sends']);
});

t.test('a deadline that a change brings forward counts', async (t) => {
  const { set, loop, events } = setUp(t);
  set(1, { transmitAt: 1000 });
  set(2, { transmitAt: 500 });
  loop.pass(5);
  set(1, { transmitAt: 8 });
  loop.pass(10);
  t.same(events, ['8 1 sends']);
});

t.test('a deadline in the past is due at once', async (t) => {
  const { set, loop, events } = setUp(t);
  loop.now += 100;
  set(1, { transmitAt: 50 });
  t.same(events, [], 'after the present turn');
  loop.pass(1);
  t.same(events, ['101 1 sends']);
});

t.test('without a deadline no timer runs, and one of two hours is kept', async (t) => {
  const { set, loop, events } = setUp(t);
  set(1, { transmitAt: NEVER });
  loop.pass(1000);
  const hours = loop.now + 2 * 3_600_000;
  set(1, { transmitAt: hours });
  for (let hour = 0; hour < 2; hour++) {
    loop.now += 3_600_000;
    loop.turn();
  }
  t.same(events, [`${hours} 1 sends`]);
});

t.test('a single session whose deadline every packet moves is not woken for the former ones', async (t) => {
  const { set, loop, events, scheduler } = setUp(t);
  set(1, { detectAt: 50 });
  for (let at = 0; at < 1000; at += 10) {
    set(1, { detectAt: at + 50 });
    loop.pass(10, () => scheduler.packetRead());
  }
  t.equal(loop.fired, 0);
  loop.pass(60);
  t.equal(events.length, 1);
  t.match(events[0], / 1 expires$/);
});

t.test('an expiry is precise', async (t) => {
  const { set, loop, events } = setUp(t);
  set(1, { detectAt: 500 });
  loop.pass(600);
  t.equal(events.length, 1);
  const [at] = events[0]!.split(' ');
  t.ok(Number(at) >= 500 && Number(at) <= 502, `${at} ms`);
});

t.test('a pause past an expiry ends no session whose packets are waiting', async (t) => {
  const { set, loop, events, scheduler } = setUp(t);
  set(1, { detectAt: 500 });
  loop.pass(100);
  loop.now += 5000;
  // The timer fires first, then the sockets are read, then setImmediate runs.
  loop.turn();
  t.same(events, [], 'not read yet');
  scheduler.packetRead();
  set(1, { detectAt: 5600 });
  loop.pass(400);
  t.same(events, []);
  loop.pass(400);
  t.match(events, [/^5\d{3} 1 expires$/]);
});

t.test('a pause past an expiry without a packet: expired as soon as the sockets were read', async (t) => {
  const { set, loop, events } = setUp(t);
  set(1, { detectAt: 500 });
  loop.pass(100);
  loop.now += 5000;
  loop.turn();
  t.same(events, []);
  loop.pass(3);
  t.match(events, [/^510\d 1 expires$/]);
});

t.test('while the sockets are read in full batches no session expires, for a limited time', async (t) => {
  const { set, loop, events, scheduler } = setUp(t);
  set(1, { detectAt: 10 });
  const flood = () => {
    for (let i = 0; i < BATCH; i++) scheduler.packetRead();
  };
  loop.pass(30, flood);
  t.same(events, []);
  loop.pass(40, flood);
  t.match(events, [/ 1 expires$/]);
});

t.test('closed: nothing runs any more', async (t) => {
  const { set, loop, events, scheduler } = setUp(t);
  set(1, { transmitAt: 5 });
  scheduler.close();
  set(1, { transmitAt: 6 });
  loop.pass(20);
  t.same(events, []);
});
