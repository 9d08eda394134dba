/** The fields of a `GatewayPolicy` (veg-agent.io/v1alpha1), the resource of our own. Pure. */

import type { AuthTypeName } from '../../../bfd/intent.ts';
import type { DefaultAction } from '../../../nat/egress.ts';
import type { BandwidthSpec } from '../bandwidth.ts';
import type { PolicyDocument } from '../documents.ts';
import type { DnatSpec, EipSpec } from '../inbound.ts';
import type { Announce, Announced, InboundAccess, Limits } from '../model.ts';
import type { EvpnSpec } from '../resolve.ts';
import type { TranslationLogSpec } from '../translation-log.ts';

/** What is read of a `GatewayPolicy`; all of it is optional, see `PolicyDocument`. */
export interface GatewayPolicyResource {
  spec?: {
    internal?: SideSpec;
    external?: SideSpec & { gatewayMACs?: string[] };
    bfd?: BfdSpec;
    policies?: PolicySpec[];
    defaultAction?: DefaultAction;
    eips?: (EipSpec & { bandwidth?: BandwidthSpec })[];
    dnats?: DnatSpec[];
    inbound?: InboundAccess;
    limits?: Partial<Limits>;
    mssClamp?: boolean;
    fastPath?: boolean;
    bandwidth?: BandwidthSpec;
    uplink?: UplinkSpec;
    group?: GroupSpec;
    bgp?: BgpSpec;
    evpn?: EvpnSpec;
    translationLog?: TranslationLogSpec;
  };
}

export interface SideSpec {
  interface?: string;
  gateways?: string[];
}

export interface BfdSpec {
  enabled?: boolean;
  peers?: string[];
  minTX?: number;
  minRX?: number;
  multiplier?: number;
  mode?: 'passive' | 'active';
  minTTL?: number;
  adoptDiscriminator?: boolean;
  anySource?: boolean;
  auth?: { type?: AuthTypeName; keyID?: number; keyFile?: string };
}

export interface PolicySpec {
  name?: string;
  snat?: boolean;
  ipBlocks?: string[];
  destinationCIDRs?: string[];
  excludedCIDRs?: string[];
  priority?: number;
  egressIP?: { address?: string[]; announce?: Announce; owner?: string; shared?: boolean };
  portBlockSize?: number;
  bandwidth?: BandwidthSpec;
}

export interface UplinkSpec {
  probe?: 'arp' | 'icmp' | 'none';
  interval?: string;
  failures?: number;
  targets?: string[];
  recovery?: string;
}

export interface GroupSpec {
  members?: string[];
  port?: number;
  keyFile?: string;
  certFile?: string;
  certKeyFile?: string;
  caFile?: string;
  minTX?: number;
  minRX?: number;
  multiplier?: number;
}

export interface BgpSpec {
  localASN?: number;
  routerID?: string;
  neighbours?: BgpNeighbourSpec[];
  announce?: Announced[];
  required?: boolean;
}

export interface BgpNeighbourSpec {
  address?: string;
  asn?: number;
  passwordFile?: string;
  holdTime?: string;
  keepaliveTime?: string;
  ebgpMultihop?: number;
  bfd?: boolean;
  gracefulRestart?: boolean;
}

/** The document, read and checked. */
export type GatewayPolicy = PolicyDocument<GatewayPolicyResource>;
