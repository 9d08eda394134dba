/**
 * What the languages of BGP have in common: numbers of autonomous systems, timers, neighbours that cannot be, and what has
 * no effect. Pure.
 */
import { type Address, contains, FAMILIES, familyOf, parsePrefix } from '../../lib/prefix.ts';
import { parseGoDuration } from '../../lib/units.ts';
import type { PolicyDocument } from './documents.ts';
import type { Announced, BgpNeighbour, EgressIP, Policy, PolicyWarning } from './model.ts';
import type { Path } from './parse.ts';
import { familyName, programmedFamilies } from './resolve.ts';

/** The largest number of an autonomous system (RFC 6793). */
export const MAX_ASN = 2 ** 32 - 1;
/** It stands for a number of four octets where two are expected (RFC 6793, 9). */
const AS_TRANS = 23_456;
/** A neighbour's default, s; and a keepalive interval that fits in it three times. */
const HOLD_TIME = 9;
const KEEPALIVE_TIME = 3;
/** RFC 4271, 4.2: the hold time is 0 or at least three seconds. */
const LEAST_HOLD_TIME = 3;
const MAX_SECONDS = 65_535;

const LINK_LOCAL = parsePrefix('fe80::/10')!;

/** Reports a number that no autonomous system has; the schema has checked its range. */
export function checkASN(document: PolicyDocument, path: Path, asn: number | undefined): void {
  if (asn !== AS_TRANS) return;
  document.fail(path, '23456 is reserved (AS_TRANS, RFC 6793); give the number of an autonomous system');
}

/** Reports a neighbour that is named twice, and a link-local one. */
export function checkNeighbours(
  document: PolicyDocument,
  neighbours: readonly (Address | undefined)[],
  pathOf: (index: number) => Path,
): void {
  neighbours.forEach((address, i) => {
    if (address === undefined) return;
    const first = neighbours.indexOf(address);
    if (first < i) document.fail(pathOf(i), `${address} is neighbours[${first}] already`);
    if (familyOf(address) === 6 && contains(LINK_LOCAL, address)) {
      document.fail(pathOf(i), `${address} is link-local; give the router's global address`);
    }
  });
}

/** A field of a neighbour in whole seconds; undefined if it is absent or reported. */
export function wholeSeconds(
  document: PolicyDocument,
  path: Path,
  text: string | undefined,
  least = 0,
): number | undefined {
  const ms = parseGoDuration(text ?? '');
  if (ms === undefined) return undefined;
  const seconds = ms / 1000;
  if (Number.isInteger(seconds) && seconds >= least && seconds <= MAX_SECONDS) return seconds;
  document.fail(path, `must be whole seconds between ${least}s and ${MAX_SECONDS}s, is ${text}`);
  return undefined;
}

/**
 * The timers of a neighbour, s. One that is absent follows the other; `paths` are the places of both. RFC 4271, 10: the
 * interval of keepalives is at most a third of the hold time.
 */
export function translateTimers(
  document: PolicyDocument,
  paths: { holdTime: Path; keepaliveTime: Path },
  texts: { holdTime?: string | undefined; keepaliveTime?: string | undefined },
): Pick<BgpNeighbour, 'holdTime' | 'keepaliveTime'> {
  const hold = wholeSeconds(document, paths.holdTime, texts.holdTime);
  const keepalive = wholeSeconds(document, paths.keepaliveTime, texts.keepaliveTime);
  const holdTime = hold ?? (keepalive === 0 ? 0 : Math.max(HOLD_TIME, 3 * (keepalive ?? 0)));
  const keepaliveTime = keepalive ?? Math.min(KEEPALIVE_TIME, Math.floor(holdTime / 3));
  if (holdTime > 0 && holdTime < LEAST_HOLD_TIME) {
    document.fail(
      paths.holdTime,
      `must be 0s (never expires) or at least ${LEAST_HOLD_TIME}s, is ${holdTime}s`,
    );
  } else if (holdTime < 3 * keepaliveTime) {
    document.fail(
      keepalive === undefined ? paths.holdTime : paths.keepaliveTime,
      `keepaliveTime ${keepaliveTime}s must fit into holdTime ${holdTime}s three times`,
    );
  } else if (holdTime > 0 && keepaliveTime === 0) {
    document.fail(paths.keepaliveTime, `must be at least 1s with holdTime ${holdTime}s`);
  }
  return { holdTime, keepaliveTime };
}

