/**
 * What `veg-agent render` needs to know of a gateway beyond its policy: the fields of a `VpcEgressGateway` that
 * Kube-OVN's controller acts on, and the pod does not. Pure.
 */
import { type Address, type Family, familyOf, type Prefix } from '../../lib/prefix.ts';
import type { DocumentSet } from '../policy/documents.ts';
import { splitPair } from '../policy/formats.ts';
import {
  DEFAULT_VPC,
  internalSubnet,
  readNetwork,
  type VpcEgressGateway,
} from '../policy/kube-ovn/gateway.ts';
import type { Policy, PolicyFile } from '../policy/model.ts';
import { programmedFamilies } from '../policy/resolve.ts';
import { withoutPasswords } from './passwords.ts';

/** The parts of the resource that are read here; `policy/kube-ovn/schema.ts` has checked their types. */
interface Spec {
  vpc?: string;
  internalSubnet?: string;
  externalSubnet?: string;
  internalIPs?: string[];
  internalIPPool?: string;
  externalIPs?: string[];
  externalIPPool?: string;
  policies?: unknown[];
  selectors?: unknown[];
  replicas?: number;
  prefix?: string;
  image?: string;
  bgpConf?: string;
  nodeSelector?: NodeSelector[];
  podAntiAffinity?: string;
  tolerations?: object[];
  trafficPolicy?: string;
  resources?: object;
  bandwidth?: { ingress?: number | string; egress?: number | string };
  observability?: { conntrack?: { log?: object } };
}

export interface NodeSelector {
  matchLabels?: Record<string, string>;
  matchExpressions?: object[];
  matchFields?: object[];
}

export interface Gateway {
  namespace: string;
  name: string;
  /** The Deployment's name. */
  workload: string;
  vpc: string;
  internalSubnet: string;
  /** The provider of the internal subnet: `OVN_PROVIDER`, or as the external one where Kube-OVN is a secondary CNI. */
  internalProvider: string;
  /** The provider of the external subnet, `NAD.NAMESPACE` or `NAD.NAMESPACE.ovn`. */
  externalProvider: string;
  replicas: number;
  /** Of `spec`, and absent when not there. */
  image: string | undefined;
  /** One entry a replica and more: an address, or one of each family. */
  internalIPs: Address[][];
  externalIPs: Address[][];
  internalIPPool: string | undefined;
  externalIPPool: string | undefined;
  nodeSelector: NodeSelector[];
  spread: 'Required' | 'Preferred';
  tolerations: object[];
  resources: object | undefined;
  /** Of each pod, as the VPC sees it, whole Mbit/s; absent: no limit. */
  bandwidth: { ingress?: number; egress?: number };
  /** Sources by family, sorted. */
  sources: Record<Family, Prefix[]>;
  /** The families that are programmed. */
  families: Family[];
  policy: Policy;
  /** As the spec has it; absent: none. */
  translationLog: object | undefined;
  /** The documents, for the pod's policy directory. */
  files: readonly PolicyFile[];
  /** What is not rendered. */
  warnings: string[];
}

/** The provider of subnets in which pods are by their first interface. */
export const OVN_PROVIDER = 'ovn';
/** `NAME.NAMESPACE` or `NAME.NAMESPACE.ovn`: a part of the names of annotations. */
const PROVIDER = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.ovn)?$/;
const MAX_PROVIDER = 253 - '.kubernetes.io'.length;
/** As `policy/formats.ts` has checked it: a number of Mbit/s, or bit/s with a unit. */
const BANDWIDTH = /^(\d*)(?:\.(\d+))?(Mi?|Gi?)?$/;
const UNITS = { M: 10n ** 6n, Mi: 2n ** 20n, G: 10n ** 9n, Gi: 2n ** 30n };

/** A gateway that cannot be rendered; the message names the field. */
export class RenderError extends Error {}

