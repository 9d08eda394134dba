/**
 * The nf_tables table of the fast path (docs/design/0013): its messages, and whether the kernel has it as it must be. Pure.
 *
 *     table inet VEG-FASTPATH
 *       flowtable flows    ingress of both interfaces, counts: forwards packets of the connections in it past all else
 *       set limited        numbers of policies with a limit of bandwidth; 0: of no policy (only where one has a limit)
 *       chain forward      filter, FORWARD, behind every other: from net1 to eth0, of an established connection → enter
 *       chain enter        puts TCP and UDP into the flowtable
 *
 * The fast path promises: it changes where packets pass, not what becomes of them. A connection is in it only if
 *
 *   - it is established, TCP or UDP, and the packet that puts it in has passed every chain of FORWARD;
 *   - the kernel counts it (nf_conntrack_acct), because nothing else does from then on;
 *   - its policy has no limit of bandwidth, whose classes packets in the flowtable do not get;
 *   - the packet came from outside and goes inside. Its way inside is then the one that it has taken, by the rules of the
 *     gateway; the way outside is looked up by the kernel as for a packet of its own, in the main table.
 *
 * The table is always made as a whole, in one transaction. Connections of the table before leave the flowtable and enter
 * the new one with their next packet from outside.
 */
import { IPPROTO_TCP, IPPROTO_UDP, NFGEN_HEADER, NLM_F_APPEND, NLM_F_CREATE } from '../../lib/linux.ts';
import { Attributes, attribute, nest, u8, u32, u32Be, zeroEnded } from '../../lib/netlink-codec.ts';
import {
  elementMessages,
  expression,
  isPartOf,
  NFPROTO_INET,
  NFT_CMP_EQ,
  NFT_CMP_NEQ,
  NFT_DELETE,
  NFT_META_L4PROTO,
  NFT_NEW,
  type NftMessage,
  nftCreate,
  nftPayload,
  nftValue,
  numbers,
} from '../../lib/nft-codec.ts';
import { accept, goTo, interfaceName } from '../expressions.ts';
import { POLICY_NUMBER_MASK } from '../policy-marks.ts';

export const FAST_PATH_TABLE = 'VEG-FASTPATH';

export interface FastPathIntent {
  /** The interfaces. */
  internal: string;
  external: string;
  /** The numbers of the policies (nat/policy-marks.ts) whose connections stay out. */
  limited: readonly number[];
}

/** The table as the kernel has it: the attributes of each object. */
export interface ObservedFastPath {
  flowtables: readonly Buffer[];
  chains: readonly Buffer[];
  rules: readonly Buffer[];
  /** The elements of the set, each as its attributes. */
  limited: readonly Buffer[];
}

export type FastPathStep =
  | { type: 'put-fast-path'; intent: FastPathIntent; replace: boolean }
  | { type: 'delete-fast-path' };

const FLOWTABLE = 'flows';
const SET = 'limited';
const BASE = 'forward';
const ENTER = 'enter';

const NF_NETDEV_INGRESS = 0;
const NF_INET_FORWARD = 2;
/** NFT_FLOWTABLE_COUNTER: what passes is counted on its connection. */
const COUNTED = 2;
/** Behind the filter (0) and security (50) tables of iptables, and what operators add. */
const PRIORITY = 300;

/** Of 16 octets, as the kernel names it in a dump: what is observed is compared with what is written. */
const REGISTER = 1;
const META = { iifname: 6, oifname: 7 } as const;
const CT = { state: 0, mark: 3, packets: 14 } as const;
const IP_CT_DIR_ORIGINAL = 0;
const ESTABLISHED = 1 << 1;
/** nft's number of the data type: only `nft list` looks at it. */
const TYPE_MARK = 19;

const table = attribute(1, zeroEnded(FAST_PATH_TABLE));
const compare = (bytes: Uint8Array, operator = NFT_CMP_EQ): Buffer =>
  expression('cmp', ...numbers(REGISTER, operator), nftValue(3, bytes));
const masked = (mask: number): Buffer =>
  expression('bitwise', ...numbers(REGISTER, REGISTER, 4), nftValue(4, u32(mask)), nftValue(5, u32(0)));
