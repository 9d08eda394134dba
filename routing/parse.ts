/**
 * Rules, routes, links and addresses ↔ rtnetlink payloads (linux/rtnetlink.h, linux/fib_rules.h). Pure.
 *
 * Headers, attributes and requests are the netlink package's codecs. Whole messages are read attribute by
 * attribute here, because the package's decoders lose attributes that they do not know and throw at an
 * RTA_VIA (docs/design/0001-netlink.md).
 */
import {
  formatRouteMessage,
  formatRuleMessage,
  MessageType,
  type RouteAttrs,
  type RouteProtocol,
  type RouteType,
  RuleAction,
  type RuleAttrs,
} from 'netlink/dist/rt/structs.js';
import { AttrStream, getU32, parseAttributes, putU32 } from 'netlink/dist/structs.js';
import { AF_INET, AF_INET6, addressFamily, RT_SCOPE_LINK } from '../lib/linux.ts';
import {
  type Address,
  addressBits,
  addressBytes,
  addressFromBytes,
  anyPrefix,
  type Family,
  networkAddress,
  type Prefix,
  prefixLength,
} from '../lib/prefix.ts';
import type { VirtualAddress } from './addresses.ts';
import { METRIC_VEG_AGENT, RTPROT_VEG_AGENT } from './numbers.ts';
import { hasProtocol, ownsRoute, ownsRule } from './ownership.ts';
import type { InterfaceAddress, Link, Route, Rule } from './state.ts';

export { MessageType };

// Attributes that are read.
const IFLA = { ADDRESS: 1, IFNAME: 3, MTU: 4, EXT_MASK: 29, CARRIER_CHANGES: 35 } as const;
const IFA = { ADDRESS: 1, LOCAL: 2, CACHEINFO: 6, FLAGS: 8, RT_PRIORITY: 9 } as const;
const RTA = {
  DST: 1,
  SRC: 2,
  OIF: 4,
  GATEWAY: 5,
  PRIORITY: 6,
  MULTIPATH: 9,
  TABLE: 15,
  VIA: 18,
  ENCAP: 22,
} as const;
/** What the fields of a route say, and what the kernel adds to every IPv6 route (cache info, preference). */
const PLAIN_RTA: ReadonlySet<number> = new Set([1, 4, 5, 6, 12, 15, 20]);
const FRA = {
  DST: 1,
  SRC: 2,
  IIFNAME: 3,
  PRIORITY: 6,
  SUPPRESS_IFGROUP: 13,
  SUPPRESS_PREFIXLEN: 14,
  TABLE: 15,
  PROTOCOL: 21,
} as const;

/** Selectors that the agent never writes, as `ip rule` calls them. Attributes that are not here do not select. */
const QUALIFIERS: readonly [type: number, name: string][] = [
  [4, 'goto'],
  [10, 'fwmark'],
  [16, 'fwmask'],
  [11, 'realms'],
  [12, 'tun_id'],
  [17, 'oif'],
  [19, 'l3mdev'],
  [20, 'uidrange'],
  [22, 'ipproto'],
  [23, 'sport'],
  [28, 'sport mask'],
  [24, 'dport'],
  [29, 'dport mask'],
  [25, 'dscp'],
  [30, 'dscp mask'],
  [26, 'flowlabel'],
  [27, 'flowlabel mask'],
];

const IFF_UP = 0x1;
const IFF_LOWER_UP = 0x10000;
const IFA_F_NODAD = 0x02;
const IFA_F_NOPREFIXROUTE = 0x200;
const FIB_RULE_INVERT = 0x2;
const RTM_F_CLONED = 0x200;
const RTNH_F_ONLINK = 0x4;
const RTEXT_FILTER_SKIP_STATS = 0x8;

function familyFrom(number: number): Family | undefined {
  if (number === AF_INET) return 4;
  return number === AF_INET6 ? 6 : undefined;
}

function attributes(data: Buffer, headerLength: number): Map<number, Buffer> {
  const found = new Map<number, Buffer>();
  parseAttributes(data.subarray(headerLength), (attribute) => found.set(attribute.type, attribute.data));
  return found;
}

const number = (attribute: Buffer | undefined): number | undefined =>
  attribute === undefined ? undefined : getU32(attribute);

/** A string attribute; the kernel ends most of them with a zero octet. */
const text = (attribute: Buffer | undefined): string | undefined =>
  attribute?.toString('latin1').replace(/\0.*$/s, '');

function prefixFrom(family: Family, bytes: Buffer | undefined, length: number): Prefix {
  return bytes === undefined ? anyPrefix(family) : (`${addressFromBytes(bytes)}/${length}` as Prefix);
}

const bytesOf = (value: Address): Buffer => Buffer.from(addressBytes(value));

