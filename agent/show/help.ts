/**
 * The paragraph of the documents about a reason, a warning or a note: a path in this repository with the anchor of a heading,
 * as text to copy. `help.test.ts` compares it with the headings and with the texts that the documents quote. Pure.
 */

export type Told = 'reason' | 'warning' | 'note';

const OPERATIONS = 'docs/operations.md';
const POLICY = 'docs/policy.md';
const BESIDE = 'docs/bfd.md#beside-another-bfd-daemon';

const BFD_PROBLEM = /^BFD packets cannot be received on /;
const GROUP_PROBLEM = /^IPv[46]: cannot (?:read the credentials of the group|listen for group members)/;

/** By the beginning or a part of the text; the first that matches decides. */
const PARAGRAPHS: Record<Told, readonly [pattern: RegExp, document: string][]> = {
  reason: [
    [/^draining$/, `${OPERATIONS}#draining`],
    [/^policy invalid: |^ {2}\S/, `${OPERATIONS}#policy-invalid`],
    [/were not observed for/, `${OPERATIONS}#not-observed`],
    [/not reconciled yet$/, `${OPERATIONS}#not-reconciled-yet`],
    [/ is not taken: /, `${OPERATIONS}#address-of-another-host`],
    [/ bandwidth is not limited: |^kernel not in sync: tc /, `${POLICY}#bandwidth`],
    [/^kernel not in sync: /, `${OPERATIONS}#kernel-not-in-sync`],
    [/uplink: the connection tracking table /, `${OPERATIONS}#the-connection-tracking-table`],
    [/^IPv[46] uplink: /, `${OPERATIONS}#uplink-down`],
    [GROUP_PROBLEM, `${OPERATIONS}#key-and-port-of-a-group`],
    [/^IPv[46]: .*\bgroup\b/, `${OPERATIONS}#group-not-ready`],
    [/^IPv[46]: /, `${OPERATIONS}#interface-unusable`],
    [BFD_PROBLEM, BESIDE],
    [/^BFD: /, `${OPERATIONS}#no-session-up`],
    [/^BGP: /, `${OPERATIONS}#no-bgp-session`],
  ],
  warning: [
    [/^conflict: /, `${POLICY}#blocks-that-conflict`],
    [/ holds the external gateway /, `${POLICY}#a-block-with-the-external-gateway`],
    [/^IPv[46] is not programmed: /, `${POLICY}#a-family-with-one-gateway`],
    [/^no node holds /, `${POLICY}#an-address-that-no-node-holds`],
    [/ use the fast path$/, `${POLICY}#fast-path`],
    [/ bandwidth|QoSPolicy/, `${POLICY}#bandwidth`],
    [/^spec\.bgp /, 'docs/bgp.md#what-is-announced'],
    [/^(?:BGP|EVPN) mode /, 'docs/image.md#what-kube-ovn-calls'],
    [/ with EVPN /, 'docs/bgp.md#evpn'],
    [GROUP_PROBLEM, `${OPERATIONS}#key-and-port-of-a-group`],
  ],
  note: [
    [/^the connection tracking table /, `${OPERATIONS}#the-connection-tracking-table`],
    [/ cannot be probed, /, `${OPERATIONS}#the-uplink`],
    [/ claim(?:ed|s)? |^packets to the external gateway /, `${OPERATIONS}#vegaddressclaimed`],
    [/ is not taken: /, `${OPERATIONS}#address-of-another-host`],
    [/ restore sysctls|^sysctl |^net\./, 'docs/ownership.md#sysctls'],
    [/ uses? ports of its blocks too$/, `${POLICY}#ports-of-their-own`],
    [/ neither held nor announced here: /, `${POLICY}#addresses-of-their-own`],
    [/ egress address and says nothing about /, `${POLICY}#addresses-of-their-own`],
    [/^bandwidth is not limited: |^this kernel has no fq_codel: /, `${POLICY}#bandwidth`],
    [/^the fast path /, `${POLICY}#fast-path`],
    [/ is not announced: /, 'docs/bgp.md#what-is-announced'],
    [BFD_PROBLEM, BESIDE],
    [/^metrics and probes are not served on /, `${OPERATIONS}#vegnotscraped`],
    [/ is left out: /, `${POLICY}#a-family-with-one-gateway`],
  ],
};

/** The paragraphs about all others. */
const OTHERS: Record<Told, string> = {
  reason: `${OPERATIONS}#why-it-is-not-ready`,
  warning: `${POLICY}#no-effect`,
  note: `${OPERATIONS}#notes`,
};

/** Where a text is explained. */
export const documentOf = (told: Told, text: string): string =>
  PARAGRAPHS[told].find(([pattern]) => pattern.test(text))?.[1] ?? OTHERS[told];

/** A text, and where it is explained. */
export interface Explained {
  text: string;
  document: string;
}

export const explained = (told: Told, texts: readonly string[]): Explained[] =>
  texts.map((text) => ({ text, document: documentOf(told, text) }));

/** Where texts are explained, each place once. */
export const documentsOf = (texts: readonly Explained[]): string[] => [
  ...new Set(texts.map(({ document }) => document)),
];

/** Every place that `documentOf` returns. */
export const ALL_DOCUMENTS: readonly string[] = [
  ...Object.values(PARAGRAPHS).flatMap((list) => list.map(([, document]) => document)),
  ...Object.values(OTHERS),
];
