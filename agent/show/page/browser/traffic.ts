/** What each policy carries, and the sources with most traffic. Pure. */
import { h, type JSX } from 'preact';
import type { SourcesDocument } from '../../../flows/translations.ts';
import { NOT_COUNTED, type PolicyRow, plural, sourceRows } from '../../overview.ts';
import { choice, faint, section, table } from './elements.ts';
import type { Actions, PageState } from './state.ts';

const SHOWN_SOURCES = 10;

const POLICY_COLUMNS = [
  { title: 'Policy' },
  { title: 'New/s', number: true },
  { title: 'Packets/s out', number: true },
  { title: 'Packets/s in', number: true },
  { title: 'Bytes/s out', number: true },
  { title: 'Bytes/s in', number: true },
  { title: 'Open', number: true },
  { title: 'Connections', number: true },
  { title: 'Sent', number: true },
  { title: 'Received', number: true },
] as const;

const policyCells = (row: PolicyRow) => [
  {
    class: 'who',
    content: [
      h('strong', {}, row.policy),
      faint(` ${row.treatment}`),
      h('small', { class: 'address' }, row.sources),
    ],
  },
  ...[row.newRate, row.packetsOutRate, row.packetsInRate, row.bytesOutRate, row.bytesInRate].map(
    (content) => ({ content }),
  ),
  ...[row.open, row.connections, row.sent, row.received].map((content) => ({ content })),
];

export const policies = (rows: readonly PolicyRow[], counted: boolean): JSX.Element =>
  section(
    'policies-part',
    'Policies',
    h('p', { id: 'no-log', class: 'tail', hidden: counted }, NOT_COUNTED),
    h('div', { class: 'card' }, table('policies', 'Policies', POLICY_COLUMNS, rows.map(policyCells))),
  );

const SOURCE_COLUMNS = [
  { title: 'Source' },
  { title: 'Open', number: true },
  { title: 'Sent', number: true },
  { title: 'Received', number: true },
] as const;

const ORDERS = { bytes: 'bytes', connections: 'number' } as const;

export const sources = (
  document: SourcesDocument,
  { order }: PageState,
  { chooseOrder }: Actions,
): JSX.Element =>
  section(
    'source-part',
    'Top sources',
    [
      h(
        'span',
        { id: 'source-count', class: 'faint' },
        document.total === 0 ? 'No connection is open.' : `of ${plural(document.total, 'source')}`,
      ),
      choice('Open connections, by', 'order', ORDERS, order, chooseOrder),
    ],
    h(
      'div',
      { class: 'card' },
      table(
        'sources',
        'Top sources',
        SOURCE_COLUMNS,
        sourceRows(document, order, SHOWN_SOURCES).map((row) => [
          { class: 'address', content: row.address },
          ...[row.open, row.sent, row.received].map((content) => ({ content })),
        ]),
        'narrow',
      ),
    ),
  );
