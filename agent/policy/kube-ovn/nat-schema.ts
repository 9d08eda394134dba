/**
 * The schemas of the resources by which Kube-OVN's VPC NAT gateway is told its addresses (kubeovn.io/v1): the
 * fields of its CRDs, and required what its webhook requires. Pure.
 */
import {
  anyObject,
  document,
  formatted,
  type Kind,
  object,
  oneOf,
  type Schema,
  text,
} from '../json-schema.ts';

export const KUBE_OVN = 'kubeovn.io/v1';

const eipName: Schema = { ...text(), minLength: 1 };
const port: Schema = formatted('port-range');

const SPECS: Record<string, Schema> = {
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
  IptablesSnatRule: object({ eip: eipName, internalCIDR: formatted('prefix-pair') }, ['eip', 'internalCIDR']),
};

export const KUBE_OVN_NAT_KINDS: readonly Kind[] = Object.entries(SPECS).map(([kind, spec]) => ({
  apiVersion: KUBE_OVN,
  kind,
  namespaced: false,
  schema: document(KUBE_OVN, kind, false, { spec, status: anyObject }),
  emptyIsAbsent: true,
}));
