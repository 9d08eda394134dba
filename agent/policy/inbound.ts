/** EIPs and DNATs, wherever they are written: each on its own, and that no two claim the same. Pure. */
import { type Address, familyOf, parseAddress } from '../../lib/prefix.ts';
import type { Dnat, Eip } from '../../nat/inbound.ts';
import type { PolicyDocument } from './documents.ts';
import { parsePorts } from './formats.ts';
import type { Owned, Policy } from './model.ts';
import type { Path } from './parse.ts';
import { each, familyName } from './resolve.ts';

export interface EipSpec {
  externalIP?: string;
  internalIP?: string;
  owner?: string;
}

export interface DnatSpec extends EipSpec {
  protocol?: 'tcp' | 'udp' | 'sctp';
  externalPort?: number | string;
  internalPort?: number | string;
  preserveClientIP?: boolean;
}

/** Where an EIP or DNAT is written, and what messages about another one call it. */
export interface Place {
  document: PolicyDocument;
  name: string;
  /** The fields that hold its parts; only a DNAT has ports. */
  external: Path;
  internal: Path;
  port: Path;
  owner: Path;
}

interface Claim<T> {
  place: Place;
  value: T;
}

/** All EIPs and DNATs of a directory. */
export class Inbound {
  readonly #eips: Claim<Eip & Owned>[] = [];
  readonly #dnats: Claim<Dnat & Owned>[] = [];

  addEip(place: Place, value: Eip & Owned): void {
    this.#eips.push({ place, value });
  }

  addDnat(place: Place, value: Dnat & Owned): void {
    this.#dnats.push({ place, value });
  }

