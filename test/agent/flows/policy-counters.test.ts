import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import pino from 'pino';
import t from 'tap';
import { PolicyCounters } from '../../../agent/flows/policy-counters.ts';
import type { Reading } from '../../../nat/counters/kernel.ts';
import { type CounterIntent, marksOf } from '../../../nat/counters/table.ts';
import { ManualClock } from '../../support/clock.ts';

const intent: CounterIntent = {
  ...{ family: 4, internalInterface: 'eth0', policies: [], all: [] },
  ...{ fromOutside: false, forwardsRest: false },
};
const [mark] = marksOf(intent).keys();
const reading = (packets: number, handle = 1): Reading[] => [
  {
    ...{ family: 4, handle },
    counts: [
      { mark: mark!, inBase: false, begins: [1, 60], original: [packets, 60 * packets], reply: [0, 0] },
    ],
  },
];

/** The clock of the log. */
const uptimes = { now: () => 0 };

function made(stateDir: string) {
  const clock = new ManualClock();
  const logged: string[] = [];
  const kernel = { readings: reading(5), reads: 0, error: undefined as Error | undefined };
  const counters = new PolicyCounters({
    ...{ stateDir, clock, uptime: () => uptimes.now() },
    logger: pino({ base: null }, { write: (line) => void logged.push(line) }),
    async read() {
      kernel.reads++;
      if (kernel.error !== undefined) throw kernel.error;
      return kernel.readings;
    },
  });
  const packets = () => counters.volumes('snat')?.find(({ policy }) => policy === 'default')?.packets.out;
  return { counters, kernel, logged, packets, clock };
}

t.test('nothing is known before the first reading, and without tables in the kernel', async (t) => {
  const { counters, kernel, packets } = made(t.testdir());
  kernel.readings = [];
  counters.configure([intent]);
  await counters.refresh();
  t.equal(packets(), undefined);
  kernel.readings = reading(5);
  await counters.refresh();
  t.equal(packets(), 6);
  await counters.stop();
});

t.test('requests at one time have one reading, a later one has another', async (t) => {
  const { counters, kernel } = made(t.testdir());
  await Promise.all([counters.refresh(), counters.refresh()]);
  t.equal(kernel.reads, 1);
  const first = counters.refresh();
  await Promise.resolve();
  await Promise.resolve();
  const second = counters.refresh();
  await Promise.all([first, second]);
  t.equal(kernel.reads, 3, 'a reading that is under way is not for those who ask later');
  await counters.stop();
});

t.test(
  'what was shown is on disk: another process goes on from it, also when the table is gone',
  async (t) => {
    const stateDir = t.testdir();
    const first = made(stateDir);
    first.counters.configure([intent]);
    await first.counters.refresh();
    const second = made(stateDir);
    second.counters.configure([intent]);
    second.kernel.readings = reading(0, 2);
    await second.counters.refresh();
    t.equal(second.packets(), 7, 'six, and the one that began a connection in the new table');
  },
);

t.test('the log is followed from when the policy has a fast path, and after that too', async (t) => {
  const { counters, kernel, packets } = made(t.testdir());
  let now = 0;
  const log = (began: number, out: number) =>
    counters.takeLog(began, () => {
      const volume = { connections: 0, packets: { out, in: 0 }, bytes: { out: 60 * out, in: 0 } };
      return { snat: [{ policy: 'default', family: 4, ...volume }], forward: [] };
    });
  const read = async (at: number) => {
    now = at;
    await counters.refresh();
  };
  Object.assign(uptimes, { now: () => now });
  counters.configure([intent]);
  await read(1000);
  log(1500, 6);
  await read(2000);
  t.equal(counters.countsFastPath, false, 'not without a fast path');
  counters.followFastPath(true);
  await read(3000);
  log(3500, 6);
  await read(4000);
  t.equal(counters.countsFastPath, true);
  log(4500, 106);
  await read(5000);
  t.equal(packets(), 106);
  t.equal(counters.packets, 106);
  counters.followFastPath(false);
  kernel.readings = reading(9);
  await read(7000);
  t.equal(packets(), 110, 'four have passed without it');
  log(6500, 209);
  await read(8000);
  t.equal(packets(), 209, 'the log knows of more from before, and not of the last one');
  log(8500, 210);
  await read(9000);
  t.equal(packets(), 210, 'then it knows of all');
  await counters.stop();
});

t.test('a file that is damaged is ignored with a warning, and the kernel is gone on from', async (t) => {
  const stateDir = t.testdir();
  const file = join(stateDir, 'policy-counters.json');
  for (const content of ['junk', '{"version":2}\n', '{"version":2}\n["sum",4]\n["end"]\n']) {
    writeFileSync(file, content);
    const { counters, logged, packets } = made(stateDir);
    t.match(logged.join(''), 'ignoring the saved counters of policies');
    counters.configure([intent]);
    await counters.refresh();
    t.equal(packets(), 6);
  }
  t.match(readFileSync(file, 'utf8'), /\["end"\]\n$/, 'and the next good state is kept');
});

t.test('a reading that fails is logged once, and totals stay', async (t) => {
  const { counters, kernel, logged, packets } = made(t.testdir());
  counters.configure([intent]);
  await counters.refresh();
  kernel.error = new Error('no buffer space (ENOBUFS)');
  await counters.refresh();
  await counters.refresh();
  t.equal(logged.filter((line) => line.includes('ENOBUFS')).length, 1);
  t.equal(packets(), 6);
});
