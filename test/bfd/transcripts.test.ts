/** Every conversation of test/bfd/transcripts/, word for word. The format is described in its README.md. */
import { readdirSync, readFileSync } from 'node:fs';
import t from 'tap';
import { parseTranscript, runTranscript } from './transcript.ts';

const DIRECTORY = new URL('transcripts/', import.meta.url);
const names = readdirSync(DIRECTORY).filter((name) => name.endsWith('.txt'));

t.ok(names.length >= 12, 'transcripts are found');
for (const name of names) {
  t.test(name, async (t) => {
    const transcript = parseTranscript(readFileSync(new URL(name, DIRECTORY), 'utf8'));
    t.strictSame(runTranscript(transcript), transcript.expected);
    t.ok(transcript.expected.length > 0, 'something is expected');
  });
}

t.test('a transcript that cannot be read is an error, not an empty conversation', async (t) => {
  const bad = (text: string) => () => runTranscript(parseTranscript(text));
  t.throws(bad('then < Down'), /begins with a time/);
  t.throws(bad('0 < Dwon'), /not a state/);
  t.throws(bad('0 < Down speed=9'), /unknown field/);
  t.throws(bad('0 sing'), /unknown event/);
  t.throws(bad('config colour=red'), /unknown parameter/);
  t.throws(bad('config keys=rot13:1:x'), /not an authentication type/);
  t.throws(bad('10 end\n5 end'), /times go forward/);
});

t.test('a line that is missing, wrong or one too many fails', async (t) => {
  const right = parseTranscript('config role=active\n0 release\n800 end');
  const lines = runTranscript(right);
  t.ok(lines.length > 0);
  t.notSame(lines, right.expected, 'a packet that is not expected');
  t.notSame(runTranscript(right), lines.slice(1), 'one that is missing');
});
