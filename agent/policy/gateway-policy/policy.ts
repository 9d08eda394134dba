/** `GatewayPolicy` (veg-agent.io/v1alpha1), the resource of our own, as the policy model. Pure. */
import { anyPrefix, type Family, parseAddress } from '../../../lib/prefix.ts';
import { parseDuration } from '../../../lib/units.ts';
import { translateBandwidth } from '../bandwidth.ts';
import { addDnats, addEips, type Inbound } from '../inbound.ts';
import {
  type BfdPolicy,
  DEFAULT_UPLINK,
  type EgressIP,
  type EgressRule,
  type Policy,
  type Side,
  type UplinkPolicy,
} from '../model.ts';
import type { Path } from '../parse.ts';
import { quote } from '../quote.ts';
import {
  addresses,
  checkOneGatewayAFamily,
  each,
  forwardingOnly,
  prefixes,
  programmedFamilies,
} from '../resolve.ts';
import { translateTranslationLog } from '../translation-log.ts';
import { translateBgp } from './bgp.ts';
import { translateEvpn } from './evpn.ts';
import { checkShared, translateGroup } from './group.ts';
import { idleParts } from './idle.ts';
import { checkPortBlocks } from './port-blocks.ts';
import type { BfdSpec, GatewayPolicy, PolicySpec, SideSpec, UplinkSpec } from './resource.ts';

/**
 * Translates the document; its EIPs and DNATs go to `inbound`. Its errors are reported through it; the result counts
 * only when there are none.
 */
export function translateGatewayPolicy(document: GatewayPolicy, inbound: Inbound): Policy {
  const spec = document.value.spec ?? {};
  for (const side of ['internal', 'external'] as const) {
    checkOneGatewayAFamily(document, ['spec', side, 'gateways'], spec[side]?.gateways);
  }
  if (document.sound && spec.bfd?.enabled === true && !spec.bfd.peers?.length) {
    document.fail(['spec', 'bfd', 'peers'], 'BFD is enabled, so at least one peer is required', 'key');
  }
  const internal = translateSide(spec.internal);
  const external = translateExternal(spec.external);
  const evpn = spec.evpn && translateEvpn(document, spec.evpn);
  const rules = translateRules(document, programmedFamilies({ internal, external, evpn }));
  addEips(inbound, document, spec.eips);
  addDnats(inbound, document, spec.dnats);
  const bandwidth = translateBandwidth(document, ['spec', 'bandwidth'], spec.bandwidth);
  const addressLimits = translateAddressLimits(document);
  const group = spec.group && translateGroup(document, spec.group);
  checkShared(document, group);
  const bgp = spec.bgp && translateBgp(document, spec.bgp, evpn ? ['forwarded'] : undefined);
  const log = translateTranslationLog(document, ['spec', 'translationLog'], spec.translationLog);
  return {
    name: document.name,
    origin: document.origin,
    internal,
    external,
    bfd: translateBfd(spec.bfd ?? {}),
    rules,
    ...(spec.defaultAction && { defaultAction: spec.defaultAction }),
    ...(evpn && forwardingOnly(evpn)),
    ...(spec.inbound && { inbound: spec.inbound }),
    ...(spec.limits && { limits: { connectionsPerSource: 0, ...spec.limits } }),
    ...(bandwidth && { bandwidth }),
    ...(addressLimits.length > 0 && { addressLimits }),
    ...(spec.mssClamp !== undefined && { mssClamp: spec.mssClamp }),
    ...(spec.fastPath && { fastPath: true }),
    ...(spec.uplink && { uplink: translateUplink(document, spec.uplink) }),
    ...(group && { group }),
    ...(bgp && { bgp }),
    ...(log && { translationLog: log }),
    warnings: [
      ...(group === undefined || rules.some(({ egressIP }) => egressIP?.shared)
        ? []
        : [
            {
              message: 'spec.group has no effect: no policy has an egressIP with shared: true',
              about: { document, path: ['spec', 'group'] },
            },
          ]),
      ...idleParts(document, rules),
    ],
  };
}

const translateSide = (side: SideSpec | undefined): Side => ({
  ...(side?.interface !== undefined && { interface: side.interface }),
  gateways: addresses(side?.gateways),
});

function translateExternal(external: (SideSpec & { gatewayMACs?: string[] }) | undefined): Side {
  const macs = new Set<string>();
  each(external?.gatewayMACs, (mac) => macs.add(mac.toLowerCase()));
  return { ...translateSide(external), ...(macs.size > 0 && { gatewayMacs: [...macs] }) };
}

