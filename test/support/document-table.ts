/** Pure. Tables in documents that programs write, between `<!-- NAME -->` and `<!-- /NAME -->`. */

const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |\n`;

/**
 * The document with a line for each of these rows, known by their first cells; lines of others in `order` stay as they are, of
 * all others go. Throws when the document has no markers of that name.
 */
export function withLines(
  document: string,
  name: string,
  head: readonly string[],
  rows: readonly (readonly string[])[],
  order: readonly string[],
): string {
  const [begin, end] = [`<!-- ${name} -->`, `<!-- /${name} -->`];
  const [before, rest] = document.split(`${begin}\n`);
  const [table, after] = (rest ?? '').split(end);
  if (table === undefined || after === undefined)
    throw new Error(`the document needs the lines ${begin} and ${end}`);
  const lines = new Map(table.split('\n').map((text) => [text.split(' | ')[0]!.slice(2), `${text}\n`]));
  for (const row of rows) lines.set(row[0]!, line(row));
  const kept = order.map((key) => lines.get(key) ?? '').join('');
  return `${before}${begin}\n${line(head)}|${'---|'.repeat(head.length)}\n${kept}${end}${after}`;
}
