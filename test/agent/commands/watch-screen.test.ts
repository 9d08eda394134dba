import { EventEmitter } from 'node:events';
import t from 'tap';
import { type ScreenProcess, WatchScreen } from '../../../agent/commands/watch-screen.ts';

/** A terminal, or a pipe in its place, that remembers what was done with it. */
function terminal(isTTY: boolean) {
  const story: string[] = [];
  const stdin = Object.assign(new EventEmitter(), {
    isTTY,
    setRawMode: (raw: boolean) => void story.push(raw ? 'raw' : 'cooked'),
    setEncoding: () => stdin,
    pause: () => stdin,
  });
  const stdout = Object.assign(new EventEmitter(), {
    columns: 100,
    rows: 0,
    write: (text: string) =>
      story.push(
        text.replace(/\x1b\[\??\d*[hlJHK]/g, (all) => (all.includes('1049') ? `<${all.slice(-1)}>` : '')),
      ) > 0,
  });
  let onContinue = () => {};
  const own: ScreenProcess = {
    ...{ stdin: stdin as never, stdout: stdout as never },
    once: (_signal, run) => {
      onContinue = run;
    },
    stop: () => void story.push('stopped'),
  };
  return { own, story, stdin, stdout, continue: () => onContinue() };
}

t.test(
  'it takes the screen and the keys, draws again after a change of size, and gives both back',
  async (t) => {
    const { own, story, stdin, stdout } = terminal(true);
    const keys: string[] = [];
    const screen = new WatchScreen(true, (key) => keys.push(key), own);
    t.same(story.splice(0), ['raw', '<h>']);
    screen.draw();
    t.same(story, [], 'there is nothing to draw yet');
    screen.show(({ columns, rows, colours }) => [`${columns} ${rows} ${colours}`]);
    t.same(story.splice(0), ['100 24 true'], 'a terminal of unknown size has 24 rows');
    Object.assign(stdout, { columns: 60, rows: 30 });
    stdout.emit('resize');
    t.same(story.splice(0), ['60 30 true']);
    stdin.emit('data', 'hp');
    stdin.emit('data', '\x1b[C');
    t.same(keys, ['h', 'p'], 'an arrow key is no letter');
    t.doesNotThrow(() => stdin.emit('error', new Error('EIO')), 'the terminal has gone');
    screen.close();
    t.same(story, ['cooked', '<l>']);
    stdin.emit('data', 'q');
    t.equal(keys.length, 2);
  },
);

t.test('Ctrl-Z leaves the screen, and fg takes it again', async (t) => {
  const { own, story, continue: resume } = terminal(true);
  const screen = new WatchScreen(false, () => {}, own);
  screen.show(() => ['frame']);
  story.length = 0;
  screen.suspend();
  t.same(story.splice(0), ['cooked', '<l>', 'stopped']);
  resume();
  t.same(story, ['raw', '<h>', 'frame']);
});

t.test('what comes from a pipe is no key', async (t) => {
  const { own, story, stdin } = terminal(false);
  const keys: string[] = [];
  const screen = new WatchScreen(false, (key) => keys.push(key), own);
  stdin.emit('data', 'q');
  screen.close();
  t.same(keys, []);
  t.same(story, ['<h>', '<l>'], 'and a pipe has no mode');
});
