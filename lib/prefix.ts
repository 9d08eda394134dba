/**
 * Addresses and prefixes as canonical text. Pure.
 *
 * An `Address` and a `Prefix` are strings in the one form that the kernel and its tools print (RFC 5952 for
 * IPv6, host bits of a prefix cleared), so that equality is `===`, a `Set` works, and nothing that was not
 * parsed here can reach a command line. Parsing itself is ip-address's, but for what long lists are made of:
 * canonical IPv4, and IPv6 hosts. Of those a hundred thousand would cost seconds.
 */
import { Address4, Address6 } from 'ip-address';

/** The address family: 4 or 6. */
export type Family = 4 | 6;

/** An IPv4 or IPv6 address in canonical text, without a zone: `10.16.0.12`, `fd00:10:16::12`. */
export type Address = string & { readonly __brand: 'Address' };

/** A network in canonical text, host bits zero, the length always there: `10.16.0.0/16`, `10.0.0.1/32`. */
export type Prefix = string & { readonly __brand: 'Prefix' };

/** Both families, in the order in which everything walks them. */
export const FAMILIES: readonly Family[] = [4, 6];

/** The number of bits in an address of a family. */
export const addressBits = (family: Family): 32 | 128 => (family === 4 ? 32 : 128);

/** The whole address space of a family: `0.0.0.0/0` or `::/0`. */
export const anyPrefix = (family: Family): Prefix => (family === 4 ? '0.0.0.0/0' : '::/0') as Prefix;

/** The family of an address or prefix. */
export const familyOf = (value: Address | Prefix): Family => (value.includes(':') ? 6 : 4);

// Only these are valid in an address; ip-address takes more (zones, surrounding blanks in some forms).
const SHAPE = /^[0-9A-Fa-f.:]{2,45}(?:\/[0-9]{1,3})?$/;

const OCTET = '(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])';
const ADDRESS_4 = new RegExp(`^${OCTET}(?:\\.${OCTET}){3}$`);
const PREFIX_4 = new RegExp(`^${OCTET}(?:\\.${OCTET}){3}/(?:3[0-2]|[12]?[0-9])$`);
/** Without dotted decimal, which has forms of its own. */
const HOST_6 = /^[0-9A-Fa-f:]{2,39}(?:\/128)?$/;

const DOT = 0x2e;
const ZERO = 0x30;

/** A canonical IPv4 address as a number. */
function number4(value: string): number {
  let number = 0;
  let octet = 0;
  for (let i = 0; i < value.length; i++) {
    const code = value.charCodeAt(i);
    if (code === DOT) {
      number = number * 256 + octet;
      octet = 0;
    } else {
      octet = octet * 10 + code - ZERO;
    }
  }
  return number * 256 + octet;
}

/** An IPv4 address from its number. */
const text4 = (value: number): Address =>
  `${value >>> 24}.${(value >>> 16) & 255}.${(value >>> 8) & 255}.${value & 255}` as Address;

/** The IPv4 prefix of a length that an address lies in. */
const clear4 = (value: string, length: number): Prefix =>
  `${text4(length === 0 ? 0 : number4(value) & (0xffffffff << (32 - length)))}/${length}` as Prefix;

/** An IPv6 address in its canonical spelling, which URLs have too; undefined for no address. */
const canonical6 = (text: string): Address | undefined =>
  URL.parse(`http://[${text}]`)?.hostname.slice(1, -1) as Address | undefined;

function parse(text: string): Address4 | Address6 | undefined {
  if (!SHAPE.test(text)) return undefined;
  try {
    return text.includes(':') ? new Address6(text) : new Address4(text);
  } catch {
    return undefined;
  }
}

/** Parses one address without a length. Returns undefined for anything else. */
export function parseAddress(text: string): Address | undefined {
  if (ADDRESS_4.test(text)) return text as Address;
  if (text.includes('/')) return undefined;
  return parse(text)?.correctForm() as Address | undefined;
}

/**
 * Parses `address/length`, or a bare address as a host prefix, and clears the host bits.
 * Returns undefined for anything else.
 */
export function parsePrefix(text: string): Prefix | undefined {
  if (ADDRESS_4.test(text)) return `${text}/32` as Prefix;
  if (PREFIX_4.test(text)) {
    const length = prefixLength(text as Prefix);
    return length === 32 ? (text as Prefix) : clear4(networkAddress(text as Prefix), length);
  }
  const host = HOST_6.test(text) && canonical6(text.replace('/128', ''));
  if (host) return `${host}/128` as Prefix;
  const parsed = parse(text);
  if (parsed === undefined) return undefined;
  return `${parsed.startAddress().correctForm()}/${parsed.subnetMask}` as Prefix;
}

