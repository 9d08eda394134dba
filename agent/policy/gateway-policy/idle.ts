/** Parts of a valid `GatewayPolicy` that have no effect. Pure. */
import {
  anyPrefix,
  contains,
  FAMILIES,
  familyOf,
  type Prefix,
  parseAddress,
  parsePrefix,
} from '../../../lib/prefix.ts';
import type { EgressRule, PolicyWarning } from '../model.ts';
import { PrefixIndex } from '../overlap.ts';
import type { Path } from '../parse.ts';
import { formatPath } from '../quote.ts';
import { each, familyName } from '../resolve.ts';
import type { GatewayPolicy, SideSpec } from './resource.ts';

/** Items that a warning names; of the others the number. */
const MAX_NAMED = 5;
const LINK_LOCAL = parsePrefix('fe80::/10')!;

/** Warnings about the document; `rules` are its policies. */
export function idleParts(document: GatewayPolicy, rules: readonly EgressRule[]): PolicyWarning[] {
  const { internal, external, bfd, policies, bgp, evpn, translationLog } = document.value.spec ?? {};
  const canonical = (text: string): string => parseAddress(text)!;
  const found = [
    ...bothSides(internal?.gateways, external?.gateways),
    ...disabled(['spec', 'bfd'], bfd, ['peers', 'auth']),
    ...disabled(['spec', 'translationLog'], translationLog, ['events', 'rateLimit', 'filters']),
    ...repeated(['spec', 'bfd', 'peers'], bfd?.peers, canonical),
    ...each(policies, ({ egressIP }, i) =>
      repeated(['spec', 'policies', i, 'egressIP', 'address'], egressIP?.address, canonical),
    ).flat(),
    ...repeated(['spec', 'bgp', 'announce'], bgp?.announce),
    ...repeated(['spec', 'evpn', 'routeTargets'], evpn?.routeTargets),
    ...each(rules, otherFamilies).flat(),
    ...each(rules, excludedWhole).flat(),
  ];
  return found.map(({ message, path }) => ({ message, about: { document, path } }));
}

/** What has no effect, and the field. */
interface Idle {
  message: string;
  path: Path;
}

/** Gateways that are on both sides. A link-local address may be one of each link. */
function bothSides(internal: SideSpec['gateways'] = [], external: SideSpec['gateways'] = []): Idle[] {
  const inside = new Set(each(internal, (text) => parseAddress(text)!));
  return each(external, (text, i) => ({ gateway: parseAddress(text)!, i }))
    .filter(({ gateway }) => inside.has(gateway) && !contains(LINK_LOCAL, gateway))
    .map(({ gateway, i }) => ({
      message: `spec.external.gateways: ${gateway} is the internal gateway too, packets from the VPC do not leave it; give the next hop outside`,
      path: ['spec', 'external', 'gateways', i],
    }));
}

/** Fields of something that is not enabled. */
function disabled<T extends { enabled?: boolean }>(
  path: Path,
  part: T | undefined,
  fields: readonly (keyof T & string)[],
): Idle[] {
  if (part === undefined || part.enabled) return [];
  return fields
    .filter((field) => part[field] !== undefined)
    .map((field) => [...path, field])
    .map((at) => ({ message: `${formatPath(at)} has no effect without enabled: true`, path: at }));
}

/** Items that a list holds already. */
function repeated(
  path: Path,
  items: readonly string[] | undefined,
  canonical = (text: string): string => text,
): Idle[] {
  const first = new Map<string, number>();
  const found: Idle[] = [];
  each(items, (item, i) => {
    const value = canonical(item);
    const at = first.get(value);
    const here = [...path, i];
    const message = `${formatPath(here)} has no effect: ${value} is item ${at} already`;
    if (at === undefined) first.set(value, i);
    else found.push({ message, path: here });
  });
  return shortened(found, path);
}

const shortened = (found: Idle[], path: Path): Idle[] =>
  found.length <= MAX_NAMED
    ? found
    : [
        ...found.slice(0, MAX_NAMED),
        {
          message: `${formatPath(path)}: ${found.length - MAX_NAMED} more items have no effect, they are there already`,
          path,
        },
      ];

/** Destinations of a family that no source of the policy has. */
function otherFamilies({ name, ipBlocks, destinationCIDRs = [] }: EgressRule, at: number): Idle[] {
  if (ipBlocks.length === 0) return [];
  const families = new Set(ipBlocks.map(familyOf));
  return FAMILIES.filter((family) => !families.has(family)).flatMap((family) => {
    const idle = destinationCIDRs.filter((one) => familyOf(one) === family);
    if (idle.length === 0) return [];
    const more = idle.length > MAX_NAMED ? ` and ${idle.length - MAX_NAMED} more` : '';
    const named = `${idle.slice(0, MAX_NAMED).join(', ')}${more}`;
    const verb = idle.length === 1 ? 'has' : 'have';
    return [
      {
        message: `policy ${name}: ${named} of destinationCIDRs ${verb} no effect: its ipBlocks have no ${familyName(family)}`,
        path: ['spec', 'policies', at, 'destinationCIDRs'],
      },
    ];
  });
}

/** A policy whose every destination is excepted. */
function excludedWhole(
  { name, ipBlocks, destinationCIDRs = [], excludedCIDRs = [] }: EgressRule,
  at: number,
): Idle[] {
  if (excludedCIDRs.length === 0) return [];
  const families = new Set(ipBlocks.length === 0 ? FAMILIES : ipBlocks.map(familyOf));
  const wanted: readonly Prefix[] =
    destinationCIDRs.length === 0 ? FAMILIES.map(anyPrefix) : destinationCIDRs;
  const destinations = wanted.filter((one) => families.has(familyOf(one)));
  const excluded = new PrefixIndex<true>();
  for (const one of excludedCIDRs) excluded.add(one, true);
  if (destinations.length === 0 || !destinations.every((one) => excluded.holding(one).next().value))
    return [];
  return [
    {
      message: `policy ${name} has no effect: its excludedCIDRs cover all of its destinations`,
      path: ['spec', 'policies', at, 'excludedCIDRs'],
    },
  ];
}
