/** Rules, routes, links and addresses ↔ rtnetlink payloads (linux/rtnetlink.h, linux/fib_rules.h). Pure. */

import { flatText } from '../lib/flat-text.ts';
import { AF_INET, AF_INET6, addressFamily, NLA_HEADER, RT_SCOPE_LINK } from '../lib/linux.ts';
import { macText } from '../lib/mac.ts';
import { Attributes, attribute, nest, u8, u16Be, u32, zeroEnded } from '../lib/netlink-codec.ts';
import {
  type Address,
  addressBits,
  addressBytes,
  addressFromBytes,
  anyPrefix,
  type Family,
  familyOf,
  networkAddress,
  type Prefix,
  prefixLength,
} from '../lib/prefix.ts';
import type { VirtualAddress } from './addresses.ts';
import type { WantedLink } from './links.ts';
import {
  GROUP_RULE_PRIORITY,
  LINK_GROUP_VEG_AGENT,
  METRIC_VEG_AGENT,
  RTPROT_VEG_AGENT,
  VPN_RULE_PRIORITY,
} from './numbers.ts';
import { hasProtocol, ownsRoute, ownsRule } from './ownership.ts';
import type { ObservedProxy, ProxyNeighbour } from './proxies.ts';
import type { Device, InterfaceAddress, Link, Route, Rule } from './state.ts';

/** RTM_*: the types of messages (linux/rtnetlink.h). */
export const MessageType = {
  NEWLINK: 16,
  DELLINK: 17,
  GETLINK: 18,
  NEWADDR: 20,
  DELADDR: 21,
  GETADDR: 22,
  NEWROUTE: 24,
  DELROUTE: 25,
  GETROUTE: 26,
  NEWNEIGH: 28,
  DELNEIGH: 29,
  GETNEIGH: 30,
  NEWRULE: 32,
  DELRULE: 33,
  GETRULE: 34,
} as const;

// Octets of the fixed headers.
const IFINFOMSG = 16;
const IFADDRMSG = 8;
const RTMSG = 12;
const FIB_RULE_HDR = 12;
const NDMSG = 12;

// Attributes that are read.
const IFLA = {
  ADDRESS: 1,
  IFNAME: 3,
  MTU: 4,
  MASTER: 10,
  LINKINFO: 18,
  GROUP: 27,
  EXT_MASK: 29,
  CARRIER_CHANGES: 35,
} as const;
// linux/if_link.h: what is in IFLA_LINKINFO, and in its data.
const IFLA_INFO = { KIND: 1, DATA: 2 } as const;
const IFLA_VRF_TABLE = 1;
const IFLA_VXLAN = { ID: 1, LOCAL: 4, LEARNING: 7, PORT: 15, LOCAL6: 17 } as const;
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
/** Attributes that a route's fields keep, and those that the kernel adds to every IPv6 route (cache info, preference). */
const PLAIN_RTA: ReadonlySet<number> = new Set([1, 4, 5, 6, 12, 15, 20]);
const FRA = {
  DST: 1,
  SRC: 2,
  IIFNAME: 3,
  PRIORITY: 6,
  FWMARK: 10,
  SUPPRESS_IFGROUP: 13,
  SUPPRESS_PREFIXLEN: 14,
  TABLE: 15,
  FWMASK: 16,
  L3MDEV: 19,
  PROTOCOL: 21,
} as const;

const NDA = { DST: 1, PROTOCOL: 12 } as const;
const NTF_PROXY = 0x08;
const NUD_PERMANENT = 0x80;

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
const SELECTORS: ReadonlySet<number> = new Set(QUALIFIERS.map(([type]) => type));

const IFF_UP = 0x1;
const IFF_LOWER_UP = 0x10000;
const IFA_F_NODAD = 0x02;
const IFA_F_NOPREFIXROUTE = 0x200;
const FR_ACT_TO_TBL = 1;
const FR_ACT_UNREACHABLE = 7;
const VPN_PRIORITIES: readonly number[] = Object.values(VPN_RULE_PRIORITY);
const FIB_RULE_INVERT = 0x2;
const RTM_F_CLONED = 0x200;
const RTNH_F_ONLINK = 0x4;
const RTEXT_FILTER_SKIP_STATS = 0x8;

