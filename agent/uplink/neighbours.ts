/** The kernel's neighbour entries (linux/neighbour.h). Pure. */
import { addressFamily } from '../../lib/linux.ts';
import { macBytes, macText } from '../../lib/mac.ts';
import { Attributes, attribute, u8, u32 } from '../../lib/netlink-codec.ts';
import { type Address, addressBytes, addressFromBytes, familyOf } from '../../lib/prefix.ts';
import { RTPROT_VEG_AGENT } from '../../routing/numbers.ts';

/** RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH and the multicast group RTNLGRP_NEIGH. */
export const NEW_NEIGHBOUR = 28;
export const DELETE_NEIGHBOUR = 29;
export const GET_NEIGHBOURS = 30;
export const NEIGHBOUR_GROUP = 3;

// struct ndmsg and its attributes
const NDMSG = 12;
const NDA_DST = 1;
const NDA_LLADDR = 2;
const NDA_IFINDEX = 8;
const NDA_PROTOCOL = 12;
const NUD_REACHABLE = 0x02;
const NUD_FAILED = 0x20;
const NUD_PERMANENT = 0x80;
const NTF_ROUTER = 0x80;

export interface Neighbour {
  ifindex: number;
  address: Address;
  /** The kernel's own state; `other`: nothing is known now. */
  state: 'reachable' | 'failed' | 'permanent' | 'other';
  /** The Ethernet address that packets go to; absent while the kernel has none. */
  mac?: string;
  /** The agent wrote it. */
  owned: boolean;
}

function header(address: Address, ifindex: number, state = 0, flags = 0): Buffer {
  const bytes = Buffer.alloc(NDMSG);
  bytes.writeUInt8(addressFamily(familyOf(address)), 0);
  bytes.writeInt32LE(ifindex, 4);
  bytes.writeUInt16LE(state, 8);
  bytes.writeUInt8(flags, 10);
  return Buffer.concat([bytes, attribute(NDA_DST, addressBytes(address))]);
}

/** The payload of a request for the neighbours of one interface, or of all, both families. */
export const neighbourDump = (ifindex?: number): Uint8Array =>
  Buffer.concat([
    Buffer.alloc(NDMSG),
    ...(ifindex === undefined ? [] : [attribute(NDA_IFINDEX, u32(ifindex))]),
  ]);

/** The payload of a request for one neighbour, or for its removal. */
export const neighbourOf = (address: Address, ifindex: number): Uint8Array => header(address, ifindex);

/**
 * The payload of a neighbour entry for a router. `permanent`: nothing on the link can change that; else the
 * kernel goes on as if it had asked itself.
 */
export function neighbourEntry(
  address: Address,
  ifindex: number,
  { mac, permanent }: { mac: string; permanent: boolean },
): Uint8Array {
  const flags = familyOf(address) === 6 ? NTF_ROUTER : 0;
  return Buffer.concat([
    header(address, ifindex, permanent ? NUD_PERMANENT : NUD_REACHABLE, flags),
    attribute(NDA_LLADDR, macBytes(mac)),
    attribute(NDA_PROTOCOL, u8(RTPROT_VEG_AGENT)),
  ]);
}

/** Parses one entry; undefined for one of no IP family. */
export function parseNeighbour(payload: Buffer): Neighbour | undefined {
  const state = payload.readUInt16LE(8);
  let address: Address | undefined;
  let mac: string | undefined;
  let owned = false;
  const attributes = new Attributes(payload, NDMSG);
  while (attributes.next()) {
    const { type, length } = attributes;
    if (type === NDA_DST && (length === 4 || length === 16)) address = addressFromBytes(attributes.content);
    if (type === NDA_LLADDR && length === 6) mac = macText(attributes.content);
    if (type === NDA_PROTOCOL) owned = attributes.u8 === RTPROT_VEG_AGENT;
  }
  if (address === undefined) return undefined;
  const ifindex = payload.readInt32LE(4);
  const found = { ifindex, address, state: stateName(state), owned };
  // The address from before the kernel gave up does not count.
  return mac === undefined || state & NUD_FAILED ? found : { ...found, mac };
}

function stateName(state: number): Neighbour['state'] {
  if (state & NUD_REACHABLE) return 'reachable';
  if (state & NUD_FAILED) return 'failed';
  return state & NUD_PERMANENT ? 'permanent' : 'other';
}
