/** The translation log, the same in `GatewayPolicy` and in Kube-OVN's `observability.conntrack.log`. Pure. */
import type { LogFilter, LogRules, PortRange, TupleFilter } from '../../nat/conntrack/records.ts';
import type { PolicyDocument } from './documents.ts';
import type { Path } from './parse.ts';
import { each, prefixes } from './resolve.ts';

export interface TranslationLogSpec {
  enabled?: boolean;
  events?: ('start' | 'end')[];
  rateLimit?: { recordsPerSecond?: number; burst?: number };
  filters?: { include?: FilterSpec[]; exclude?: FilterSpec[] };
}

interface FilterSpec {
  addressFamilies?: ('ipv4' | 'ipv6')[];
  protocols?: ('tcp' | 'udp' | 'sctp' | 'icmp' | 'icmpv6' | 'other')[];
  natTypes?: ('snat' | 'dnat' | 'snat_dnat')[];
  original?: TupleSpec;
  translated?: TupleSpec;
}

interface TupleSpec {
  sourceCIDRs?: string[];
  destinationCIDRs?: string[];
  sourcePorts?: { start?: number; end?: number }[];
  destinationPorts?: { start?: number; end?: number }[];
}

/** Translates the log's part at `path`; undefined when nothing is to be recorded. */
export function translateTranslationLog(
  document: PolicyDocument,
  path: Path,
  spec: TranslationLogSpec | undefined,
): LogRules | undefined {
  const filters = (side: 'include' | 'exclude') =>
    each(spec?.filters?.[side], (filter, i) =>
      translateFilter(document, [...path, 'filters', side, i], filter),
    );
  const log: LogRules = {
    events: spec?.events?.length ? each(spec.events, (event) => event) : ['start', 'end'],
    rateLimit: {
      recordsPerSecond: spec?.rateLimit?.recordsPerSecond ?? 100,
      burst: spec?.rateLimit?.burst ?? 1000,
    },
    filters: { include: filters('include'), exclude: filters('exclude') },
  };
  return spec?.enabled === true ? log : undefined;
}

function translateFilter(document: PolicyDocument, path: Path, spec: FilterSpec): LogFilter {
  const { addressFamilies, protocols, natTypes, original, translated } = spec;
  return {
    ...(addressFamilies && { addressFamilies }),
    ...(protocols && { protocols }),
    ...(natTypes && { natTypes }),
    ...(original && { original: translateTuple(document, [...path, 'original'], original) }),
    ...(translated && { translated: translateTuple(document, [...path, 'translated'], translated) }),
  };
}

function translateTuple(document: PolicyDocument, path: Path, spec: TupleSpec): TupleFilter {
  const ports = (field: 'sourcePorts' | 'destinationPorts'): PortRange[] =>
    each(spec[field], ({ start = 0, end = 65535 }, i) => {
      if (start > end)
        document.fail([...path, field, i], `the first port, ${start}, is above the last, ${end}`);
      return { first: start, last: end };
    });
  return {
    ...(spec.sourceCIDRs && { sourceCIDRs: prefixes(spec.sourceCIDRs) }),
    ...(spec.destinationCIDRs && { destinationCIDRs: prefixes(spec.destinationCIDRs) }),
    ...(spec.sourcePorts && { sourcePorts: ports('sourcePorts') }),
    ...(spec.destinationPorts && { destinationPorts: ports('destinationPorts') }),
  };
}
