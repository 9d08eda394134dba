/**
 * Kube-OVN's `VpcEgressGateway` with the `Subnet` and `Vpc` documents that it names, as the policy model. Pure.
 *
 * The fields that only Kube-OVN's controller acts on (replicas, image, node selectors ...) are checked by the
 * schema and not used here. Where the API server or the controller fills in a default, so does this file.
 */
import {
  type Address,
  addressBytes,
  addressFromBytes,
  contains,
  type Family,
  familyOf,
  networkAddress,
  type Prefix,
  parseAddress,
  parsePrefix,
} from '../../../lib/prefix.ts';
import type { DocumentSet, PolicyDocument } from '../documents.ts';
import { splitPair } from '../formats.ts';
import { KUBE_OVN } from '../kinds.ts';
import { checkSelector, type Pods, selects } from '../kubernetes/selectors.ts';
import type { BfdPolicy, EgressRule, EvpnPolicy, Policy, PolicyWarning } from '../model.ts';
import type { Path } from '../parse.ts';
import { quote } from '../quote.ts';
import {
  addDocument,
  byName,
  each,
  familyName,
  forwardingOnly,
  KUBE_OVN_BFD,
  prefixes,
  toEvpn,
} from '../resolve.ts';
import { type TranslationLogSpec, translateTranslationLog } from '../translation-log.ts';
import { type BgpConf, type EvpnConf, translateBgpConf } from './bgp.ts';
import { checkWorkload, type WorkloadSpec } from './rules.ts';

/** What is read of the documents; all of it is optional, see `PolicyDocument`. */
export interface VpcEgressGatewayResource {
  spec?: WorkloadSpec & {
    vpc?: string;
    internalSubnet?: string;
    externalSubnet?: string;
    replicas?: number;
    internalIPPool?: string;
    externalIPPool?: string;
    bgpConf?: string;
    evpnConf?: string;
    bfd?: { enabled?: boolean; minRX?: number; minTX?: number; multiplier?: number };
    policies?: { snat?: boolean; ipBlocks?: string[]; subnets?: string[] }[];
    observability?: { conntrack?: { log?: TranslationLogSpec } };
  };
}

interface SubnetResource {
  spec?: {
    protocol?: 'IPv4' | 'IPv6' | 'Dual' | 'Mac';
    cidrBlock?: string;
    gateway?: string;
    provider?: string;
    vpc?: string;
  };
}

interface VpcResource {
  spec?: { bfdPort?: { enabled?: boolean; ip?: string }; defaultSubnet?: string };
  status?: { defaultLogicalSwitch?: unknown };
}

type Subnet = PolicyDocument<SubnetResource>;
type Vpc = PolicyDocument<VpcResource>;
type IPPool = PolicyDocument<{ spec?: { subnet?: string } }>;
type Gateway = PolicyDocument<VpcEgressGatewayResource>;

export type { Gateway as VpcEgressGateway };

/** The VPC that exists in every cluster, and its subnet. */
export const DEFAULT_VPC = 'ovn-cluster';
const DEFAULT_SUBNET = 'ovn-default';

/** The Subnets, Vpcs and IPPools of a directory by name. */
export interface Network {
  subnets: Map<string, Subnet>;
  vpcs: Map<string, Vpc>;
  pools: Map<string, IPPool>;
  /** A document that is missing may be among those that could not be read. */
  incomplete: boolean;
}

/** The documents that a gateway may name in `bgpConf` and `evpnConf`, by name. */
export interface Confs {
  bgp: ReadonlyMap<string, BgpConf>;
  evpn: ReadonlyMap<string, EvpnConf>;
}

/** Collects the Subnets, Vpcs and IPPools, and checks each Subnet on its own, used or not. */
export function readNetwork(set: DocumentSet): Network {
  const network = {
    subnets: byName<SubnetResource>(set, KUBE_OVN, 'Subnet'),
    vpcs: byName<VpcResource>(set, KUBE_OVN, 'Vpc'),
    pools: byName<{ spec?: { subnet?: string } }>(set, KUBE_OVN, 'IPPool'),
    incomplete: set.incomplete,
  };
  for (const subnet of network.subnets.values()) checkSubnet(subnet);
  return network;
}