const MAPPED = /^::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})(?:\/(\d+))?$/;

/** The IPv4 address or prefix that one inside ::ffff:0:0/96 stands for (RFC 4291 2.5.5.2); undefined for any other. */
export function mappedIPv4(value: Address | Prefix): Address | Prefix | undefined {
  const [, high, low, length] = MAPPED.exec(value) ?? [];
  if (high === undefined) return undefined;
  const address = text4(Number.parseInt(high, 16) * 65_536 + Number.parseInt(low!, 16));
  return length === undefined ? address : (`${address}/${Number(length) - 96}` as Prefix);
}

/** An address that a trusted source (the kernel, a literal) gave. Throws `TypeError` when it is none. */
export function address(text: string): Address {
  const parsed = parseAddress(text);
  if (parsed === undefined) throw new TypeError(`not an IPv4 or IPv6 address: ${JSON.stringify(text)}`);
  return parsed;
}

/** A prefix that a trusted source (the kernel, a literal) gave. Throws `TypeError` when it is none. */
export function prefix(text: string): Prefix {
  const parsed = parsePrefix(text);
  if (parsed === undefined) throw new TypeError(`not an IPv4 or IPv6 prefix: ${JSON.stringify(text)}`);
  return parsed;
}

/** The prefix that holds just this address: /32 or /128. */
export const hostPrefix = (value: Address): Prefix => `${value}/${addressBits(familyOf(value))}` as Prefix;

/** The length of a prefix in bits. */
export const prefixLength = (value: Prefix): number => Number(value.slice(value.indexOf('/') + 1));

/** The first address of a prefix. */
export const networkAddress = (value: Prefix): Address => value.slice(0, value.indexOf('/')) as Address;

/** The address as a number, most significant octet first. */
export function addressNumber(value: Address): bigint {
  return familyOf(value) === 4 ? BigInt(number4(value)) : new Address6(value).bigInt();
}

/** The address as 4 or 16 octets in network order. */
export function addressBytes(value: Address): Uint8Array {
  if (familyOf(value) === 4) {
    const number = number4(value);
    return Uint8Array.of(number >>> 24, number >>> 16, number >>> 8, number);
  }
  const bytes = new Address6(value).toByteArray();
  const out = new Uint8Array(16);
  out.set(bytes, out.length - bytes.length);
  return out;
}

/** The address in 4 or 16 octets in network order. Throws `RangeError` for another length. */
export function addressFromBytes(bytes: Uint8Array): Address {
  if (bytes.length === 4) return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}` as Address;
  if (bytes.length !== 16) throw new RangeError(`an address has 4 or 16 octets, not ${bytes.length}`);
  return text6(bytes);
}

/** An IPv6 address in its canonical spelling (RFC 5952 4): the first longest run of two zero groups or more is `::`. */
function text6(bytes: Uint8Array): Address {
  const group = (i: number): number => (bytes[2 * i]! << 8) | bytes[2 * i + 1]!;
  let [start, length] = [8, 1];
  for (let i = 0; i < 8; i++) {
    let end = i;
    while (end < 8 && group(end) === 0) end++;
    if (end - i > length) [start, length] = [i, end - i];
    i = Math.max(i, end);
  }
  let text = '';
  for (let i = 0; i < 8; i++) {
    if (i === start) {
      text += '::';
      i += length - 1;
    } else {
      text += `${text === '' || text.endsWith(':') ? '' : ':'}${group(i).toString(16)}`;
    }
  }
  return text as Address;
}

/** Whether `inner` (an address or a prefix) lies wholly inside `outer`. False across families. */
export function contains(outer: Prefix, inner: Address | Prefix): boolean {
  const family = familyOf(outer);
  if (family !== familyOf(inner)) return false;
  const innerPrefix = inner.includes('/') ? (inner as Prefix) : hostPrefix(inner as Address);
  return (
    prefixLength(innerPrefix) >= prefixLength(outer) && around(innerPrefix, prefixLength(outer)) === outer
  );
}

/** The prefix of a length, at most its own, that a prefix lies in. */
export function around(inner: Prefix, length: number): Prefix {
  if (length === prefixLength(inner)) return inner;
  const network = networkAddress(inner);
  return familyOf(inner) === 4 ? clear4(network, length) : prefix(`${network}/${length}`);
}

/** A prefix as iproute2 prints it: a host without its length, the whole space as `default`. */
export function iproute2Text(value: Prefix): string {
  const length = prefixLength(value);
  if (length === 0) return 'default';
  return length === addressBits(familyOf(value)) ? networkAddress(value) : value;
}
