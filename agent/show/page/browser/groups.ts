/** The groups: members with their state, and who holds each shared address. Pure. */
import { Fragment, h, type JSX } from 'preact';
import type { GroupRow } from '../../overview.ts';
import { badge, faint, section, table } from './elements.ts';

const MEMBERS = [{ title: 'State' }, { title: 'Member' }, { title: 'Flows' }, { title: 'Trouble' }];
const ADDRESSES = [{ title: 'Shared address' }, { title: 'Holder' }];

const memberCells = ({ member, state, flows, troubles }: GroupRow['members'][number]) => [
  { class: 'fit', content: badge(state) },
  { class: 'address', content: member },
  { class: 'fit', content: flows },
  { content: troubles.join(', ') },
];

const selfCells = ({ self, state, flows, replicas, ports }: GroupRow) => [
  { class: 'fit', content: badge(state) },
  { class: 'address', content: [self, faint(' this gateway')] },
  { class: 'fit', content: flows },
  { content: faint(`${ports}, ${replicas}`) },
];

const group = (row: GroupRow): JSX.Element => {
  const id = row.family.toLowerCase();
  return section(
    `group-${id}`,
    `Group, ${row.family}`,
    undefined,
    h(
      'div',
      { class: 'card' },
      table(`members-${id}`, `Members, ${row.family}`, MEMBERS, [
        selfCells(row),
        ...row.members.map(memberCells),
      ]),
    ),
    h(
      'div',
      { class: 'card' },
      table(
        `addresses-${id}`,
        `Shared addresses, ${row.family}`,
        ADDRESSES,
        row.addresses.map(({ address, holder }) => [
          { class: 'address', content: address },
          { content: badge(holder) },
        ]),
      ),
    ),
  );
};

/** A section for each family that has a group. */
export const groups = (rows: readonly GroupRow[]): JSX.Element => h(Fragment, {}, rows.map(group));
