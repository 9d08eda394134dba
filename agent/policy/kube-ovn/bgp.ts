/**
 * Kube-OVN's `BgpConf` and `EvpnConf`, the documents that a `VpcEgressGateway` names in `bgpConf` and `evpnConf`, as the
 * policy model. Pure.
 *
 * Upstream announces whatever the kernel has; here the document announces what the gateway serves: egress addresses, EIPs,
 * DNATs and forwarded blocks.
 */
import { type Address, parseAddress } from '../../../lib/prefix.ts';
import { passwordProblem } from '../../bgp/password.ts';
import { checkASN, checkNeighbours, translateTimers, wholeSeconds } from '../bgp.ts';
import type { DocumentSet, PolicyDocument } from '../documents.ts';
import { KUBE_OVN } from '../kinds.ts';
import { ANNOUNCED, type BgpPolicy } from '../model.ts';
import { addresses, byName, type EvpnSpec } from '../resolve.ts';

interface BgpConfResource {
  spec?: {
    localASN?: number;
    peerASN?: number;
    routerId?: string;
    neighbours?: string[];
    password?: string;
    holdTime?: string;
    keepaliveTime?: string;
    connectTime?: string;
    ebgpMultiHop?: boolean;
    gracefulRestart?: boolean;
  };
}

export type BgpConf = PolicyDocument<BgpConfResource>;

interface EvpnConfResource {
  spec?: EvpnSpec;
}

export type EvpnConf = PolicyDocument<EvpnConfResource>;

/** Hops with `ebgpMultiHop`, as FRR takes it without a number. */
const MULTIHOP = 255;

/** The BgpConf documents of a directory by name. */
export const readBgpConfs = (set: DocumentSet): Map<string, BgpConf> =>
  byName<BgpConfResource>(set, KUBE_OVN, 'BgpConf');

/** Translates the document. Its errors are reported through it. */
export function translateBgpConf(document: BgpConf): BgpPolicy {
  const spec = document.value.spec ?? {};
  const { localASN = 0, peerASN = 0, routerId, password } = spec;
  checkASN(document, ['spec', 'localASN'], localASN);
  checkASN(document, ['spec', 'peerASN'], peerASN);
  const found: (Address | undefined)[] = (spec.neighbours ?? []).map((text) => parseAddress(text));
  checkNeighbours(document, found, (i) => ['spec', 'neighbours', i]);
  const problem = password ? passwordProblem(password) : undefined;
  if (problem !== undefined) document.fail(['spec', 'password'], problem);
  const timers = translateTimers(
    document,
    { holdTime: ['spec', 'holdTime'], keepaliveTime: ['spec', 'keepaliveTime'] },
    { holdTime: given(spec.holdTime), keepaliveTime: given(spec.keepaliveTime) },
  );
  const connectTime = wholeSeconds(document, ['spec', 'connectTime'], given(spec.connectTime), 1);
  return {
    localASN,
    ...(routerId && { routerID: parseAddress(routerId)! }),
    neighbours: addresses(spec.neighbours).map((address) => ({
      ...{ address, asn: peerASN },
      ...(password && { password: { text: password } }),
      ...timers,
      ...(connectTime !== undefined && { connectTime }),
      ebgpMultihop: spec.ebgpMultiHop ? MULTIHOP : 1,
      bfd: false,
      gracefulRestart: spec.gracefulRestart ?? false,
    })),
    announce: [...ANNOUNCED],
    required: false,
  };
}

/** The EvpnConf documents of a directory by name. */
export const readEvpnConfs = (set: DocumentSet): Map<string, EvpnConf> =>
  byName<EvpnConfResource>(set, KUBE_OVN, 'EvpnConf');

/** The API server prints a duration that was left out as `0s`. */
const given = (text: string | undefined): string | undefined => (text === '0s' ? undefined : text);

/** Reports a neighbour where it was written: in the gateway's own document, or in the BgpConf that it names. */
export function failNeighbour(
  gateway: PolicyDocument,
  confs: ReadonlyMap<string, BgpConf>,
  index: number,
  message: string,
): void {
  const { bgpConf } = (gateway.value as { spec?: { bgpConf?: string } }).spec ?? {};
  const conf = confs.get(bgpConf ?? '');
  if (conf === undefined) gateway.fail(['spec', 'bgp', 'neighbours', index, 'address'], message);
  else conf.fail(['spec', 'neighbours', index], message);
}