/** A link (struct ifinfomsg). Undefined for a message of another family (a bridge port). */
export function parseLink(data: Buffer): Link | undefined {
  if (data.readUInt8(0) !== 0) return undefined;
  const found = attributes(data, 16);
  const flags = data.readUInt32LE(8);
  const mac = found.get(IFLA.ADDRESS);
  const carrierChanges = number(found.get(IFLA.CARRIER_CHANGES));
  return {
    index: data.readInt32LE(4),
    name: text(found.get(IFLA.IFNAME)) ?? '',
    up: (flags & IFF_UP) !== 0,
    carrier: (flags & IFF_LOWER_UP) !== 0,
    mtu: number(found.get(IFLA.MTU)) ?? 0,
    mac: mac?.length === 6 ? mac.toString('hex').replace(/..(?=.)/g, '$&:') : '',
    ...(carrierChanges !== undefined && { carrierChanges }),
  };
}

/** An address (struct ifaddrmsg). Undefined for another family. */
export function parseInterfaceAddress(data: Buffer): InterfaceAddress | undefined {
  const family = familyFrom(data.readUInt8(0));
  const found = attributes(data, 8);
  // On a point-to-point link IFA_ADDRESS is the other end's.
  const bytes = found.get(IFA.LOCAL) ?? found.get(IFA.ADDRESS);
  if (family === undefined || bytes === undefined) return undefined;
  const metric = number(found.get(IFA.RT_PRIORITY));
  return {
    family,
    ifindex: data.readUInt32LE(4),
    address: addressFromBytes(bytes),
    prefixLength: data.readUInt8(1),
    scope: data.readUInt8(3),
    flags: number(found.get(IFA.FLAGS)) ?? data.readUInt8(2),
    ...(metric !== undefined && { metric }),
  };
}

/** A route (struct rtmsg). Undefined for another family and for a cached exception. */
export function parseRoute(data: Buffer, nameOf: (ifindex: number) => string | undefined): Route | undefined {
  const family = familyFrom(data.readUInt8(0));
  if (family === undefined || data.readUInt32LE(8) & RTM_F_CLONED) return undefined;
  const found = attributes(data, 12);
  const gateway = found.get(RTA.GATEWAY);
  const oif = number(found.get(RTA.OIF));
  const sourceLength = data.readUInt8(2);
  const tos = data.readUInt8(3);
  const route: Route = {
    family,
    table: number(found.get(RTA.TABLE)) ?? data.readUInt8(4),
    destination: prefixFrom(family, found.get(RTA.DST), data.readUInt8(1)),
    protocol: data.readUInt8(5),
    scope: data.readUInt8(6),
    type: data.readUInt8(7),
    metric: number(found.get(RTA.PRIORITY)) ?? 0,
    foreign: found.has(RTA.MULTIPATH) || found.has(RTA.VIA) || found.has(RTA.ENCAP),
  };
  if (gateway !== undefined) route.gateway = addressFromBytes(gateway);
  if (data.readUInt32LE(8) & RTNH_F_ONLINK) route.onlink = true;
  if (oif !== undefined) route.dev = nameOf(oif) ?? `if${oif}`;
  if (tos !== 0) route.qualifier = `tos 0x${tos.toString(16)}`;
  else if (sourceLength > 0) route.qualifier = `from ${prefixFrom(family, found.get(RTA.SRC), sourceLength)}`;
  const plain = route.qualifier === undefined && [...found.keys()].every((type) => PLAIN_RTA.has(type));
  if (ownsRoute(route) && !plain) route.message = data;
  return route;
}

/** A rule (struct fib_rule_hdr). Undefined for another family. */
export function parseRule(data: Buffer): Rule | undefined {
  const family = familyFrom(data.readUInt8(0));
  if (family === undefined) return undefined;
  const found = attributes(data, 12);
  const source = found.get(FRA.SRC);
  const destination = found.get(FRA.DST);
  const iif = text(found.get(FRA.IIFNAME));
  const suppress = found.get(FRA.SUPPRESS_PREFIXLEN);
  const protocol = found.get(FRA.PROTOCOL)?.readUInt8();
  const tos = data.readUInt8(3);
  const action = data.readUInt8(7);
  const qualifiers = QUALIFIERS.flatMap(([type, name]) =>
    found.has(type) ? [`${name} 0x${found.get(type)!.toString('hex')}`] : [],
  );
  if (tos !== 0) qualifiers.push(`tos 0x${tos.toString(16)}`);
  if (action !== RuleAction.toTbl) qualifiers.push(`action ${action}`);
  const priority = number(found.get(FRA.PRIORITY)) ?? 0;
  const ours = protocol === RTPROT_VEG_AGENT && hasProtocol(priority);
  if (protocol !== undefined && protocol !== 0 && !ours) qualifiers.push(`protocol ${protocol}`);
  const rule: Rule = {
    family,
    priority,
    table: number(found.get(FRA.TABLE)) ?? data.readUInt8(4),
    foreign:
      qualifiers.length > 0 ||
      (data.readUInt32LE(8) & FIB_RULE_INVERT) !== 0 ||
      (suppress !== undefined && suppress.readInt32LE() !== -1) ||
      found.has(FRA.SUPPRESS_IFGROUP),
  };
  if (qualifiers.length > 0) rule.qualifier = qualifiers.join(' ');
  if (ours) rule.protocol = protocol;
  if (source !== undefined) rule.from = prefixFrom(family, source, data.readUInt8(2));
  if (destination !== undefined) rule.to = prefixFrom(family, destination, data.readUInt8(1));
  if (iif !== undefined) rule.iif = iif;
  if (ownsRule(rule)) rule.message = data;
  return rule;
}