/** Reports neighbours that are addresses of the gateway, as far as the policy has them. */
export function checkForeign(
  { rules, eips = [], dnats = [], group, bgp }: Policy,
  fail: (index: number, message: string) => void,
): void {
  const own = new Map<Address, string>([
    ...(group?.members ?? []).map((address) => [address, 'a member of the group'] as const),
    ...dnats.map(({ externalIP }) => [externalIP, 'the external address of a DNAT'] as const),
    ...eips.map(({ externalIP }) => [externalIP, 'an EIP'] as const),
    ...rules.flatMap(({ egressIP }) =>
      (egressIP?.addresses ?? []).map((address) => [address, 'an egress address'] as const),
    ),
  ]);
  bgp?.neighbours.forEach(({ address }, i) => {
    const what = own.get(address);
    if (what !== undefined) fail(i, `${address} is ${what} of this gateway, not a router`);
  });
}

/** Whether egress addresses are announced by BGP, if anything is. */
export const byBgp = ({ announce }: EgressIP): boolean => announce === 'bgp' || announce === true;

/** Parts of `bgp` and `announce` that have no effect. */
export function bgpWarnings(policy: Policy): PolicyWarning[] {
  if (policy.bgp === undefined) {
    return onlyByBgp(policy, ' without spec.bgp; nobody announces its addresses');
  }
  const ofBgp = (message: string): PolicyWarning => ({ message, about: { path: ['spec', 'bgp'] } });
  return [
    ...unannounced(policy).map(ofBgp),
    ...(policy.bgp.announce.includes('egressIPs')
      ? []
      : onlyByBgp(policy, ': spec.bgp.announce lacks egressIPs')),
    ...unheard(policy).map(ofBgp),
  ];
}

/** Policies whose addresses are announced by BGP alone, which is not done. */
const onlyByBgp = ({ rules }: Policy, why: string): PolicyWarning[] =>
  rules
    .filter(({ egressIP }) => egressIP?.announce === 'bgp')
    .map(({ name }) => ({
      message: `policy ${name}: announce: bgp has no effect${why}`,
      about: { policy: name, path: ['egressIP', 'announce'] },
    }));

/** What `announce` names and the policy does not have, and the other way round. */
function unannounced({ rules, eips, dnats, bgp, internal, external }: Policy): string[] {
  const { localASN, announce, neighbours, routerID } = bgp!;
  const has4 = [...internal.gateways, ...external.gateways].some((gateway) => familyOf(gateway) === 4);
  const there: Record<Announced, boolean> = {
    egressIPs: rules.some(({ egressIP }) => egressIP !== undefined && byBgp(egressIP)),
    eips: !!eips?.length,
    dnats: !!dnats?.length,
    forwarded: rules.some(({ snat }) => !snat),
  };
  const inside = neighbours.filter(({ asn, ebgpMultihop }) => asn === localASN && ebgpMultihop > 1);
  const silent = neighbours.filter(({ holdTime, bfd }) => holdTime === 0 && !bfd);
  return [
    ...(announce.some((one) => there[one])
      ? []
      : ['spec.bgp announces nothing: the policy has none of what its announce names']),
    ...(routerID === undefined && !has4
      ? ['spec.bgp has no routerID, and FRR finds none in a gateway without IPv4: set one']
      : []),
    ...inside.map(
      ({ address }) =>
        `spec.bgp: ebgpMultihop of ${address} has no effect: it is in the gateway's own autonomous system`,
    ),
    ...silent.map(
      ({ address }) => `spec.bgp: the failure of ${address} is not detected: holdTime is 0s and bfd is off`,
    ),
  ];
}

/** Families and neighbours that do not meet: a session carries its own family only, but with EVPN both. */
function unheard(policy: Policy): string[] {
  if (policy.evpn !== undefined) return [];
  const programmed = programmedFamilies(policy);
  const neighbours = policy.bgp!.neighbours.map(({ address }) => address);
  return FAMILIES.flatMap((family) => {
    const name = familyName(family);
    const own = neighbours.filter((address) => familyOf(address) === family);
    if (!programmed.includes(family)) {
      return own.map((address) => `spec.bgp: neighbour ${address} has no effect: ${name} is not programmed`);
    }
    return own.length > 0 ? [] : [`spec.bgp has no ${name} neighbour: nothing of ${name} is announced`];
  });
}
