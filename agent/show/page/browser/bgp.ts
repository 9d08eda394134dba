/** What is announced by BGP, and the sessions with routers as far as FRR reports them. Pure. */
import { h, type JSX } from 'preact';
import type { BgpOverview } from '../../overview.ts';
import { badge, section, table } from './elements.ts';

const PREFIXES = [{ title: 'State' }, { title: 'Prefix' }, { title: 'Announced as' }];
const SESSIONS = [{ title: 'State' }, { title: 'Router' }, { title: 'For' }, { title: 'Sent' }];

/** The section; undefined without BGP. */
export function announcements(shown: BgpOverview | undefined): JSX.Element | undefined {
  if (shown === undefined) return undefined;
  const { prefixes, sessions } = shown;
  return section(
    'bgp',
    'BGP',
    undefined,
    h(
      'div',
      { class: 'card' },
      sessions === undefined
        ? h('p', {}, 'FRR does not answer: its sessions are not known here.')
        : table(
            'bgp-sessions',
            'BGP sessions',
            SESSIONS,
            sessions.map(({ state, router, age, sent }) => [
              { class: 'fit', content: badge(state) },
              { class: 'address', content: router },
              { class: 'fit', content: age },
              { content: sent },
            ]),
          ),
    ),
    h(
      'div',
      { class: 'card' },
      table(
        'bgp-prefixes',
        'Announced prefixes',
        PREFIXES,
        prefixes.map(({ state, prefix, reasons }) => [
          { class: 'fit', content: badge(state) },
          { class: 'address', content: prefix },
          { content: reasons },
        ]),
      ),
    ),
  );
}
