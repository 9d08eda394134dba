/** BIRD as the peer: both families, every authentication type, a key change, restarts. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { until } from '../support/netns.ts';
import { type Bird, lab, PAIRS, startBird, VegBfdd } from './bfd-lab.ts';

const UP = ['10.99.0.1 Up', 'fd99::1 Up'];
const birdUp = (bird: Bird) =>
  until(() => bird.sessions().join() === UP.join(), { what: 'BIRD Up', timeoutMs: 15_000 });

/** Whether BIRD's sessions stay Up for a while. */
async function stays(bird: Bird, milliseconds: number): Promise<boolean> {
  const end = performance.now() + milliseconds;
  while (performance.now() < end) {
    if (bird.sessions().join() !== UP.join()) return false;
    await sleep(50);
  }
  return true;
}

t.test('BIRD comes Up over IPv4 and IPv6, and is told of a drain', async (t) => {
  const { scope, gateway, peer } = lab(t);
  const bird = await startBird(scope, peer, PAIRS);
  const veg = new VegBfdd(scope, gateway, ['--interface', 'eth0']);
  await birdUp(bird);
  await veg.up(2);
  t.ok(await stays(bird, 1000));
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

const TYPES = {
  'simple-password': 'simple',
  'keyed-md5': 'keyed md5',
  'meticulous-keyed-md5': 'meticulous keyed md5',
  'keyed-sha1': 'keyed sha1',
  'meticulous-keyed-sha1': 'meticulous keyed sha1',
};
for (const [type, words] of Object.entries(TYPES)) {
  t.test(`6.7 BIRD with ${type}: Up, also over kill -9 and restart`, async (t) => {
    const { scope, gateway, peer } = lab(t);
    const keyFile = join(scope.dir, 'key');
    writeFileSync(keyFile, 'swordfish\n', { mode: 0o600 });
    const authentication = `authentication ${words}; password "swordfish" { id 5; };`;
    const bird = await startBird(scope, peer, PAIRS, authentication);
    const flags = ['--auth-type', type, '--auth-key-id', '5', '--auth-key-file', keyFile];
    const veg = new VegBfdd(scope, gateway, flags);
    await birdUp(bird);
    await sleep(100);
    let inside = 0;
    for (let i = 0; inside < 3 && i < 20; i++) {
      const away = await veg.restart('SIGKILL', 2);
      if (away > 450) {
        await birdUp(bird);
        await sleep(200);
        continue;
      }
      inside++;
      t.ok(await stays(bird, 1000), `away for ${away} ms`);
    }
    t.equal(inside, 3);
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
  await sleep(4000);
  t.strictSame(bird.sessions(), ['10.99.0.1 Down', 'fd99::1 Down']);
  t.match(veg.daemon.log(), /"reason":"auth-digest"/);
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
  t.ok(await stays(bird, 3000), 'changed here');
  await veg.up(2);
});
