/** The paragraphs that reasons, warnings and notes are sent to. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { ALL_DOCUMENTS, documentOf, documentsOf, explained, type Told } from '../../../agent/show/help.ts';
import { anchors } from '../../support/anchors.ts';
import { ROOT } from '../../support/imports.ts';

const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

/** The text below a heading, until the next one. */
function paragraph(document: string): string {
  const [path = '', anchor = ''] = document.split('#');
  const [, ...parts] = read(path).split(/^(?=#{1,6} )/m);
  return parts.find((part) => anchors(part).has(anchor)) ?? '';
}

t.test('every place that a text is sent to is a heading of a document', async (t) => {
  for (const document of ALL_DOCUMENTS) {
    const [path = '', anchor = ''] = document.split('#');
    t.ok(anchors(read(path)).has(anchor), document);
  }
});

/** What a document quotes with its beginning: `IPv4 uplink: …`. */
const quoted = (text: string, pattern: RegExp): string[] =>
  [...text.matchAll(/`([^`]+)`/g)]
    .map(([, quote = '']) => quote.replace(/\s+/g, ' '))
    .filter((quote) => pattern.test(quote));

const REASON =
  /^(IPv[46] uplink: |IPv[46]: |kernel not in sync: |kernel and uplink were|policy invalid: |BFD: |BGP: |draining$)/;

t.test('each reason that operations.md quotes is sent to the paragraph that quotes it', async (t) => {
  const operations = read('docs/operations.md');
  const chapter = /^## Why it is not ready\n(.*?)^## /ms.exec(operations)?.[1] ?? '';
  const reasons = quoted(chapter, REASON);
  t.ok(reasons.length >= 15, `${reasons.length} reasons`);
  for (const reason of reasons) {
    const document = documentOf('reason', reason);
    const text = paragraph(document).replace(/\s+/g, ' ');
    t.ok(
      text.includes(reason) || document.endsWith('#the-connection-tracking-table'),
      `${reason} → ${document}`,
    );
  }
});

t.test('each warning that policy.md quotes is sent to the paragraph that quotes it', async (t) => {
  const [, chapter = ''] = read('docs/policy.md').split('### Warnings');
  const warnings = quoted(chapter.split('\n## ')[0]!, /^(conflict|policy|IPv6|no node)/);
  t.equal(warnings.length, 5);
  for (const warning of warnings) {
    t.match(paragraph(documentOf('warning', warning)).replace(/\s+/g, ' '), warning);
  }
});

t.test('every warning about the manifests of other projects has its place', async (t) => {
  const warnings = [...read('docs/manifests.md').matchAll(/warning: (.*?)(?:<br>| \|$)/gm)].map(
    ([, text]) => text!,
  );
  t.ok(warnings.length > 5);
  for (const warning of warnings)
    t.match(documentOf('warning', warning), /^docs\/(policy|bgp)\.md#./, warning);
});

t.test('notes and warnings of each part have their place', async (t) => {
  const expected: [Told, string, string][] = [
    [
      'note',
      'the connection tracking table is 83 % full: raise …',
      'operations.md#the-connection-tracking-table',
    ],
    [
      'note',
      'BFD packets cannot be received on 10.16.0.12 port 3784: in use',
      'bfd.md#beside-another-bfd-daemon',
    ],
    [
      'note',
      'metrics and probes are not served on 10.16.0.12 port 10669: in use',
      'operations.md#vegnotscraped',
    ],
    [
      'note',
      '192.0.2.1 cannot be probed, so its failure will not be seen: EPERM',
      'operations.md#the-uplink',
    ],
    [
      'note',
      '02:00:00:00:00:66 claimed to be the external gateway 172.17.0.1 within the last minute',
      'operations.md#vegaddressclaimed',
    ],
    ['note', '172.17.0.50 is not taken: 02:00:00:00:00:07 has it', 'operations.md#address-of-another-host'],
    [
      'note',
      'cleanup cannot restore sysctls while /run/sysctl.json cannot be written: ENOSPC',
      'ownership.md#sysctls',
    ],
    [
      'note',
      'policy web has no IPv6 egress address and says nothing about IPv6',
      'policy.md#addresses-of-their-own',
    ],
    [
      'note',
      '172.17.0.50 is neither held nor announced here: gateway1-1 owns it, and this gateway is gateway1-0',
      'policy.md#addresses-of-their-own',
    ],
    ['note', 'IPv6 is left out: this kernel has no IPv6', 'policy.md#a-family-with-one-gateway'],
    ['note', 'ignoring network-status file /etc/podinfo/network-status: damaged', 'operations.md#notes'],
    ['warning', 'policy-0 has no effect: its ipBlocks and subnets are empty', 'policy.md#no-effect'],
    [
      'reason',
      '  gateway.yaml:12:17: spec.bfd.multiplier: must be between 1 and 255',
      'operations.md#policy-invalid',
    ],
    [
      'reason',
      'IPv4: the external interface has no IPv4 address, and the other members of the group forward to it',
      'operations.md#group-not-ready',
    ],
    ['note', 'this kernel has no fq_codel: packets that wait', 'policy.md#bandwidth'],
    ['note', 'the fast path is not in force, the rest is: nf_tables: …', 'policy.md#fast-path'],
    [
      'warning',
      'policy web has a bandwidth limit: its connections do not use the fast path',
      'policy.md#fast-path',
    ],
    ['warning', 'policy web: bandwidth.egress is above that of the whole gateway', 'policy.md#bandwidth'],
    [
      'reason',
      'kernel not in sync: egress bandwidth is not limited: net1 has the root qdisc tbf 42:',
      'policy.md#bandwidth',
    ],
    [
      'reason',
      'kernel not in sync: tc qdisc add dev net1 root handle 178: htb: unknown (ENOENT)',
      'policy.md#bandwidth',
    ],
    ['reason', 'something new', 'operations.md#why-it-is-not-ready'],
  ];
  for (const [told, text, document] of expected) t.equal(documentOf(told, text), `docs/${document}`);
});

t.test('a place is named once for several texts', async (t) => {
  t.same(documentsOf(explained('reason', ['draining', 'BFD: no session is Up', 'draining'])), [
    'docs/operations.md#draining',
    'docs/operations.md#no-session-up',
  ]);
});
