/** The head of the page: name and state, why it is not ready, a tile for each part, notes. Pure. */
import { h, type JSX } from 'preact';
import type { Explained } from '../../help.ts';
import { type Overview, type State, timeOfDay } from '../../overview.ts';
import { badge, capitalBadge } from './elements.ts';
import type { PageState } from './state.ts';

/** Whether the agent answers: its clock, or since when it does not. */
function connection({ lost, now }: PageState): JSX.Element | string {
  if (lost === undefined) return `${timeOfDay(now)} UTC`;
  const since = lost.since === undefined ? '' : ` since ${timeOfDay(lost.since)} UTC`;
  return badge({ severity: 'bad', text: `No answer${since}` });
}

export const header = (state: PageState, shown: Overview | undefined): JSX.Element =>
  h(
    'header',
    {},
    h(
      'div',
      {},
      h(
        'div',
        { class: 'title' },
        h('h1', { id: 'name' }, shown?.name ?? 'veg-agent'),
        h('span', { id: 'state', role: 'status' }, shown && capitalBadge(shown.state)),
      ),
      h('p', { id: 'about' }, shown?.about.join(' · ') ?? '\u{a0}'),
    ),
    h('p', { id: 'live' }, state.status || state.lost ? connection(state) : 'Loading'),
  );

const tile = (title: string, state: State, details: readonly string[]): JSX.Element =>
  h(
    'li',
    {},
    h('h2', {}, title),
    capitalBadge(state),
    details.filter(Boolean).map((text) => h('p', {}, text)),
  );

/** Texts with the paragraph that explains each, as text to copy; of several with the same one the first has it. */
const explainedItems = (texts: readonly Explained[]): JSX.Element[] =>
  texts.map(({ text, document }, i) =>
    h(
      'li',
      {},
      text,
      document === texts[i - 1]?.document ? undefined : [' ', h('code', { class: 'document' }, document)],
    ),
  );

export const reasons = ({ reasons }: Overview): JSX.Element =>
  h(
    'div',
    { id: 'why', role: 'status', hidden: reasons.length === 0 },
    h('ul', { id: 'reasons', 'aria-label': 'Why it is not ready' }, explainedItems(reasons)),
  );

export const tiles = ({ policy, kernel, uplink, bfd, conntrack }: Overview): JSX.Element =>
  h(
    'ul',
    { id: 'tiles', 'aria-label': 'Health' },
    tile('Policy', policy.state, [policy.generation, policy.changed]),
    tile('Kernel', kernel.state, [
      ...kernel.families,
      kernel.reconcile === undefined ? 'not reconciled yet' : `checked ${kernel.reconcile.when}`,
      kernel.drift,
    ]),
    tile(
      'Uplink',
      uplink.state,
      uplink.families.map(({ text, gateway }) => `${text}, ${gateway}`),
    ),
    tile('BFD', bfd.state, [`of ${bfd.total} session${bfd.total === 1 ? '' : 's'}`]),
    tile('Connections', conntrack.state, [conntrack.use]),
  );

export const notes = ({ notes }: Overview): JSX.Element =>
  h('ul', { id: 'notes', hidden: notes.length === 0, 'aria-label': 'Notes' }, explainedItems(notes));
