import t from 'tap';
import { conntrackHealth } from '../../../agent/uplink/conntrack-health.ts';

t.test('the conntrack table: warned of early, and full only while new connections fail', async (t) => {
  /** Looks at a table of 1000, each a second after the one before: entries, drops, evictions. */
  const levels = (...looks: [entries: number, refused: number, evicted: number][]): string[] => {
    let health: ReturnType<typeof conntrackHealth> | undefined;
    return looks.map(([entries, refused, evicted]) => {
      health = conntrackHealth(health, { entries, limit: 1000, pressure: { refused, evicted } });
      return health.level;
    });
  };
  t.same(
    levels([799, 0, 0], [800, 0, 0], [1000, 0, 0]),
    ['normal', 'warn', 'warn'],
    'a full table is no failure',
  );
  t.same(levels([1000, 5, 0], [1000, 5, 0]), ['warn', 'warn'], 'nor is what was dropped long ago');
  t.same(
    levels([1000, 0, 0], [1000, 0, 5000], [1000, 50, 9000]),
    ['warn', 'warn', 'warn'],
    'the kernel makes room for nearly all: unanswered flows have to go',
  );
  t.same(levels([1000, 0, 0], [1000, 1, 0]), ['warn', 'full'], 'what begins is dropped');
  t.same(levels([1000, 0, 0], [1000, 500, 4000]), ['warn', 'full'], 'or more than a tenth of it');
  t.same(levels([1000, 0, 0], [960, 9, 0]), ['warn', 'warn'], 'not for want of room');
  t.same(
    levels([1000, 0, 0], [1000, 1, 0], [1000, 1, 0], [900, 1, 0], [899, 1, 0], [960, 1, 0]),
    ['warn', 'full', 'full', 'full', 'warn', 'warn'],
    'nothing begins any more: it stays until there is room',
  );
  t.same(levels([1000, 0, 0], [1000, 1, 0], [1000, 1, 99]), ['warn', 'full', 'warn'], 'or room is made');
  t.same(levels([1000, 9, 9], [1000, 0, 0]), ['warn', 'warn'], 'counters that begin anew');
  t.same(
    levels([1000, 2 ** 32 - 5, 0], [1000, 2 ** 32 - 1, 0], [1000, 3, 2]),
    ['warn', 'full', 'full'],
    'a counter of 32 bits that goes past its end',
  );
});

t.test('where the kernel does not tell what it drops, the share of the table stands for it', async (t) => {
  const at = (entries: number, before?: ReturnType<typeof conntrackHealth>) =>
    conntrackHealth(before, { entries, limit: 1000, pressure: undefined });
  t.match(at(799), { level: 'normal', percent: 79 });
  t.match(at(969), { level: 'warn' });
  const full = at(970);
  t.match(full, { level: 'full', percent: 97 });
  t.match(at(900, full), { level: 'full' });
  t.match(at(899, full), { level: 'warn' });
  const none = { entries: 5, limit: 0, pressure: undefined };
  t.match(conntrackHealth(undefined, none), { level: 'normal' }, 'no limit');
});
