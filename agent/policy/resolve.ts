/** What the translators of every system share: from checked text to the parts of the policy model. Pure. */
import {
  type Address,
  anyPrefix,
  FAMILIES,
  type Family,
  familyOf,
  hostPrefix,
  type Prefix,
  parseAddress,
  parsePrefix,
  prefixLength,
} from '../../lib/prefix.ts';
import type { DocumentSet, PolicyDocument } from './documents.ts';
import type { EgressRule, EvpnPolicy, Policy, PolicyWarning, Side } from './model.ts';
import { holders, PrefixIndex } from './overlap.ts';
import type { Path } from './parse.ts';
import { closest, quote } from './quote.ts';

/** Maps every item that is there: lists keep the indices of what was wrong in them as holes. */
export function each<T, R>(items: readonly T[] | undefined, visit: (item: T, index: number) => R): R[] {
  const results: R[] = [];
  items?.forEach((item, i) => {
    results.push(visit(item, i));
  });
  return results;
}

/** The documents of a kind by name; one whose name another has already is reported and left out. */
export function byName<T>(
  set: DocumentSet,
  apiVersion: string,
  kind: string,
): Map<string, PolicyDocument<T>> {
  const found = new Map<string, PolicyDocument<T>>();
  for (const document of set.documents) {
    if (document.apiVersion !== apiVersion || document.kind !== kind || document.name === '') continue;
    const first = found.get(document.name);
    if (first === undefined) found.set(document.name, document as PolicyDocument<T>);
    else {
      const message = `duplicate ${kind} ${quote(document.name)}, first defined in ${first.origin.file}`;
      document.fail(['metadata', 'name'], message);
    }
  }
  return found;
}

/** What to do about a document that is not there. `incomplete`: it may be one that could not be read. */
export const addDocument = (incomplete: boolean): string =>
  incomplete ? 'add its document, unless it is one that cannot be read' : 'add its document';

/** The message for a missing document, with the name that may have been meant. */
export function missingDocument(
  kind: string,
  name: string,
  names: readonly string[],
  incomplete: boolean,
): string {
  const meant = closest(name, names);
  const help = meant === undefined ? addDocument(incomplete) : `did you mean ${quote(meant)}?`;
  return `${kind} ${quote(name)} is not in the policy directory; ${help}`;
}

/** The prefixes of checked texts, in order, each once. */
export function prefixes(texts: readonly string[] | undefined): Prefix[] {
  const found = new Set<Prefix>();
  each(texts, (text) => found.add(parsePrefix(text)!));
  return [...found];
}

/** The addresses of checked texts, in order, each once. */
export function addresses(texts: readonly string[] | undefined): Address[] {
  const found = new Set<Address>();
  each(texts, (text) => found.add(parseAddress(text)!));
  return [...found];
}

const FAMILY_NAME: Record<Family, string> = { 4: 'IPv4', 6: 'IPv6' };

/** The name of a family in messages. */
export const familyName = (family: Family): string => FAMILY_NAME[family];

/**
 * The families that have a gateway on both sides: only those are programmed. A tunnel of either family carries both, so with
 * EVPN one inside is enough.
 */
export function programmedFamilies({
  internal,
  external,
  evpn,
}: {
  internal: Side;
  external: Side;
  evpn?: EvpnPolicy | undefined;
}): Family[] {
  const has = (side: Side, family: Family) => side.gateways.some((gateway) => familyOf(gateway) === family);
  return FAMILIES.filter((family) => has(internal, family) && (evpn !== undefined || has(external, family)));
}

/** EVPN as both languages write it. */
export interface EvpnSpec {
  vni?: number;
  routeTargets?: string[];
}

/** The model of a checked spec: each route target once. */
export function toEvpn({ vni = 0, routeTargets }: EvpnSpec): EvpnPolicy {
  const targets = new Set<string>();
  each(routeTargets, (target) => targets.add(target));
  return { vni, routeTargets: [...targets] };
}