function checkSubnet(subnet: Subnet): void {
  const { protocol, cidrBlock, gateway } = subnet.value.spec ?? {};
  if (protocol === 'Mac') return;
  if (cidrBlock === undefined) {
    if (subnet.sound) subnet.fail(['spec', 'cidrBlock'], 'this field is required', 'key');
    return;
  }
  const blocks = subnetBlocks(subnet);
  const families = blocks.map(familyOf);
  const wanted: Record<string, Family[]> = { IPv4: [4], IPv6: [6], Dual: [4, 6] };
  if (protocol !== undefined && wanted[protocol]!.join() !== families.toSorted().join()) {
    const are = families.map(familyName).join(' and ');
    subnet.fail(['spec', 'protocol'], `is ${protocol}, and cidrBlock ${quote(cidrBlock)} is ${are}`);
  }
  for (const text of splitPair(gateway ?? '')) {
    const address = parseAddress(text)!;
    if (blocks.some((block) => contains(block, address))) continue;
    subnet.fail(['spec', 'gateway'], `${text} is not in cidrBlock ${quote(cidrBlock)}`);
  }
}

/** The CIDRs of a subnet, one a family. */
export const subnetBlocks = (subnet: Subnet): Prefix[] =>
  splitPair(subnet.value.spec?.cidrBlock ?? '').map((text) => parsePrefix(text)!);

/** The gateways of a subnet. Where none is given it is the first address of the CIDR, as in Kube-OVN. */
function subnetGateways(subnet: Subnet): Address[] {
  const given = splitPair(subnet.value.spec?.gateway ?? '').map((text) => parseAddress(text)!);
  return subnetBlocks(subnet).flatMap((block) => {
    const family = familyOf(block);
    return given.find((address) => familyOf(address) === family) ?? firstAddress(block);
  });
}

/** The address after the network's own; none in a network of one address. */
function firstAddress(block: Prefix): Address[] {
  const bytes = addressBytes(networkAddress(block));
  bytes[bytes.length - 1]! |= 1;
  const first = addressFromBytes(bytes);
  return first !== networkAddress(block) && contains(block, first) ? [first] : [];
}

/** Translates the gateway. Its errors are reported through it; the result counts only when there are none. */
export function translateVpcEgressGateway(
  gateway: Gateway,
  network: Network,
  pods: Pods,
  confs: Confs,
): Policy {
  const spec = gateway.value.spec ?? {};
  const vpc = spec.vpc || DEFAULT_VPC;
  checkWorkload(gateway, spec);
  const external =
    spec.externalSubnet && findSubnet(gateway, network, ['spec', 'externalSubnet'], spec.externalSubnet);
  const internal = internalSubnet(gateway, network, vpc);
  checkAddresses(gateway, 'internal', internal);
  checkAddresses(gateway, 'external', external || undefined);
  checkPool(gateway, network, 'internalIPPool', internal);
  checkPool(gateway, network, 'externalIPPool', external || undefined);
  if (external) checkProvider(gateway, external);
  const bgpConf = confs.bgp.get(spec.bgpConf ?? '');
  const evpn = evpnOf(gateway, confs, network.incomplete);
  const log = translateTranslationLog(
    gateway,
    ['spec', 'observability', 'conntrack', 'log'],
    spec.observability?.conntrack?.log,
  );
  return {
    name: gateway.name,
    origin: gateway.origin,
    internal: { gateways: internal ? subnetGateways(internal) : [] },
    external: { gateways: external ? subnetGateways(external) : [] },
    bfd: translateBfd(gateway, network, vpc),
    // What is forwarded comes first: with Kube-OVN it is, whatever the order.
    rules: [...translateRules(gateway, network), ...selectorRules(gateway, pods)].sort(
      (a, b) => Number(a.snat) - Number(b.snat),
    ),
    ...(bgpConf && { bgp: translateBgpConf(bgpConf) }),
    ...(evpn && forwardingOnly(evpn)),
    ...(log && { translationLog: log }),
    warnings: [
      ...unusedConfs(gateway, bgpConf !== undefined, network.incomplete),
      ...each(spec.policies, ({ ipBlocks, subnets }, i) =>
        ipBlocks?.length || subnets?.length
          ? []
          : [
              {
                message: `policy-${i} has no effect: its ipBlocks and subnets are empty`,
                about: { document: gateway, path: ['spec', 'policies', i] },
              },
            ],
      ).flat(),
    ],
  };
}

/**
 * EVPN, if the gateway asks for it. Without one of the documents the gateway would translate instead: that is an error.
 */
function evpnOf(gateway: Gateway, confs: Confs, incomplete: boolean): EvpnPolicy | undefined {
  const { bgpConf, evpnConf } = gateway.value.spec ?? {};
  if (!bgpConf || !evpnConf) return undefined;
  const missing = (field: string, kind: string, name: string) =>
    gateway.fail(
      ['spec', field],
      `${kind} ${quote(name)} is not in the policy directory; ${addDocument(incomplete)}`,
    );
  if (!confs.bgp.has(bgpConf)) missing('bgpConf', 'BgpConf', bgpConf);
  const conf = confs.evpn.get(evpnConf);
  if (conf === undefined) missing('evpnConf', 'EvpnConf', evpnConf);
  return conf && toEvpn(conf.value.spec ?? {});
}