function translateBfd(bfd: BfdSpec): BfdPolicy {
  const enabled = bfd.enabled ?? false;
  return {
    enabled,
    peers: enabled ? addresses(bfd.peers) : [],
    minTX: bfd.minTX ?? 1000,
    minRX: bfd.minRX ?? 1000,
    multiplier: bfd.multiplier ?? 3,
    mode: bfd.mode ?? 'passive',
    minTTL: bfd.minTTL ?? 254,
    adoptDiscriminator: bfd.adoptDiscriminator ?? true,
    anySource: bfd.anySource ?? false,
    ...(bfd.auth && { auth: bfd.auth as Required<typeof bfd.auth> }),
  };
}

function translateRules(document: GatewayPolicy, families: readonly Family[]): EgressRule[] {
  const names = new Map<string, number>();
  const rules: EgressRule[] = [];
  each(document.value.spec?.policies, (policy, i) => {
    const path = ['spec', 'policies', i];
    const name = policy.name ?? `policy-${i}`;
    const earlier = names.get(name);
    if (earlier === undefined) names.set(name, i);
    else
      document.fail([...path, 'name'], `duplicate name ${quote(name)}, first used by policies[${earlier}]`);
    rules[i] = translateRule(document, path, name, policy, families);
  });
  return rules;
}

function translateRule(
  document: GatewayPolicy,
  path: Path,
  name: string,
  policy: PolicySpec,
  families: readonly Family[],
): EgressRule {
  const { snat = true, destinationCIDRs, excludedCIDRs, priority, portBlockSize } = policy;
  const blocks = prefixes(policy.ipBlocks);
  const bandwidth = translateBandwidth(document, [...path, 'bandwidth'], policy.bandwidth);
  const anything = document.sound && blocks.length === 0;
  for (const field of ['egressIP', 'portBlockSize'] as const) {
    if (!snat && policy[field]) document.fail([...path, field], 'has no effect with snat: false', 'key');
  }
  const rule: EgressRule = {
    name,
    snat,
    ipBlocks: anything && !snat ? families.map(anyPrefix) : blocks,
    ...(destinationCIDRs?.length && { destinationCIDRs: prefixes(destinationCIDRs) }),
    ...(excludedCIDRs?.length && { excludedCIDRs: prefixes(excludedCIDRs) }),
    ...(priority !== undefined && { priority }),
    ...(policy.egressIP && { egressIP: translateEgressIP(document, [...path, 'egressIP'], policy.egressIP) }),
    ...(portBlockSize && { portBlockSize }),
    ...(bandwidth && { bandwidth }),
  };
  if (snat) checkPortBlocks(document, path, rule);
  return rule;
}

/** The limits of `spec.eips`. */
const translateAddressLimits = (document: GatewayPolicy): NonNullable<Policy['addressLimits']> =>
  each(document.value.spec?.eips, ({ externalIP, bandwidth: spec }, i) => {
    const path = ['spec', 'eips', i, 'bandwidth'];
    const bandwidth = translateBandwidth(document, path, spec);
    const address = parseAddress(externalIP ?? '');
    if (bandwidth?.perSource) document.fail([...path, 'perSource'], 'has no effect: an EIP is one address');
    return bandwidth && address ? [{ name: `eip/${address}`, addresses: [address], bandwidth }] : [];
  }).flat();

function translateEgressIP(
  document: GatewayPolicy,
  path: Path,
  { address, announce = true, owner, shared }: NonNullable<PolicySpec['egressIP']>,
): EgressIP {
  const gateways = addresses(document.value.spec?.external?.gateways);
  each(address, (text, i) => {
    if (!gateways.includes(parseAddress(text)!)) return;
    document.fail([...path, 'address', i], `${text} is the external gateway's address`);
  });
  return {
    addresses: addresses(address),
    announce,
    ...(owner !== undefined && { owner }),
    ...(shared && { shared }),
  };
}

function translateUplink(document: GatewayPolicy, uplink: UplinkSpec): UplinkPolicy {
  const { probe, failures } = { ...DEFAULT_UPLINK, ...uplink };
  const duration = (name: 'interval' | 'recovery') =>
    parseDuration(uplink[name] ?? '') ?? DEFAULT_UPLINK[name];
  const [interval, recovery] = [duration('interval'), duration('recovery')];
  if (interval < 10 || interval > 60_000) {
    document.fail(['spec', 'uplink', 'interval'], `must be between 10ms and 60s, is ${uplink.interval}`);
  }
  if (recovery > 600_000) {
    document.fail(['spec', 'uplink', 'recovery'], `must be between 0s and 10m, is ${uplink.recovery}`);
  }
  return { probe, interval, failures, targets: addresses(uplink.targets), recovery };
}