const prefixOf = (bytes: Buffer, length: number): Prefix =>
  flatText(`${addressFromBytes(bytes)}/${length}` as Prefix);

function familyFrom(number: number): Family | undefined {
  if (number === AF_INET) return 4;
  return number === AF_INET6 ? 6 : undefined;
}

/** A link (struct ifinfomsg). Undefined for a message of another family (a bridge port). */
export function parseLink(data: Buffer): Link | undefined {
  if (data.readUInt8(0) !== 0) return undefined;
  const flags = data.readUInt32LE(8);
  const link: Link = {
    index: data.readInt32LE(4),
    name: '',
    up: (flags & IFF_UP) !== 0,
    carrier: (flags & IFF_LOWER_UP) !== 0,
    mtu: 0,
    mac: '',
  };
  const attributes = new Attributes(data, IFINFOMSG);
  while (attributes.next()) {
    switch (attributes.type) {
      case IFLA.IFNAME:
        link.name = attributes.string;
        break;
      case IFLA.MTU:
        link.mtu = attributes.u32;
        break;
      case IFLA.ADDRESS:
        if (attributes.length === 6) link.mac = macText(attributes.content);
        break;
      case IFLA.CARRIER_CHANGES:
        link.carrierChanges = attributes.u32;
        break;
      case IFLA.MASTER:
        link.master = attributes.u32;
        break;
      case IFLA.GROUP:
        if (attributes.u32 !== 0) link.group = attributes.u32;
        break;
      case IFLA.LINKINFO: {
        const device = parseDevice(attributes.nested);
        if (device !== undefined) link.device = device;
        break;
      }
    }
  }
  return link;
}

/** What IFLA_LINKINFO says. Undefined for kinds that the agent does not make. */
function parseDevice(info: Attributes): Device | undefined {
  let kind = '';
  let data: Attributes | undefined;
  while (info.next()) {
    if (info.type === IFLA_INFO.KIND) kind = info.string;
    else if (info.type === IFLA_INFO.DATA) data = info.nested;
  }
  if (kind === 'bridge') return { kind };
  if (kind === 'vrf') {
    let table = 0;
    while (data?.next()) if (data.type === IFLA_VRF_TABLE) table = data.u32;
    return { kind, table };
  }
  return kind === 'vxlan' ? parseVxlan(data) : undefined;
}

function parseVxlan(data: Attributes | undefined): Device {
  const vxlan: Device = { kind: 'vxlan', vni: 0, port: 0, learning: false };
  while (data?.next()) {
    switch (data.type) {
      case IFLA_VXLAN.ID:
        vxlan.vni = data.u32;
        break;
      case IFLA_VXLAN.LOCAL:
      case IFLA_VXLAN.LOCAL6:
        // The kernel reports one that is not set as well, as zeros.
        if (data.content.some((octet) => octet !== 0)) vxlan.local = addressFromBytes(data.content);
        break;
      case IFLA_VXLAN.LEARNING:
        vxlan.learning = data.u8 !== 0;
        break;
      case IFLA_VXLAN.PORT:
        vxlan.port = data.u16Be;
        break;
    }
  }
  return vxlan;
}

/** The payload of RTM_NEWLINK for a new device; `master`: the index of the one that it belongs to. */
export const formatNewLink = (
  { name, device, mtu }: WantedLink & { device: Device },
  master: number | undefined,
): Uint8Array =>
  Buffer.concat([
    linkHeader(0, true),
    attribute(IFLA.IFNAME, zeroEnded(name)),
    attribute(IFLA.GROUP, u32(LINK_GROUP_VEG_AGENT)),
    ...optional(IFLA.MTU, mtu, u32),
    ...optional(IFLA.MASTER, master, u32),
    nest(IFLA.LINKINFO, attribute(IFLA_INFO.KIND, zeroEnded(device.kind)), ...deviceData(device)),
  ]);

