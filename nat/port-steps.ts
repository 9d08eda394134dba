/** The steps from the port blocks in the kernel to the desired ones, and the steps as text. Pure. */
import { type Address, type Family, networkAddress } from '../lib/prefix.ts';
import { PORT_TABLE } from './nftables.ts';
import { blockAt, type PortBlock, type PortBlocks, sourceCount } from './port-blocks.ts';
import { hex } from './rules.ts';
import type { PortTable } from './state.ts';

export type PortStep =
  /** Creates the table, empty; `replace`: in place of one that differs; `hasSlices`: with the map of slices. */
  | { type: 'create-port-table'; family: Family; replace: boolean; hasSlices: boolean }
  /** Adds the map of slices and its rules to a table of port blocks, which stay as they are. */
  | { type: 'add-slices'; family: Family }
  /** Writes the elements of a mark; `repair`: there are wrong ones. */
  | { type: 'write-port-blocks'; family: Family; mark: number; blocks: PortBlocks; repair: boolean }
  /** Removes the elements of a mark. */
  | { type: 'delete-port-blocks'; family: Family; mark: number }
  /** Writes the element of a mark in the map of slices; `replace`: there is another one. */
  | { type: 'write-slice'; family: Family; mark: number; slice: PortBlock; replace: boolean }
  | { type: 'delete-slice'; family: Family; mark: number }
  | { type: 'delete-port-table'; family: Family };

/** The steps that come before the rules that leave the marks, and those that come after. */
export function editPorts(
  observed: PortTable | undefined,
  desired: PortTable | undefined,
  family: Family,
): { before: PortStep[]; after: PortStep[] } {
  if (desired === undefined) {
    return { before: [], after: observed === undefined ? [] : [{ type: 'delete-port-table', family }] };
  }
  const before: PortStep[] = [];
  const { hasSlices } = desired;
  // A table of a group that was is as good: it is not made again under open connections.
  const intact = observed?.intact === true;
  if (!intact) {
    before.push({ type: 'create-port-table', family, replace: observed !== undefined, hasSlices });
  } else if (hasSlices && !observed.hasSlices) {
    before.push({ type: 'add-slices', family });
  }
  for (const [mark, { elements, digest, blocks }] of desired.policies) {
    const there = intact ? observed.policies.get(mark) : undefined;
    if (there?.elements === elements && there.digest === digest) continue;
    before.push({
      ...{ type: 'write-port-blocks', family, mark, blocks: blocks! },
      repair: there !== undefined,
    });
  }
  const slices = intact ? observed.slices : new Map<number, PortBlock>();
  for (const [mark, slice] of desired.slices) {
    const there = slices.get(mark);
    if (there !== undefined && isSame(there, slice)) continue;
    before.push({ type: 'write-slice', family, mark, slice, replace: there !== undefined });
  }
  const oldSlices = [...slices.keys()].filter((mark) => !desired.slices.has(mark));
  const old = intact ? [...observed.policies.keys()].filter((mark) => !desired.policies.has(mark)) : [];
  return {
    before,
    after: [
      ...old.map((mark): PortStep => ({ type: 'delete-port-blocks', family, mark })),
      ...oldSlices.map((mark): PortStep => ({ type: 'delete-slice', family, mark })),
    ],
  };
}

const isSame = (a: PortBlock, b: PortBlock): boolean =>
  a.address === b.address && a.first === b.first && a.last === b.last;

/** A step as a line: in nft's syntax, except that of the elements only the first and the number are printed. */
export function portLine(step: PortStep): string {
  const table = `${step.family === 4 ? 'ip' : 'ip6'} ${PORT_TABLE}`;
  switch (step.type) {
    case 'create-port-table':
      return `nft add table ${table}`;
    case 'add-slices':
      return `nft add map ${table} slices`;
    case 'delete-port-table':
      return `nft delete table ${table}`;
    case 'delete-port-blocks':
      return `nft delete element ${table} blocks { ${hex(step.mark)} . * }`;
    case 'write-slice': {
      const { address, first, last } = step.slice;
      return `nft add element ${table} slices { ${hex(step.mark)} : ${address} . ${first}-${last} }`;
    }
    case 'delete-slice':
      return `nft delete element ${table} slices { ${hex(step.mark)} }`;
    case 'write-port-blocks': {
      const { address, first, last } = blockAt(step.blocks, 0)!;
      const source: Address = networkAddress(step.blocks.sources[0]!);
      const more = sourceCount(step.blocks.sources) - 1;
      const rest = more > 0 ? `, and ${more} more` : '';
      return `nft add element ${table} blocks { ${hex(step.mark)} . ${source} : ${address} . ${first}-${last}${rest} }`;
    }
  }
}
