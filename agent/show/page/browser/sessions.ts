/** The BFD sessions: their state, a strip of the states that they were in, and the newest changes. Pure. */
import { h, type JSX } from 'preact';
import { duration } from '../../../../lib/units.ts';
import { NONE, type Overview, type SessionRow, type Severity, sessionState } from '../../overview.ts';
import type { StatusDocument } from '../../status.ts';
import { badge, faint, section, table, time } from './elements.ts';
import type { PageState } from './state.ts';
import { position, timeline } from './timeline.ts';

/** State changes in the list, and states in the words of a strip. */
const SHOWN_CHANGES = 12;
const SHOWN_STATES = 8;

const WIDTH = 1000;
const HEIGHT = 16;
/** The narrowest bar, so that a short Down is seen. */
const NARROWEST = 4;
/** The height of a bar by the severity of its state: Up is full, Init half, Down and AdminDown low. */
const BAR_HEIGHT: Record<Severity, number> = { good: HEIGHT, warn: 10, bad: 5, idle: 5 };

/** The spans of one state that end after `from`, the oldest first. */
function spans(history: SessionRow['history'], from: number, now: number) {
  return history
    .map((change, i) => ({ state: change.to, start: change.at, end: history[i + 1]?.at ?? now }))
    .filter(({ end }) => end >= from);
}

/** The states of a session over the chosen time. */
export function strip({ history, remote }: SessionRow, seconds: number, now: number): JSX.Element {
  const axis = timeline(seconds, now, WIDTH);
  const parts = spans(history, axis.from, now);
  const words = parts.map(
    ({ state, start, end }) => `${state} ${duration((end - Math.max(start, axis.from)) / 1000)}`,
  );
  // What is not Up is drawn last, above its neighbours that are wider than their time.
  const ordered = parts.toSorted((a, b) => Number(b.state === 'Up') - Number(a.state === 'Up'));
  return h(
    'svg',
    {
      class: 'strip',
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: 'none',
      role: 'img',
      'aria-label': `${remote}: ${words.slice(-SHOWN_STATES).join(', then ')}`,
    },
    ordered.map(({ state, start, end }) => {
      const width = Math.max(NARROWEST, position(axis, end) - position(axis, start));
      const place = {
        x: Math.min(position(axis, start), WIDTH - width).toFixed(1),
        width: width.toFixed(1),
      };
      const { severity } = sessionState(state);
      const height = BAR_HEIGHT[severity];
      return [
        state === 'Up' ? undefined : h('rect', { ...place, class: 'gap', y: 0, height: HEIGHT }),
        h('rect', { ...place, class: severity, y: HEIGHT - height, height }),
      ];
    }),
  );
}

const COLUMNS = [
  { title: 'State' },
  { title: 'Peer' },
  { title: 'Packets every' },
  { title: 'Timeline, now at the right' },
];

const sessionCells = (session: SessionRow, { span, now }: PageState) => [
  { class: 'fit', content: [badge(session.state), faint(` ${session.age}`)] },
  { class: 'address', content: [session.remote, faint(` from ${session.local}`)] },
  {
    class: 'timers',
    content:
      session.timers === undefined
        ? NONE
        : `${session.timers.transmit} ms, detected in ${session.timers.detection} ms`,
  },
  { class: 'wide', content: strip(session, Number(span), now) },
];

const changeItem = ({ at, remote, from, to, diagnostic }: Overview['bfd']['changes'][number], now: number) =>
  h(
    'li',
    {},
    time(at, now),
    h('span', { class: 'address' }, remote),
    h('span', {}, `${from} `, badge(to)),
    faint(diagnostic),
  );

export function sessions(
  { bfd: { enabled } }: StatusDocument,
  { bfd }: Overview,
  state: PageState,
): JSX.Element {
  const content =
    bfd.total === 0
      ? h(
          'p',
          { id: 'no-bfd', class: 'card plain' },
          enabled ? 'No session yet.' : 'The policy does not use BFD.',
        )
      : h(
          'div',
          { id: 'bfd', class: 'card' },
          table(
            'sessions',
            'BFD sessions',
            COLUMNS,
            bfd.sessions.map((session) => sessionCells(session, state)),
          ),
          h(
            'ol',
            { id: 'changes', 'aria-label': 'State changes, the newest first' },
            bfd.changes.slice(0, SHOWN_CHANGES).map((change) => changeItem(change, state.now)),
          ),
        );
  return section('bfd-part', 'BFD sessions', undefined, content);
}
