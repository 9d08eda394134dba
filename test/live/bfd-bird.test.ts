/** BIRD as the peer: both families, every authentication type, a key change, restarts. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { until } from '../support/netns.ts';
import { type Bird, lab, PAIRS, startBird, VegBfdd } from './bfd-lab.ts';

const UP = ['10.99.0.1 Up', 'fd99::1 Up'];
const birdUp = (bird: Bird) => until(() => bird.sessions().join() === UP.join(), { what: 'BIRD Up' });

/** Whether BIRD's sessions stay Up while so many packets go both ways. */
async function stays(bird: Bird, veg: VegBfdd, packets: number): Promise<boolean> {
  const seen = new Set<string>();
  let done = false;
  const exchange = veg.exchange(packets).finally(() => {
    done = true;
  });
  while (!done) {
    seen.add(bird.sessions().join());
    await Promise.race([exchange, sleep(50)]);
  }
  await exchange;
  return [...seen].join() === UP.join();
}

t.test('BIRD comes Up over IPv4 and IPv6, and sees a drain', async (t) => {
  const { scope, gateway, peer } = lab(t);
  const bird = await startBird(scope, peer, PAIRS);
  const veg = new VegBfdd(scope, gateway, ['--interface', 'eth0']);
  await birdUp(bird);
  await veg.up(2);
  t.ok(await stays(bird, veg, 10));
  t.equal(await veg.daemon.stop(), 0, 'SIGTERM ends it with exit code 0');
  t.strictSame(bird.sessions(), ['10.99.0.1 Down', 'fd99::1 Down']);
});

t.test('BIRD restarted: Up again without help', async (t) => {
  const { scope, gateway, peer } = lab(t);
  const first = await startBird(scope, peer, PAIRS);
  const veg = new VegBfdd(scope, gateway);
  await veg.up(2);
  await first.daemon.stop('SIGKILL');
  const second = await startBird(scope, peer, PAIRS);
  await birdUp(second);
  await veg.up(2);
});

/** BIRD sends more packets meanwhile, one each 100 ms, than a window of sequence numbers has room for: 3 × 10. */
const LONG_AWAY = 3500;
const TYPES = {
  'simple-password': 'simple',
  'keyed-md5': 'keyed md5',
  'meticulous-keyed-md5': 'meticulous keyed md5',
  'keyed-sha1': 'keyed sha1',
  'meticulous-keyed-sha1': 'meticulous keyed sha1',
};
for (const [type, words] of Object.entries(TYPES)) {
  const [multiplier, packets, away]: [string, number, number[]] = type.startsWith('meticulous')
    ? ['60', 70, [0, 0, LONG_AWAY]]
    : ['30', 40, [0, 0, 0]];
  t.test(`6.7 BIRD with ${type}: Up, also over kill -9 and restart`, async (t) => {
    const { scope, gateway, peer } = lab(t);
    const keyFile = join(scope.dir, 'key');
    writeFileSync(keyFile, 'swordfish\n', { mode: 0o600 });
    const authentication = `authentication ${words}; password "swordfish" { id 5; };`;
    const bird = await startBird(scope, peer, PAIRS, authentication);
    const flags = ['--auth-type', type, '--auth-key-id', '5', '--auth-key-file', keyFile];
    const veg = new VegBfdd(scope, gateway, [...flags, '--multiplier', multiplier]);
    await birdUp(bird);
    await veg.exchange(1);
    for (const awayMs of away) {
      t.equal(await veg.restart('SIGKILL', 2, awayMs), 2, 'both sessions go on');
      // Each restart takes the sequence number further: BIRD has to hear of it before the next.
      await veg.exchange(2);
      t.notMatch(veg.daemon.log(), 'state changed', `neither end notices ${awayMs} ms`);
    }
    // A peer that discards the packets times out, and is Up again within a millisecond.
    t.ok(await stays(bird, veg, packets), 'for longer than the Detection Time');
    t.notMatch(veg.daemon.log(), 'state changed', 'all the while');
    await veg.up(2);
  });
}

t.test('6.7 BIRD with another secret does not come Up', async (t) => {
  const { scope, gateway, peer } = lab(t);
  const keyFile = join(scope.dir, 'key');
  writeFileSync(keyFile, 'swordfish');
  const bird = await startBird(
    scope,
    peer,
    PAIRS,
    'authentication keyed sha1; password "sturgeon" { id 5; };',
  );
  const flags = ['--auth-type', 'keyed-sha1', '--auth-key-id', '5', '--auth-key-file', keyFile];
  const veg = new VegBfdd(scope, gateway, flags);
  await until(() => /"reason":"auth-digest"/.test(veg.daemon.log()), { what: 'packets are refused here' });
  t.strictSame(bird.sessions(), ['10.99.0.1 Down', 'fd99::1 Down']);
});

t.test('6.7 the secret changes, first here, then in BIRD: the sessions stay Up', async (t) => {
  const { scope, gateway, peer } = lab(t);
  const keyFile = join(scope.dir, 'key');
  writeFileSync(keyFile, 'old secret');
  const both = (first: string, second: string) =>
    `authentication meticulous keyed sha1; password "${first}" { id 5; }; password "${second}" { id 5; };`;
  const bird = await startBird(scope, peer, PAIRS, both('old secret', 'new secret'));
  const flags = ['--auth-type', 'meticulous-keyed-sha1', '--auth-key-id', '5', '--auth-key-file', keyFile];
  const veg = new VegBfdd(scope, gateway, flags);
  await birdUp(bird);
  writeFileSync(keyFile, 'new secret');
  t.ok(await stays(bird, veg, 30), 'changed here');
  await veg.up(2);
});
