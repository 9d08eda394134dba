/**
 * The forms of text that policy fields have, by the name that the schemas give them, each with its check and
 * with its error message. Everything that later reaches a command line or a label passes one of them. Pure.
 */
import {
  type Address,
  type Family,
  familyOf,
  mappedIPv4,
  type Prefix,
  parseAddress as parseAnyAddress,
  parsePrefix as parseAnyPrefix,
} from '../../lib/prefix.ts';
import { parseDuration, parseGoDuration } from '../../lib/units.ts';
import { isRouteTarget } from './evpn.ts';
import { quote } from './quote.ts';

export interface Format {
  test(text: string): boolean;
  explain(text: string): string;
}

/** The comma-separated parts of Kube-OVN's pairs: `10.16.0.0/16,fd00:10:16::/112`. */
export const splitPair = (text: string): string[] =>
  text === '' ? [] : text.split(',').map((part) => part.trim());

/** What is IPv4-mapped is no address of a packet (RFC 4291 2.5.5.2): a rule for it would never match. */
const unlessMapped = <T extends Address | Prefix>(value: T | undefined): T | undefined =>
  value === undefined || mappedIPv4(value) === undefined ? value : undefined;
const parseAddress = (text: string): Address | undefined => unlessMapped(parseAnyAddress(text));
const parsePrefix = (text: string): Prefix | undefined => unlessMapped(parseAnyPrefix(text));

const isAddress = (text: string): boolean => parseAddress(text) !== undefined;
const isPrefix = (text: string): boolean => parsePrefix(text) !== undefined;

/** An address that one host can have: not unspecified, loopback, multicast or broadcast. */
function isHostAddress(text: string): boolean {
  const value = parseAddress(text);
  if (value === undefined) return false;
  return familyOf(value) === 4
    ? !/^(0|127|22[4-9]|23\d|24\d|25[0-5])\./.test(value)
    : value !== '::' && value !== '::1' && !value.startsWith('ff');
}

/** One value, or one of each family, comma-separated. Kube-OVN prints an absent one as the empty text. */
const isPairOf = (one: (text: string) => boolean) => (text: string) => {
  const parts = splitPair(text);
  const families = new Set(parts.map((part) => part.includes(':')));
  return parts.length <= 2 && families.size === parts.length && parts.every(one);
};

const isText = (pattern: RegExp, max: number) => (text: string) => text.length <= max && pattern.test(text);

/** The reason why a text that resembles an address or CIDR is none. */
function addressHint(text: string): string {
  if (isPrefix(text)) return '';
  const mapped = splitPair(text)
    .map((part) =>
      mappedIPv4((part.includes('/') ? parseAnyPrefix(part) : parseAnyAddress(part)) ?? ('' as Address)),
    )
    .find((one) => one !== undefined);
  if (mapped !== undefined) return `: it is IPv4-mapped and would match nothing, write ${mapped}`;
  const length = /^([0-9A-Fa-f.:]+)\/(\d+)$/.exec(text);
  if (length !== null && isAddress(length[1]!)) {
    return `: the length of an ${length[1]!.includes(':') ? 'IPv6 CIDR is 0 to 128' : 'IPv4 CIDR is 0 to 32'}`;
  }
  if (/^[0-9A-Fa-f.:]+(-|\.\.)[0-9A-Fa-f.:]+$/.test(text)) return ': ranges are not supported, write CIDRs';
  if (/^[0-9.]+\/\d+\.[0-9.]+$/.test(text)) return ': write the netmask as a length';
  return '';
}

const notAn = (what: string) => (text: string) => `${quote(text)} is not ${what}${addressHint(text)}`;

function explainHost(text: string): string {
  if (isAddress(text)) return `${quote(text)} is not the address of a host`;
  return isPrefix(text) ? `${quote(text)} is a CIDR, not one address` : notAn('an address')(text);
}

const isOfFamily = (family: Family) => (text: string) => {
  const value = parseAddress(text);
  return value !== undefined && familyOf(value) === family;
};
const notOfFamily = (family: Family) => notAn(`an IPv${family} address`);

const DNS_LABEL = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/;
const DNS_SUBDOMAIN = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/;
const LABEL = /^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$/;
const MAC = /^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$/;
const PORT_RANGE = /^(\d{1,5})(?:-(\d{1,5}))?$/;

