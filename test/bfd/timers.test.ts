/** The arithmetic of intervals, Detection Times and jitter. */
import t from 'tap';
import { demandDetectionTime, detectionTime, nextTransmit, transmitInterval } from '../../bfd/timers.ts';

t.test('6.8.2 the transmit interval is the greater of what we want and what the peer takes', async (t) => {
  t.equal(transmitInterval(100_000, 300_000), 300_000);
  t.equal(transmitInterval(300_000, 100_000), 300_000);
});

t.test('6.8.7 no periodic packets when RemoteMinRx is 0', async (t) => {
  t.equal(transmitInterval(100_000, 0), 0);
});

t.test(
  "6.8.4 asynchronous: the peer's Detect Mult × the greater of RequiredMinRx and its DesiredMinTx",
  async (t) => {
    t.equal(detectionTime(3, 100_000, 50_000), 300_000);
    t.equal(detectionTime(5, 100_000, 200_000), 1_000_000);
  },
);

t.test('intervals of an hour, Detect Mult 255: ten days, more than fits into 32 bits', async (t) => {
  t.equal(detectionTime(255, 3_600_000_000, 1000), 918_000_000_000);
  t.equal(demandDetectionTime(255, 1000, 3_600_000_000), 918_000_000_000);
  t.equal(transmitInterval(3_600_000_000, 1000), 3_600_000_000);
});

t.test('6.8.4 Demand mode: our Detect Mult × the greater of DesiredMinTx and RemoteMinRx', async (t) => {
  t.equal(demandDetectionTime(3, 100_000, 50_000), 300_000);
  t.equal(demandDetectionTime(5, 100_000, 200_000), 1_000_000);
});

t.test('6.8.7 every interval is reduced by 10 to 25 %, whatever the random number', async (t) => {
  for (const interval of [1000, 10_000, 50_000, 100_000, 1_000_000, 3_600_000_000, 4_294_967_295]) {
    for (const random of [0, 0.25, 0.5, 0.75, 1 - Number.EPSILON]) {
      const at = nextTransmit(5_000_000, interval, () => random) - 5_000_000;
      t.ok(at >= 0.75 * interval && at <= 0.9 * interval, `${interval} × ${random}: ${at}`);
    }
  }
});

t.test('6.8.7 the jitter is drawn for each packet and spreads over its range', async (t) => {
  const at = (random: number) => nextTransmit(0, 100_000, () => random);
  t.equal(at(0), 75_000);
  t.ok(at(0.999) > 88_000);
  t.ok(at(0.5) > at(0.4));
});
