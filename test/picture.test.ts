/** docs/images/architecture.svg shows the sources as they are. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { draw, PICTURE } from './support/picture.ts';

t.test('the picture of the folders is drawn from the present imports', async (t) => {
  t.equal(readFileSync(PICTURE, 'utf8'), await draw(), 'if not: node test/support/picture.ts');
});
