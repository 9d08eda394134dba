import { createHash } from 'node:crypto';
import t from 'tap';
import { buildPage } from '../../../../agent/show/page/build.ts';
import { contentSecurityPolicy, loadPage } from '../../../../agent/show/page/page.ts';

t.test(
  'the page is one document that nothing else belongs to, and its policy allows exactly its style and script',
  async (t) => {
    const { html, policy } = await loadPage();
    t.match(html, /^<!doctype html>\n<html lang="en">/);
    t.notMatch(html, /<(?:script|link|img|iframe)[^>]+(?:src|href)="(?!data:)/, 'no reference to anything');
    t.notMatch(html, /\bhttps?:\/\/(?!www\.w3\.org\/)/, 'no URL but the names of XML namespaces');
    t.notMatch(html, /\beval\(|new Function/, 'nothing that the policy would refuse');
    const [style, script] = ['style', 'script'].map((name) => {
      const text = new RegExp(`<${name}>([^]*)</${name}>`).exec(html)![1]!;
      return `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
    });
    t.equal(
      policy,
      `default-src 'none'; style-src ${style}; script-src ${script}; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`,
    );
  },
);

t.test('a document without style or script is allowed neither', async (t) => {
  t.match(contentSecurityPolicy('<p>'), /style-src ; script-src ;/);
});

t.test('the files in it are ours and the library, for its licence', async (t) => {
  const { inputs } = await buildPage();
  t.ok(inputs.some((file) => file.endsWith('agent/show/overview.ts')));
  const packages = new Set(inputs.map((file) => /node_modules\/([\w-]+)/.exec(file)?.[1]).filter(Boolean));
  t.strictSame([...packages], ['preact']);
});
