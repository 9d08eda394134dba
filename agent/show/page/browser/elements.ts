/** The elements that every section of the page uses. Text goes in as text, never as markup. Pure. */
import { type ComponentChildren, h, type JSX } from 'preact';
import { dayAndTime, type State } from '../../overview.ts';

export const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

/** A state by shape and word, not by colour alone (style.css). */
export const badge = ({ severity, text }: State): JSX.Element =>
  h('span', { class: `badge ${severity}` }, text);

export const faint = (...children: ComponentChildren[]): JSX.Element =>
  h('span', { class: 'faint' }, children);

/** A time, with the whole of it in its title. `now`: the agent's clock; both Unix milliseconds. */
export function time(at: number, now: number): JSX.Element {
  const iso = new Date(at).toISOString();
  return h('time', { dateTime: iso, title: iso }, dayAndTime(at, now));
}

export interface Cell {
  /** The class of the cell (style.css). */
  class?: string;
  content: ComponentChildren;
}

export interface TableColumn {
  title: string;
  /** Numbers are aligned to the right. */
  number?: true;
}

/**
 * A table. Where it is too wide each cell shows its column's title (`stack`, style.css); the roles keep it a table for
 * screen readers then.
 */
export function table(
  id: string,
  label: string,
  columns: readonly TableColumn[],
  rows: readonly (readonly Cell[])[],
  kind: 'stack' | 'narrow' = 'stack',
): JSX.Element {
  const className = (index: number, more = ''): string =>
    [columns[index]!.number ? 'number' : '', more].filter(Boolean).join(' ');
  return h(
    'table',
    { role: 'table', 'aria-label': label, class: kind },
    h(
      'thead',
      { role: 'rowgroup' },
      h(
        'tr',
        { role: 'row' },
        columns.map(({ title }, i) =>
          h('th', { scope: 'col', role: 'columnheader', class: className(i) }, title),
        ),
      ),
    ),
    h(
      'tbody',
      { role: 'rowgroup', id },
      rows.map((row) =>
        h(
          'tr',
          { role: 'row' },
          row.map((cell, i) =>
            h(
              'td',
              { role: 'cell', 'data-label': columns[i]!.title, class: className(i, cell.class) },
              cell.content,
            ),
          ),
        ),
      ),
    ),
  );
}

/** A choice with its label before it. */
export function choice<T extends string>(
  label: string,
  id: string,
  options: Readonly<Record<T, string>>,
  chosen: T,
  choose: (value: T) => void,
): JSX.Element {
  return h(
    'label',
    {},
    `${label} `,
    h(
      'select',
      {
        id,
        autoComplete: 'off',
        value: chosen,
        onChange: (event: { currentTarget: { value: string } }) => choose(event.currentTarget.value as T),
      },
      (Object.entries(options) as [T, string][]).map(([value, text]) =>
        h('option', { value, selected: value === chosen }, text),
      ),
    ),
  );
}

/** A section under its heading. */
export const section = (
  id: string,
  title: string,
  besides: ComponentChildren,
  ...content: ComponentChildren[]
): JSX.Element =>
  h(
    'section',
    { id, 'aria-labelledby': `${id}-title` },
    h('div', { class: 'head' }, h('h2', { id: `${id}-title` }, title), besides),
    content,
  );

/** A badge that starts with a capital letter. */
export const capitalBadge = ({ severity, text }: State): JSX.Element =>
  badge({ severity, text: capital(text) });
