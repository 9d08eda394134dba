/**
 * The nf_tables table that gives forwarded packets their class: skb->priority is the number of the class. Pure.
 *
 *     table inet VEG-BANDWIDTH
 *       chain postrouting  filter, behind translation and the chain that gives connections the number of their policy:
 *                          external address of the connection → goto its chain; number → goto its chain; the rest
 *       chain egress-100   priority = 178:100
 *       chain egress-4000  by source: the class of the source, or the next of the ring for a new one
 *
 * The table is always made as a whole, in one transaction: there is no moment in which a packet has no class.
 */
import { NLA_HEADER, NLM_F_APPEND, NLM_F_CREATE } from '../lib/linux.ts';
import { Attributes, attribute, nest, u32, u32Be, zeroEnded } from '../lib/netlink-codec.ts';
import {
  elementMessages,
  expression,
  isPartOf,
  NF_INET_POST_ROUTING,
  NFPROTO,
  NFPROTO_INET,
  NFT_DELETE,
  NFT_NEW,
  NFT_PAYLOAD_NETWORK_HEADER,
  type NftMessage,
  nftCreate,
  nftPayload,
  nftValue,
  nftVerdict,
  numbers,
} from '../lib/nft-codec.ts';
import { addressBits, addressBytes, type Family, familyOf } from '../lib/prefix.ts';
import { BANDWIDTH_HANDLE } from '../routing/numbers.ts';
import { CLASS_REST, type DesiredDevice, type DesiredShaping, isWhole, type Shaped } from './desired.ts';
import type { Direction, ObservedFilter, ShapingIntent } from './state.ts';
import { classId } from './tc-codec.ts';

export const BANDWIDTH_TABLE = 'VEG-BANDWIDTH';

const CHAIN = 'postrouting';
/** Behind nat (100), port blocks (101) and the numbers of policies. */
const PRIORITY = 200;

/** Registers of 16 octets, as the kernel names them in a dump; the verdict is register 0. */
const VERDICT = 0;
const REG_1 = 1;
const REG_2 = 2;

const META = { PRIORITY: 2, IIFNAME: 6, OIFNAME: 7, NFPROTO: 15 } as const;
const CT = { DIRECTION: 1, MARK: 3, SRC: { 4: 19, 6: 21 }, DST: { 4: 20, 6: 22 } } as const;
const IP_CT_DIR_ORIGINAL = 0;
const IP_CT_DIR_REPLY = 1;
const IFNAMSIZ = 16;
const NF_ACCEPT = 1;
const NFT_GOTO = -4;
const NFT_DATA_VERDICT = 0xffff_ff00;
const NFT_SET = { MAP: 0x8, TIMEOUT: 0x10, EVAL: 0x20 } as const;
const NFT_DYNSET = { ADD: 0, UPDATE: 1 } as const;
/** nft's numbers of data types: only `nft list` uses them. */
const TYPE = { 4: 7, 6: 8, mark: 19, classid: 23 } as const;

/** Sources that a ring remembers, and for how long without a packet, ms. */
const RING_SOURCES = 65_536;
const RING_TIMEOUT = 60_000;

/** A map of the table with what is in it: keys with verdicts, or nothing yet. */
interface FilterMap {
  name: string;
  keyType: number;
  keyLength: number;
  /** Undefined: a ring. */
  elements: Buffer[] | undefined;
}

/** What the table is made of. */
interface Filter {
  maps: FilterMap[];
  /** Besides the base chain. */
  chains: string[];
  /** The expressions of each rule, by chain. */
  rules: { chain: string; expressions: Buffer[] }[];
}

const table = attribute(1, zeroEnded(BANDWIDTH_TABLE));

const loadMeta = (key: number): Buffer => expression('meta', ...numbers(REG_1, key));
const setPriority = (register: number): Buffer =>
  expression('meta', ...numbers(undefined, META.PRIORITY, register));
const equals = (bytes: Uint8Array): Buffer => expression('cmp', ...numbers(REG_1, 0), nftValue(3, bytes));
const immediate = (bytes: Uint8Array): Buffer =>
  expression('immediate', ...numbers(REG_2), nftValue(2, bytes));
const verdict = (code: number, chain?: string): Buffer =>
  expression('immediate', ...numbers(VERDICT), nftVerdict(2, code, chain));
const lookup = (map: string, result: number): Buffer =>
  expression('lookup', attribute(1, zeroEnded(map)), ...numbers(undefined, REG_1, result));