function deviceData(device: Device): Buffer[] {
  if (device.kind === 'bridge') return [];
  if (device.kind === 'vrf') return [nest(IFLA_INFO.DATA, attribute(IFLA_VRF_TABLE, u32(device.table)))];
  const { vni, local, port, learning } = device;
  const type = local !== undefined && familyOf(local) === 6 ? IFLA_VXLAN.LOCAL6 : IFLA_VXLAN.LOCAL;
  return [
    nest(
      IFLA_INFO.DATA,
      attribute(IFLA_VXLAN.ID, u32(vni)),
      ...optional(type, local, addressBytes),
      attribute(IFLA_VXLAN.LEARNING, u8(Number(learning))),
      attribute(IFLA_VXLAN.PORT, u16Be(port)),
    ),
  ];
}

/** The payload of RTM_NEWLINK that changes a device, by its index. */
export const formatLinkChange = (
  { mtu, up }: Pick<WantedLink, 'mtu' | 'up'>,
  ifindex: number,
  master: number | undefined,
): Uint8Array =>
  Buffer.concat([
    linkHeader(ifindex, up ?? false),
    ...optional(IFLA.MTU, mtu, u32),
    ...optional(IFLA.MASTER, master, u32),
  ]);

/** The payload of RTM_DELLINK. */
export const formatDelLink = (ifindex: number): Uint8Array => linkHeader(ifindex, false);

/** struct ifinfomsg: with `up` the device is turned on, without it is left as it is. */
function linkHeader(ifindex: number, up: boolean): Buffer {
  const header = Buffer.alloc(IFINFOMSG);
  header.writeInt32LE(ifindex, 4);
  if (up) for (const at of [8, 12]) header.writeUInt32LE(IFF_UP, at);
  return header;
}

/** An address (struct ifaddrmsg). Undefined for another family. */
export function parseInterfaceAddress(data: Buffer): InterfaceAddress | undefined {
  const family = familyFrom(data.readUInt8(0));
  let local: Buffer | undefined;
  let address: Buffer | undefined;
  let flags = data.readUInt8(2);
  let metric: number | undefined;
  const attributes = new Attributes(data, IFADDRMSG);
  while (attributes.next()) {
    switch (attributes.type) {
      case IFA.LOCAL:
        local = attributes.content;
        break;
      case IFA.ADDRESS:
        address = attributes.content;
        break;
      case IFA.FLAGS:
        flags = attributes.u32;
        break;
      case IFA.RT_PRIORITY:
        metric = attributes.u32;
        break;
    }
  }
  // On a point-to-point link IFA_ADDRESS is the address of the other end.
  const bytes = local ?? address;
  if (family === undefined || bytes === undefined) return undefined;
  return {
    family,
    ifindex: data.readUInt32LE(4),
    address: addressFromBytes(bytes),
    prefixLength: data.readUInt8(1),
    scope: data.readUInt8(3),
    flags,
    ...(metric !== undefined && { metric }),
  };
}

/** A route (struct rtmsg). Undefined for another family and for a cached exception. */
export function parseRoute(data: Buffer, nameOf: (ifindex: number) => string | undefined): Route | undefined {
  const family = familyFrom(data.readUInt8(0));
  const flags = data.readUInt32LE(8);
  if (family === undefined || flags & RTM_F_CLONED) return undefined;
  const [destinationLength, sourceLength, tos] = [data.readUInt8(1), data.readUInt8(2), data.readUInt8(3)];
  let destination = anyPrefix(family);
  let source = destination;
  let table = data.readUInt8(4);
  let gateway: Address | undefined;
  let dev: string | undefined;
  let metric = 0;
  let foreign = false;
  let plain = true;
  const attributes = new Attributes(data, RTMSG);
  while (attributes.next()) {
    const { type } = attributes;
    plain &&= PLAIN_RTA.has(type);
    switch (type) {
      case RTA.DST:
        destination = prefixOf(attributes.content, destinationLength);
        break;
      case RTA.SRC:
        source = prefixOf(attributes.content, sourceLength);
        break;
      case RTA.OIF:
        dev = nameOf(attributes.u32) ?? `if${attributes.u32}`;
        break;
      case RTA.GATEWAY:
        gateway = addressFromBytes(attributes.content);
        break;
      case RTA.PRIORITY:
        metric = attributes.u32;
        break;
      case RTA.TABLE:
        table = attributes.u32;
        break;
      case RTA.MULTIPATH:
      case RTA.VIA:
      case RTA.ENCAP:
        foreign = true;
        break;
    }
  }
  const [protocol, scope, type] = [data.readUInt8(5), data.readUInt8(6), data.readUInt8(7)];
  const route: Route =
    gateway !== undefined && dev !== undefined
      ? // With all properties at once, as nearly every route has them: V8 stores later ones separately.
        { family, table, destination, gateway, dev, protocol, scope, type, metric, foreign }
      : { family, table, destination, protocol, scope, type, metric, foreign };
  if (gateway !== undefined) route.gateway = gateway;
  if (dev !== undefined) route.dev = dev;
  if (flags & RTNH_F_ONLINK) route.onlink = true;
  if (tos !== 0) route.qualifier = `tos 0x${tos.toString(16)}`;
  else if (sourceLength > 0) route.qualifier = `from ${source}`;
  plain &&= route.qualifier === undefined;
  // A copy: a view would keep the whole datagram in memory.
  if (ownsRoute(route) && !plain) route.message = Buffer.from(data);
  return route;
}