/** Documents that the gateway names and that say nothing here. */
function unusedConfs(document: Gateway, hasBgp: boolean, incomplete: boolean): PolicyWarning[] {
  const { bgpConf, evpnConf } = document.value.spec ?? {};
  const at = (field: string) => ({ about: { document, path: ['spec', field] } });
  const missing = (name: string) =>
    `bgpConf ${quote(name)} has no effect: BgpConf ${quote(name)} is not in the policy directory; ${addDocument(incomplete)}`;
  return [
    ...(bgpConf && !hasBgp ? [{ message: missing(bgpConf), ...at('bgpConf') }] : []),
    ...(evpnConf && !bgpConf
      ? [
          {
            message: `evpnConf ${quote(evpnConf)} has no effect without bgpConf, as with Kube-OVN`,
            ...at('evpnConf'),
          },
        ]
      : []),
  ];
}

/** Reports what Kube-OVN's controller would refuse of the addresses that the pods are to have on a side. */
function checkAddresses(gateway: Gateway, side: 'internal' | 'external', subnet: Subnet | undefined): void {
  const spec = gateway.value.spec ?? {};
  const [field, pool] = [`${side}IPs`, `${side}IPPool`] as const;
  const addresses = spec[field as 'internalIPs'];
  if (!addresses?.length) return;
  const path = ['spec', field];
  if (spec[pool as 'internalIPPool']) gateway.fail(path, `conflicts with ${pool}; use one of them`, 'key');
  const replicas = spec.replicas ?? 1;
  if (addresses.length < replicas) {
    gateway.fail(path, `holds ${addresses.length}, fewer than the ${replicas} replicas`, 'key');
  }
  const blocks = subnet?.sound ? subnetBlocks(subnet) : [];
  each(addresses, (pair, i) => {
    for (const text of splitPair(pair)) {
      const address = parseAddress(text)!;
      if (blocks.length === 0 || blocks.some((block) => contains(block, address))) continue;
      const block = quote(subnet!.value.spec!.cidrBlock!);
      gateway.fail([...path, i], `${text} is not in cidrBlock ${block} of Subnet ${quote(subnet!.name)}`);
    }
  });
}

/** A pool whose document is there must be one of the subnet. */
function checkPool(
  gateway: Gateway,
  { pools }: Network,
  field: 'internalIPPool' | 'externalIPPool',
  subnet: Subnet | undefined,
): void {
  const pool = pools.get(gateway.value.spec?.[field] ?? '');
  const of = pool?.value.spec?.subnet;
  if (pool === undefined || of === undefined || subnet === undefined || of === subnet.name) return;
  const message = `IPPool ${quote(pool.name)} belongs to Subnet ${quote(of)}, not to ${quote(subnet.name)}`;
  gateway.fail(['spec', field], message);
}

/** The external network is attached by Multus. A provider that is left out is taken to follow. */
function checkProvider(gateway: Gateway, { name, value: { spec } }: Subnet): void {
  if (!spec?.provider || spec.provider.includes('.')) return;
  const says = `Subnet ${quote(name)} has the provider ${quote(spec.provider)}`;
  gateway.fail(['spec', 'externalSubnet'], `${says}, not NAME.NAMESPACE of a NetworkAttachmentDefinition`);
}

/** The subnet of a name; reports a name that no document has. */
function findSubnet(
  gateway: Gateway,
  network: Network,
  path: Path,
  name: string,
  which = '',
): Subnet | undefined {
  const subnet = network.subnets.get(name);
  if (subnet?.value.spec?.protocol === 'Mac') {
    gateway.fail(path, `Subnet ${quote(name)}${which} has no addresses (protocol Mac)`);
    return undefined;
  }
  if (subnet === undefined) {
    const missing = `Subnet ${quote(name)}${which} is not in the policy directory; ${addDocument(network.incomplete)}`;
    gateway.fail(path, missing, which === '' ? 'value' : 'key');
  }
  return subnet;
}

