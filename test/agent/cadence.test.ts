import t from 'tap';
import { CADENCE, createCadence, ended, nextRun, request, started } from '../../agent/cadence.ts';

const RESYNC = 30_000;
const OK = { ok: true, repaired: false };

/** A cadence whose first run ended well at time 0. */
function settled() {
  const cadence = createCadence(RESYNC, 0);
  request(cadence, 'start', 0);
  started(cadence);
  ended(cadence, OK, 0);
  return cadence;
}

t.equal(nextRun(createCadence(RESYNC, 0)), undefined, 'nothing runs before the first request');

t.test('requests that come together are one run, named by the first', async (t) => {
  const cadence = settled();
  request(cadence, 'route', 1000);
  request(cadence, 'rule', 1005);
  t.strictSame(nextRun(cadence), { at: 1000 + CADENCE.settle, trigger: 'route' });
  started(cadence);
  t.equal(nextRun(cadence), undefined, 'single flight: nothing is due while one runs');
  ended(cadence, OK, 1100);
  t.strictSame(nextRun(cadence), { at: 1100 + RESYNC, trigger: 'timer' }, 'then only the timer is due');
});

t.test('the first run does not wait for more requests', async (t) => {
  const cadence = createCadence(RESYNC, 0);
  request(cadence, 'start', 5);
  t.strictSame(nextRun(cadence), { at: 5, trigger: 'start' });
});

t.test('a policy, and a caller that waits for a run, do not wait for more requests', async (t) => {
  for (const trigger of ['policy', 'control', 'sighup'] as const) {
    const cadence = settled();
    request(cadence, 'route', 1000);
    request(cadence, trigger, 1005);
    t.strictSame(nextRun(cadence), { at: 1000, trigger });
  }
});

t.test('a request during a run causes one more', async (t) => {
  const cadence = settled();
  request(cadence, 'policy', 1000);
  started(cadence);
  request(cadence, 'link', 1001);
  ended(cadence, OK, 1050);
  t.strictSame(nextRun(cadence), { at: 1050 + CADENCE.pause, trigger: 'link' });
});

t.test('a failed run is tried again with growing delays up to the longest', async (t) => {
  const cadence = createCadence(RESYNC, 0);
  let now = 0;
  const delays: number[] = [];
  for (let attempt = 0; attempt < 12; attempt++) {
    started(cadence);
    ended(cadence, { ok: false, repaired: false }, now);
    const next = nextRun(cadence)!;
    t.equal(next.trigger, 'retry');
    delays.push(next.at - now);
    now = next.at;
  }
  t.strictSame(delays.slice(0, 4), [250, 500, 1000, 2000]);
  t.equal(delays.at(-1), CADENCE.retryLongest);
});

t.test('after a failure an event waits for the backoff, a policy or a link does not', async (t) => {
  const cadence = settled();
  for (let i = 0; i < 5; i++) {
    started(cadence);
    ended(cadence, { ok: false, repaired: false }, 0);
  }
  request(cadence, 'route', 10);
  t.strictSame(nextRun(cadence), { at: 4000, trigger: 'retry' });
  request(cadence, 'policy', 20);
  t.equal(nextRun(cadence)!.trigger, 'policy');
  t.ok(nextRun(cadence)!.at < 100);
});

t.test('repairs come at once up to a burst, then at a bounded rate', async (t) => {
  const cadence = settled();
  let now = 0;
  const starts: number[] = [];
  let contended = 0;
  while (now < 20_000) {
    request(cadence, 'rule', now);
    now = nextRun(cadence)!.at;
    starts.push(now);
    started(cadence);
    if (ended(cadence, { ok: true, repaired: true }, now)) contended++;
  }
  t.ok(starts[CADENCE.repairBurst - 1]! < 2000, 'the burst is quick');
  const late = starts.filter((at) => at > 5000 && at <= 15_000).length;
  const allowed = 10_000 / CADENCE.repairRefill;
  t.ok(
    late >= allowed - 1 && late <= allowed + 1,
    `then one each ${CADENCE.repairRefill} ms (${late} in 10 s)`,
  );
  t.ok(contended > 5, 'and the fight is reported');
});

t.test('a person is answered at once even when repairs have used up the bucket', async (t) => {
  const cadence = settled();
  for (let i = 0; i < 2 * CADENCE.repairBurst; i++) {
    started(cadence);
    ended(cadence, { ok: true, repaired: true }, i);
  }
  request(cadence, 'sighup', 100);
  t.ok(nextRun(cadence)!.at < 200, 'urgent');
});

t.test(
  'what was refused is tried again with backoff, and what others change is put back meanwhile',
  async (t) => {
    const cadence = settled();
    const held = { ok: false, repaired: false, held: true };
    for (const at of [0, 250, 750]) {
      started(cadence);
      ended(cadence, held, at);
    }
    t.strictSame(nextRun(cadence), { at: 1750, trigger: 'retry' });
    request(cadence, 'netfilter', 800);
    t.strictSame(nextRun(cadence), { at: 820, trigger: 'netfilter' });
    started(cadence);
    ended(cadence, { ...held, repaired: true, onlyRepairs: true }, 830);
    t.strictSame(nextRun(cadence), { at: 1750, trigger: 'retry' }, 'that does not put the next attempt off');
    request(cadence, 'drift', 1740);
    t.strictSame(nextRun(cadence), { at: 1760, trigger: 'retry' }, 'nor does it come in its place');
    started(cadence);
    ended(cadence, { ok: true, repaired: false }, 1770);
    t.equal(nextRun(cadence)!.trigger, 'timer');
  },
);

t.test('where something is missing nothing helps but to try everything again', async (t) => {
  const cadence = settled();
  started(cadence);
  ended(cadence, { ok: false, repaired: false, held: true }, 0);
  request(cadence, 'drift', 10);
  started(cadence);
  ended(cadence, { ok: false, repaired: true, held: false, onlyRepairs: true }, 40);
  request(cadence, 'drift', 50);
  t.strictSame(nextRun(cadence), { at: 540, trigger: 'retry' });
});