const interfaceName = (name: string): Buffer => {
  const bytes = Buffer.alloc(IFNAMSIZ);
  bytes.write(name, 'latin1');
  return bytes;
};

const classPriority = (minor: number): Buffer => u32(classId(BANDWIDTH_HANDLE, minor));

const isForwarded = ({ device }: DesiredDevice): Buffer[] => [
  loadMeta(META.IIFNAME),
  equals(interfaceName(device.from)),
  loadMeta(META.OIFNAME),
  equals(interfaceName(device.name)),
];

const ofFamily = (family: Family): Buffer[] => [loadMeta(META.NFPROTO), equals(Buffer.of(NFPROTO[family]))];

const chainOf = ({ device }: DesiredDevice, { first }: Shaped): string =>
  `${device.direction}-${first.toString(16)}`;

/** Made once for each desired state. */
const made = new WeakMap<DesiredShaping, Filter>();

/** The parts of the table; undefined: no limit needs one. */
function filterOf(shaping: DesiredShaping): Filter | undefined {
  if (shaping.devices.length === 0) return undefined;
  const known = made.get(shaping);
  if (known !== undefined) return known;
  const filter: Filter = { maps: [], chains: [], rules: [] };
  for (const device of shaping.devices) addDevice(filter, device, shaping.intent);
  made.set(shaping, filter);
  return filter;
}

const add = (filter: Filter, chain: string, ...expressions: Buffer[]): void => {
  filter.rules.push({ chain, expressions });
};

function addDevice(filter: Filter, device: DesiredDevice, intent: ShapingIntent): void {
  const { families } = intent;
  const { direction } = device.device;
  const parts = device.shaped.filter(({ limit }) => !isWhole(limit));
  for (const one of parts) addLimit(filter, device, one, families);
  const forwarded = isForwarded(device);
  for (const family of families) addAddresses(filter, device, parts, family);
  const marks = parts.flatMap((one): Buffer[] => {
    const { applies } = one.limit;
    if (applies === 'rest' || !('mark' in applies)) return [];
    return [element(u32(applies.mark), nftVerdict(2, NFT_GOTO, chainOf(device, one)))];
  });
  if (marks.length > 0) {
    const name = `${direction}-marks`;
    filter.maps.push({ name, keyType: TYPE.mark, keyLength: 4, elements: marks });
    const number = [
      expression('ct', ...numbers(REG_1, CT.MARK)),
      expression(
        'bitwise',
        ...numbers(REG_1, REG_1, 4),
        nftValue(4, u32(intent.markMask)),
        nftValue(5, u32(0)),
      ),
    ];
    add(filter, CHAIN, ...forwarded, ...number, lookup(name, VERDICT));
  }
  if (parts.length < device.shaped.length) {
    add(filter, CHAIN, ...forwarded, immediate(classPriority(CLASS_REST)), setPriority(REG_2));
  }
  const rest = parts.find(({ limit }) => limit.applies === 'rest');
  if (rest !== undefined) add(filter, CHAIN, ...forwarded, verdict(NFT_GOTO, chainOf(device, rest)));
}

/** The external addresses: of connections that begin inside the reply's destination, of others the original one. */
function addAddresses(filter: Filter, device: DesiredDevice, parts: readonly Shaped[], family: Family): void {
  const elements = parts.flatMap((one): Buffer[] => {
    const { applies } = one.limit;
    if (applies === 'rest' || !('addresses' in applies)) return [];
    return applies.addresses
      .filter((address) => familyOf(address) === family)
      .map((address) =>
        element(Buffer.from(addressBytes(address)), nftVerdict(2, NFT_GOTO, chainOf(device, one))),
      );
  });
  if (elements.length === 0) return;
  const name = `${device.device.direction}-addresses-${family}`;
  filter.maps.push({ name, keyType: TYPE[family], keyLength: addressBits(family) / 8, elements });
  for (const direction of [IP_CT_DIR_REPLY, IP_CT_DIR_ORIGINAL]) {
    const address = tupleAddress(CT.DST[family], direction);
    add(filter, CHAIN, ...isForwarded(device), ...ofFamily(family), address, lookup(name, VERDICT));
  }
}

/** An address of the tuple of the connection in a direction. */
const tupleAddress = (key: number, direction: number): Buffer =>
  expression('ct', ...numbers(REG_1, key), attribute(3, Buffer.of(direction)));

