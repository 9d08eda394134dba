/**
 * A model of the kernel's traffic control and of the table VEG-BANDWIDTH: it keeps the messages that it gets and returns
 * them, as the kernel does for the attributes that the agent writes. Others change it with the methods below.
 */
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';
import { AF_INET, NFGEN_HEADER, NLM_F_EXCL } from '../../lib/linux.ts';
import { Attributes, attribute, u32Be } from '../../lib/netlink-codec.ts';
import { NFT_DELETE, NFT_GET, NFT_NEW, type NftMessage } from '../../lib/nft-codec.ts';
import type { FilterSocket, TcSocket } from '../../shaping/kernel.ts';
import { classId, parseTc, TC_H_ROOT, TcMessage } from '../../shaping/tc-codec.ts';

export const OWN_ROOT = classId(0x178, 0);

/** In struct tcmsg. */
const PARENT_AT = 12;
/** Where a class has its quantum: behind tcmsg, the kind, two headers, two tc_ratespec, buffer and cbuffer. */
const QUANTUM_AT = 20 + 8 + 4 + 4 + 2 * 12 + 8;

/** EOPNOTSUPP by the name that lib/netlink.ts gives it. */
const NOT_SUPPORTED = getSystemErrorName(-constants.errno.EOPNOTSUPP);

const refusal = (code: string) => Object.assign(new Error(code), { code });
const nameIn = (data: Uint8Array, type: number): string => {
  const attributes = new Attributes(Buffer.from(data), NFGEN_HEADER);
  while (attributes.next()) if (attributes.type === type) return attributes.string;
  return '';
};

interface Qdisc {
  ifindex: number;
  handle: number;
  parent: number;
  data: Buffer;
}

export class ShapingModel implements TcSocket, FilterSocket {
  readonly indexes = new Map([
    ['eth0', 2],
    ['net1', 3],
  ]);
  qdiscs: Qdisc[] = [];
  /** By interface and number. */
  classes = new Map<string, Buffer>();
  chains: Buffer[] = [];
  rules: Buffer[] = [];
  elements: { map: string; data: Buffer }[] = [];
  hasTable = false;
  unknownKinds = new Set<string>();
  /** The kernel has no traffic control (CONFIG_NET_SCHED). */
  lacksTc = false;
  /** What another program does before the next request for a queue. */
  beforeLeaf: (() => void) | undefined;
  /** Octets that wait in each class, for the next so many looks. */
  backlog = { octets: 0, looks: 0 };
  /** The types of the changes, in order. */
  log: string[] = [];
  #generation = 1;
  #nextHandle = 0x8001;

  async transact(requests: Iterable<{ type: number; flags?: number; data: Uint8Array }>) {
    return [...requests].map(({ type, flags = 0, data }) => {
      const error = this.lacksTc ? NOT_SUPPORTED : this.#change(type, flags, Buffer.from(data));
      return error === undefined ? undefined : refusal(error);
    });
  }

