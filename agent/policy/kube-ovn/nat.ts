/**
 * Kube-OVN's `IptablesEIP` and the rules that use one by its name, as EIPs, DNATs and rules of the policy. Pure.
 *
 *     IptablesFIPRule   an EIP, both ways        IptablesDnatRule   a DNAT
 *     IptablesSnatRule  an egress policy with the address; of overlapping CIDRs the longer one decides
 *
 * The two sides of the gateway come from the `GatewayPolicy` or `VpcEgressGateway` of
 * the directory.
 */
import {
  type Address,
  contains,
  type Family,
  familyOf,
  type Prefix,
  parseAddress,
  parsePrefix,
  prefixLength,
} from '../../../lib/prefix.ts';
import type { Dnat } from '../../../nat/inbound.ts';
import type { DocumentSet, PolicyDocument } from '../documents.ts';
import { parsePorts, splitPair } from '../formats.ts';
import type { Inbound, Place } from '../inbound.ts';
import { KUBE_OVN } from '../kinds.ts';
import type { EgressRule, Policy, PolicyWarning } from '../model.ts';
import type { Path } from '../parse.ts';
import { quote } from '../quote.ts';
import { byName, familyName, missingDocument } from '../resolve.ts';
import { type Network, subnetBlocks } from './gateway.ts';
import { type QosPolicy, qosBandwidth } from './qos.ts';

interface EipResource {
  spec?: {
    v4ip?: string;
    v6ip?: string;
    macAddress?: string;
    natGwDp?: string;
    qosPolicy?: string;
    externalSubnet?: string;
  };
  status?: { ip?: unknown };
}

interface FipResource {
  spec?: { eip?: string; internalIp?: string };
}

interface DnatResource {
  spec?: FipResource['spec'] & { externalPort?: string; protocol?: string; internalPort?: string };
}

interface SnatResource {
  spec?: { eip?: string; internalCIDR?: string };
}

type EipDocument = PolicyDocument<EipResource>;

/** Adds Kube-OVN's documents to the policy and to `inbound`. */
export function addKubeOvnNat(
  policy: Policy,
  set: DocumentSet,
  network: Network,
  gateway: PolicyDocument<{ spec?: { externalSubnet?: string } }>,
  inbound: Inbound,
): void {
  const eips = new Eips(byName<EipResource>(set, KUBE_OVN, 'IptablesEIP'), set);
  for (const eip of eips.all) {
    checkSubnet(eip, network, gateway.kind === 'VpcEgressGateway' ? gateway : undefined);
  }
  for (const document of byName<FipResource>(set, KUBE_OVN, 'IptablesFIPRule').values()) {
    const addresses = inboundAddresses(document, eips);
    if (addresses) inbound.addEip(placeIn(document), addresses);
  }
  for (const document of byName<DnatResource>(set, KUBE_OVN, 'IptablesDnatRule').values()) {
    const addresses = inboundAddresses(document, eips);
    const ports = dnatPorts(document);
    if (addresses && ports) inbound.addDnat(placeIn(document), { ...addresses, ...ports });
  }
  const rules = [...byName<SnatResource>(set, KUBE_OVN, 'IptablesSnatRule').values()].flatMap((document) =>
    snatRules(document, eips),
  );
  policy.rules.push(...merged(rules));
  policy.warnings.push(...eips.warnings());
  addLimits(policy, eips.used, byName(set, KUBE_OVN, 'QoSPolicy'));
}

/** The limits of EIPs: those of the QoSPolicies that they name. */
function addLimits(policy: Policy, eips: readonly EipDocument[], policies: Map<string, QosPolicy>): void {
  const warnings = new Map<string, PolicyWarning>();
  const warn = (document: PolicyDocument, path: Path, message: string) =>
    warnings.set(message, { message, about: { document, path } });
  const limits = eips.flatMap((eip) => {
    const name = eip.value.spec?.qosPolicy;
    if (!name) return [];
    const qos = policies.get(name);
    if (qos === undefined) {
      const missing = `QoSPolicy ${quote(name)} is not in the policy directory: its bandwidth is not limited`;
      warn(eip, ['spec', 'qosPolicy'], `IptablesEIP ${quote(eip.name)}: ${missing}`);
      return [];
    }
    const { bandwidth, omitted } = qosBandwidth(qos);
    for (const message of omitted) warn(qos, ['spec'], message);
    return bandwidth ? [{ name: `kube-ovn/${eip.name}`, addresses: addressesOf(eip), bandwidth }] : [];
  });
  if (limits.length > 0) policy.addressLimits = [...(policy.addressLimits ?? []), ...limits];
  policy.warnings.push(...warnings.values());
}

