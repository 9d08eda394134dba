/** The rtnetlink messages of traffic control (linux/rtnetlink.h, linux/pkt_sched.h, linux/gen_stats.h). Pure. */
import { Attributes, attribute, nest, u32, zeroEnded } from '../lib/netlink-codec.ts';
import type { ClassRange, Leaf, ObservedClass, ObservedQdisc, TcStats } from './state.ts';

export const TcMessage = {
  NEWQDISC: 36,
  DELQDISC: 37,
  GETQDISC: 38,
  NEWTCLASS: 40,
  DELTCLASS: 41,
  GETTCLASS: 42,
} as const;

/** struct tcmsg */
const TCMSG = 20;
export const TC_H_ROOT = 0xffff_ffff;
export const majorOf = (handle: number): number => handle >>> 16;
const minorOf = (handle: number): number => handle & 0xffff;
export const classId = (major: number, minor: number): number => ((major << 16) | minor) >>> 0;

const TCA = { KIND: 1, OPTIONS: 2, STATS2: 7 } as const;
/** PKT64: the packets in 64 bits; since Linux 5.5, where BASIC has not room for them. */
const STATS = { BASIC: 1, QUEUE: 3, PKT64: 8 } as const;
const HTB = { PARMS: 1, INIT: 2, DIRECT_QLEN: 5, RATE64: 6, CEIL64: 7 } as const;
const FQ_CODEL = { TARGET: 1, LIMIT: 2, INTERVAL: 3, ECN: 4, FLOWS: 5, MEMORY_LIMIT: 9 } as const;
/** struct tc_ratespec, with the rate behind cell_log, linklayer, overhead, cell_align and mpu. */
const RATESPEC = 12;
const TC_LINKLAYER_ETHERNET = 1;

/** struct tc_htb_glob: the version of the interface; classes name their quantum; packets without a class pass. */
const HTB_VERSION = 3;
const HTB_RATE2QUANTUM = 10;
/** Packets without a class wait here while the interface is busy; the default would be 0 without a queue length. */
const HTB_DIRECT_QLEN = 1000;
/** Packets and octets that one fq_codel may hold. */
const FQ_CODEL_LIMIT = 1024;
const FQ_CODEL_MEMORY = 8 << 20;

/** Nanoseconds of a tick (PSCHED_SHIFT). */
const TICK = 64;
/** The time that octets take at a rate in octets per second, ticks. */
export const ticks = (octets: number, rate: number): number =>
  Math.min(0xffff_ffff, Math.max(1, Math.round((octets * 1e9) / rate / TICK)));

const u64 = (value: number): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};
const u64At = (content: Buffer): number => (content.length < 8 ? 0 : Number(content.readBigUInt64LE()));

function header(ifindex: number, handle: number, parent: number): Buffer {
  const bytes = Buffer.alloc(TCMSG);
  bytes.writeInt32LE(ifindex, 4);
  bytes.writeUInt32LE(handle, 8);
  bytes.writeUInt32LE(parent, 12);
  return bytes;
}

/** A request for the qdiscs of all interfaces (0), or for the classes of one. */
export const tcDump = (ifindex = 0): Buffer => header(ifindex, 0, 0);

/** A request to delete the root qdisc with this number. */
export const rootRequest = (ifindex: number, major: number): Buffer =>
  header(ifindex, classId(major, 0), TC_H_ROOT);

/** An HTB as the root qdisc, in which packets without a class are not delayed. */
export const formatRoot = (ifindex: number, major: number): Buffer =>
  Buffer.concat([
    header(ifindex, classId(major, 0), TC_H_ROOT),
    attribute(TCA.KIND, zeroEnded('htb')),
    nest(
      TCA.OPTIONS,
      attribute(HTB.INIT, u32(HTB_VERSION), u32(HTB_RATE2QUANTUM), u32(0), u32(0), u32(0)),
      attribute(HTB.DIRECT_QLEN, u32(HTB_DIRECT_QLEN)),
    ),
  ]);

const RATE_MAX = 0xffff_ffff;

const ratespec = (rate: number): Buffer =>
  Buffer.concat([Buffer.of(0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0), u32(Math.min(rate, RATE_MAX))]);

/** Class `minor` of a range. */
export function formatClass(ifindex: number, major: number, range: ClassRange, minor: number): Buffer {
  const { parent, rate, ceil, burst, quantum } = range;
  return Buffer.concat([
    header(ifindex, classId(major, minor), classId(major, parent)),
    attribute(TCA.KIND, zeroEnded('htb')),
    nest(
      TCA.OPTIONS,
      attribute(
        HTB.PARMS,
        ratespec(rate),
        ratespec(ceil),
        u32(ticks(burst, rate)),
        u32(ticks(burst, ceil)),
        u32(quantum),
        u32(0),
        u32(0),
      ),
      ...(rate > RATE_MAX ? [attribute(HTB.RATE64, u64(rate))] : []),
      ...(ceil > RATE_MAX ? [attribute(HTB.CEIL64, u64(ceil))] : []),
    ),
  ]);
}

/** A request about a class, to delete it. */
export const classRequest = (ifindex: number, major: number, minor: number): Buffer =>
  header(ifindex, classId(major, minor), 0);

