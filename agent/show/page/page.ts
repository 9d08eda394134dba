/**
 * The page at `/`: one document with its own style and script, that asks for nothing but the agent's JSON below
 * `data/`. What may run is told to the browser by the hashes of the two.
 */
import { createHash } from 'node:crypto';
import { DIAGNOSTICS } from '../../../bfd/constants.ts';
import { duration, endpoint, scaled } from '../../../lib/units.ts';
import { NO_LOG, policyLabel } from '../overview.ts';
import { client } from './client.ts';
import { STYLE } from './style.ts';

const SCRIPT = `(${client})(document, {
  scaled: ${scaled}, duration: ${duration}, endpoint: ${endpoint}, policyLabel: ${policyLabel},
  diagnostics: ${JSON.stringify(DIAGNOSTICS)},
});`;

const hash = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

const headings = (...columns: [text: string, number?: 'number'][]): string =>
  columns
    .map(
      ([text, number]) =>
        `<th scope="col" role="columnheader"${number ? ' class="number"' : ''}>${text}</th>`,
    )
    .join('');

/** A table whose rows the script makes. The roles outlast the display as blocks on a small screen (`stack`). */
const table = (label: string, id: string, head: string, className = 'stack'): string => `
  <table role="table" aria-label="${label}" class="${className}">
    <thead role="rowgroup">${head}</thead>
    <tbody role="rowgroup" id="${id}"></tbody>
  </table>`;

const HTML = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>veg-agent</title>
<link rel="icon" href="data:,">
<style>${STYLE}</style>
</head>
<body>
<header>
  <div>
    <div class="title"><h1 id="name">veg-agent</h1><span id="state" role="status"></span></div>
    <p id="about">&nbsp;</p>
  </div>
  <p id="live"></p>
</header>
<main>
  <div id="why" role="status" hidden><ul id="reasons"></ul></div>
  <ul id="tiles" aria-label="Health"></ul>
  <ul id="notes" hidden></ul>

  <section aria-labelledby="bfd-title">
    <div class="head">
      <h2 id="bfd-title">BFD sessions</h2>
      <label>Timeline of the last
        <select id="span" autocomplete="off">
          <option value="300">5 minutes</option>
          <option value="3600" selected>hour</option>
          <option value="86400">day</option>
        </select>
      </label>
    </div>
    <p id="no-bfd" class="card plain" hidden></p>
    <div id="bfd" class="card" hidden>
      ${table('BFD sessions', 'sessions', `<tr role="row">${headings(['State'], ['Peer'], ['Packets every'], ['Timeline, now at the right'])}</tr>`)}
      <ol id="changes" aria-label="State changes, the newest first"></ol>
    </div>
  </section>

  <section aria-labelledby="policies-title">
    <div class="head"><h2 id="policies-title">Policies</h2><p id="no-log" class="tail" hidden>${NO_LOG}</p></div>
    <div class="card">
      ${table(
        'Policies',
        'policies',
        `<tr role="row">${headings(
          ['Policy'],
          ['New/s', 'number'],
          ['Packets/s out', 'number'],
          ['Packets/s in', 'number'],
          ['Bytes/s out', 'number'],
          ['Bytes/s in', 'number'],
          ['Open', 'number'],
          ['Connections', 'number'],
          ['Sent', 'number'],
          ['Received', 'number'],
        )}</tr>`,
      )}
    </div>
  </section>

  <section id="source-part" aria-labelledby="sources-title" hidden>
    <div class="head">
      <h2 id="sources-title">Top sources</h2>
      <span id="source-count" class="faint"></span>
      <label>Open connections, by
        <select id="order" autocomplete="off">
          <option value="bytes">bytes</option>
          <option value="connections">number</option>
        </select>
      </label>
    </div>
    <div class="card">
      ${table('Top sources', 'sources', `<tr role="row">${headings(['Source'], ['Open', 'number'], ['Sent', 'number'], ['Received', 'number'])}</tr>`, 'narrow')}
    </div>
  </section>

  <section id="translation-part" aria-labelledby="flows-title" hidden>
    <div class="head"><h2 id="flows-title">Translations</h2></div>
    <form id="search" role="search" autocomplete="off">
      <label>Seen outside as<input type="text" id="external" placeholder="IP or IP:port" spellcheck="false" autocapitalize="off"></label>
      <label>Address inside<input type="text" id="internal" placeholder="IP" spellcheck="false" autocapitalize="off"></label>
      <label>At (UTC)<input type="datetime-local" id="at" step="1"></label>
      <button type="submit">Search</button>
      <button type="reset">Newest</button>
    </form>
    <p id="found" role="status"></p>
    <div class="card">
      ${table(
        'Translations',
        'flows',
        `<tr role="row">${headings(
          ['Began'],
          ['Lasted'],
          ['Protocol'],
          ['From'],
          ['Seen as'],
          ['To'],
          ['Policy'],
          ['Sent', 'number'],
          ['Received', 'number'],
        )}</tr>`,
      )}
    </div>
  </section>
  <noscript><p class="card plain">This page needs its script. <code>veg-agent status --watch</code> shows the same on a terminal.</p></noscript>
</main>
<script>${SCRIPT}</script>
</body>
</html>
`;

/** The page, and what its browser may do. */
export const page = {
  html: HTML,
  policy: [
    "default-src 'none'",
    `style-src ${hash(STYLE)}`,
    `script-src ${hash(SCRIPT)}`,
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; '),
};
