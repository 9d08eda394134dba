/**
 * The page at `/`: one document with its own style and script, that requests nothing but the agent's JSON below
 * `data/`. The build puts it beside this file; it is read for each
 * request, so it takes no memory in between.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';

export interface Page {
  html: string;
  /** What the page may do: the value of Content-Security-Policy. */
  policy: string;
}

const FILE = new URL('page.html', import.meta.url);

/** The page from the sources, built once. */
let built: Promise<string> | undefined;

async function readPage(): Promise<string> {
  try {
    return await readFile(FILE, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    built ??= import('./build.ts').then(async ({ buildPage }) => (await buildPage()).html);
    return built;
  }
}

const hash = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

/** The hashes of the elements of one name. */
const hashes = (html: string, element: 'style' | 'script'): string =>
  [...html.matchAll(new RegExp(`<${element}>(.*?)</${element}>`, 'gs'))]
    .map(([, text = '']) => hash(text))
    .join(' ');

/** Only the style and script of this document run, and they reach only the agent. */
export const contentSecurityPolicy = (html: string): string =>
  [
    "default-src 'none'",
    `style-src ${hashes(html, 'style')}`,
    `script-src ${hashes(html, 'script')}`,
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ');

/** The page as it is served. Rejects when it cannot be read. */
export async function loadPage(): Promise<Page> {
  const html = await readPage();
  return { html, policy: contentSecurityPolicy(html) };
}
