/**
 * The protocol of a group against a model (model.ts): random histories of starts, deaths, restarts with and without the
 * kernel's table, partitions of the exchange alone and of everything, lost and delayed messages, drains, and policies of
 * which one member has the newer, another the older version.
 *
 * `VEG_HISTORIES` and `VEG_SEED` set how many, and the first seed.
 */
import t from 'tap';
import { Model } from './model.ts';

const HISTORIES = Number(process.env.VEG_HISTORIES ?? 100);
const FIRST = Number(process.env.VEG_SEED ?? 1);
/** Events of a history; the first that fails is tried with fewer. */
const EVENTS = 120;

function failure(seed: number, events: number): string | undefined {
  const model = new Model(seed);
  try {
    model.run(events);
    return undefined;
  } catch (error) {
    return `seed ${seed}, ${events} events: ${(error as Error).message}\n${model.trace.slice(-60).join('\n')}`;
  }
}

t.test('slices, holders and replicas hold in every history, and all agree when it is over', async (t) => {
  for (let seed = FIRST; seed < FIRST + HISTORIES; seed++) {
    const found = failure(seed, EVENTS);
    if (found === undefined) continue;
    let shortest = found;
    for (let events = 1; events < EVENTS; events++) {
      const shorter = failure(seed, events);
      if (shorter === undefined) continue;
      shortest = shorter;
      break;
    }
    t.fail(shortest);
    return;
  }
  t.pass(`${HISTORIES} histories`);
});