/** What loads the address inside of a packet, by the cases that there are: translation is over. */
function insideAddress(direction: Direction, family: Family): Buffer[][] {
  if (direction === 'ingress') {
    const offset = family === 4 ? 16 : 24;
    const octets = addressBits(family) / 8;
    return [[expression('payload', ...numbers(REG_1, NFT_PAYLOAD_NETWORK_HEADER, offset, octets))]];
  }
  return [IP_CT_DIR_ORIGINAL, IP_CT_DIR_REPLY].map((way) => [
    expression('ct', ...numbers(REG_1, CT.DIRECTION)),
    equals(Buffer.of(way)),
    tupleAddress(CT.SRC[family], way),
  ]);
}

/** The chain of a limit. */
function addLimit(filter: Filter, device: DesiredDevice, one: Shaped, families: readonly Family[]): void {
  const chain = chainOf(device, one);
  filter.chains.push(chain);
  if (!one.limit.perSource) {
    add(filter, chain, immediate(classPriority(one.first)), setPriority(REG_2));
    return;
  }
  const share = Math.floor(one.count / families.length);
  for (const [i, family] of families.entries()) {
    const name = `${chain}-${family}`;
    filter.maps.push({
      ...{ name, keyType: TYPE[family], keyLength: addressBits(family) / 8, elements: undefined },
    });
    const remember = (op: number): Buffer =>
      expression('dynset', attribute(1, zeroEnded(name)), ...numbers(undefined, undefined, op, REG_1, REG_2));
    const first = classId(BANDWIDTH_HANDLE, one.first + i * share);
    const next = expression('numgen', ...numbers(REG_2, share, 0, first));
    for (const address of insideAddress(device.device.direction, family)) {
      const source = [...ofFamily(family), ...address];
      // nft 1.0.6 ends with a failed assertion where a map is told what `lookup` has found, and lists no table then.
      const again = expression('meta', ...numbers(REG_2, META.PRIORITY));
      const known = [lookup(name, REG_2), setPriority(REG_2), again, remember(NFT_DYNSET.UPDATE)];
      add(filter, chain, ...source, ...known, verdict(NF_ACCEPT));
      // A full map does not take the source, which then shares a class with others.
      add(filter, chain, ...source, next, setPriority(REG_2), remember(NFT_DYNSET.ADD));
    }
  }
}

const element = (key: Uint8Array, data: Buffer): Buffer => nest(1, nftValue(1, key), data);

const chainPart = (name: string): Buffer[] => [
  table,
  attribute(3, zeroEnded(name)),
  ...(name === CHAIN
    ? [
        nest(4, attribute(1, u32Be(NF_INET_POST_ROUTING)), attribute(2, u32Be(PRIORITY))),
        attribute(7, zeroEnded('filter')),
      ]
    : []),
];
const rulePart = (chain: string, expressions: readonly Buffer[]): Buffer[] => [
  table,
  attribute(2, zeroEnded(chain)),
  nest(4, ...expressions),
];

/** NFTNL_UDATA_SET_KEYBYTEORDER and DATABYTEORDER: nft prints marks and class numbers in the order of the machine. */
function byteOrders(keyType: number, isRing: boolean): Buffer[] {
  const host = (type: number): Buffer => Buffer.of(type, 4, 1, 0, 0, 0);
  const orders = [...(keyType === TYPE.mark ? [host(0)] : []), ...(isRing ? [host(1)] : [])];
  return orders.length === 0 ? [] : [attribute(13, ...orders)];
}

function mapMessage({ name, keyType, keyLength, elements }: FilterMap, id: number): NftMessage {
  const isRing = elements === undefined;
  return nftCreate(
    NFT_NEW.set,
    NFPROTO_INET,
    table,
    attribute(2, zeroEnded(name)),
    attribute(3, u32Be(isRing ? NFT_SET.MAP | NFT_SET.TIMEOUT | NFT_SET.EVAL : NFT_SET.MAP)),
    attribute(4, u32Be(keyType)),
    attribute(5, u32Be(keyLength)),
    attribute(6, u32Be(isRing ? TYPE.classid : NFT_DATA_VERDICT)),
    attribute(7, u32Be(isRing ? 4 : 16)),
    ...(isRing
      ? [nest(9, attribute(1, u32Be(RING_SOURCES))), attribute(11, u32Be(0), u32Be(RING_TIMEOUT))]
      : []),
    attribute(10, u32Be(id)),
    ...byteOrders(keyType, isRing),
  );
}