/** The attributes of a rule that its fields do not keep. */
interface RuleAttributes {
  /** Of `SELECTORS`, in hexadecimal. */
  selectors: Map<number, string>;
  mark: { value: number; mask: number };
  protocol: number;
}

/** A rule (struct fib_rule_hdr). Undefined for another family. */
export function parseRule(data: Buffer): Rule | undefined {
  const family = familyFrom(data.readUInt8(0));
  if (family === undefined) return undefined;
  const rule: Rule = {
    family,
    priority: 0,
    table: data.readUInt8(4),
    foreign: (data.readUInt32LE(8) & FIB_RULE_INVERT) !== 0,
  };
  const { selectors, mark, protocol } = readRuleAttributes(data, rule);
  if (rule.priority === GROUP_RULE_PRIORITY && mark.mask !== 0) {
    rule.mark = mark;
    selectors.delete(FRA.FWMARK);
    selectors.delete(FRA.FWMASK);
  }
  const [tos, action] = [data.readUInt8(3), data.readUInt8(7)];
  const isOfVrf = selectors.get(FRA.L3MDEV) === '01' && VPN_PRIORITIES.includes(rule.priority);
  if (isOfVrf && (action === FR_ACT_TO_TBL || action === FR_ACT_UNREACHABLE)) {
    rule.l3mdev = action === FR_ACT_TO_TBL ? 'lookup' : 'unreachable';
    selectors.delete(FRA.L3MDEV);
  }
  const qualifiers = QUALIFIERS.filter(([type]) => selectors.has(type)).map(
    ([type, name]) => `${name} 0x${selectors.get(type)}`,
  );
  if (tos !== 0) qualifiers.push(`tos 0x${tos.toString(16)}`);
  if (action !== FR_ACT_TO_TBL && rule.l3mdev === undefined) qualifiers.push(`action ${action}`);
  if (protocol === RTPROT_VEG_AGENT && hasProtocol(rule.priority)) rule.protocol = protocol;
  else if (protocol !== 0) qualifiers.push(`protocol ${protocol}`);
  if (qualifiers.length > 0) {
    rule.qualifier = qualifiers.join(' ');
    rule.foreign = true;
  }
  if (ownsRule(rule)) rule.message = Buffer.from(data);
  return rule;
}

/** Reads the attributes of a rule into it, and returns those that it has no field for. */
function readRuleAttributes(data: Buffer, rule: Rule): RuleAttributes {
  const selectors = new Map<number, string>();
  const mark = { value: 0, mask: 0 };
  let protocol = 0;
  const attributes = new Attributes(data, FIB_RULE_HDR);
  while (attributes.next()) {
    const { type } = attributes;
    if (SELECTORS.has(type)) selectors.set(type, attributes.content.toString('hex'));
    switch (type) {
      case FRA.PRIORITY:
        rule.priority = attributes.u32;
        break;
      case FRA.TABLE:
        rule.table = attributes.u32;
        break;
      case FRA.SRC:
        rule.from = prefixOf(attributes.content, data.readUInt8(2));
        break;
      case FRA.DST:
        rule.to = prefixOf(attributes.content, data.readUInt8(1));
        break;
      case FRA.IIFNAME:
        rule.iif = attributes.string;
        break;
      case FRA.FWMARK:
        mark.value = attributes.u32;
        break;
      case FRA.FWMASK:
        mark.mask = attributes.u32;
        break;
      case FRA.PROTOCOL:
        protocol = attributes.u8;
        break;
      case FRA.SUPPRESS_PREFIXLEN:
        rule.foreign ||= attributes.i32 !== -1;
        break;
      case FRA.SUPPRESS_IFGROUP:
        rule.foreign = true;
        break;
    }
  }
  return { selectors, mark, protocol };
}

