/** Colours of a terminal. Pure. */
import { MARKS, type Severity, type State } from './overview.ts';

export type Painter = ReturnType<typeof painter>;

/** SGR sequences with the code that ends each, so that a wrapped line can be closed and opened again. */
export function painter(colours: boolean) {
  const paint = (on: number, off: number) => (text: string) =>
    colours && text !== '' ? `\x1b[${on}m${text}\x1b[${off}m` : text;
  const bySeverity: Record<Severity, (text: string) => string> = {
    good: paint(32, 39),
    warn: paint(33, 39),
    bad: paint(31, 39),
    idle: paint(2, 22),
  };
  return {
    strong: paint(1, 22),
    faint: paint(2, 22),
    severity: (severity: Severity, text: string) => bySeverity[severity](text),
    state: ({ severity, text }: State) => bySeverity[severity](text),
    marked: ({ severity, text }: State) => bySeverity[severity](`${MARKS[severity]} ${text}`),
  };
}
