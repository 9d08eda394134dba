/** One part of the benchmarks, in a process of its own: `node part.ts NAME FILE [--quick]`. */
import { writeFileSync } from 'node:fs';
import { contextOf, type Part } from './context.ts';

const [name, file, flag] = process.argv.slice(2);
const { part } = (await import(`./parts/${name}.ts`)) as { part: Part };
const findings = await part(contextOf(name!, flag === '--quick'));
writeFileSync(file!, JSON.stringify(findings));
process.exit();
