/**
 * Draws docs/images/architecture.svg from the import statements: `node test/support/picture.ts`. A box is a folder, an
 * arrow leads from a folder to one whose values it imports. Everything may import lib/, so lib/ has no
 * arrows; neither have programs and agent/options.ts. test/picture.test.ts fails when the picture does not show the sources as they are.
 */
import { writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { instance } from '@viz-js/viz';
import { imports, ROOT, sources } from './imports.ts';

export const PICTURE = join(ROOT, 'docs/images/architecture.svg');

/** The folder that a file is drawn in: two levels, and `lib` as one. */
const roomOf = (file: string): string => {
  const [area = '', folder = ''] = dirname(file).split('/');
  return area === 'lib' || folder === '' ? area : `${area}/${folder}`;
};

/** Programs connect everything, and everybody may import the options: neither shows the structure. */
const PROGRAMS = /^(agent|bfd)\/(main|child)\.ts$|^agent\/kube-ovn\/(bfdd-supervisor|observer)\.ts$/;
const OPTIONS = 'agent/options.ts';

const COLOURS: Record<string, string> = {
  agent: '#dbe9f6',
  bfd: '#fbe3d6',
  lib: '#ececec',
  nat: '#dcf0e3',
  routing: '#f3e3f0',
  shaping: '#fdf3d0',
};

/** The graph in the DOT language. */
export function graph(): string {
  const rooms = new Set(sources.map(roomOf));
  const boxes = [...rooms].map((room) => {
    const [area = ''] = room.split('/');
    return `"${room}" [label="${room}/", fillcolor="${COLOURS[area]}"]`;
  });
  const arrows = new Set<string>();
  for (const [file, list] of imports) {
    if (PROGRAMS.test(file)) continue;
    for (const { ours, typeOnly, target } of list) {
      const [from, to] = [roomOf(file), roomOf(target)];
      if (ours && !typeOnly && target !== OPTIONS && rooms.has(to) && from !== to && to !== 'lib')
        arrows.add(`"${from}" -> "${to}"`);
    }
  }
  return `digraph {
    graph [rankdir=TB, nodesep=0.2, ranksep=0.55, bgcolor=white, fontname="sans-serif", pad=0.3]
    node [shape=box, style="filled,rounded", color="#59636e", fontname="Helvetica,Arial,sans-serif", fontsize=12, margin="0.2,0.06"]
    edge [color="#59636e", arrowsize=0.7]
    ${boxes.sort().join('\n    ')}
    ${[...arrows].sort().join('\n    ')}
    lib [label="lib/: the floor that everything may import", width=9]
    { rank=sink; lib }
    ${['nat/conntrack', 'routing', 'bfd'].map((room) => `"${room}" -> lib [style=invis]`).join('\n    ')}
  }`;
}

/** The picture. */
export async function draw(): Promise<string> {
  return (await instance()).renderString(graph(), { format: 'svg' });
}

if (import.meta.main) writeFileSync(PICTURE, await draw());