/** The queue of a class; `isNew`: there is none. The number of flows of an existing one cannot be changed. */
export function formatLeaf(
  ifindex: number,
  major: number,
  minor: number,
  leaf: Leaf,
  isNew: boolean,
): Buffer {
  const options =
    leaf.kind === 'bfifo'
      ? attribute(TCA.OPTIONS, u32(leaf.limit))
      : nest(
          TCA.OPTIONS,
          attribute(FQ_CODEL.TARGET, u32(leaf.target)),
          attribute(FQ_CODEL.LIMIT, u32(FQ_CODEL_LIMIT)),
          attribute(FQ_CODEL.INTERVAL, u32(leaf.interval)),
          attribute(FQ_CODEL.ECN, u32(1)),
          ...(isNew ? [attribute(FQ_CODEL.FLOWS, u32(leaf.flows))] : []),
          attribute(FQ_CODEL.MEMORY_LIMIT, u32(FQ_CODEL_MEMORY)),
        );
  return Buffer.concat([
    header(ifindex, 0, classId(major, minor)),
    attribute(TCA.KIND, zeroEnded(leaf.kind)),
    options,
  ]);
}

/** What messages about qdiscs and classes have in common. Undefined for one that is too short. */
export function parseTc(data: Buffer) {
  if (data.length < TCMSG) return undefined;
  let kind = '';
  let options: Buffer = Buffer.alloc(0);
  const stats: TcStats = { bytes: 0, packets: 0, drops: 0, overlimits: 0, backlog: 0 };
  const attributes = new Attributes(data, TCMSG);
  while (attributes.next()) {
    if (attributes.type === TCA.KIND) kind = attributes.string;
    else if (attributes.type === TCA.OPTIONS) options = attributes.content;
    else if (attributes.type === TCA.STATS2) readStats(attributes.nested, stats);
  }
  return {
    ifindex: data.readInt32LE(4),
    handle: data.readUInt32LE(8),
    parent: data.readUInt32LE(12),
    kind,
    options,
    stats,
  };
}

function readStats(list: Attributes, stats: TcStats): void {
  while (list.next()) {
    const { content } = list;
    if (list.type === STATS.BASIC && content.length >= 12) {
      stats.bytes = u64At(content);
      stats.packets = content.readUInt32LE(8);
    } else if (list.type === STATS.PKT64 && content.length >= 8) {
      // Behind BASIC, always.
      stats.packets = u64At(content);
    } else if (list.type === STATS.QUEUE && content.length >= 20) {
      stats.backlog = content.readUInt32LE(4);
      stats.drops = content.readUInt32LE(8);
      stats.overlimits = content.readUInt32LE(16);
    }
  }
}

function parseLeaf(kind: string, options: Buffer): Leaf | undefined {
  if (kind === 'bfifo') return options.length < 4 ? undefined : { kind, limit: options.readUInt32LE() };
  if (kind !== 'fq_codel') return undefined;
  const leaf: Leaf = { kind, target: 0, interval: 0, flows: 0 };
  const list = new Attributes(options);
  while (list.next()) {
    if (list.type === FQ_CODEL.TARGET) leaf.target = list.u32;
    else if (list.type === FQ_CODEL.INTERVAL) leaf.interval = list.u32;
    else if (list.type === FQ_CODEL.FLOWS) leaf.flows = list.u32;
  }
  return leaf;
}

/** A qdisc (RTM_NEWQDISC). Undefined for a message that is too short. */
export function parseQdisc(
  data: Buffer,
  nameOf: (ifindex: number) => string | undefined,
): ObservedQdisc | undefined {
  const found = parseTc(data);
  if (found === undefined) return undefined;
  const { ifindex, handle, parent, kind, options, stats } = found;
  const leaf = parseLeaf(kind, options);
  return { dev: nameOf(ifindex) ?? `if${ifindex}`, kind, handle, parent, ...(leaf && { leaf }), stats };
}

/** A class of an HTB (RTM_NEWTCLASS). Undefined for one of another qdisc. */
export function parseClass(data: Buffer): ObservedClass | undefined {
  const message = parseTc(data);
  if (message?.kind !== 'htb') return undefined;
  const { handle, parent, options, stats } = message;
  const found: ObservedClass = {
    ...{ minor: minorOf(handle), parent: parent === TC_H_ROOT ? 0 : minorOf(parent), stats },
    ...{ rate: 0, ceil: 0, buffer: 0, cbuffer: 0, quantum: 0 },
  };
  const list = new Attributes(options);
  while (list.next()) {
    const { content } = list;
    if (list.type === HTB.PARMS && content.length >= 2 * RATESPEC + 12) {
      found.rate = content.readUInt32LE(8);
      found.ceil = content.readUInt32LE(RATESPEC + 8);
      found.buffer = content.readUInt32LE(2 * RATESPEC);
      found.cbuffer = content.readUInt32LE(2 * RATESPEC + 4);
      found.quantum = content.readUInt32LE(2 * RATESPEC + 8);
    } else if (list.type === HTB.RATE64) found.rate = u64At(content);
    else if (list.type === HTB.CEIL64) found.ceil = u64At(content);
  }
  return found;
}
