import { execFileSync } from 'node:child_process';
import { appendFileSync, cpSync, mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import t from 'tap';
import { ROOT } from './netns.ts';

const INPUTS = [
  ...['LICENSE', 'package.json', 'package-lock.json', 'tsconfig.json', 'tsconfig.build.json'],
  ...['agent', 'bfd', 'images/frr', 'images/gateway', 'images/slim.sh', 'lib', 'nat', 'routing', 'shaping'],
];

t.test('an image is built anew when one of its inputs has changed, and only then', async (t) => {
  const checkout = t.testdir();
  for (const path of [...INPUTS, 'test/support/image.sh', 'docs/testing.md']) {
    mkdirSync(join(checkout, dirname(path)), { recursive: true });
    cpSync(join(ROOT, path), join(checkout, path), { recursive: true });
  }
  const inputs = (env = {}, args: string[] = []) =>
    execFileSync('sh', [join(checkout, 'test/support/image.sh'), ...args, '--inputs'], {
      encoding: 'utf8',
      env: { ...process.env, ...env },
    });
  const before = inputs();
  t.match(before, /^[0-9a-f]{64}\n$/);
  appendFileSync(join(checkout, 'docs/testing.md'), '\n');
  t.equal(inputs(), before, 'a document is no input');
  const seen = new Set([before, inputs({ DEBIAN_MIRROR: 'http://other' })]);
  for (const path of ['agent/main.ts', 'lib/exec.ts', 'images/gateway/packages', 'package-lock.json']) {
    appendFileSync(join(checkout, path), '\n');
    seen.add(inputs());
  }
  t.equal(seen.size, 6, 'each change is seen');

  const ofFrr = (suite: string) => inputs({}, ['--frr', suite]);
  const frr = ofFrr('trixie');
  t.not(ofFrr('bookworm'), frr);
  appendFileSync(join(checkout, 'agent/main.ts'), '\n');
  t.equal(ofFrr('trixie'), frr, 'of FRR’s image its own files are');
  appendFileSync(join(checkout, 'images/slim.sh'), '\n');
  t.not(ofFrr('trixie'), frr);
});