/** What EVPN makes of a policy. */
export const forwardingOnly = (evpn: EvpnPolicy): Pick<Policy, 'evpn' | 'forwardOnly' | 'defaultAction'> => ({
  ...{ evpn, forwardOnly: true, defaultAction: 'forward' },
});

/** Reports the second gateway of a family: traffic could go to one of them only. */
export function checkOneGatewayAFamily(
  document: PolicyDocument,
  path: Path,
  texts: readonly string[] | undefined,
): void {
  const seen = new Set<Family>();
  each(texts, (text, i) => {
    const family = familyOf(parseAddress(text)!);
    if (seen.has(family))
      document.fail([...path, i], `a second ${familyName(family)} gateway; only one per family is supported`);
    seen.add(family);
  });
}

/** BFD settings that Kube-OVN's resources do not have: its router is active, one hop away. */
export const KUBE_OVN_BFD = {
  mode: 'passive',
  minTTL: 254,
  adoptDiscriminator: true,
  anySource: false,
} as const;

/** The sources of a rule, "any" spelt out. */
export const sources = (rule: EgressRule): Prefix[] =>
  rule.ipBlocks.length > 0 ? rule.ipBlocks : FAMILIES.map(anyPrefix);

/** Whether a rule applies to every destination. */
export const isForAll = ({ destinationCIDRs, excludedCIDRs }: EgressRule): boolean =>
  !destinationCIDRs?.length && !excludedCIDRs?.length;

/** The priority of a rule without one. */
const DEFAULT_PRIORITY = 1000;

/** The rules in the order in which they decide: the lower priority first, then as written. */
export const byPriority = (rules: readonly EgressRule[]): EgressRule[] =>
  rules.toSorted((a, b) => (a.priority ?? DEFAULT_PRIORITY) - (b.priority ?? DEFAULT_PRIORITY));

/** Blocks that a warning names; of the others the number. */
const MAX_NAMED = 5;

/** Parts of a valid policy that have no effect. */
export const policyWarnings = (policy: Policy): PolicyWarning[] => [
  ...familyWarnings(policy),
  ...outsideWarnings(policy),
  ...conflictWarnings(policy),
];

/** A block that reaches as far as the external gateway cannot lead into the VPC as a whole. */
function outsideWarnings({ rules, external, evpn }: Policy): PolicyWarning[] {
  // In the VRF nothing else is outside but what FRR learns.
  if (evpn !== undefined) return [];
  return external.gateways.flatMap((gateway) =>
    rules.flatMap(({ name, ipBlocks }) => {
      const blocks = ipBlocks.filter(
        (block) => familyOf(block) === familyOf(gateway) && prefixLength(block) > 0,
      );
      return [...holders(blocks, [hostPrefix(gateway)])].map((block) => ({
        message: `policy ${name}: ${block} holds the external gateway ${gateway}; packets to it go outside, list only blocks that are inside`,
        about: { policy: name, path: ['ipBlocks'] },
      }));
    }),
  );
}

/** A family with a gateway on one side only is not programmed, nor is anything of that family in the policy. */
function familyWarnings(policy: Policy): PolicyWarning[] {
  const programmed = programmedFamilies(policy);
  return FAMILIES.filter((family) => !programmed.includes(family)).flatMap((family) => {
    const among = (values: readonly (Address | Prefix)[]) =>
      values.filter((value) => familyOf(value) === family).length;
    const internal = among(policy.internal.gateways);
    const external = among(policy.external.gateways);
    const blocks = policy.rules.reduce((sum, rule) => sum + among(rule.ipBlocks), 0);
    const egress = among([...new Set(policy.rules.flatMap(({ egressIP }) => egressIP?.addresses ?? []))]);
    const peers = among(policy.bfd.peers);
    const inbound = among(
      [...(policy.eips ?? []), ...(policy.dnats ?? [])].map(({ externalIP }) => externalIP),
    );
    if (internal + external + blocks + egress + peers + inbound === 0) return [];
    const name = familyName(family);
    const where = internal > 0 ? 'external side has' : external > 0 ? 'internal side has' : 'two sides have';
    const unused = [
      ...(blocks > 0 ? [`${blocks} ${name} ${blocks === 1 ? 'block' : 'blocks'}`] : []),
      ...(egress > 0 ? [`${egress} ${name} egress ${egress === 1 ? 'address' : 'addresses'}`] : []),
      ...(inbound > 0 ? [`${inbound} ${name} ${inbound === 1 ? 'EIP or DNAT' : 'EIPs and DNATs'}`] : []),
      ...(peers > 0 ? [`${peers} ${name} BFD ${peers === 1 ? 'peer' : 'peers'}`] : []),
    ].join(' and ');
    const message = `${name} is not programmed: the ${where} no ${name} gateway`;
    const path = ['spec', external > 0 ? 'internal' : 'external', 'gateways'];
    return [{ message: unused === '' ? message : `${message}; ${unused} left out`, about: { path } }];
  });
}