/**
 * The payload of RTM_NEWADDR and RTM_DELADDR. Neither source address selection nor masquerading may choose the address:
 * in IPv4 its scope is the link, in IPv6 it is deprecated (RFC 6724 5, rule 3). IPv6 also skips Duplicate Address
 * Detection: the agent has done its own.
 */
export function formatAddress({ family, address }: VirtualAddress, ifindex: number): Uint8Array {
  const header = Buffer.alloc(8);
  header.writeUInt8(addressFamily(family), 0);
  header.writeUInt8(addressBits(family), 1);
  header.writeUInt8(family === 4 ? RT_SCOPE_LINK : 0, 3);
  header.writeUInt32LE(ifindex, 4);
  const bytes = addressBytes(address);
  const attributes = [
    attribute(IFA.LOCAL, bytes),
    attribute(IFA.ADDRESS, bytes),
    attribute(IFA.RT_PRIORITY, u32(METRIC_VEG_AGENT)),
  ];
  if (family === 6) {
    // struct ifa_cacheinfo: preferred for 0 s, valid without limit.
    const lifetimes = [u32(0), u32(0xffffffff), u32(0), u32(0)];
    attributes.push(
      attribute(IFA.FLAGS, u32(IFA_F_NODAD | IFA_F_NOPREFIXROUTE)),
      attribute(IFA.CACHEINFO, ...lifetimes),
    );
  }
  return Buffer.concat([header, ...attributes]);
}

/** A proxy entry (struct ndmsg). Undefined for another family and for a neighbour. */
export function parseProxy(
  data: Buffer,
  nameOf: (ifindex: number) => string | undefined,
): ObservedProxy | undefined {
  const family = familyFrom(data.readUInt8(0));
  const ifindex = data.readInt32LE(4);
  let address: Buffer | undefined;
  let protocol = 0;
  const attributes = new Attributes(data, NDMSG);
  while (attributes.next()) {
    if (attributes.type === NDA.DST) address = attributes.content;
    else if (attributes.type === NDA.PROTOCOL) protocol = attributes.u8;
  }
  if (family === undefined || address === undefined || (data.readUInt8(10) & NTF_PROXY) === 0)
    return undefined;
  return { family, address: addressFromBytes(address), dev: nameOf(ifindex) ?? `if${ifindex}`, protocol };
}

const neighbourHeader = (family: Family, ifindex: number, state: number): Buffer => {
  const header = Buffer.alloc(NDMSG);
  header.writeUInt8(addressFamily(family), 0);
  header.writeInt32LE(ifindex, 4);
  header.writeUInt16LE(state, 8);
  header.writeUInt8(NTF_PROXY, 10);
  return header;
};

/** The payload of RTM_NEWNEIGH and RTM_DELNEIGH for a proxy entry. */
export const formatProxy = ({ family, address }: ProxyNeighbour, ifindex: number): Uint8Array =>
  Buffer.concat([
    neighbourHeader(family, ifindex, NUD_PERMANENT),
    attribute(NDA.DST, addressBytes(address)),
    attribute(NDA.PROTOCOL, u8(RTPROT_VEG_AGENT)),
  ]);

/** The payload of a request for the proxy entries of a family. */
export const proxyDump = (family: Family): Uint8Array => neighbourHeader(family, 0, 0);

/** An optional attribute. */
const optional = <T>(type: number, value: T | undefined, bytes: (value: T) => Uint8Array): Buffer[] =>
  value === undefined ? [] : [attribute(type, bytes(value))];

const networkBytes = (value: Prefix): Uint8Array => addressBytes(networkAddress(value));