const loadMeta = (key: number): Buffer => expression('meta', ...numbers(REGISTER, key));
const loadCt = (key: number): Buffer => expression('ct', ...numbers(REGISTER, key));

/** The rules of each chain, as their expressions. */
function rulesOf({ internal, external, limited }: FastPathIntent): [chain: string, expressions: Buffer[]][] {
  const isInward = [
    ...[loadMeta(META.iifname), compare(interfaceName(external))],
    ...[loadMeta(META.oifname), compare(interfaceName(internal))],
  ];
  const isEstablished = [loadCt(CT.state), masked(ESTABLISHED), compare(u32(0), NFT_CMP_NEQ)];
  const isLimited = [
    ...[loadCt(CT.mark), masked(POLICY_NUMBER_MASK)],
    expression('lookup', attribute(1, zeroEnded(SET)), ...numbers(undefined, REGISTER)),
  ];
  // A connection that is not counted has none. The kernel begins to count new ones when it is given this rule.
  const isUncounted = [
    expression('ct', ...numbers(REGISTER, CT.packets), attribute(3, u8(IP_CT_DIR_ORIGINAL))),
    compare(Buffer.alloc(8)),
  ];
  const entering = (protocol: number): Buffer[] => [
    ...[loadMeta(NFT_META_L4PROTO), compare(u8(protocol))],
    expression('flow_offload', attribute(1, zeroEnded(FLOWTABLE))),
  ];
  return [
    [BASE, [...isInward, ...isEstablished, ...goTo(ENTER).code]],
    ...(limited.length > 0 ? [[ENTER, [...isLimited, ...accept.code]] as [string, Buffer[]]] : []),
    [ENTER, [...isUncounted, ...accept.code]],
    [ENTER, entering(IPPROTO_TCP)],
    [ENTER, entering(IPPROTO_UDP)],
  ];
}

const flowtableParts = ({ internal, external }: FastPathIntent): Buffer[] => [
  table,
  attribute(2, zeroEnded(FLOWTABLE)),
  nest(
    3,
    ...numbers(NF_NETDEV_INGRESS, 0),
    nest(3, ...[internal, external].map((name) => attribute(1, zeroEnded(name)))),
  ),
  attribute(7, u32Be(COUNTED)),
];

const chainParts = (name: string): Buffer[] => [
  table,
  attribute(3, zeroEnded(name)),
  ...(name === BASE
    ? [nest(4, ...numbers(NF_INET_FORWARD, PRIORITY)), attribute(7, zeroEnded('filter'))]
    : []),
];

const ruleParts = (chain: string, expressions: readonly Buffer[]): Buffer[] => [
  table,
  attribute(2, zeroEnded(chain)),
  nest(4, ...expressions),
];

/** The elements of the set: what has no number yet may belong to a limited policy. */
const elementsOf = ({ limited }: FastPathIntent): Buffer[] =>
  limited.length === 0 ? [] : [0, ...limited].map((number) => nftValue(1, u32(number)));

function setMessages(intent: FastPathIntent): NftMessage[] {
  const elements = elementsOf(intent);
  if (elements.length === 0) return [];
  return [
    nftCreate(
      NFT_NEW.set,
      NFPROTO_INET,
      table,
      attribute(2, zeroEnded(SET)),
      ...[attribute(3, u32Be(0)), attribute(4, u32Be(TYPE_MARK)), attribute(5, u32Be(4))],
      attribute(10, u32Be(1)),
    ),
    ...elementMessages(
      NFPROTO_INET,
      table,
      SET,
      elements.map((one) => nest(1, one)),
    ),
  ];
}

const deleteTable = (): NftMessage => ({
  type: NFT_DELETE.table,
  flags: 0,
  data: nftPayload(NFPROTO_INET, table),
});

