/**
 * A VpcEgressGateway whose replicas share egress addresses: the `GatewayPolicy` that its pods read in place of the documents,
 * and the Secret with the group's key. Pure.
 */
import { stringify } from 'yaml';
import { type Address, FAMILIES, familyOf } from '../../lib/prefix.ts';
import { slotConflicts } from '../group/slices.ts';
import type { BgpPolicy } from '../policy/model.ts';
import { familyName } from '../policy/resolve.ts';
import { type Gateway, RenderError } from './gateway.ts';
import { type Hash, objectName } from './names.ts';

/** Where the key's Secret is mounted, and the key in it. */
export const SECRET_DIRECTORY = '/etc/veg-agent/secret';
export const SECRET_KEY = 'group';
const POLICY_FILE = 'gateway.yaml';

/** The name of the Secret, which has to be there: docs/kubernetes.md. */
export const groupSecret = ({ workload }: Gateway, hash: Hash): string =>
  objectName(`${workload}-group`, hash);

/**
 * The gateway with the policy of a group. Every source that is translated gets the shared addresses, also one that no policy
 * names. Throws `RenderError` for members or addresses that cannot make a group, and with EVPN.
 */
export function withGroup(gateway: Gateway, shared: readonly Address[]): Gateway {
  if (gateway.policy.evpn !== undefined) {
    throw new RenderError(
      '--shared-address: with EVPN (spec.evpnConf) nothing is translated, so no address can be shared; leave one of them out',
    );
  }
  const members = gateway.internalIPs.flat();
  checkMembers(gateway, members);
  checkShared(gateway, shared);
  const text = stringify(groupPolicy(gateway, members, shared), {
    lineWidth: 0,
    aliasDuplicateObjects: false,
  });
  const surplus = gateway.internalIPs.length - gateway.replicas;
  const warnings =
    surplus > 0
      ? [
          `spec.internalIPs: ${surplus} more than replicas; they are members that no pod is, and status has them as unreachable`,
        ]
      : [];
  return {
    ...gateway,
    files: [{ name: POLICY_FILE, text }],
    warnings: [...gateway.warnings, ...warnings],
  };
}

function checkMembers({ families, internalIPPool }: Gateway, members: readonly Address[]): void {
  for (const family of FAMILIES) {
    const own = members.filter((member) => familyOf(member) === family);
    if (families.includes(family) && own.length === 0) {
      const pool = internalIPPool === undefined ? '' : '; internalIPPool does not say them';
      throw new RenderError(
        `spec.internalIPs: a group needs the ${familyName(family)} address of each replica${pool}`,
      );
    }
    const [conflict] = slotConflicts(own);
    if (conflict === undefined) continue;
    const { member, other } = conflict;
    throw new RenderError(
      `spec.internalIPs: ${member} and ${other} have the same last four bits, which say whose ports are whose; choose another address`,
    );
  }
}

function checkShared(
  { families, policy, internalIPs, externalIPs }: Gateway,
  shared: readonly Address[],
): void {
  const taken = new Map<Address, string>([
    ...internalIPs.flat().map((address) => [address, 'is in spec.internalIPs'] as const),
    ...externalIPs.flat().map((address) => [address, 'is in spec.externalIPs'] as const),
    ...policy.external.gateways.map((address) => [address, 'is the external gateway'] as const),
  ]);
  for (const address of shared) {
    const reason = taken.get(address);
    if (reason !== undefined) throw new RenderError(`--shared-address ${address}: ${reason}`);
    if (!families.includes(familyOf(address))) {
      throw new RenderError(
        `--shared-address ${address}: the gateway has no ${familyName(familyOf(address))}`,
      );
    }
  }
  for (const family of families) {
    if (shared.some((address) => familyOf(address) === family)) continue;
    throw new RenderError(
      `--shared-address: the gateway has ${familyName(family)} too, so give an address of it`,
    );
  }
  if (policy.eips?.length || policy.dnats?.length) {
    throw new RenderError(
      '--shared-address: EIPs and DNATs belong to one pod, and a group has several; leave them out',
    );
  }
}

function groupPolicy(
  { namespace, name, policy, translationLog }: Gateway,
  members: readonly Address[],
  shared: readonly Address[],
): object {
  const { internal, external, bfd, bgp, rules } = policy;
  const { enabled, peers, minTX, minRX, multiplier } = bfd;
  const egressIP = { address: shared, shared: true };
  return {
    apiVersion: 'veg-agent.io/v1alpha1',
    kind: 'GatewayPolicy',
    metadata: { name, namespace },
    spec: {
      internal,
      external,
      ...(enabled && { bfd: { enabled, peers, minTX, minRX, multiplier } }),
      ...(bgp && { bgp: bgpSpec(bgp) }),
      group: { members, keyFile: `${SECRET_DIRECTORY}/${SECRET_KEY}` },
      policies: [
        ...rules.map(({ name, snat, ipBlocks }) => ({ name, snat, ipBlocks, ...(snat && { egressIP }) })),
        { name: 'others', snat: true, egressIP },
      ],
      ...(translationLog && { translationLog }),
    },
  };
}

/** What the agent needs of it: passwords and the rest of the sessions are in FRR's configuration. */
const bgpSpec = ({ localASN, routerID, neighbours, announce, required }: BgpPolicy): object => ({
  localASN,
  ...(routerID !== undefined && { routerID }),
  neighbours: neighbours.map(
    ({ address, asn, holdTime, keepaliveTime, ebgpMultihop, bfd, gracefulRestart }) => ({
      ...{ address, asn, holdTime: `${holdTime}s`, keepaliveTime: `${keepaliveTime}s` },
      ...{ ebgpMultihop, bfd, gracefulRestart },
    }),
  ),
  announce,
  required,
});
