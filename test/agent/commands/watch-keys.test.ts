import t from 'tap';
import { pressed } from '../../../agent/commands/watch-keys.ts';
import { FIRST_VIEW } from '../../../agent/show/terminal.ts';
import { historyDocument } from '../show/plots/history-document.ts';

const history = historyDocument(0);

t.test('keys choose the range, and the plots alone', async (t) => {
  t.match(pressed('h', FIRST_VIEW, history), { range: '1h', alone: false });
  t.match(pressed('d', FIRST_VIEW, history), { range: '1d' });
  t.match(pressed('5', { ...FIRST_VIEW, range: '1d' }, history), { range: '5m' });
  t.match(pressed('\t', FIRST_VIEW, history), { alone: true });
  t.match(pressed('\t', { ...FIRST_VIEW, alone: true }, history), { alone: false });
});

t.test('p goes through the policies and back to all', async (t) => {
  let view = FIRST_VIEW;
  const seen = Array.from({ length: 5 }, () => {
    view = pressed('p', view, history) as typeof view;
    return view.policy;
  });
  t.same(seen, ['web', 'batch', 'others', undefined, 'web']);
  t.match(pressed('p', { ...FIRST_VIEW, policy: 'gone' }, history), { policy: undefined });
  t.match(pressed('p', FIRST_VIEW, undefined), { policy: undefined }, 'without plots');
});

t.test('q and Ctrl-C end it, Ctrl-Z suspends it, other keys do nothing', async (t) => {
  t.equal(pressed('q', FIRST_VIEW, history), 'quit');
  t.equal(pressed('\x03', FIRST_VIEW, history), 'quit');
  t.equal(pressed('\x1a', FIRST_VIEW, history), 'suspend');
  t.equal(pressed('x', FIRST_VIEW, history), undefined);
});
