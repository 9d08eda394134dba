/** What becomes of the sessions and the agent process, on a clock of our own. */
import t from 'tap';
import { type FromAgent, outlives } from '../../agent/messages.ts';
import {
  agentEnded,
  agentHeard,
  agentStarted,
  createWatchdog,
  gatewayWatched,
  isHung,
  isUnwatched,
  WATCHDOG,
} from '../../agent/watchdog.ts';

const SECOND = 1000;

t.test('agents that say that they live, and die again and again, watch nothing', async (t) => {
  const dog = createWatchdog(0);
  let now = 0;
  while (now < 60 * SECOND) {
    agentStarted(dog, now);
    agentHeard(dog, now + 400);
    t.notOk(isHung(dog, now + 400));
    t.notOk(isUnwatched(dog, now + 400) && now + 400 <= 60 * SECOND, `still time at ${now}`);
    now += 500 + agentEnded(dog, now + 500);
  }
  t.ok(isUnwatched(dog, Math.max(now, 60 * SECOND + 1)), 'a minute after the BFD process began');
  gatewayWatched(dog, 300, now);
  t.notOk(isUnwatched(dog, now), 'until a look comes to an end');
});

t.test('an old observation does not become newer when it is reported again', async (t) => {
  const dog = createWatchdog(0);
  gatewayWatched(dog, 0, 10 * SECOND);
  for (let now = 11 * SECOND; now <= 70 * SECOND; now += SECOND) {
    agentHeard(dog, now);
    gatewayWatched(dog, now - 10 * SECOND, now);
    t.notOk(isUnwatched(dog, now), `watched at ${now}`);
  }
  t.ok(isUnwatched(dog, 70 * SECOND + 1), 'looks that hang for a minute are none');
  t.notOk(isHung(dog, 70 * SECOND + 1), 'though the process speaks');
});

t.test('an observation of the process before does not set back what is known', async (t) => {
  const dog = createWatchdog(0);
  gatewayWatched(dog, 0, 50 * SECOND);
  gatewayWatched(dog, 40 * SECOND, 55 * SECOND);
  t.equal(dog.watchedAt, 50 * SECOND);
});

t.test('a silent process hangs after half a minute, counted from its start', async (t) => {
  const dog = createWatchdog(0);
  agentStarted(dog, 100 * SECOND);
  t.notOk(isHung(dog, 100 * SECOND + WATCHDOG.hung));
  t.ok(isHung(dog, 100 * SECOND + WATCHDOG.hung + 1));
});

t.test('a process that is killed before its first message gives the next one twice as long', async (t) => {
  const dog = createWatchdog(0);
  let now = 0;
  const times = [30, 60, 120, 240, 240].map((seconds) => {
    agentStarted(dog, now);
    t.notOk(isHung(dog, now + seconds * SECOND), `${seconds} s`);
    now += seconds * SECOND + 1;
    t.ok(isHung(dog, now));
    agentEnded(dog, now);
    return seconds * SECOND;
  });
  t.equal(times.at(-1), WATCHDOG.slowestStart);
  agentStarted(dog, now);
  agentHeard(dog, now + 200 * SECOND);
  t.ok(
    isHung(dog, now + 230 * SECOND + 1),
    'one that has sent a message has no more than half a minute to the next',
  );
  agentEnded(dog, now + 231 * SECOND);
  agentStarted(dog, 0);
  t.ok(isHung(dog, WATCHDOG.hung + 1), 'and neither has the one after it');
  agentEnded(dog, 1);
  agentStarted(dog, 0);
  t.ok(isHung(dog, WATCHDOG.hung + 1), 'an end before that is none of a slow start');
});

t.test('starts back off, and a process that ran long enough resets the backoff', async (t) => {
  const dog = createWatchdog(0);
  const delays = Array.from({ length: 9 }, (_, i) => {
    agentStarted(dog, i);
    return agentEnded(dog, i);
  });
  t.strictSame(delays, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
  agentStarted(dog, 0);
  t.equal(agentEnded(dog, WATCHDOG.restartForgiven + 1), 100);
});

t.test('messages about a process end with it, and none count for the next', async (t) => {
  const types: FromAgent['type'][] = ['up', 'pulse', 'command', 'intent', 'drain', 'undrain'];
  t.strictSame(
    types.filter((type) => outlives(type, false)),
    ['intent', 'drain', 'undrain'],
  );
  t.strictSame(
    types.filter((type) => outlives(type, true)),
    [],
  );
});
