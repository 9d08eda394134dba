/**
 * Builds the page: `node agent/show/page/build.ts DIRECTORY` writes `page.html` there, one document with its style and
 * script in it. `npm run build` and the image's bundle do so; from the sources page.ts builds it when it is asked for.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, stop } from 'esbuild';

const BROWSER = fileURLToPath(new URL('browser', import.meta.url));

const document = (style: string, script: string): string => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>veg-agent</title>
<link rel="icon" href="data:,">
<style>${style}</style>
</head>
<body>
<div id="page"></div>
<noscript><p class="card plain">This page needs JavaScript. <code>veg-agent status --watch</code> shows the same on a terminal.</p></noscript>
<script>${script}</script>
</body>
</html>
`;

/** The document, and the files that are in it. */
export async function buildPage(): Promise<{ html: string; inputs: string[] }> {
  const { outputFiles, metafile } = await build({
    absWorkingDir: BROWSER,
    entryPoints: ['main.ts', 'style.css'],
    outdir: '.',
    bundle: true,
    minify: true,
    format: 'iife',
    target: ['chrome110', 'firefox115', 'safari16.4'],
    charset: 'utf8',
    legalComments: 'none',
    metafile: true,
    tsconfigRaw: {},
    write: false,
  });
  const output = (suffix: string): string =>
    outputFiles.find(({ path }) => path.endsWith(suffix))!.text.trim();
  const inputs = Object.keys(metafile.inputs).map((input) => join(BROWSER, input));
  return { html: document(output('.css'), output('.js')), inputs };
}

/** Writes `page.html` to a directory. Returns the files that are in it. */
export async function writePage(directory: string): Promise<string[]> {
  const { html, inputs } = await buildPage();
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, 'page.html'), html);
  return inputs;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [directory] = process.argv.slice(2);
  if (directory === undefined) throw new Error('usage: node agent/show/page/build.ts DIRECTORY');
  await writePage(directory);
  await stop();
}