/**
 * The payload of RTM_NEWADDR and RTM_DELADDR. Nothing shall choose the address as a source by itself, masquerading
 * least of all: an IPv4 address is of the scope of the link, and an IPv6 address comes deprecated (RFC 6724 5,
 * rule 3); also unchecked: the agent has asked for it.
 */
export function formatAddress({ family, address }: VirtualAddress, ifindex: number): Uint8Array {
  const header = Buffer.alloc(8);
  header.writeUInt8(addressFamily(family), 0);
  header.writeUInt8(addressBits(family), 1);
  header.writeUInt8(family === 4 ? RT_SCOPE_LINK : 0, 3);
  header.writeUInt32LE(ifindex, 4);
  const out = new AttrStream();
  out.emit(header);
  out.push(IFA.LOCAL, bytesOf(address));
  out.push(IFA.ADDRESS, bytesOf(address));
  out.push(IFA.RT_PRIORITY, putU32(METRIC_VEG_AGENT));
  if (family === 6) {
    // struct ifa_cacheinfo: preferred for 0 s, valid for ever.
    const lifetimes = Buffer.alloc(16);
    lifetimes.writeUInt32LE(0xffffffff, 4);
    out.push(IFA.FLAGS, putU32(IFA_F_NODAD | IFA_F_NOPREFIXROUTE));
    out.push(IFA.CACHEINFO, lifetimes);
  }
  return Buffer.concat(out.bufs);
}

/** The payload of RTM_NEWROUTE, or of RTM_DELROUTE for a route as observed. */
export function formatRoute(route: Route, ifindex: number | undefined): Uint8Array {
  if (route.message !== undefined) return route.message;
  const attrs: RouteAttrs = { table: route.table };
  if (prefixLength(route.destination) > 0) attrs.dst = bytesOf(networkAddress(route.destination));
  if (route.gateway !== undefined) attrs.gateway = bytesOf(route.gateway);
  if (ifindex !== undefined) attrs.oif = ifindex;
  if (route.metric > 0) attrs.priority = route.metric;
  const out = new AttrStream();
  formatRouteMessage(
    {
      kind: 'route',
      data: {
        family: addressFamily(route.family),
        dstLen: prefixLength(route.destination),
        table: headerTable(route.table),
        protocol: route.protocol as RouteProtocol,
        scope: route.scope,
        type: route.type as RouteType,
        ...(route.onlink && { flags: { __unknown: RTNH_F_ONLINK } }),
      },
      attrs,
    },
    out,
  );
  return Buffer.concat(out.bufs);
}

/** The payload of RTM_NEWRULE, or of RTM_DELRULE for a rule as observed. */
export function formatRule(rule: Rule): Uint8Array {
  if (rule.message !== undefined) return rule.message;
  const attrs: RuleAttrs = { priority: rule.priority, table: rule.table };
  if (rule.from !== undefined) attrs.src = bytesOf(networkAddress(rule.from));
  if (rule.to !== undefined) attrs.dst = bytesOf(networkAddress(rule.to));
  if (rule.protocol !== undefined) attrs.protocol = rule.protocol;
  if (rule.iif !== undefined) attrs.iifname = rule.iif;
  const out = new AttrStream();
  formatRuleMessage(
    {
      kind: 'rule',
      data: {
        family: addressFamily(rule.family),
        dstLen: rule.to === undefined ? 0 : prefixLength(rule.to),
        srcLen: rule.from === undefined ? 0 : prefixLength(rule.from),
        table: headerTable(rule.table),
        action: RuleAction.toTbl,
      },
      attrs,
    },
    out,
  );
  return Buffer.concat(out.bufs);
}

/** The header has one octet for the table; a larger number is in the attribute only. */
const headerTable = (table: number): number => (table < 256 ? table : 0);

/** The payload of a request for all links, without their counters. */
export function linkDump(): Uint8Array {
  const out = new AttrStream();
  out.emit(Buffer.alloc(16));
  out.push(IFLA.EXT_MASK, putU32(RTEXT_FILTER_SKIP_STATS));
  return Buffer.concat(out.bufs);
}

/** The payload of a request for all addresses. */
export const addressDump = (): Uint8Array => Buffer.alloc(8);

/** The payload of a request for all rules of a family. */
export function ruleDump(family: Family): Uint8Array {
  const header = Buffer.alloc(12);
  header.writeUInt8(addressFamily(family));
  return header;
}

/** The payload of a request for one table (NETLINK_GET_STRICT_CHK makes the kernel heed it). */
export function routeDump(family: Family, table: number): Uint8Array {
  const out = new AttrStream();
  formatRouteMessage(
    {
      kind: 'route',
      data: { family: addressFamily(family), table: headerTable(table) },
      attrs: { table },
    },
    out,
  );
  return Buffer.concat(out.bufs);
}