/** The addresses of a family that a rule translates to; empty: that of the external interface. */
const egressOf = ({ egressIP }: EgressRule, family: Family): Address[] =>
  egressIP?.addresses.filter((address) => familyOf(address) === family) ?? [];

/** How the packets of a rule leave. */
interface Treatment {
  /** In words. */
  text: string;
  /** Two treatments are the same if this is. */
  key: string;
  /** Translated to the address of the external interface, as by default. */
  plain: boolean;
}

function treatmentOf(rule: EgressRule, family: Family): Treatment {
  const { snat, portBlockSize: ports } = rule;
  if (!snat) return { text: 'forwarded', key: 'forwarded', plain: false };
  const addresses = egressOf(rule, family);
  const [first, ...more] = addresses;
  const to = first === undefined ? '' : ` to ${first}${more.length === 0 ? '' : ` and ${more.length} more`}`;
  const text = `translated${to}${ports === undefined ? '' : ` with ${ports} ports for each source`}`;
  return { text, key: `${addresses.toSorted().join()} ${ports}`, plain: first === undefined };
}

/** Whether a rule would have done otherwise. Who would masquerade loses nothing by an address that an earlier rule gives. */
const isConflict = (own: Treatment, actual: Treatment): boolean =>
  own.key !== actual.key && !(own.plain && actual.key !== 'forwarded');

/** A block that lies wholly in one that an earlier rule treats otherwise, whatever the destination. */
function conflictWarnings(policy: Policy): PolicyWarning[] {
  const families = programmedFamilies(policy);
  const decided = new PrefixIndex<{ name: string; at: number; treatments: Map<Family, Treatment> }>();
  return byPriority(policy.rules).flatMap((rule, at) => {
    const { name, egressIP } = rule;
    const treated = families.filter((family) => !egressIP || egressOf(rule, family).length > 0);
    const treatments = new Map(treated.map((family) => [family, treatmentOf(rule, family)]));
    const blocks = sources(rule).filter((block) => treatments.has(familyOf(block)));
    const lost = blocks.flatMap((block) => {
      const [first] = [...decided.holding(block)].sort((a, b) => a.at - b.at);
      if (first === undefined) return [];
      const own = treatments.get(familyOf(block))!;
      const actual = first.treatments.get(familyOf(block))!;
      if (!isConflict(own, actual)) return [];
      return `conflict: ${block} is ${own.text} by ${name} and ${actual.text} by ${first.name}; it is ${actual.text}`;
    });
    if (isForAll(rule)) for (const block of blocks) decided.add(block, { name, at, treatments });
    const others = lost.length - MAX_NAMED;
    const more = `conflict: earlier policies treat ${others} more blocks of ${name} otherwise as well`;
    const about = { policy: name, path: ['ipBlocks'] };
    return [...lost.slice(0, MAX_NAMED), ...(others > 0 ? [more] : [])].map((message) => ({
      message,
      about,
    }));
  });
}

/** The warning about an address that no node holds, because the status of its document names none. */
export const unheld = (kind: string, name: string, field: string): string =>
  `no node holds the address of ${kind} ${quote(name)}, so its pods have no way out: ${field} is not set; use the document as the cluster prints it, or a GatewayPolicy`;