/** The messages that make the table, in place of one that is there. */
export function filterMessages(shaping: DesiredShaping, isThere: boolean): NftMessage[] {
  const filter = filterOf(shaping);
  if (filter === undefined) return isThere ? [deleteFilter()] : [];
  return [
    ...(isThere ? [deleteFilter()] : []),
    nftCreate(NFT_NEW.table, NFPROTO_INET, table),
    ...[CHAIN, ...filter.chains].map((name) => nftCreate(NFT_NEW.chain, NFPROTO_INET, ...chainPart(name))),
    ...filter.maps.map((map, i) => mapMessage(map, i + 1)),
    ...filter.maps.flatMap(({ name, elements = [] }) => [
      ...elementMessages(NFPROTO_INET, table, name, elements),
    ]),
    ...filter.rules.map(({ chain: name, expressions }) => ({
      ...nftCreate(NFT_NEW.rule, NFPROTO_INET, ...rulePart(name, expressions)),
      flags: NLM_F_CREATE | NLM_F_APPEND,
    })),
  ];
}

/** Removes the table with everything in it. */
export const deleteFilter = (): NftMessage => ({
  type: NFT_DELETE.table,
  flags: 0,
  data: nftPayload(NFPROTO_INET, table),
});

/** The maps whose elements the agent writes. */
export const writtenMaps = (shaping: DesiredShaping): string[] =>
  (filterOf(shaping)?.maps ?? []).flatMap(({ name, elements }) => (elements === undefined ? [] : [name]));

/** A question about the table, or for its chains, rules, or the elements of a map. */
export function filterQuestion(map?: string): Buffer {
  return nftPayload(NFPROTO_INET, table, ...(map === undefined ? [] : [attribute(2, zeroEnded(map))]));
}

/** The attributes that follow the header of an answer; each with the name in the attribute of a type. */
const byName = (list: readonly Buffer[], type: number): Map<string, Buffer[]> =>
  Map.groupBy(list, (attributes) => {
    const found = new Attributes(attributes);
    while (found.next()) if (found.type === type) return found.string;
    return '';
  });

const CHAIN_NAME = 3;
const RULE_CHAIN = 2;

/** What the observed tables were last found equal to: the same one is observed until nf_tables changes. */
const equal = new WeakMap<ObservedFilter, Filter>();

/** Whether the table is as it must be. */
export function isFilterIntact(shaping: DesiredShaping, observed: ObservedFilter | undefined): boolean {
  const filter = filterOf(shaping);
  if (filter === undefined || observed === undefined) return filter === observed;
  if (equal.get(observed) !== filter && isEqual(filter, observed)) equal.set(observed, filter);
  return equal.get(observed) === filter;
}

function isEqual(filter: Filter, observed: ObservedFilter): boolean {
  const chains = byName(observed.chains, CHAIN_NAME);
  const hasChain = (name: string): boolean => {
    const [chain] = chains.get(name) ?? [];
    return chain !== undefined && isPartOf(Buffer.concat(chainPart(name)), chain);
  };
  return (
    observed.chains.length === 1 + filter.chains.length &&
    [CHAIN, ...filter.chains].every(hasChain) &&
    sameRules(filter.rules, observed.rules) &&
    filter.maps.every(
      ({ name, elements }) => elements === undefined || sameElements(elements, observed.elements.get(name)),
    )
  );
}

/** The kernel dumps rules chain by chain: the order within each counts. */
function sameRules(rules: Filter['rules'], observed: readonly Buffer[]): boolean {
  const left = byName(observed, RULE_CHAIN);
  return (
    rules.length === observed.length &&
    rules.every(({ chain, expressions }) => {
      const rule = left.get(chain)?.shift();
      return rule !== undefined && isPartOf(Buffer.concat(rulePart(chain, expressions)), rule);
    })
  );
}

function sameElements(elements: readonly Buffer[], observed: readonly Buffer[] = []): boolean {
  const there = new Map(observed.map((parts) => [keyOf(parts), parts]));
  return (
    elements.length === observed.length &&
    elements.every((one) => {
      const parts = one.subarray(NLA_HEADER);
      const found = there.get(keyOf(parts));
      return found !== undefined && isPartOf(parts, found);
    })
  );
}

/** The octets of the key, which is the first attribute, in an attribute of its own. */
const keyOf = (parts: Buffer): string =>
  parts.length < 4 ? '' : parts.toString('latin1', 2 * NLA_HEADER, parts.readUInt16LE());
