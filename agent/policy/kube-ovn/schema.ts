/** The schemas of Kube-OVN's resources (kubeovn.io/v1): the fields of its CRDs. Pure. */
import { MAX_ASN } from '../bgp.ts';
import { MAX_VNI } from '../evpn.ts';
import { MOST_BANDWIDTH } from '../formats.ts';
import {
  anyList,
  anyObject,
  count,
  document,
  flag,
  formatted,
  integer,
  labelSelector,
  list,
  object,
  oneOf,
  openObject,
  type Schema,
  type Schemas,
  text,
  textMap,
  texts,
} from '../json-schema.ts';
import { KUBE_OVN } from '../kinds.ts';
import { TRANSLATION_LOG_SCHEMA } from '../translation-log-schema.ts';

const requirement = object(
  { key: text(), operator: oneOf(['In', 'NotIn', 'Exists', 'DoesNotExist', 'Gt', 'Lt']), values: texts },
  ['key', 'operator'],
);

const quantities: Schema = {
  type: 'object',
  additionalProperties: { type: ['integer', 'string'], format: 'quantity' },
};
const claim = object({ name: formatted('non-empty'), request: text() }, ['name']);
const resources = object({ limits: quantities, requests: quantities, claims: list(claim) });
const bandwidth: Schema = {
  type: ['integer', 'string'],
  minimum: 0,
  maximum: MOST_BANDWIDTH,
  format: 'bandwidth',
};

const VPC_EGRESS_GATEWAY_SCHEMA = document(KUBE_OVN, 'VpcEgressGateway', true, {
  spec: object(
    {
      vpc: text(),
      internalSubnet: text(),
      externalSubnet: formatted('non-empty'),
      internalIPs: list(formatted('address-pair')),
      internalIPPool: text(),
      externalIPs: list(formatted('address-pair')),
      externalIPPool: text(),
      bfd: object({
        enabled: flag(),
        minRX: integer(1, 3_600_000),
        minTX: integer(1, 3_600_000),
        multiplier: integer(1, 255),
      }),
      policies: list(object({ snat: flag(), ipBlocks: list(formatted('prefix')), subnets: texts })),
      selectors: list(object({ namespaceSelector: labelSelector, podSelector: labelSelector })),
      replicas: integer(0, 10),
      prefix: formatted('name-prefix'),
      image: text(),
      bgpConf: text(),
      evpnConf: text(),
      nodeSelector: list(
        object({ matchLabels: textMap, matchExpressions: list(requirement), matchFields: list(requirement) }),
      ),
      podAntiAffinity: oneOf(['Required', 'Preferred']),
      tolerations: list(
        object({
          key: text(),
          operator: oneOf(['Exists', 'Equal', 'Lt', 'Gt', '']),
          value: text(),
          effect: oneOf(['NoSchedule', 'PreferNoSchedule', 'NoExecute', '']),
          tolerationSeconds: { type: 'integer' },
        }),
      ),
      trafficPolicy: oneOf(['Cluster', 'Local']),
      resources,
      bandwidth: object({ ingress: bandwidth, egress: bandwidth }),
      observability: object({
        resources,
        interfaceMetrics: object({ enabled: flag() }),
        conntrack: object({ metrics: object({ enabled: flag() }), log: TRANSLATION_LOG_SCHEMA }),
        serviceMonitor: object({ labels: textMap, annotations: textMap }),
      }),
    },
    ['externalSubnet'],
  ),
  status: anyObject,
});

const SUBNET_SCHEMA = document(KUBE_OVN, 'Subnet', false, {
  spec: object({
    // A network without addresses: nothing of a gateway is there.
    protocol: oneOf(['IPv4', 'IPv6', 'Dual', 'Mac']),
    cidrBlock: formatted('cidr-pair'),
    gateway: formatted('host-address-pair'),
    provider: text(),
    vpc: text(),
    excludeIps: texts,
    acls: anyList,
    allowEWTraffic: flag(),
    allowSubnets: texts,
    default: flag(),
    dhcpV4Options: text(),
    dhcpV6Options: text(),
    disableGatewayCheck: flag(),
    disableInterConnection: flag(),
    enableDHCP: flag(),
    enableEcmp: flag(),
    enableExternalLBAddress: flag(),
    enableIPv6RA: flag(),
    enableLb: flag(),
    enableMulticastSnoop: flag(),
    externalEgressGateway: text(),
    gatewayNode: text(),
    gatewayNodeSelectors: list(labelSelector),
    gatewayType: text(),
    ipv6RAConfigs: text(),
    logicalGateway: flag(),
    mtu: count,
    namespaceSelectors: list(labelSelector),
    namespaces: texts,
    natOutgoing: flag(),
    natOutgoingPolicyRules: anyList,
    nodeNetwork: text(),
    policyRoutingPriority: count,
    policyRoutingTableID: count,
    private: flag(),
    routeTable: text(),
    u2oFeatures: anyObject,
    u2oInterconnection: flag(),
    u2oInterconnectionIP: text(),
    vips: texts,
    vlan: text(),
  }),
  status: anyObject,
});

