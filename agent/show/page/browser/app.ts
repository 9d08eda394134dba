/** The page as a whole. Pure. */
import { Fragment, h, type JSX } from 'preact';
import { type Overview, overview } from '../../overview.ts';
import { announcements } from './bgp.ts';
import { capital } from './elements.ts';
import { groups } from './groups.ts';
import { header, notes, reasons, tiles } from './health.ts';
import { plots } from './plots.ts';
import { sessions } from './sessions.ts';
import type { Actions, PageState } from './state.ts';
import { policies, sources } from './traffic.ts';
import { translations } from './translations.ts';

/** The title of the browser's tab. */
export const titleOf = ({ name, state }: Overview): string =>
  `${state.severity === 'good' ? '' : '⚠ '}${name} · ${capital(state.text)}`;

export function app({ state, actions }: { state: PageState; actions: Actions }): JSX.Element {
  const { status, sources: document } = state;
  if (status === undefined) return h(Fragment, {}, header(state, undefined));
  const shown = overview(status, state.now);
  return h(
    Fragment,
    {},
    header(state, shown),
    h(
      'main',
      {},
      reasons(shown),
      tiles(shown),
      notes(shown),
      groups(shown.group),
      announcements(shown.bgp),
      plots(state, actions),
      sessions(status, shown, state),
      policies(shown.policies, status.snat !== null),
      status.translationLog && document !== undefined ? sources(document, state, actions) : undefined,
      status.translationLog ? translations(state, actions) : undefined,
    ),
  );
}
