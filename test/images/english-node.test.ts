import { execFileSync } from 'node:child_process';
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { removeForeign } from '../../images/gateway/english-node.ts';
import { NODE } from '../support/netns.ts';

/** What the programs of the image use of ICU, and what they do not. */
const ASK = `
const date = new Date(0);
console.log(JSON.stringify({
  english: date.toLocaleString('en-US', { timeZone: 'Europe/Berlin', timeZoneName: 'long' }),
  german: (1234.5).toLocaleString('de'),
  locales: Intl.DateTimeFormat.supportedLocalesOf(['de', 'en']),
  graphemes: [...new Intl.Segmenter(undefined, { granularity: 'grapheme' }).segment('👩‍👩‍👧é')].length,
  host: new URL('http://münchen.example').host,
  normal: 'é'.normalize('NFD').length,
  script: /\\p{Script=Greek}/u.test('α'),
  utf16: new TextDecoder('utf-16le').decode(Buffer.from('ab', 'utf16le')),
}));`;

t.test('Node without other languages has English, graphemes, normal forms and host names', (t) => {
  const program = readFileSync(NODE);
  t.ok(removeForeign(program) > 20 << 20, 'octets that compress to nothing');
  const file = join(t.testdir(), 'node');
  writeFileSync(file, program);
  chmodSync(file, 0o755);
  const env = { PATH: process.env.PATH, LANG: 'de_DE.UTF-8' };
  t.same(JSON.parse(execFileSync(file, ['-e', ASK], { encoding: 'utf8', env })), {
    english: '1/1/1970, 1:00:00 AM Central European Standard Time',
    german: '1,234.5',
    locales: ['en'],
    graphemes: 2,
    host: 'xn--mnchen-3ya.example',
    normal: 2,
    script: true,
    utf16: 'ab',
  });
  t.end();
});

t.test('a program without ICU data, or whose data was cut before, is refused', (t) => {
  t.throws(() => removeForeign(Buffer.from('no data')), /no ICU data/);
  const program = readFileSync(NODE);
  removeForeign(program);
  t.throws(() => removeForeign(program), /not laid out as expected/);
  t.end();
});
