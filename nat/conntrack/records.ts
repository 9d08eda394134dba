/**
 * The translation log: which flows get a record, how many, and the record itself, one JSON line of Kube-OVN's
 * `schemaVersion v1` with some fields more. Pure.
 */
import { addressFromBytes, type Family, type Prefix } from '../../lib/prefix.ts';
import { type PrefixMatcher, prefixMatcher } from '../prefix-matcher.ts';
import { type FlowView, type NatType, protocolName } from './flow.ts';
import type { Flow } from './table.ts';
import { isIcmp } from './wire.ts';

export type RecordEvent = 'start' | 'end';

/** Inclusive. */
export interface PortRange {
  first: number;
  last: number;
}

export interface TupleFilter {
  sourceCIDRs?: readonly Prefix[];
  destinationCIDRs?: readonly Prefix[];
  sourcePorts?: readonly PortRange[];
  destinationPorts?: readonly PortRange[];
}

/** What a flow must be: one of the values of each part that is there; an empty part takes any. */
export interface LogFilter {
  addressFamilies?: readonly ('ipv4' | 'ipv6')[];
  /** tcp, udp, sctp, icmp, icmpv6, other. */
  protocols?: readonly string[];
  /** `snat` and `dnat` take flows with both too. */
  natTypes?: readonly (NatType | 'snat_dnat')[];
  original?: TupleFilter;
  translated?: TupleFilter;
}

/** Which flows are recorded: the policy's `translationLog`. */
export interface LogRules {
  events: readonly RecordEvent[];
  rateLimit: { recordsPerSecond: number; burst: number };
  /** An empty `include` takes every flow; `exclude` is stronger. */
  filters: { include: readonly LogFilter[]; exclude: readonly LogFilter[] };
}

/** Whose records they are; absent parts are empty. */
export interface Identity {
  /** Of the gateway. */
  namespace: string;
  name: string;
  pod: string;
  node: string;
}

/** The family as Kube-OVN's metrics and records name it. */
export const familyLabel = (family: Family): 'ipv4' | 'ipv6' => (family === 4 ? 'ipv4' : 'ipv6');

/** The texts of IPv6 addresses, which cost 10 µs each to make. */
const texts = new Map<string, string>();
const MAX_TEXTS = 4096;

/** The address in 4 or 16 octets as text. */
export function addressText(bytes: Uint8Array): string {
  if (bytes.length === 4) return addressFromBytes(bytes);
  const key = String.fromCharCode(...bytes);
  let text = texts.get(key);
  if (text === undefined) {
    if (texts.size === MAX_TEXTS) texts.clear();
    text = addressFromBytes(bytes);
    texts.set(key, text);
  }
  return text;
}

interface EndpointsRecord {
  sourceIP: string;
  sourcePort?: number;
  destinationIP: string;
  destinationPort?: number;
  icmpID?: number;
}

/** The fields of a flow that records and answers have in common. */
export interface FlowRecord {
  zone: number;
  addressFamily: 'ipv4' | 'ipv6';
  protocol: string;
  protocolNumber: number;
  natType: NatType[];
  original: EndpointsRecord;
  translated: EndpointsRecord;
  counters?: FlowView['counters'];
  policy: string;
  verdict: FlowView['verdict'];
  /** As the pod sent it; `translated` has the one that the outside sees. */
  icmpID?: number;
  /** RFC 3339. */
  startTime: string;
}

const time = (ms: number): string => new Date(ms).toISOString();

function endpoints(
  protocol: number,
  source: Uint8Array,
  sourcePort: number,
  destination: Uint8Array,
  destinationPort: number,
): EndpointsRecord {
  const [sourceIP, destinationIP] = [addressText(source), addressText(destination)];
  if (isIcmp(protocol)) return { sourceIP, destinationIP, icmpID: sourcePort };
  // Port 0 is no port: a protocol that has none.
  if (sourcePort === 0 && destinationPort === 0) return { sourceIP, destinationIP };
  return { sourceIP, sourcePort, destinationIP, destinationPort };
}

/** A flow in the words of the records. */
export function flowRecord(view: FlowView): FlowRecord {
  const { protocol, counters, zone, natType, policy, verdict } = view;
  const original = endpoints(protocol, view.source, view.sourcePort, view.destination, view.destinationPort);
  const translated = endpoints(
    protocol,
    view.translatedSource,
    view.translatedSourcePort,
    view.translatedDestination,
    view.translatedDestinationPort,
  );
  return {
    zone,
    addressFamily: familyLabel(view.family),
    protocol: protocolName(protocol),
    protocolNumber: protocol,
    natType,
    original,
    translated,
    ...(counters && { counters }),
    policy,
    verdict,
    ...(original.icmpID !== undefined && { icmpID: original.icmpID }),
    startTime: time(view.start),
  };
}

