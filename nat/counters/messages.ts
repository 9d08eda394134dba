/** The nf_tables messages about the sets of the table VEG-COUNTERS, and what the answers say. Pure. */
import { NFGEN_HEADER, NLA_HEADER } from '../../lib/linux.ts';
import { Attributes, attribute, nest, u32, u32Be, zeroEnded } from '../../lib/netlink-codec.ts';
import {
  NFPROTO,
  NFT_DELETE,
  NFT_NEW,
  type NftMessage,
  nestedIn,
  nftCreate,
  nftPayload,
  nftValue,
} from '../../lib/nft-codec.ts';
import { addressBits, type Family } from '../../lib/prefix.ts';
import { gotoData } from '../expressions.ts';
import { hash, hex8 } from '../marks.ts';
import { inTable } from '../own-table.ts';
import { COUNTER_TABLE, type CounterSet, countChain } from './table.ts';

const NFT_SET_INTERVAL = 4;
const NFT_SET_MAP = 8;
const NFT_DATA_VERDICT = 0xffff_ff00;
const NFT_SET_ELEM_INTERVAL_END = 1;
/** nft's numbers of data types: only `nft list` looks at them. */
const TYPE = { mark: 19, 4: 7, 6: 8 } as const;
/** Octets of elements that go into one message: an attribute has at most 64 KiB with its header. */
const OCTETS_PER_MESSAGE = 32_768;

const table = attribute(1, zeroEnded(COUNTER_TABLE.name));

export const deleteSet = (family: Family, set: string): NftMessage =>
  inTable(COUNTER_TABLE, family, NFT_DELETE.set, set, 2);

export const isMapOf = (set: CounterSet): boolean => 'marks' in set || set.isMap;

/** Makes a set, empty. `id`: of this set in its transaction. */
export function createSet(family: Family, name: string, set: CounterSet, id: number): NftMessage {
  const marks = 'marks' in set;
  const flags = (isMapOf(set) ? NFT_SET_MAP : 0) | (marks ? 0 : NFT_SET_INTERVAL);
  return nftCreate(
    NFT_NEW.set,
    NFPROTO[family],
    table,
    attribute(2, zeroEnded(name)),
    attribute(3, u32Be(flags)),
    attribute(4, u32Be(marks ? TYPE.mark : TYPE[family])),
    attribute(5, u32Be(marks ? 4 : addressBits(family) / 8)),
    ...(isMapOf(set) ? [attribute(6, u32Be(NFT_DATA_VERDICT))] : []),
    // With a size the kernel takes its fastest hash.
    ...(marks ? [nest(9, attribute(1, u32Be(set.marks.length)))] : []),
    attribute(10, u32Be(id)),
  );
}

function addressOctets(address: bigint, family: Family): Buffer {
  const length = addressBits(family) / 8;
  return Buffer.from(address.toString(16).padStart(2 * length, '0'), 'hex');
}

/** The elements of a set as the kernel holds them: key, chain, and whether an interval ends before it. */
interface Element {
  key: Buffer;
  chain?: string;
  end: boolean;
}

function* elementsOf(family: Family, set: CounterSet): Generator<Element> {
  if ('marks' in set) {
    for (const mark of set.marks) yield { key: u32(mark), chain: countChain(mark), end: false };
    return;
  }
  const end = 1n << BigInt(addressBits(family));
  for (const { first, last, chain } of set.intervals) {
    yield { key: addressOctets(first, family), ...(chain !== undefined && { chain }), end: false };
    if (last + 1n < end) yield { key: addressOctets(last + 1n, family), end: true };
  }
}

/** Adds the elements of a set. */
export function* addElements(family: Family, name: string, set: CounterSet): Generator<NftMessage> {
  let list: Buffer[] = [];
  let octets = 0;
  const flush = (): NftMessage => {
    const message = nftCreate(
      NFT_NEW.elements,
      NFPROTO[family],
      table,
      attribute(2, zeroEnded(name)),
      nest(3, ...list),
    );
    list = [];
    octets = 0;
    return message;
  };
  for (const { key, chain, end } of elementsOf(family, set)) {
    const element = nest(
      1,
      nftValue(1, key),
      ...(chain === undefined ? [] : [gotoData(chain)]),
      ...(end ? [attribute(3, u32Be(NFT_SET_ELEM_INTERVAL_END))] : []),
    );
    list.push(element);
    octets += element.length;
    if (octets > OCTETS_PER_MESSAGE) yield flush();
  }
  if (list.length > 0) yield flush();
}

const elementText = ({ key, chain, end }: Element): string =>
  `${key.toString('hex')} ${chain ?? ''}${end ? '-' : ''}`;

/** A sum over elements in which their order does not matter. */
const sumOf = (texts: Iterable<string>): string => {
  let [count, sum] = [0, 0];
  for (const text of texts) {
    count++;
    sum = (sum + hash(text)) >>> 0;
  }
  return `${count} ${hex8(sum)}`;
};

const sums = new WeakMap<CounterSet, string>();

/** The sum of a set's elements. */
export function setSum(family: Family, set: CounterSet): string {
  const known = sums.get(set);
  if (known !== undefined) return known;
  function* texts(): Generator<string> {
    for (const element of elementsOf(family, set)) yield elementText(element);
  }
  const sum = sumOf(texts());
  sums.set(set, sum);
  return sum;
}

/** The sum of the elements in the answers to a dump. */
export const elementsSum = (answers: readonly string[][]): string => sumOf(answers.flat());

/** The elements in an answer, as text. */
export function elementTexts(answer: Buffer): string[] {
  const texts: string[] = [];
  const list = nestedIn(answer, 3);
  while (list.next()) {
    const element: Element = { key: Buffer.alloc(0), end: false };
    const parts = list.nested;
    while (parts.next()) {
      if (parts.type === 1) element.key = parts.contentFrom(NLA_HEADER);
      else if (parts.type === 2) element.chain = verdictChain(parts.nested);
      else if (parts.type === 3) element.end = (parts.u32Be & NFT_SET_ELEM_INTERVAL_END) !== 0;
    }
    texts.push(elementText(element));
  }
  return texts;
}

/** The chain in NFTA_DATA_VERDICT. */
function verdictChain(data: Attributes): string {
  while (data.next()) {
    if (data.type !== 2) continue;
    const parts = data.nested;
    while (parts.next()) if (parts.type === 2) return parts.string;
  }
  return '';
}

/** The question for the elements of a set. */
export const elementsQuestion = (family: Family, set: string): Buffer =>
  nftPayload(NFPROTO[family], table, attribute(2, zeroEnded(set)));

/** The name in an answer about a set. */
export function setName(answer: Buffer): string {
  const attributes = new Attributes(answer, NFGEN_HEADER);
  while (attributes.next()) if (attributes.type === 2) return attributes.string;
  return '';
}
