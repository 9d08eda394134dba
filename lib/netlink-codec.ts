/**
 * The codec of netlink messages and attributes (struct nlmsghdr, nlattr, nfgenmsg; linux/netlink.h and
 * linux/netfilter/nfnetlink.h), for rtnetlink, nf_tables, ipset and conntrack. Pure.
 *
 * Reading copies nothing and allocates only the cursor: conntrack events are read with it by the ten thousand a
 * second. A length that leads out of the datagram ends the reading, and an attribute that is too short for the
 * integer that is asked for reads as 0: a damaged message yields wrong values, but no exception and no endless loop.
 *
 * The kernel's own integers are in the order of the machine, little-endian wherever Node runs us; those of netfilter
 * are in network order (`Be`).
 */

import { NLA_F_NESTED, NLA_HEADER, NLA_TYPE_MASK, NLMSG_HEADER } from './linux.ts';

/** An attribute's length has 16 bits. */
const MAX_ATTRIBUTE = 0xffff;

const align = (length: number): number => (length + 3) & ~3;

const u16At = (buffer: Buffer, at: number): number => buffer[at]! | (buffer[at + 1]! << 8);
const u32At = (buffer: Buffer, at: number): number =>
  (u16At(buffer, at) | (u16At(buffer, at + 2) << 16)) >>> 0;
const u16BeAt = (buffer: Buffer, at: number): number => (buffer[at]! << 8) | buffer[at + 1]!;
const u32BeAt = (buffer: Buffer, at: number): number =>
  ((u16BeAt(buffer, at) << 16) | u16BeAt(buffer, at + 2)) >>> 0;
/** The integer of eight octets at this offset, exact up to 2^53. */
export const u64BeAt = (buffer: Buffer, at: number): number =>
  u32BeAt(buffer, at) * 2 ** 32 + u32BeAt(buffer, at + 4);

// Reading ------------------------------------------------------------------------------------------------

/** A message with a payload of its own. */
export interface NetlinkMessage {
  type: number;
  flags: number;
  seq: number;
  /** The netlink address (nl_pid) of who made the change that a notification is about. */
  port: number;
  data: Buffer;
}

/** A cursor over the messages in the first `length` octets of a buffer. */
export class Messages {
  readonly #buffer: Buffer;
  readonly #length: number;
  #at = 0;
  type = 0;
  flags = 0;
  seq = 0;
  port = 0;
  /** Where the payload of the current one begins and ends. */
  start = 0;
  end = 0;

  constructor(buffer: Buffer, length = buffer.length) {
    this.#buffer = buffer;
    this.#length = length;
  }

