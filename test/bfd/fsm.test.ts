/** Every cell of the state table. */
import t from 'tap';
import { type FsmEvent, receivedEvent, transition } from '../../bfd/fsm.ts';
import type { SessionStateName } from '../../bfd/intent.ts';

const STATES: SessionStateName[] = ['AdminDown', 'Down', 'Init', 'Up'];

/** Next state and diagnostic from AdminDown, Down, Init, Up; `-` for none. */
const TABLE: Record<FsmEvent, string> = {
  'received AdminDown': '-           | -           | Down 3      | Down 3',
  'received Down': '-                | Init 0      | -           | Down 3',
  'received Init': '-                | Up 0        | Up 0        | -',
  'received Up': '-                  | -           | Up 0        | -',
  timeout: '-                        | -           | Down 1      | Down 1',
  disable: '-                        | AdminDown 7 | AdminDown 7 | AdminDown 7',
  'force down': 'Down 5              | -           | Down 5      | Down 5',
  enable: 'Down 0                    | -           | -           | -',
};

for (const [event, row] of Object.entries(TABLE) as [FsmEvent, string][]) {
  row.split('|').forEach((cell, i) => {
    const state = STATES[i]!;
    t.test(`6.2 ${state}: ${event} → ${cell.trim()}`, async (t) => {
      const next = transition(state, event);
      t.equal(next === undefined ? '-' : `${next.state} ${next.diagnostic}`, cell.trim());
    });
  });
}

t.test('a received state is the event of its name', async (t) => {
  for (const state of STATES) t.equal(receivedEvent(state), `received ${state}`);
});
