/** What the keys of `status --watch` do. Pure. */
import type { HistoryDocument } from '../show/plots/recorder.ts';
import { type PlotView, policyLabels } from '../show/plots/terminal-plots.ts';

/** The view after a key, or what else it asks for; undefined: it has no meaning. */
export function pressed(
  key: string,
  view: PlotView,
  history: HistoryDocument | undefined,
): PlotView | 'quit' | 'suspend' | undefined {
  switch (key) {
    case '5':
    case 'm':
      return { ...view, range: '5m' };
    case 'h':
      return { ...view, range: '1h' };
    case 'd':
      return { ...view, range: '1d' };
    case 'p': {
      const labels = [undefined, ...(history === undefined ? [] : policyLabels(history))];
      return { ...view, policy: labels[labels.indexOf(view.policy) + 1] };
    }
    case '\t':
      return { ...view, alone: !view.alone };
    case 'q':
    case '\x03':
      return 'quit';
    case '\x1a':
      return 'suspend';
    default:
      return undefined;
  }
}
