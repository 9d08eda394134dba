/** `spec.group` and the addresses that a group shares. Pure. */

import {
  type Address,
  contains,
  FAMILIES,
  familyOf,
  parseAddress,
  parsePrefix,
} from '../../../lib/prefix.ts';
import type { CredentialFiles } from '../../group/credentials.ts';
import { slotConflicts } from '../../group/slices.ts';
import type { GroupPolicy } from '../model.ts';
import { addresses, each, familyName } from '../resolve.ts';
import type { GatewayPolicy, GroupSpec } from './resource.ts';

/** Shared addresses of one family: the most that xt_cluster can choose from. */
const MAX_SHARED = 32;
const LINK_LOCAL = parsePrefix('fe80::/10')!;
/** Ports of the pod's addresses that have another use: a member whose port is taken hears none of the others. */
const TAKEN = new Map([
  [10_666, "of Kube-OVN's flow observer"],
  [10_669, 'of metrics and probes'],
]);
const CERTIFICATE_FIELDS = ['certFile', 'certKeyFile', 'caFile'] as const;

/** Translates `spec.group`. */
export function translateGroup(document: GatewayPolicy, spec: GroupSpec): GroupPolicy {
  checkMembers(document, spec);
  const use = TAKEN.get(spec.port ?? 0);
  if (use !== undefined)
    document.fail(['spec', 'group', 'port'], `${spec.port} is the port ${use}; choose another`);
  return {
    members: addresses(spec.members),
    port: spec.port ?? 10_667,
    credentials: translateCredentials(document, spec),
    minTX: spec.minTX ?? 100,
    minRX: spec.minRX ?? 100,
    multiplier: spec.multiplier ?? 3,
  };
}

function checkMembers(document: GatewayPolicy, { members }: GroupSpec): void {
  const list = addresses(members);
  const conflicts = FAMILIES.flatMap((family) =>
    slotConflicts(list.filter((member) => familyOf(member) === family)),
  );
  const seen = new Map<Address, number>();
  each(members, (text, i) => {
    const path = ['spec', 'group', 'members', i];
    const member = parseAddress(text)!;
    const first = seen.get(member);
    if (first !== undefined) {
      document.fail(path, `${text} is members[${first}] already`);
      return;
    }
    seen.set(member, i);
    const problem = misnamed(document, member);
    if (problem !== undefined)
      document.fail(path, `${text} is ${problem}; name members by their internal addresses`);
    const conflict = conflicts.find((one) => one.member === member);
    if (conflict === undefined) return;
    document.fail(
      path,
      `${member} and ${conflict.other} have the same last four bits, which select a member's ports; choose another address`,
    );
  });
}

/** What an address is that no gateway has inside; undefined: a member may have it. */
function misnamed({ value: { spec } }: GatewayPolicy, member: Address): string | undefined {
  if (familyOf(member) === 6 && contains(LINK_LOCAL, member)) return 'link-local';
  if (addresses(spec?.internal?.gateways).includes(member)) return "the internal gateway's address";
  if (addresses(spec?.external?.gateways).includes(member)) return "the external gateway's address";
  const isEgress = spec?.policies?.some(({ egressIP }) => addresses(egressIP?.address).includes(member));
  return isEgress ? 'an egress address' : undefined;
}

function translateCredentials(document: GatewayPolicy, spec: GroupSpec): CredentialFiles {
  const { keyFile, certFile = '', certKeyFile = '', caFile = '' } = spec;
  const given = CERTIFICATE_FIELDS.filter((field) => spec[field] !== undefined);
  if (keyFile !== undefined) {
    for (const field of given) {
      document.fail(['spec', 'group', field], 'keyFile and certificates exclude each other', 'key');
    }
    return { keyFile };
  }
  if (document.sound && given.length === 0) {
    document.fail(['spec', 'group'], 'needs keyFile, or certFile, certKeyFile and caFile', 'key');
  } else if (document.sound && given.length < CERTIFICATE_FIELDS.length) {
    const missing = CERTIFICATE_FIELDS.filter((field) => !given.includes(field));
    document.fail(['spec', 'group'], `needs ${missing.join(' and ')} beside ${given.join(' and ')}`, 'key');
  }
  return { certFile, certKeyFile, caFile };
}

/** The egress addresses with `shared: true`. */
export function checkShared(document: GatewayPolicy, group: GroupPolicy | undefined): void {
  const { policies } = document.value.spec ?? {};
  const shared = new Map<string, boolean>();
  each(policies, ({ egressIP, portBlockSize }, i) => {
    const path = ['spec', 'policies', i, 'egressIP'];
    each(egressIP?.address, (text, j) => {
      const address = parseAddress(text)!;
      const isShared = egressIP?.shared === true;
      if ((shared.get(address) ?? isShared) !== isShared) {
        document.fail([...path, 'address', j], `${text} is shared in one policy and not in another`);
      }
      shared.set(address, isShared);
    });
    if (!egressIP?.shared) return;
    if (document.sound && group === undefined) {
      document.fail([...path, 'shared'], 'needs spec.group: its members share the address', 'key');
    }
    if (egressIP.owner !== undefined) {
      document.fail([...path, 'owner'], 'has no meaning for a shared address: the group has it', 'key');
    }
    if (portBlockSize) {
      document.fail(
        ['spec', 'policies', i, 'portBlockSize'],
        'has no meaning for a shared address: its ports are divided among the members',
        'key',
      );
    }
  });
  checkFamilies(document, group);
  for (const family of FAMILIES) {
    const count = [...shared].filter(([text, is]) => is && familyOf(parseAddress(text)!) === family).length;
    if (count <= MAX_SHARED) continue;
    document.fail(
      ['spec', 'policies'],
      `${count} shared ${familyName(family)} addresses; at most ${MAX_SHARED} are allowed`,
      'key',
    );
  }
}

/** A shared address of a family without members: no gateway would translate to it. */
function checkFamilies(document: GatewayPolicy, group: GroupPolicy | undefined): void {
  if (group === undefined || !document.sound) return;
  const families = new Set(group.members.map(familyOf));
  each(document.value.spec?.policies, ({ egressIP }, i) => {
    if (!egressIP?.shared) return;
    each(egressIP.address, (text, j) => {
      const family = familyOf(parseAddress(text)!);
      if (families.has(family)) return;
      document.fail(
        ['spec', 'policies', i, 'egressIP', 'address', j],
        `${text}: no member of spec.group has an ${familyName(family)} address`,
      );
    });
  });
}