  /** Puts them into the policy, and reports what is claimed twice. */
  finish(policy: Policy): void {
    this.#checkEips();
    this.#checkDnats();
    this.#checkOwners(policy);
    this.#checkShared(policy);
    for (const { place, value } of [...this.#eips, ...this.#dnats]) {
      if (!policy.external.gateways.includes(value.externalIP)) continue;
      place.document.fail(place.external, `${value.externalIP} is the external gateway's address`);
    }
    if (this.#eips.length > 0) policy.eips = this.#eips.map(({ value }) => value);
    if (this.#dnats.length > 0) policy.dnats = this.#dnats.map(({ value }) => value);
  }

  /** An address can be in one EIP only, on either side. */
  #checkEips(): void {
    const seen = { externalIP: new Map<Address, string>(), internalIP: new Map<Address, string>() };
    for (const { place, value } of this.#eips) {
      for (const side of ['externalIP', 'internalIP'] as const) {
        const other = seen[side].get(value[side]);
        const field = side === 'externalIP' ? place.external : place.internal;
        if (other === undefined) seen[side].set(value[side], place.name);
        else place.document.fail(field, `${value[side]} is already used by ${other}`);
      }
    }
  }

  /** A port can lead to one place only, and not be an EIP's. */
  #checkDnats(): void {
    const eips = new Map(this.#eips.map(({ value }) => [value.externalIP, value.internalIP]));
    for (const { place, value } of this.#dnats) {
      const whole = eips.get(value.externalIP);
      if (whole === undefined) continue;
      place.document.fail(place.external, `${value.externalIP} is an EIP: all its ports lead to ${whole}`);
    }
    const numbered = this.#dnats.map((claim, index) => ({ ...claim, ...claim.value.externalPorts, index }));
    const groups = Map.groupBy(numbered, ({ value }) => `${value.externalIP} ${value.protocol}`);
    for (const [what, ranges] of groups) {
      // By their first ports; `widest` is the range that reaches furthest so far.
      const [first, ...others] = ranges.toSorted((a, b) => a.first - b.first || a.index - b.index);
      let widest = first!;
      for (const range of others) {
        if (range.first <= widest.last) {
          const [earlier, later] = [widest, range].sort((a, b) => a.index - b.index) as [
            typeof range,
            typeof range,
          ];
          const message = `port ${range.first} of ${what} is already used by ${earlier.place.name}`;
          later.place.document.fail(later.place.port, message);
        }
        if (range.last > widest.last) widest = range;
      }
    }
  }

  /** The ports of a shared address are divided among the members of the group. */
  #checkShared({ rules }: Policy): void {
    const shared = new Set(rules.flatMap(({ egressIP }) => (egressIP?.shared && egressIP.addresses) || []));
    for (const { place, value } of [...this.#eips, ...this.#dnats]) {
      if (!shared.has(value.externalIP)) continue;
      place.document.fail(
        place.external,
        `${value.externalIP} is a shared address of the group; an EIP or DNAT needs another one`,
      );
    }
  }

  /** An address has one owner, whatever it is used for. */
  #checkOwners(policy: Policy): void {
    const owners = new Map<Address, { owner: string; by: string }>();
    for (const { name, egressIP } of policy.rules) {
      if (egressIP?.owner === undefined || !egressIP.announce) continue;
      for (const address of egressIP.addresses) {
        if (!owners.has(address)) owners.set(address, { owner: egressIP.owner, by: `policy ${name}` });
      }
    }
    for (const { place, value } of [...this.#eips, ...this.#dnats]) {
      const { externalIP, owner } = value;
      if (owner === undefined) continue;
      const known = owners.get(externalIP);
      if (known === undefined) owners.set(externalIP, { owner, by: place.name });
      else if (known.owner !== owner) {
        const other = known.owner === '' ? 'nobody' : known.owner;
        place.document.fail(place.owner, `${externalIP} belongs to ${other} according to ${known.by}`);
      }
    }
  }
}

const placeIn = (document: PolicyDocument, list: 'eips' | 'dnats', i: number): Place => {
  const field = (name: string): Path => ['spec', list, i, name];
  return {
    document,
    name: `${list}[${i}]`,
    external: field('externalIP'),
    internal: field('internalIP'),
    port: field('externalPort'),
    owner: field('owner'),
  };
};

/** Adds `spec.eips` of a `GatewayPolicy`. */
export function addEips(
  inbound: Inbound,
  document: PolicyDocument,
  specs: readonly EipSpec[] | undefined,
): void {
  each(specs, (spec, i) => {
    const place = placeIn(document, 'eips', i);
    const eip = translateAddresses(place, spec);
    if (eip !== undefined) inbound.addEip(place, eip);
  });
}

/** Adds `spec.dnats` of a `GatewayPolicy`. */
export function addDnats(
  inbound: Inbound,
  document: PolicyDocument,
  specs: readonly DnatSpec[] | undefined,
): void {
  each(specs, (spec, i) => {
    const place = placeIn(document, 'dnats', i);
    const addresses = translateAddresses(place, spec);
    const { protocol, externalPort, internalPort, preserveClientIP = false } = spec;
    if (addresses === undefined || !protocol || !externalPort || !internalPort) return;
    const externalPorts = parsePorts(externalPort)!;
    const internalPorts = parsePorts(internalPort)!;
    if (externalPorts.last - externalPorts.first !== internalPorts.last - internalPorts.first) {
      const path = ['spec', 'dnats', i, 'internalPort'];
      document.fail(path, `must be as many ports as externalPort, ${externalPort}`);
    }
    inbound.addDnat(place, { ...addresses, protocol, externalPorts, internalPorts, preserveClientIP });
  });
}

/** The two addresses, which must be of one family; undefined when one of them is wrong. */
function translateAddresses(place: Place, spec: EipSpec): Eip | undefined {
  const externalIP = spec.externalIP && parseAddress(spec.externalIP);
  const internalIP = spec.internalIP && parseAddress(spec.internalIP);
  if (!externalIP || !internalIP) return undefined;
  if (familyOf(externalIP) !== familyOf(internalIP)) {
    place.document.fail(
      place.internal,
      `is ${familyName(familyOf(internalIP))}, and externalIP ${externalIP} is ${familyName(familyOf(externalIP))}`,
    );
  }
  return { externalIP, internalIP, ...(spec.owner !== undefined && { owner: spec.owner }) };
}
