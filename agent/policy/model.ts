/**
 * The one internal policy model. Every kind of document is translated into it (one file a system), and
 * everything behind it (plan, status) knows nothing of where it came from.
 */
import type { Address, Prefix } from '../../routing/prefix.ts';

/** One side of the gateway. */
export interface Side {
  /** The interface by name; absent: found from the facts of the pod. */
  interface?: string;
  /** The next hop on that side, at most one a family. A family without one is not programmed. */
  gateways: Address[];
}

export type BfdAuthType =
  | 'simple-password'
  | 'keyed-md5'
  | 'meticulous-keyed-md5'
  | 'keyed-sha1'
  | 'meticulous-keyed-sha1';

export interface BfdPolicy {
  enabled: boolean;
  /** Peer addresses, either family; empty when BFD is disabled. */
  peers: Address[];
  /** Desired Min TX Interval, milliseconds, 1..60000. */
  minTX: number;
  /** Required Min RX Interval, milliseconds, 1..60000. */
  minRX: number;
  /** Detect Mult, 1..255. */
  multiplier: number;
  mode: 'passive' | 'active';
  /** The smallest TTL or Hop Limit accepted, 1..255. */
  minTTL: number;
  adoptDiscriminator: boolean;
  auth?: { type: BfdAuthType; keyID: number; keyFile: string };
}

/** What happens to packets of some sources. */
export interface EgressRule {
  /** The name in metrics and messages, unique in the policy. */
  name: string;
  /** True: the source is translated. False: the block is forwarded unchanged in both directions. */
  snat: boolean;
  /** Sources; empty means any. */
  ipBlocks: Prefix[];
}

/** Where a thing in the policy was written, for messages. */
export interface Origin {
  file: string;
  kind: string;
  name: string;
}

/** A warning about a valid policy: something that the author might not have meant. */
export interface PolicyWarning {
  message: string;
}

export interface Policy {
  /** `namespace/name` of the gateway. */
  name: string;
  origin: Origin;
  internal: Side;
  external: Side;
  bfd: BfdPolicy;
  /** In the order of the documents. */
  rules: EgressRule[];
  warnings: PolicyWarning[];
}

/** One thing wrong with the policy files. Printed as `file:line:col: field.path: message`. */
export interface PolicyError {
  file: string;
  /** 1-based; 0 when the whole file is meant. */
  line: number;
  /** 1-based; 0 when the whole line is meant. */
  col: number;
  /** `spec.policies[0].ipBlocks[1]`; empty for the whole document. */
  path: string;
  message: string;
}

/** One file of the policy directory, as read. */
export interface PolicyFile {
  /** The name to show: relative to the policy directory. */
  name: string;
  text: string;
  /** In octets, when the file was too large to be read; `text` is then empty. */
  size?: number;
}

export type PolicyResult = { ok: true; policy: Policy } | { ok: false; errors: PolicyError[] };