/** A port or a range of ports, `8080` or `8000-8010`; undefined for anything else. */
export function parsePorts(value: number | string): { first: number; last: number } | undefined {
  const match = PORT_RANGE.exec(String(value));
  if (match === null) return undefined;
  const first = Number(match[1]);
  const last = Number(match[2] ?? match[1]);
  return first >= 1 && first <= last && last <= 65535 ? { first, last } : undefined;
}

/** A qualified name: `app`, or `example.com/app`. */
function isLabelKey(text: string): boolean {
  const slash = text.indexOf('/');
  const domain = text.slice(0, Math.max(0, slash));
  return isText(LABEL, 63)(text.slice(slash + 1)) && (slash < 0 || isText(DNS_SUBDOMAIN, 253)(domain));
}

const QUANTITY = /^([+-]?(?:\d+(?:\.\d*)?|\.\d+))([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?$/;
const UNITS: Record<string, number> = {
  n: 1e-9,
  u: 1e-6,
  m: 1e-3,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  E: 1e18,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
  Ei: 2 ** 60,
};

/** A quantity of Kubernetes, as `500m`, `64Mi` or `1e3`, as a number; NaN for anything else. */
export function quantityOf(value: number | string): number {
  const [, amount, unit = ''] = QUANTITY.exec(String(value)) ?? [];
  return UNITS[unit] === undefined ? Number(`${amount}${unit}`) : Number(amount) * UNITS[unit];
}

/** More bits per second do not fit into the 64 bits of Open vSwitch; in Mbit/s. */
export const MOST_BANDWIDTH = 9_223_372_036_854;

const BIT_RATE = /^(?:\d+(?:\.\d+)?|\.\d+)([kMGT]|[KMGT]i)?$/;

/** Kube-OVN's bandwidth as a text: whole Mbit/s, or bits per second with a unit. */
function isBandwidth(text: string): boolean {
  const [, whole, unit] = /^(?:(\d+)|(?:\d+(?:\.\d+)?|\.\d+)(Mi?|Gi?))$/.exec(text) ?? [];
  if (whole !== undefined) return Number(whole) <= MOST_BANDWIDTH;
  return unit !== undefined && quantityOf(text) <= MOST_BANDWIDTH * 1e6;
}

/** The Ethernet address of one interface: neither a group's (the lowest bit of the first octet) nor none at all. */
const isInterfaceMac = (text: string): boolean =>
  MAC.test(text) && (Number.parseInt(text.slice(0, 2), 16) & 1) === 0 && !/^[0:]+$/.test(text);

export const FORMATS: Record<string, Format> = {
  'non-empty': { test: (text) => text !== '', explain: () => 'must not be empty' },
  prefix: { test: isPrefix, explain: notAn('an address or CIDR') },
  cidr: {
    test: (text) => text.includes('/') && isPrefix(text),
    explain: (text) =>
      isAddress(text)
        ? `${quote(text)} is not a CIDR: write ${quote(`${text}/${text.includes(':') ? 128 : 32}`)}`
        : notAn('a CIDR')(text),
  },
  address: { test: isAddress, explain: notAn('an address') },
  ipv4: { test: isOfFamily(4), explain: notOfFamily(4) },
  ipv6: { test: isOfFamily(6), explain: notOfFamily(6) },
  'ipv4-or-empty': { test: (text) => text === '' || isOfFamily(4)(text), explain: notOfFamily(4) },
  'ipv6-or-empty': { test: (text) => text === '' || isOfFamily(6)(text), explain: notOfFamily(6) },
  'ipv4-host': {
    test: (text) => isOfFamily(4)(text) && isHostAddress(text),
    explain: (text) => (isOfFamily(4)(text) ? explainHost(text) : notOfFamily(4)(text)),
  },
  'host-address': { test: isHostAddress, explain: explainHost },
  'ipv4-host-or-empty': {
    test: (text) => text === '' || (isOfFamily(4)(text) && isHostAddress(text)),
    explain: (text) => (isOfFamily(4)(text) ? explainHost(text) : notOfFamily(4)(text)),
  },
  'ipv6-host-or-empty': {
    test: (text) => text === '' || (isOfFamily(6)(text) && isHostAddress(text)),
    explain: (text) => (isOfFamily(6)(text) ? explainHost(text) : notOfFamily(6)(text)),
  },
  'address-pair': {
    test: isPairOf(isAddress),
    explain: notAn('an address, or one of each family with a comma'),
  },
  'host-address-pair': {
    test: isPairOf(isHostAddress),
    explain: (text) =>
      text.includes(',') ? notAn('an address, or one of each family with a comma')(text) : explainHost(text),
  },
  'prefix-pair': {
    test: isPairOf(isPrefix),
    explain: notAn('an address or CIDR, or one of each family with a comma'),
  },
  'cidr-pair': {
    test: isPairOf((part) => part.includes('/') && isPrefix(part)),
    explain: notAn('a CIDR, or one of each family with a comma'),
  },
  'interface-name': {
    test: isText(/^[A-Za-z0-9_][A-Za-z0-9_.-]*$/, 15),
    explain: (text) =>
      `${quote(text)} is not an interface name: at most 15 letters, digits, ".", "_" and "-"`,
  },
  'resource-name': {
    test: isText(DNS_SUBDOMAIN, 253),
    explain: (text) => `${quote(text)} is not a Kubernetes name: lower case letters, digits, "-" and "."`,
  },
  namespace: {
    test: isText(DNS_LABEL, 63),
    explain: (text) => `${quote(text)} is not a namespace: at most 63 lower case letters, digits and "-"`,
  },
  'policy-name': {
    // In metrics, limits and records it is what no policy names (nat/conntrack/flow.ts).
    test: (text) => text !== 'default' && isText(LABEL, 63)(text),
    explain: (text) =>
      text === 'default'
        ? '"default" is what metrics call traffic that no policy names: choose another name'
        : `${quote(text)} is not a policy name: at most 63 letters, digits, ".", "_" and "-", a letter or digit first and last`,
  },
  'absolute-path': {
    test: isText(/^\/[\x20-\x7e]+$/, 4095),
    explain: (text) => `${quote(text)} is not an absolute path`,
  },
  mac: {
    test: isInterfaceMac,
    explain: (text) =>
      MAC.test(text)
        ? `${quote(text)} is not the Ethernet address of an interface`
        : `${quote(text)} is not an Ethernet address: write it like 02:42:ac:11:00:01`,
  },
  quantity: {
    test: (text) => QUANTITY.test(text),
    explain: (text) => `${quote(text)} is not a Kubernetes quantity: write it like 500m, 64Mi or 2`,
  },
  bandwidth: {
    test: isBandwidth,
    explain: (text) =>
      `${quote(text)} is not a bandwidth: write whole Mbit/s, or bits per second like 100M, 1.5G or 1Gi`,
  },
  number: {
    test: (text) => /^\d{1,15}(\.\d{1,6})?$/.test(text),
    explain: (text) => `${quote(text)} is not a number`,
  },
  'bit-rate': {
    test: (text) => BIT_RATE.test(text),
    explain: (text) =>
      `${quote(text)} is not a bandwidth: write Mbit/s as a number, or bits per second like 500k, 100M, 1.5G or 1Gi`,
  },
  'name-prefix': {
    test: (text) => text === '' || DNS_SUBDOMAIN.test(text.replace(/[-.]$/, '')),
    explain: (text) =>
      `${quote(text)} cannot begin the name of a Deployment: lower case letters, digits, "-" and "."`,
  },
  'label-key': {
    test: isLabelKey,
    explain: (text) =>
      `${quote(text)} is not the key of a label: NAME or DOMAIN/NAME, NAME of at most 63 letters, digits, ".", "_" and "-", a letter or digit first and last`,
  },
  'label-value': {
    test: (text) => text === '' || isText(LABEL, 63)(text),
    explain: (text) =>
      `${quote(text)} is not the value of a label: at most 63 letters, digits, ".", "_" and "-", a letter or digit first and last`,
  },
  duration: {
    test: (text) => parseDuration(text) !== undefined,
    explain: (text) => `${quote(text)} is not a duration: write it like 200ms, 1.5s or 5m`,
  },
  'go-duration': {
    test: (text) => parseGoDuration(text) !== undefined,
    explain: (text) => `${quote(text)} is not a duration: write it like 90s or 1m30s`,
  },
  'route-target': {
    test: isRouteTarget,
    explain: (text) =>
      `${quote(text)} is not a route target: write it like 65000:1016, an AS number or IPv4 address and a number`,
  },
  'port-range': {
    test: (text) => parsePorts(text) !== undefined,
    explain: (text) => `${quote(text)} is not a port from 1 to 65535, or a range like 8000-8010`,
  },
};
