/** The newest translations, or those that a search has found. Pure. */
import { h, type JSX } from 'preact';
import { coverageText } from '../../../flows/log-coverage.ts';
import type { TranslationsDocument } from '../../../flows/translations-query.ts';
import { plural, policyLabel, type TranslationRow, translationRow } from '../../overview.ts';
import { capital, section, table, time } from './elements.ts';
import { type Actions, asksForNewest, type PageState, type SearchFields } from './state.ts';

const COLUMNS = [
  { title: 'Began' },
  { title: 'Lasted' },
  { title: 'Protocol' },
  { title: 'From' },
  { title: 'Seen as' },
  { title: 'To' },
  { title: 'Policy' },
  { title: 'Sent', number: true },
  { title: 'Received', number: true },
] as const;

const cells = (row: TranslationRow, now: number) => [
  { class: 'fit', content: time(row.began, now) },
  { class: 'fit', content: row.lasted },
  { class: 'fit', content: row.protocol },
  { class: 'address', content: row.from },
  { class: 'address', content: row.seen },
  { class: 'address', content: row.to },
  { class: 'policy', content: row.policy },
  { content: row.sent },
  { content: row.received },
];

/** What a search has found, in words. */
export function summary(document: TranslationsDocument, newest: boolean): string {
  const { translations, more, gaps, log, computed = [], members = [] } = document;
  const count = plural(translations.length, 'translation');
  const head = newest
    ? `The newest ${count}.`
    : `${count} found${more ? ', the newest; there are more' : ''}.`;
  const owners = computed.map(({ policy, sourceIP, externalIP, ports, since, until }) => {
    const span = `since ${since}${until === undefined ? '' : ` until ${until}`}`;
    return `By its port block: ${externalIP} ports ${ports.start}-${ports.end} belong to ${sourceIP} (${policyLabel(policy)}), ${span}.`;
  });
  const nothing = translations.length === 0 && computed.length === 0;
  const coverage = nothing ? [`${capital(coverageText(log))}.`] : [];
  const missing = gaps.map(({ from, to }) => `Between ${from} and ${to} some may be missing.`);
  const unheard = members.flatMap(({ member, answered, reason }) =>
    answered ? [] : [`The flows of ${member} are missing: ${reason}.`],
  );
  return [head, ...coverage, ...owners, ...missing, ...unheard].join(' ');
}

const field = (label: string, id: keyof SearchFields, placeholder: string): JSX.Element =>
  h(
    'label',
    {},
    label,
    h('input', { type: 'text', id, name: id, placeholder, spellcheck: false, autoCapitalize: 'off' }),
  );

/** The fields keep what is typed: only the browser changes them. */
const form = ({ search, showNewest }: Actions): JSX.Element =>
  h(
    'form',
    {
      id: 'search',
      role: 'search',
      autoComplete: 'off',
      onSubmit(event: SubmitEvent) {
        event.preventDefault();
        const values = new FormData(event.currentTarget as HTMLFormElement);
        const text = (name: keyof SearchFields) => String(values.get(name) ?? '');
        search({ external: text('external'), internal: text('internal'), at: text('at') });
      },
      onReset: showNewest,
    },
    field('Seen outside as', 'external', 'IP or IP:port'),
    field('Address inside', 'internal', 'IP'),
    h('label', {}, 'At (UTC)', h('input', { type: 'datetime-local', id: 'at', name: 'at', step: 1 })),
    h('button', { type: 'submit' }, 'Search'),
    h('button', { type: 'reset' }, 'Newest'),
  );

export function translations(state: PageState, actions: Actions): JSX.Element {
  const { translations: document, searchError, question, now } = state;
  const found = document === undefined ? '' : summary(document, asksForNewest(question));
  const rows = searchError === undefined ? (document?.translations ?? []) : [];
  return section(
    'translation-part',
    'Translations',
    undefined,
    form(actions),
    h('p', { id: 'found', role: 'status' }, searchError ?? found),
    h(
      'div',
      { class: 'card' },
      table(
        'flows',
        'Translations',
        COLUMNS,
        rows.map((flow) => cells(translationRow(flow), now)),
      ),
    ),
  );
}
