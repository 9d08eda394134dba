// `bfdd-control load`: whatever the name of a file leads to, it takes little time and memory.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Answer } from '../../bfd/bfdd-control.ts';
import { createScripts } from '../../bfd/script.ts';

/** A reader of scripts whose engine knows `say WORD…`. */
function scripts(t: Test) {
  const heard: string[] = [];
  const run = createScripts((words) => {
    heard.push(words.join(' '));
    const [command, ...rest] = words;
    return {
      ok: command === 'say',
      text: command === 'say' ? rest.join(' ') : `Unknown command <${command}>`,
    };
  });
  // The path of a socket has little room.
  const dir = mkdtempSync(join(tmpdir(), 'veg-script-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const load = (name: string): Promise<Answer> => run(['load', join(dir, name)]);
  const write = (name: string, text: string) => writeFileSync(join(dir, name), text);
  return { run, load, write, dir, heard };
}

t.test('the commands of a file are carried out line by line, and a single one as it is', async (t) => {
  const { run, load, write, heard } = scripts(t);
  write('commands', '# comment\nsay one\n\n  set nothing # no such command\r\nsay two');
  t.strictSame(await load('commands'), { ok: false, text: 'one\nUnknown command <set>\ntwo' });
  t.strictSame(heard, ['say one', 'set nothing', 'say two']);
  t.strictSame(await run(['say', 'three']), { ok: true, text: 'three' });
  write('good', 'say one');
  t.strictSame(await load('good'), { ok: true, text: 'one' });
  t.strictSame(
    await run(['load']),
    { ok: false, text: 'Unknown command <load>' },
    'the engine tells what is missing',
  );
});

t.test('what is no regular file, or too large, is refused and not waited for', async (t) => {
  const { run, load, write, dir, heard } = scripts(t);
  execFileSync('mkfifo', [join(dir, 'fifo')]);
  symlinkSync('fifo', join(dir, 'link'));
  const server = createServer().listen(join(dir, 'socket'));
  await new Promise((resolve) => server.once('listening', resolve));
  t.teardown(() => server.close());
  write('large', 'x'.repeat(70_000));
  for (const [name, reason] of [
    ['fifo', /it is a FIFO, not a regular file/],
    ['link', /it is a FIFO, not a regular file/],
    ['socket', /it is a socket, not a regular file/],
    ['.', /it is a directory, not a regular file/],
    ['large', /it is larger than 65536 octets/],
    ['nothing', /ENOENT/],
  ] as const) {
    t.match(await load(name), { ok: false, text: reason }, name);
  }
  t.match(await run(['load', '/dev/zero']), { ok: false, text: /it is a device, not a regular file/ });
  t.strictSame(heard, []);
});

t.test('files that load themselves or each other come to an end soon', async (t) => {
  const { load, write, dir, heard } = scripts(t);
  const self = (name: string, to: string, times: number) =>
    write(name, `say here\n${`load ${join(dir, to)}\n`.repeat(times)}`);
  self('once', 'once', 1);
  t.match(await load('once'), { ok: false, text: /^here\nhere\nhere\nFailed to load .*too many files/ });
  self('a', 'b', 1);
  self('b', 'a', 1);
  t.match(await load('a'), { ok: false, text: /too many files load each other/ });
  heard.length = 0;
  self('wide', 'wide', 500);
  t.match(await load('wide'), { ok: false, text: /too many files load each other/ });
  t.ok(heard.length <= 16, `${heard.length} commands`);
  for (let i = 0; i < 20; i++) self(`chain-${i}`, `chain-${i + 1}`, 1);
  t.match(await load('chain-0'), { ok: false, text: /too many files load each other/ });
});

t.test('commands and what they answer are bounded', async (t) => {
  const { load, write, heard } = scripts(t);
  write('many', 'say x\n'.repeat(5000));
  t.match(await load('many'), { ok: false, text: /more than 1000 commands; the rest is left out$/ });
  t.equal(heard.length, 1000);
  write('long', `${`say ${'x'.repeat(60)}`.padEnd(64, 'x')}\n`.repeat(900));
  t.equal((await load('long')).ok, true);
  write('wordy', `say ${'x'.repeat(60_000)}\n`);
  const answers = Array.from({ length: 5 }, () => load('wordy'));
  const results = await Promise.all(answers);
  t.ok(
    results.some(({ text }) => /another file is being read/.test(text)),
    'one file is read at a time',
  );
});
