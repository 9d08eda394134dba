/** The fields of a `GatewayPolicy` (veg-agent.io/v1alpha1), the resource of our own. Pure. */

import type { AuthTypeName } from '../../../bfd/intent.ts';
import type { DefaultAction } from '../../../nat/egress.ts';
import type { PolicyDocument } from '../documents.ts';
import type { DnatSpec, EipSpec } from '../inbound.ts';
import type { InboundAccess, Limits } from '../model.ts';
import type { TranslationLogSpec } from '../translation-log.ts';

/** What is read of a `GatewayPolicy`; all of it is optional, see `PolicyDocument`. */
export interface GatewayPolicyResource {
  spec?: {
    internal?: SideSpec;
    external?: SideSpec & { gatewayMACs?: string[] };
    bfd?: BfdSpec;
    policies?: PolicySpec[];
    defaultAction?: DefaultAction;
    eips?: EipSpec[];
    dnats?: DnatSpec[];
    inbound?: InboundAccess;
    limits?: Partial<Limits>;
    mssClamp?: boolean;
    uplink?: UplinkSpec;
    group?: GroupSpec;
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
  egressIP?: { address?: string[]; announce?: boolean; owner?: string; shared?: boolean };
  portBlockSize?: number;
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

/** The document, read and checked. */
export type GatewayPolicy = PolicyDocument<GatewayPolicyResource>;
