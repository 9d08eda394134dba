/** The EIPs and DNATs of a `GatewayPolicy`: each on its own, and that no two claim the same. */
import { type Address, familyOf, parseAddress } from '../../routing/prefix.ts';
import type { PolicyDocument } from './documents.ts';
import { parsePorts } from './formats.ts';
import type { Dnat, Eip } from './model.ts';
import type { Path } from './parse.ts';
import { each, familyName } from './resolve.ts';

export interface EipSpec {
  externalIP?: string;
  internalIP?: string;
}

export interface DnatSpec extends EipSpec {
  protocol?: 'tcp' | 'udp' | 'sctp';
  externalPort?: number | string;
  internalPort?: number | string;
  preserveClientIP?: boolean;
}

/** Translates `spec.eips`; an address can be in one of them only. */
export function translateEips(document: PolicyDocument, specs: readonly EipSpec[] | undefined): Eip[] {
  const seen = { externalIP: new Map<Address, number>(), internalIP: new Map<Address, number>() };
  return each(specs, (spec, i) => {
    const path = ['spec', 'eips', i];
    const eip = translateAddresses(document, path, spec);
    if (eip === undefined) return [];
    for (const side of ['externalIP', 'internalIP'] as const) {
      const other = seen[side].get(eip[side]);
      if (other === undefined) seen[side].set(eip[side], i);
      else document.fail([...path, side], `${eip[side]} is in eips[${other}] already`);
    }
    return [eip];
  }).flat();
}

/** Translates `spec.dnats`; a port can lead to one place only, and not be an EIP's. */
export function translateDnats(
  document: PolicyDocument,
  specs: readonly DnatSpec[] | undefined,
  eips: readonly Eip[],
): Dnat[] {
  const owners = new Map(eips.map(({ externalIP, internalIP }) => [externalIP, internalIP]));
  const claims = new Map<string, { first: number; last: number; index: number }[]>();
  const dnats = each(specs, (spec, i) => {
    const path = ['spec', 'dnats', i];
    const addresses = translateAddresses(document, path, spec);
    const { protocol, externalPort, internalPort, preserveClientIP = false } = spec;
    if (addresses === undefined || !protocol || !externalPort || !internalPort) return [];
    const externalPorts = parsePorts(externalPort)!;
    const internalPorts = parsePorts(internalPort)!;
    if (externalPorts.last - externalPorts.first !== internalPorts.last - internalPorts.first) {
      document.fail([...path, 'internalPort'], `must be as many ports as externalPort, ${externalPort}`);
    }
    const { externalIP } = addresses;
    const owner = owners.get(externalIP);
    if (owner !== undefined) {
      document.fail([...path, 'externalIP'], `${externalIP} is an EIP: all of it leads to ${owner}`);
    }
    const claim = `${externalIP} ${protocol}`;
    const claimed = claims.get(claim) ?? [];
    claimed.push({ ...externalPorts, index: i });
    claims.set(claim, claimed);
    return [{ ...addresses, protocol, externalPorts, internalPorts, preserveClientIP }];
  }).flat();
  for (const [claim, ranges] of claims) {
    // By their first ports; `widest` is the range that reaches furthest so far.
    const [first, ...others] = ranges.toSorted((a, b) => a.first - b.first || a.index - b.index);
    let widest = first!;
    for (const range of others) {
      if (range.first <= widest.last) {
        const [earlier, later] = [widest.index, range.index].sort((a, b) => a - b);
        document.fail(
          ['spec', 'dnats', later!, 'externalPort'],
          `port ${range.first} of ${claim} is in dnats[${earlier}] already`,
        );
      }
      if (range.last > widest.last) widest = range;
    }
  }
  return dnats;
}

/** The two addresses, which must be of one family; undefined when one of them is wrong. */
function translateAddresses(document: PolicyDocument, path: Path, spec: EipSpec): Eip | undefined {
  const externalIP = spec.externalIP && parseAddress(spec.externalIP);
  const internalIP = spec.internalIP && parseAddress(spec.internalIP);
  if (!externalIP || !internalIP) return undefined;
  if (familyOf(externalIP) !== familyOf(internalIP)) {
    document.fail(
      [...path, 'internalIP'],
      `is ${familyName(familyOf(internalIP))}, and externalIP ${externalIP} is ${familyName(familyOf(externalIP))}`,
    );
  }
  return { externalIP, internalIP };
}