const VPC_SCHEMA = document(
  KUBE_OVN,
  'Vpc',
  false,
  {
    spec: object({
      bfdPort: object({ enabled: flag(), ip: formatted('host-address-pair'), nodeSelector: labelSelector }),
      defaultSubnet: text(),
      dynamicRouting: anyObject,
      enableBfd: flag(),
      enableExternal: flag(),
      extraExternalSubnets: texts,
      namespaces: texts,
      policyRoutes: anyList,
      staticRoutes: anyList,
      vpcPeerings: anyList,
    }),
    status: anyObject,
  },
  [],
);

const eipName = formatted('non-empty');
const port: Schema = formatted('port-range');

/** A part of a Subnet's addresses: the CRD has more fields than are read. */
const IP_POOL_SCHEMA = document(KUBE_OVN, 'IPPool', false, {
  spec: openObject({ subnet: text() }),
  status: anyObject,
});

/** Go leaves nothing out: what is not set is there as an empty text or as `0s`. */
const BGP_CONF_SCHEMA = document(KUBE_OVN, 'BgpConf', false, {
  spec: object(
    {
      localASN: integer(1, MAX_ASN),
      peerASN: integer(1, MAX_ASN),
      routerId: formatted('ipv4-host-or-empty'),
      neighbours: { ...list(formatted('host-address')), minItems: 1 },
      password: text(),
      holdTime: formatted('go-duration'),
      keepaliveTime: formatted('go-duration'),
      connectTime: formatted('go-duration'),
      ebgpMultiHop: flag(),
      gracefulRestart: flag(),
    },
    ['localASN', 'peerASN', 'neighbours'],
  ),
});

const EVPN_CONF_SCHEMA = document(KUBE_OVN, 'EvpnConf', false, {
  spec: object(
    {
      vni: integer(1, MAX_VNI),
      routeTargets: { ...list(formatted('route-target')), minItems: 1 },
    },
    ['vni', 'routeTargets'],
  ),
});

/** The resources of the VPC NAT gateway: required is what its webhook requires. */
const NAT_SPECS: Record<string, Schema> = {
  IptablesEIP: object({
    v4ip: formatted('ipv4-host-or-empty'),
    v6ip: formatted('ipv6-host-or-empty'),
    macAddress: text(),
    natGwDp: text(),
    qosPolicy: text(),
    externalSubnet: text(),
    namespace: text(),
  }),
  IptablesFIPRule: object({ eip: eipName, internalIp: formatted('host-address') }, ['eip', 'internalIp']),
  IptablesDnatRule: object(
    {
      eip: eipName,
      externalPort: port,
      // The webhook compares without regard to case, and knows no SCTP.
      protocol: oneOf(['tcp', 'udp', 'sctp', 'TCP', 'UDP', 'SCTP']),
      internalIp: formatted('host-address'),
      internalPort: port,
      type: oneOf(['exclusive', 'share']),
    },
    ['eip', 'externalPort', 'protocol', 'internalIp', 'internalPort'],
  ),
  QoSPolicy: object({
    bindingType: text(),
    shared: flag(),
    bandwidthLimitRules: list(
      object({
        name: text(),
        interface: text(),
        rateMax: formatted('number'),
        burstMax: formatted('number'),
        priority: { type: 'integer' },
        direction: oneOf(['ingress', 'egress', '']),
        matchType: text(),
        matchValue: text(),
      }),
    ),
  }),
  IptablesSnatRule: object({ eip: eipName, internalCIDR: formatted('prefix-pair') }, ['eip', 'internalCIDR']),
};

export const KUBE_OVN_SCHEMAS: Schemas = {
  VpcEgressGateway: VPC_EGRESS_GATEWAY_SCHEMA,
  Subnet: SUBNET_SCHEMA,
  Vpc: VPC_SCHEMA,
  IPPool: IP_POOL_SCHEMA,
  BgpConf: BGP_CONF_SCHEMA,
  EvpnConf: EVPN_CONF_SCHEMA,
  ...Object.fromEntries(
    Object.entries(NAT_SPECS).map(([kind, spec]) => [
      kind,
      document(KUBE_OVN, kind, false, { spec, status: anyObject }),
    ]),
  ),
};