  #change(type: number, flags: number, data: Buffer): string | undefined {
    const { ifindex, handle, parent, kind } = parseTc(data)!;
    const key = `${ifindex} ${handle}`;
    switch (type) {
      case TcMessage.NEWQDISC:
        return this.#putQdisc({ ifindex, handle, parent, data }, kind, flags);
      case TcMessage.DELQDISC:
        this.log.push(`delete qdisc ${ifindex}`);
        if (!this.qdiscs.some((one) => one.ifindex === ifindex && one.handle === handle)) return 'ENOENT';
        this.removeRoot(ifindex);
        return undefined;
      case TcMessage.NEWTCLASS:
        this.log.push(`class ${key}`);
        if (!this.qdiscs.some((one) => one.ifindex === ifindex && one.parent === TC_H_ROOT)) return 'ENOENT';
        this.#putClass(key, handle, data);
        return undefined;
      case TcMessage.DELTCLASS:
        this.log.push(`delete class ${key}`);
        this.qdiscs = this.qdiscs.filter((one) => one.ifindex !== ifindex || one.parent !== handle);
        return this.classes.delete(key) ? undefined : 'ENOENT';
      default:
        throw new Error(`message ${type}`);
    }
  }

  /** A class that has others below it keeps its quantum (htb_change_class). */
  #putClass(key: string, handle: number, data: Buffer): void {
    const old = this.classes.get(key);
    const [ifindex] = key.split(' ');
    const hasChild = () =>
      [...this.classes].some(
        ([other, one]) => other.startsWith(`${ifindex} `) && one.readUInt32LE(PARENT_AT) === handle,
      );
    if (old !== undefined && hasChild()) old.copy(data, QUANTUM_AT, QUANTUM_AT, QUANTUM_AT + 4);
    this.classes.set(key, data);
  }

  #putQdisc(qdisc: Qdisc, kind: string, flags: number): string | undefined {
    const { ifindex, parent, data } = qdisc;
    if (parent !== TC_H_ROOT) {
      this.beforeLeaf?.();
      this.beforeLeaf = undefined;
      if (!this.classes.has(`${ifindex} ${parent}`)) return 'ENOENT';
    }
    const at = this.qdiscs.findIndex((one) => one.ifindex === ifindex && one.parent === parent);
    if (at >= 0 && this.qdiscs[at]!.handle !== 0 && flags & NLM_F_EXCL) return 'EEXIST';
    if (this.unknownKinds.has(kind)) return 'ENOENT';
    this.log.push(`qdisc ${kind} ${ifindex}`);
    if (at >= 0) this.qdiscs.splice(at, 1);
    const handle = qdisc.handle || (this.#nextHandle++ << 16) >>> 0;
    data.writeUInt32LE(handle, 8);
    this.qdiscs.push({ ...qdisc, handle });
    return undefined;
  }

  dump<T>(type: number, data: Uint8Array, parse: (payload: Buffer) => T | undefined): T[] {
    return this.#answers(type, Buffer.from(data)).flatMap((answer) => parse(answer) ?? []);
  }

  #answers(type: number, data: Buffer): Buffer[] {
    if (this.lacksTc && (type === TcMessage.GETQDISC || type === TcMessage.GETTCLASS))
      throw refusal(NOT_SUPPORTED);
    switch (type) {
      case TcMessage.GETQDISC:
        return this.qdiscs.map((one) => one.data);
      case TcMessage.GETTCLASS: {
        const waiting = this.backlog.looks-- > 0 ? this.backlog.octets : 0;
        const queue = Buffer.alloc(20);
        queue.writeUInt32LE(waiting, 4);
        const ifindex = data.readInt32LE(4);
        return [...this.classes]
          .filter(([key]) => key.startsWith(`${ifindex} `))
          .map(([, one]) => Buffer.concat([one, attribute(7, attribute(3, queue))]));
      }
      case NFT_GET.chain:
        return this.chains;
      case NFT_GET.rule:
        return this.rules;
      case NFT_GET.elements: {
        const map = nameIn(data, 2);
        return this.elements.filter((one) => one.map === map).map((one) => one.data);
      }
      default:
        throw new Error(`question ${type}`);
    }
  }

  ask(type: number): Buffer {
    if (type === NFT_GET.table && !this.hasTable) throw refusal('ENOENT');
    return Buffer.concat([Buffer.of(AF_INET, 0, 0, 0), attribute(1, u32Be(this.#generation))]);
  }

  sendAll(messages: readonly NftMessage[]): void {
    for (const { type, data } of messages) {
      const message = Buffer.from(data);
      if (type === NFT_DELETE.table) this.removeTable();
      else if (type === NFT_NEW.table) this.hasTable = true;
      else if (type === NFT_NEW.chain) this.chains.push(message);
      else if (type === NFT_NEW.rule) this.rules.push(message);
      else if (type === NFT_NEW.elements) this.elements.push({ map: nameIn(message, 2), data: message });
    }
    this.log.push('filter');
    this.touch();
  }

  /** Another program has changed nf_tables. */
  touch(): void {
    this.#generation++;
  }

  removeTable(): void {
    [this.chains, this.rules, this.elements, this.hasTable] = [[], [], [], false];
    this.touch();
  }

  /** The root qdisc of an interface goes, with all below it. */
  removeRoot(ifindex: number): void {
    this.qdiscs = this.qdiscs.filter((one) => one.ifindex !== ifindex);
    for (const key of this.classes.keys()) if (key.startsWith(`${ifindex} `)) this.classes.delete(key);
  }
}