/** The payload of RTM_NEWROUTE, or of RTM_DELROUTE for a route as observed. In one buffer: there may be 100 000. */
export function formatRoute(route: Route, ifindex: number | undefined): Uint8Array {
  if (route.message !== undefined) return route.message;
  const { family, table, destination, gateway, onlink, protocol, scope, type, metric } = route;
  const length = prefixLength(destination);
  const octets = addressBits(family) / 8;
  const addresses = (length > 0 ? 1 : 0) + (gateway === undefined ? 0 : 1);
  const numbers = 1 + (ifindex === undefined ? 0 : 1) + (metric > 0 ? 1 : 0);
  const payload = Buffer.allocUnsafe(RTMSG + addresses * (NLA_HEADER + octets) + numbers * (NLA_HEADER + 4));
  let at = 0;
  for (const value of [addressFamily(family), length, 0, 0, headerTable(table), protocol, scope, type]) {
    payload[at++] = value;
  }
  at = payload.writeUInt32LE(onlink ? RTNH_F_ONLINK : 0, at);
  const begin = (attributeType: number, size: number): void => {
    payload.writeUInt16LE(NLA_HEADER + size, at);
    at = payload.writeUInt16LE(attributeType, at + 2);
  };
  const number = (attributeType: number, value: number): void => {
    begin(attributeType, 4);
    at = payload.writeUInt32LE(value, at);
  };
  const address = (attributeType: number, value: Address): void => {
    begin(attributeType, octets);
    payload.set(addressBytes(value), at);
    at += octets;
  };
  number(RTA.TABLE, table);
  if (length > 0) address(RTA.DST, networkAddress(destination));
  if (gateway !== undefined) address(RTA.GATEWAY, gateway);
  if (ifindex !== undefined) number(RTA.OIF, ifindex);
  if (metric > 0) number(RTA.PRIORITY, metric);
  return payload;
}

/** The payload of RTM_NEWRULE, or of RTM_DELRULE for a rule as observed. */
export function formatRule(rule: Rule): Uint8Array {
  if (rule.message !== undefined) return rule.message;
  const { family, priority, table, from, to, iif, mark, l3mdev, protocol } = rule;
  const length = (block: Prefix | undefined) => (block === undefined ? 0 : prefixLength(block));
  const action = l3mdev === 'unreachable' ? FR_ACT_UNREACHABLE : FR_ACT_TO_TBL;
  return Buffer.concat([
    Buffer.of(addressFamily(family), length(to), length(from), 0, headerTable(table), 0, 0, action),
    u32(0),
    attribute(FRA.PRIORITY, u32(priority)),
    // The kernel refuses a table beside it.
    l3mdev === undefined ? attribute(FRA.TABLE, u32(table)) : attribute(FRA.L3MDEV, u8(1)),
    ...optional(FRA.SRC, from, networkBytes),
    ...optional(FRA.DST, to, networkBytes),
    ...optional(FRA.IIFNAME, iif, zeroEnded),
    ...optional(FRA.FWMARK, mark?.value, u32),
    ...optional(FRA.FWMASK, mark?.mask, u32),
    ...optional(FRA.PROTOCOL, protocol, u8),
  ]);
}

/** The header has one octet for the table; a larger number is in the attribute only. */
const headerTable = (table: number): number => (table < 256 ? table : 0);

/** The payload of a request for all links, without their counters. */
export const linkDump = (): Uint8Array =>
  Buffer.concat([Buffer.alloc(IFINFOMSG), attribute(IFLA.EXT_MASK, u32(RTEXT_FILTER_SKIP_STATS))]);

/** The payload of a request for all addresses. */
export const addressDump = (): Uint8Array => Buffer.alloc(IFADDRMSG);

/** The payload of a request for all rules of a family. */
export function ruleDump(family: Family): Uint8Array {
  const header = Buffer.alloc(FIB_RULE_HDR);
  header.writeUInt8(addressFamily(family));
  return header;
}

/** The payload of a request for one table (NETLINK_GET_STRICT_CHK makes the kernel heed it). */
export function routeDump(family: Family, table: number): Uint8Array {
  const header = Buffer.alloc(RTMSG);
  header.writeUInt8(addressFamily(family), 0);
  header.writeUInt8(headerTable(table), 4);
  return Buffer.concat([header, attribute(RTA.TABLE, u32(table))]);
}