/** The messages of a step, for one transaction. */
export function fastPathMessages(step: FastPathStep): NftMessage[] {
  if (step.type === 'delete-fast-path') return [deleteTable()];
  const { intent, replace } = step;
  return [
    ...(replace ? [deleteTable()] : []),
    nftCreate(NFT_NEW.table, NFPROTO_INET, table),
    nftCreate(NFT_NEW.flowtable, NFPROTO_INET, ...flowtableParts(intent)),
    ...setMessages(intent),
    ...[BASE, ENTER].map((name) => nftCreate(NFT_NEW.chain, NFPROTO_INET, ...chainParts(name))),
    ...rulesOf(intent).map(([chain, expressions]) => ({
      ...nftCreate(NFT_NEW.rule, NFPROTO_INET, ...ruleParts(chain, expressions)),
      flags: NLM_F_CREATE | NLM_F_APPEND,
    })),
  ];
}

/** The question for the table and what is in it, and for the elements of the set. */
export const fastPathQuestion = (): Buffer => nftPayload(NFPROTO_INET, table);
export const limitedQuestion = (): Buffer => nftPayload(NFPROTO_INET, table, attribute(2, zeroEnded(SET)));

/** The attributes of an object in an answer. */
export const attributesOf = (answer: Buffer): Buffer => Buffer.from(answer.subarray(NFGEN_HEADER));

const isWith = (parts: readonly Buffer[], observed: Buffer | undefined): boolean =>
  observed !== undefined && isPartOf(Buffer.concat(parts), observed);

/** Whether each wanted object is there, and no other. */
const isEach = (wanted: readonly Buffer[][], observed: readonly Buffer[]): boolean =>
  wanted.length === observed.length && wanted.every((parts) => observed.some((one) => isWith(parts, one)));

/** The key of an element of the set, from its attributes. */
function keyOf(element: Buffer): string {
  const attributes = new Attributes(element);
  while (attributes.next()) if (attributes.type === 1) return attributes.content.toString('latin1');
  return '';
}

/** The same for elements, of which there may be thousands. */
function sameElements(wanted: readonly Buffer[], observed: readonly Buffer[]): boolean {
  const found = new Set(observed.map(keyOf));
  return found.size === wanted.length && wanted.every((element) => found.has(keyOf(element)));
}

/** Whether the table is as it must be. The kernel dumps rules chain by chain, those of a chain in their order. */
function isIntact(observed: ObservedFastPath, intent: FastPathIntent): boolean {
  const rules = rulesOf(intent);
  const inChain = (chain: string): Buffer[] =>
    observed.rules.filter((rule) => isPartOf(attribute(2, zeroEnded(chain)), rule));
  const isChain = (chain: string): boolean => {
    const wanted = rules.filter(([name]) => name === chain);
    const found = inChain(chain);
    return (
      found.length === wanted.length &&
      wanted.every(([name, expressions], i) => isWith(ruleParts(name, expressions), found[i]))
    );
  };
  return (
    isEach([flowtableParts(intent)], observed.flowtables) &&
    isEach([BASE, ENTER].map(chainParts), observed.chains) &&
    sameElements(elementsOf(intent), observed.limited) &&
    observed.rules.length === rules.length &&
    [BASE, ENTER].every(isChain)
  );
}

/** The steps from the observed table to the desired one; `intent` undefined: no fast path. */
export function diffFastPath(
  observed: ObservedFastPath | undefined,
  intent: FastPathIntent | undefined,
): FastPathStep[] {
  if (intent === undefined) return observed === undefined ? [] : [{ type: 'delete-fast-path' }];
  if (observed !== undefined && isIntact(observed, intent)) return [];
  return [{ type: 'put-fast-path', intent, replace: observed !== undefined }];
}

/** A step as a line. */
export function fastPathLine(step: FastPathStep): string {
  if (step.type === 'delete-fast-path') return `nft delete table inet ${FAST_PATH_TABLE}`;
  const { intent, replace } = step;
  const { length } = intent.limited;
  const left = length === 0 ? '' : `, without ${length} limited ${length === 1 ? 'policy' : 'policies'}`;
  const verb = replace ? 'replace' : 'add';
  return `nft ${verb} table inet ${FAST_PATH_TABLE}: flowtable of ${intent.internal} and ${intent.external}${left}`;
}
