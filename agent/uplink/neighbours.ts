/** What the kernel's own neighbour detection has found on a link (linux/neighbour.h). Pure. */
import { AttrStream, parseAttributes, putU32 } from 'netlink/dist/structs.js';
import { type Address, addressFromBytes } from '../../routing/prefix.ts';

/** RTM_GETNEIGH. */
export const GET_NEIGHBOURS = 30;

// struct ndmsg and its attributes
const NDMSG = 12;
const NDA_DST = 1;
const NDA_IFINDEX = 8;
const NUD_REACHABLE = 0x02;
const NUD_FAILED = 0x20;

export interface Neighbour {
  address: Address;
  /** What the kernel found; `other` says nothing about now. */
  state: 'reachable' | 'failed' | 'other';
}

/** The payload of a request for the neighbours of one interface, both families. */
export function neighbourDump(ifindex: number): Uint8Array {
  const out = new AttrStream();
  out.emit(Buffer.alloc(NDMSG));
  out.push(NDA_IFINDEX, putU32(ifindex));
  return Buffer.concat(out.bufs);
}

/** Reads one entry; undefined for one that is of no IP family. */
export function parseNeighbour(payload: Buffer): Neighbour | undefined {
  const state = payload.readUInt16LE(8);
  let address: Address | undefined;
  parseAttributes(payload.subarray(NDMSG), ({ type, data }) => {
    if (type === NDA_DST && (data.length === 4 || data.length === 16)) address = addressFromBytes(data);
  });
  if (address === undefined) return undefined;
  return { address, state: state & NUD_REACHABLE ? 'reachable' : state & NUD_FAILED ? 'failed' : 'other' };
}