/** Seconds, exact to a millisecond. */
export const seconds = (from: number, to: number): number => Math.max(0, Math.round(to - from)) / 1000;

/** One line of the log, with its end. */
export function recordLine(event: RecordEvent, view: FlowView, identity: Identity): string {
  const { id, start, end = start, endEstimated } = view;
  const { zone, ...rest } = flowRecord(view);
  return `${JSON.stringify({
    schemaVersion: 'v1',
    timestamp: event === 'start' ? rest.startTime : time(end),
    event,
    conntrackID: id,
    zone,
    ...identity,
    ...rest,
    ...(event === 'end' && { duration: seconds(start, end) }),
    ...(endEstimated && { endEstimated }),
  })}\n`;
}

/** Limits the rate of records, with bursts (token bucket). */
export class TokenBucket {
  readonly #perSecond: number;
  readonly #burst: number;
  #tokens: number;
  #at: number;

  /** `now` in ms, here and in `take`. */
  constructor({ recordsPerSecond, burst }: LogRules['rateLimit'], now: number) {
    this.#perSecond = recordsPerSecond;
    this.#burst = burst;
    this.#tokens = burst;
    this.#at = now;
  }

  /** Whether one more may pass. */
  take(now: number): boolean {
    const gained = (Math.max(0, now - this.#at) / 1000) * this.#perSecond;
    this.#tokens = Math.min(this.#burst, this.#tokens + gained);
    this.#at = now;
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }
}

interface CompiledTuple {
  sources: PrefixMatcher | undefined;
  destinations: PrefixMatcher | undefined;
  sourcePorts: readonly PortRange[] | undefined;
  destinationPorts: readonly PortRange[] | undefined;
}

const compileTuple = (filter: TupleFilter = {}): CompiledTuple => ({
  sources: prefixMatcher(filter.sourceCIDRs),
  destinations: prefixMatcher(filter.destinationCIDRs),
  sourcePorts: filter.sourcePorts?.length ? filter.sourcePorts : undefined,
  destinationPorts: filter.destinationPorts?.length ? filter.destinationPorts : undefined,
});

const inRange = (ranges: readonly PortRange[] | undefined, port: number): boolean =>
  ranges === undefined || ranges.some(({ first, last }) => port >= first && port <= last);

const matchesTuple = (
  tuple: CompiledTuple,
  source: Uint8Array,
  sourcePort: number,
  destination: Uint8Array,
  destinationPort: number,
): boolean =>
  inRange(tuple.sourcePorts, sourcePort) &&
  inRange(tuple.destinationPorts, destinationPort) &&
  tuple.sources?.has(source) !== false &&
  tuple.destinations?.has(destination) !== false;

const isOneOf = <T>(values: readonly T[] | undefined, ...wanted: T[]): boolean =>
  !values?.length || wanted.some((value) => values.includes(value));

/** The types that a filter may name a flow by. */
const natNames = ({ snat, dnat }: Flow): (NatType | 'snat_dnat')[] =>
  snat && dnat ? ['snat', 'dnat', 'snat_dnat'] : snat ? ['snat'] : dnat ? ['dnat'] : [];

/** A filter as a predicate. */
function compile(filter: LogFilter): (flow: Flow) => boolean {
  const original = compileTuple(filter.original);
  const translated = compileTuple(filter.translated);
  return (flow) =>
    isOneOf(filter.addressFamilies, familyLabel(flow.family)) &&
    isOneOf(filter.protocols, protocolName(flow.protocol)) &&
    isOneOf(filter.natTypes, ...natNames(flow)) &&
    matchesTuple(original, flow.source, flow.sourcePort, flow.destination, flow.destinationPort) &&
    matchesTuple(
      translated,
      flow.translatedSource,
      flow.translatedSourcePort,
      flow.translatedDestination,
      flow.translatedDestinationPort,
    );
}

/** Whether a flow is to be logged, by the filters of the policy. */
export function compileFilters({ include, exclude }: LogRules['filters']): (flow: Flow) => boolean {
  const [wanted, unwanted] = [include.map(compile), exclude.map(compile)];
  return (flow) =>
    (wanted.length === 0 || wanted.some((matches) => matches(flow))) &&
    !unwanted.some((matches) => matches(flow));
}
