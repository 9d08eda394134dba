/** `spec.bgp`. Pure. */

import { type Address, parseAddress } from '../../../lib/prefix.ts';
import { checkASN, checkNeighbours, translateTimers } from '../bgp.ts';
import { ANNOUNCED, type Announced, type BgpNeighbour, type BgpPolicy } from '../model.ts';
import type { Path } from '../parse.ts';
import { each } from '../resolve.ts';
import type { BgpNeighbourSpec, BgpSpec, GatewayPolicy } from './resource.ts';

const PATH: Path = ['spec', 'bgp'];

/** Announced unless the policy says otherwise. */
const DEFAULT_ANNOUNCED: readonly Announced[] = ANNOUNCED.filter((one) => one !== 'forwarded');

/** Translates `spec.bgp`. Its errors are reported through the document. */
export function translateBgp(
  document: GatewayPolicy,
  spec: BgpSpec,
  announcedByDefault = DEFAULT_ANNOUNCED,
): BgpPolicy {
  const { localASN = 0, routerID, announce, required = false } = spec;
  checkASN(document, [...PATH, 'localASN'], localASN);
  const neighbours = each(spec.neighbours, (neighbour, i) =>
    translateNeighbour(document, [...PATH, 'neighbours', i], neighbour),
  );
  const addresses: (Address | undefined)[] = [];
  each(spec.neighbours, ({ address }, i) => {
    addresses[i] = parseAddress(address ?? '');
  });
  checkNeighbours(document, addresses, (i) => [...PATH, 'neighbours', i, 'address']);
  return {
    localASN,
    ...(routerID !== undefined && { routerID: parseAddress(routerID)! }),
    neighbours,
    announce: [...new Set(announce ?? announcedByDefault)],
    required,
  };
}

function translateNeighbour(
  document: GatewayPolicy,
  path: Path,
  { address, asn = 0, passwordFile, holdTime, keepaliveTime, ...rest }: BgpNeighbourSpec,
): BgpNeighbour {
  checkASN(document, [...path, 'asn'], asn);
  const paths = { holdTime: [...path, 'holdTime'], keepaliveTime: [...path, 'keepaliveTime'] };
  return {
    address: parseAddress(address ?? '')!,
    asn,
    ...(passwordFile !== undefined && { password: { file: passwordFile } }),
    ...translateTimers(document, paths, { holdTime, keepaliveTime }),
    ebgpMultihop: rest.ebgpMultihop ?? 1,
    bfd: rest.bfd ?? false,
    gracefulRestart: rest.gracefulRestart ?? false,
  };
}