/** The subnet of the internal interface: the named one, the VPC's default, or the only one that the VPC has. */
export function internalSubnet(gateway: Gateway, network: Network, vpcName: string): Subnet | undefined {
  const path = ['spec', 'internalSubnet'];
  const named = gateway.value.spec?.internalSubnet;
  if (named) return findSubnet(gateway, network, path, named);
  const vpc = network.vpcs.get(vpcName)?.value;
  const chosen = vpc?.status?.defaultLogicalSwitch || vpc?.spec?.defaultSubnet;
  const fallback = typeof chosen === 'string' ? chosen : vpcName === DEFAULT_VPC ? DEFAULT_SUBNET : undefined;
  if (fallback !== undefined) {
    return findSubnet(gateway, network, path, fallback, `, the default of VPC ${quote(vpcName)},`);
  }
  const candidates = [...network.subnets.values()].filter(
    ({ value: { spec } }) => spec?.vpc === vpcName && /(^|\.)ovn$/.test(spec.provider || 'ovn'),
  );
  if (candidates.length === 1) return candidates[0];
  gateway.fail(
    path,
    candidates.length === 0
      ? `no Subnet of VPC ${quote(vpcName)} is in the policy directory; ${addDocument(network.incomplete)}`
      : `VPC ${quote(vpcName)} has the Subnets ${candidates.map(({ name }) => name).join(', ')}; name one here`,
    'key',
  );
  return undefined;
}

function translateBfd(gateway: Gateway, network: Network, vpcName: string): BfdPolicy {
  const bfd = gateway.value.spec?.bfd ?? {};
  const enabled = bfd.enabled ?? false;
  return {
    enabled,
    peers: enabled ? bfdPeers(gateway, network, vpcName) : [],
    minTX: bfd.minTX ?? 1000,
    minRX: bfd.minRX ?? 1000,
    multiplier: bfd.multiplier ?? 3,
    ...KUBE_OVN_BFD,
  };
}

/** The addresses of the VPC's BFD port. */
function bfdPeers(gateway: Gateway, network: Network, vpcName: string): Address[] {
  const vpc = network.vpcs.get(vpcName);
  const port = vpc?.value.spec?.bfdPort;
  if (vpc === undefined) {
    const missing = `Vpc ${quote(vpcName)} is not in the policy directory; ${addDocument(network.incomplete)}`;
    gateway.fail(['spec', 'bfd', 'enabled'], `the BFD peer is unknown: ${missing}`);
  } else if (vpc.sound && port?.enabled !== true) {
    const needed = `set spec.bfdPort.enabled of Vpc ${quote(vpcName)} (${vpc.origin.file})`;
    gateway.fail(['spec', 'bfd', 'enabled'], `needs the BFD port of the VPC; ${needed}`);
  } else if (vpc.sound && !port?.ip) {
    vpc.fail(['spec', 'bfdPort', 'ip'], `is required: it is the BFD peer of ${gateway.name}`, 'key');
  }
  return splitPair(port?.ip ?? '').map((text) => parseAddress(text)!);
}

function translateRules(gateway: Gateway, network: Network): EgressRule[] {
  const rules: EgressRule[] = [];
  each(gateway.value.spec?.policies, ({ snat, ipBlocks, subnets }, i) => {
    const path = ['spec', 'policies', i];
    if (gateway.sound && ipBlocks === undefined && subnets === undefined) {
      gateway.fail(path, 'names no sources; give ipBlocks or subnets');
    }
    const blocks = new Set(prefixes(ipBlocks));
    each(subnets, (name, j) => {
      const subnet = findSubnet(gateway, network, [...path, 'subnets', j], name);
      if (subnet) for (const block of subnetBlocks(subnet)) blocks.add(block);
    });
    // No blocks would mean every source.
    if (blocks.size > 0) rules.push({ name: `policy-${i}`, snat: snat ?? false, ipBlocks: [...blocks] });
  });
  return rules;
}

/**
 * The pods that selectors choose, where the directory holds their documents. Otherwise they need no rule:
 * whatever is not forwarded is translated.
 */
function selectorRules(gateway: Gateway, pods: Pods): EgressRule[] {
  return each(gateway.value.spec?.selectors, ({ namespaceSelector, podSelector }, i) => {
    const path = ['spec', 'selectors', i];
    checkSelector(gateway, [...path, 'namespaceSelector'], namespaceSelector);
    checkSelector(gateway, [...path, 'podSelector'], podSelector);
    const ipBlocks = pods.addresses(
      ({ namespace, labels }) =>
        selects(namespaceSelector ?? {}, pods.namespaceLabels(namespace)) &&
        selects(podSelector ?? {}, labels),
    );
    return ipBlocks.length === 0 ? [] : [{ name: `selector-${i}`, snat: true, ipBlocks }];
  }).flat();
}