/** Puts the gateway together. `policy` is what the files come to. Throws `RenderError`. */
export function readGateway(policy: Policy, set: DocumentSet, files: readonly PolicyFile[]): Gateway {
  if (policy.origin.kind !== 'VpcEgressGateway') {
    throw new RenderError(`${policy.origin.kind} ${policy.name}: only a VpcEgressGateway can be rendered`);
  }
  const document = set.documents.find(
    ({ kind, name }) => kind === 'VpcEgressGateway' && name === policy.name,
  )!;
  const spec = (document.value as { spec: Spec }).spec;
  const vpc = spec.vpc || DEFAULT_VPC;
  if (spec.bgpConf && policy.bgp === undefined) {
    throw new RenderError(`spec.bgpConf: BgpConf "${spec.bgpConf}" is not among the documents; add it`);
  }
  const internal = internalSubnet(document as VpcEgressGateway, readNetwork(set), vpc)!;
  const externalProvider = attachmentOf(set, spec.externalSubnet!);
  const replicas = spec.replicas ?? 1;
  const [namespace = '', name = ''] = policy.name.split('/');
  const pairs = (list: string[] = []) => list.map((pair) => splitPair(pair) as Address[]);
  const internalIPs = pairs(spec.internalIPs);
  const externalIPs = pairs(spec.externalIPs);
  return {
    namespace,
    name,
    workload: `${spec.prefix ?? ''}${name}`,
    vpc,
    internalSubnet: internal.name,
    internalProvider: isOvn(internal.value.spec?.provider) ? OVN_PROVIDER : attachmentOf(set, internal.name),
    externalProvider,
    replicas,
    image: spec.image || undefined,
    internalIPs,
    externalIPs,
    internalIPPool: spec.internalIPPool || undefined,
    externalIPPool: spec.externalIPPool || undefined,
    nodeSelector: spec.nodeSelector ?? [],
    spread: spec.podAntiAffinity === 'Preferred' ? 'Preferred' : 'Required',
    tolerations: spec.tolerations ?? [],
    resources: spec.resources,
    bandwidth: {
      ...mbits('ingress', spec.bandwidth?.ingress),
      ...mbits('egress', spec.bandwidth?.egress),
    },
    sources: { 4: sourcesOf(policy, 4), 6: sourcesOf(policy, 6) },
    families: programmedFamilies(policy),
    policy,
    translationLog: spec.observability?.conntrack?.log,
    files: withoutPasswords(files),
    warnings: [...notRendered(spec, policy)],
  };
}

const isOvn = (provider: string | undefined): boolean => !provider || provider === OVN_PROVIDER;

/** The provider of a subnet, which names its network attachment. Throws `RenderError`. */
function attachmentOf(set: DocumentSet, subnet: string): string {
  const document = set.documents.find(({ kind, name }) => kind === 'Subnet' && name === subnet);
  const { provider = '' } = (document?.value as { spec?: { provider?: string } } | undefined)?.spec ?? {};
  if (!PROVIDER.test(provider) || provider.length > MAX_PROVIDER) {
    throw new RenderError(
      `Subnet ${subnet}: spec.provider must name the network attachment as NAME.NAMESPACE, is "${provider}"`,
    );
  }
  return provider;
}

/** A limit in whole Mbit/s, rounded up, so that a small one does not become none; 0 is none. */
function mbits(
  direction: 'ingress' | 'egress',
  value: number | string = 0,
): { [direction in 'ingress' | 'egress']?: number } {
  const [, whole = '', fraction = '', unit = 'M'] = BANDWIDTH.exec(`${value}`)!;
  const bits = BigInt(whole + fraction) * UNITS[unit as keyof typeof UNITS];
  const mbit = 10n ** BigInt(fraction.length) * UNITS.M;
  const rate = Number((bits + mbit - 1n) / mbit);
  return rate === 0 ? {} : { [direction]: rate };
}

const sourcesOf = (policy: Policy, family: Family): Prefix[] =>
  [...new Set(policy.rules.flatMap(({ ipBlocks }) => ipBlocks))]
    .filter((block) => familyOf(block) === family)
    .sort();

function* notRendered(spec: Spec, { bgp }: Policy): Generator<string> {
  if (bgp?.routerID !== undefined && (spec.replicas ?? 1) > 1) {
    yield `routerId ${bgp.routerID} of BgpConf "${spec.bgpConf}": all replicas use it, and a router may refuse the second one; leave it out`;
  }
  if (spec.selectors?.length) {
    yield 'spec.selectors: pods change, which needs a controller; only the addresses in the documents are rendered';
  }
  if (spec.trafficPolicy === 'Local') {
    yield 'spec.trafficPolicy Local needs to know the nodes; rendered as Cluster';
  }
}