  /** Moves to the next message. False at the end, or where one is cut off. */
  next(): boolean {
    const at = this.#at;
    const buffer = this.#buffer;
    if (at + NLMSG_HEADER > this.#length) return false;
    const size = u32At(buffer, at);
    if (size < NLMSG_HEADER || at + size > this.#length) return false;
    this.type = u16At(buffer, at + 4);
    this.flags = u16At(buffer, at + 6);
    this.seq = u32At(buffer, at + 8);
    this.port = u32At(buffer, at + 12);
    this.start = at + NLMSG_HEADER;
    this.end = at + size;
    this.#at = at + align(size);
    return true;
  }

  /** The payload: a view of the buffer. */
  get data(): Buffer {
    return this.#buffer.subarray(this.start, this.end);
  }
}

/** The messages of a datagram; their payloads are views of it. */
export function messagesIn(datagram: Buffer): NetlinkMessage[] {
  const found: NetlinkMessage[] = [];
  const messages = new Messages(datagram);
  while (messages.next()) {
    const { type, flags, seq, port, data } = messages;
    found.push({ type, flags, seq, port, data });
  }
  return found;
}

/** A cursor over the attributes in a part of a message: `while (list.next()) switch (list.type) …`. */
export class Attributes {
  readonly #buffer: Buffer;
  readonly #end: number;
  #at: number;
  /** Where the content of the current attribute begins and ends. */
  #start = 0;
  #stop = 0;
  /** The type of the current attribute, without flags. */
  type = 0;

  /** The attributes from `start` on, behind a fixed header, up to `end`; octets. */
  constructor(buffer: Buffer, start = 0, end = buffer.length) {
    this.#buffer = buffer;
    this.#at = start;
    this.#end = end;
  }

  /** Moves to the next attribute. False at the end of the list, or where one is cut off. */
  next(): boolean {
    const at = this.#at;
    const buffer = this.#buffer;
    if (at + NLA_HEADER > this.#end) return false;
    const length = u16At(buffer, at);
    if (length < NLA_HEADER || at + length > this.#end) return false;
    this.type = u16At(buffer, at + 2) & NLA_TYPE_MASK;
    this.#start = at + NLA_HEADER;
    this.#stop = at + length;
    this.#at = at + align(length);
    return true;
  }

  /** Octets of the content. */
  get length(): number {
    return this.#stop - this.#start;
  }

  /** Where the content begins in the buffer, octets. */
  get offset(): number {
    return this.#start;
  }

  /** The content: a view of the message. */
  get content(): Buffer {
    return this.#buffer.subarray(this.#start, this.#stop);
  }

  /** The content behind its first octets. */
  contentFrom(octets: number): Buffer {
    return this.#buffer.subarray(Math.min(this.#start + octets, this.#stop), this.#stop);
  }

  /** The attributes in the content. */
  get nested(): Attributes {
    return new Attributes(this.#buffer, this.#start, this.#stop);
  }

  get u8(): number {
    return this.length < 1 ? 0 : this.#buffer[this.#start]!;
  }
  get u32(): number {
    return this.length < 4 ? 0 : u32At(this.#buffer, this.#start);
  }
  get i32(): number {
    return this.u32 | 0;
  }
  get u16Be(): number {
    return this.length < 2 ? 0 : u16BeAt(this.#buffer, this.#start);
  }
  get u32Be(): number {
    return this.length < 4 ? 0 : u32BeAt(this.#buffer, this.#start);
  }
  /** Exact up to 2^53. */
  get u64Be(): number {
    return this.length < 8 ? 0 : u64BeAt(this.#buffer, this.#start);
  }
  /** A string, up to the zero octet that ends most of them. */
  get string(): string {
    const text = this.#buffer.toString('latin1', this.#start, this.#stop);
    const end = text.indexOf('\0');
    return end < 0 ? text : text.slice(0, end);
  }
}

// Writing ------------------------------------------------------------------------------------------------

/** Messages with sequence numbers from `first` on, as one datagram. */
export function formatDatagram(
  messages: readonly { type: number; flags: number; data: Uint8Array }[],
  first: number,
  port: number,
): Buffer {
  const size = messages.reduce((sum, { data }) => sum + NLMSG_HEADER + align(data.length), 0);
  const datagram = Buffer.alloc(size);
  let at = 0;
  for (const [i, { type, flags, data }] of messages.entries()) {
    datagram.writeUInt32LE(NLMSG_HEADER + data.length, at);
    datagram.writeUInt16LE(type, at + 4);
    datagram.writeUInt16LE(flags, at + 6);
    datagram.writeUInt32LE(first + i, at + 8);
    datagram.writeUInt32LE(port, at + 12);
    datagram.set(data, at + NLMSG_HEADER);
    at += NLMSG_HEADER + align(data.length);
  }
  return datagram;
}

/** The header of a payload of netfilter. `family`: AF_*; `resource`: the subsystem, in what encloses a transaction. */
export const nfgenHeader = (family: number, resource = 0): Buffer => Buffer.of(family, 0, 0, resource);

/** An attribute, padded. Throws `RangeError` when the content is longer than its length can be. */
export function attribute(type: number, ...content: Uint8Array[]): Buffer {
  const length = content.reduce((sum, part) => sum + part.length, NLA_HEADER);
  if (length > MAX_ATTRIBUTE) throw new RangeError(`netlink attribute ${type} of ${length} octets`);
  const bytes = Buffer.alloc(align(length));
  bytes.writeUInt16LE(length, 0);
  bytes.writeUInt16LE(type, 2);
  let at = NLA_HEADER;
  for (const part of content) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** An attribute of attributes, marked as such. */
export const nest = (type: number, ...attributes: Uint8Array[]): Buffer =>
  attribute(type | NLA_F_NESTED, ...attributes);

export const u8 = (value: number): Buffer => Buffer.of(value);
export const u16Be = (value: number): Buffer => Buffer.of(value >> 8, value);
export const u32Be = (value: number): Buffer => Buffer.of(value >>> 24, value >>> 16, value >>> 8, value);
export const u32 = (value: number): Buffer => Buffer.of(value, value >>> 8, value >>> 16, value >>> 24);
/** A string with the zero octet that the kernel wants at its end. */
export const zeroEnded = (value: string): Buffer => Buffer.from(`${value}\0`, 'latin1');
