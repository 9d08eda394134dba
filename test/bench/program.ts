/** What the benchmarks that are programs of their own share: their words, `WHAT [N] … [--json FILE]`, and their rows. */
import { appendFileSync } from 'node:fs';

/** What can be asked for by name, and how often it is done when nobody says. */
export type Benchmarks = Record<string, { run: (n: number) => Promise<void>; n: number }>;

const out = process.argv.indexOf('--json');
const jsonFile = out < 0 ? undefined : process.argv[out + 1];

/** Prints a row, and adds it to the file of `--json`. */
export function print(benchmark: string, row: Record<string, string | number | undefined>): void {
  const text = Object.entries(row).map(([key, value]) => `${key} ${value ?? '–'}`);
  process.stdout.write(`${benchmark}: ${text.join(', ')}\n`);
  if (jsonFile) appendFileSync(jsonFile, `${JSON.stringify({ benchmark, ...row })}\n`);
}

/** Runs what the command line names, one after the other. Throws for a name that there is not. */
export async function runNamed(benchmarks: Benchmarks): Promise<void> {
  const words = process.argv.slice(2, out < 0 ? undefined : out);
  for (const [i, word] of words.entries()) {
    const benchmark = benchmarks[word];
    if (benchmark === undefined) {
      if (i > 0 && /^\d+$/.test(word)) continue;
      throw new Error(`unknown: ${word}; there are ${Object.keys(benchmarks).join(', ')}`);
    }
    const n = Number(words[i + 1]);
    await benchmark.run(n > 0 ? n : benchmark.n);
  }
}