/** The EIPs of a directory by name, and which of them are used. */
class Eips {
  readonly #eips: Map<string, EipDocument>;
  readonly #set: DocumentSet;
  readonly #used = new Set<string>();

  constructor(eips: Map<string, EipDocument>, set: DocumentSet) {
    this.#eips = eips;
    this.#set = set;
  }

  get all(): EipDocument[] {
    return [...this.#eips.values()];
  }

  /** Those that a rule names. */
  get used(): EipDocument[] {
    return this.all.filter(({ name }) => this.#used.has(name));
  }

  /** The addresses of the EIP that a rule names; undefined when there are none, which has been reported. */
  addressesFor(rule: PolicyDocument<{ spec?: { eip?: string } }>): Address[] | undefined {
    const name = rule.value.spec?.eip;
    if (name === undefined) return undefined;
    const eip = this.#eips.get(name);
    if (eip === undefined) {
      const missing = missingDocument('IptablesEIP', name, [...this.#eips.keys()], this.#set.incomplete);
      rule.fail(['spec', 'eip'], missing);
      return undefined;
    }
    this.#used.add(name);
    const addresses = addressesOf(eip);
    if (addresses.length > 0) return addresses;
    if (eip.sound) {
      const message = `IptablesEIP ${quote(name)} has no address: give it v4ip or v6ip, or its status`;
      rule.fail(['spec', 'eip'], message);
    }
    return undefined;
  }

  /** What the documents ask for and is not supported. */
  warnings(): PolicyWarning[] {
    const named = (documents: EipDocument[]): string => {
      const [first, ...others] = documents.map(({ name }) => name);
      return `IptablesEIP ${quote(first!)}${others.length > 0 ? ` and ${others.length} more` : ''}`;
    };
    const about = ([document]: EipDocument[], path: Path) => document && { about: { document, path } };
    const warn = (documents: EipDocument[], path: Path, what: string) =>
      documents.length > 0 ? [{ message: `${named(documents)} ${what}`, ...about(documents, path) }] : [];
    const ofGateways = this.all.filter(({ value }) => value.spec?.natGwDp);
    const gateways = new Set(ofGateways.map(({ value }) => value.spec!.natGwDp!));
    return [
      ...warn(
        this.all.filter(({ name }) => !this.#used.has(name)),
        ['metadata', 'name'],
        'is named by no rule and is not held',
      ),
      ...warn(
        this.all.filter(({ value }) => value.spec?.macAddress),
        ['spec', 'macAddress'],
        'has a macAddress, which is not used: the address is announced with that of the interface',
      ),
      ...(gateways.size > 1
        ? [
            {
              message: `the IptablesEIPs belong to the NAT gateways ${[...gateways].map(quote).join(', ')}; this gateway uses all of them`,
              ...about(ofGateways, ['spec', 'natGwDp']),
            },
          ]
        : []),
    ];
  }
}

/** The addresses that the spec gives, or of IPv4 the one that was allocated. */
function addressesOf({ value: { spec, status } }: EipDocument): Address[] {
  const v4 = spec?.v4ip || (typeof status?.ip === 'string' ? status.ip : '');
  return [v4, spec?.v6ip ?? ''].flatMap((text) => parseAddress(text) ?? []);
}

/** An EIP lies in its subnet, and that is the external one of the gateway. */
function checkSubnet(
  eip: EipDocument,
  network: Network,
  gateway: PolicyDocument<{ spec?: { externalSubnet?: string } }> | undefined,
): void {
  const own = gateway?.value.spec?.externalSubnet;
  const name = eip.value.spec?.externalSubnet || own;
  if (name === undefined) return;
  if (own !== undefined && name !== own) {
    const message = `the external subnet of VpcEgressGateway ${quote(gateway!.name)} is ${quote(own)}`;
    eip.fail(['spec', 'externalSubnet'], message);
    return;
  }
  const subnet = network.subnets.get(name);
  if (!subnet?.value.spec?.cidrBlock) return;
  for (const field of ['v4ip', 'v6ip'] as const) {
    const address = parseAddress(eip.value.spec?.[field] ?? '');
    if (address === undefined || subnetBlocks(subnet).some((block) => contains(block, address))) continue;
    const block = quote(subnet.value.spec.cidrBlock);
    eip.fail(['spec', field], `${address} is not in cidrBlock ${block} of Subnet ${quote(name)}`);
  }
}

const placeIn = (document: PolicyDocument): Place => ({
  document,
  name: `${document.kind} ${quote(document.name)}`,
  external: ['spec', 'eip'],
  internal: ['spec', 'internalIp'],
  port: ['spec', 'externalPort'],
  owner: ['spec', 'eip'],
});

/** The message for an EIP without an address of a family. */
const noneOfFamily = (family: Family, eip: string): string =>
  `is ${familyName(family)}, and IptablesEIP ${quote(eip)} has no ${familyName(family)} address`;

/** The two addresses of a rule; undefined when they are unknown, which has been reported. */
function inboundAddresses(document: PolicyDocument<FipResource>, eips: Eips) {
  const { eip, internalIp } = document.value.spec ?? {};
  const addresses = eips.addressesFor(document);
  const internalIP = parseAddress(internalIp ?? '');
  if (addresses === undefined || internalIP === undefined) return undefined;
  const externalIP = addresses.find((address) => familyOf(address) === familyOf(internalIP));
  if (externalIP !== undefined) return { externalIP, internalIP };
  document.fail(['spec', 'internalIp'], noneOfFamily(familyOf(internalIP), eip!));
  return undefined;
}

function dnatPorts(document: PolicyDocument<DnatResource>) {
  const { externalPort, protocol, internalPort } = document.value.spec ?? {};
  if (!externalPort || !protocol || !internalPort) return undefined;
  const externalPorts = parsePorts(externalPort)!;
  const internalPorts = parsePorts(internalPort)!;
  if (externalPorts.last - externalPorts.first !== internalPorts.last - internalPorts.first) {
    document.fail(['spec', 'internalPort'], `must be as many ports as externalPort, ${externalPort}`);
  }
  return {
    protocol: protocol.toLowerCase() as Dnat['protocol'],
    externalPorts,
    internalPorts,
    preserveClientIP: false,
  };
}

/** An egress rule for each CIDR of a document. */
function snatRules(document: PolicyDocument<SnatResource>, eips: Eips): EgressRule[] {
  const { eip, internalCIDR } = document.value.spec ?? {};
  const addresses = eips.addressesFor(document);
  const blocks = splitPair(internalCIDR ?? '').map((text) => parsePrefix(text)!);
  if (addresses === undefined || blocks.length === 0) return [];
  const rules = blocks.flatMap((block): EgressRule[] => {
    const own = addresses.filter((address) => familyOf(address) === familyOf(block));
    const name = `kube-ovn/${document.name}`;
    const egressIP = { addresses: own, announce: true };
    return own.length > 0 ? [{ name, snat: true, ipBlocks: [block], egressIP }] : [];
  });
  if (rules.length === 0) {
    document.fail(['spec', 'internalCIDR'], noneOfFamily(familyOf(blocks[0]!), eip!));
  }
  return rules;
}

/**
 * The rules in the order in which they decide: longer CIDRs first. Those of one CIDR are one rule with all their
 * addresses, of which each source keeps one; the two families of a document are one rule again.
 */
function merged(rules: readonly EgressRule[]): EgressRule[] {
  const byBlock = new Map<Prefix, EgressRule>();
  for (const rule of rules) {
    const [block] = rule.ipBlocks as [Prefix];
    const first = byBlock.get(block);
    if (first === undefined) byBlock.set(block, rule);
    else
      first.egressIP!.addresses = [...new Set([...first.egressIP!.addresses, ...rule.egressIP!.addresses])];
  }
  return [...byBlock.values()].sort((a, b) => prefixLength(b.ipBlocks[0]!) - prefixLength(a.ipBlocks[0]!));
}
