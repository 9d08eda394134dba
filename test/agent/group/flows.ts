/** Flows for the tests of a group. */
import type { GroupFlow } from '../../../agent/group/model.ts';
import { address, addressBytes, type Family } from '../../../lib/prefix.ts';

export const SHARED = { 4: address('172.17.0.50'), 6: address('fd00:172:17::50') };

/** A flow of a client to the server by number, translated to a port of the shared address. */
export function flowOf(
  family: Family,
  number: number,
  sharedPort: number,
  more: Partial<GroupFlow> = {},
): GroupFlow {
  const [high, low] = [number >> 8, number & 255];
  return {
    protocol: 17,
    source: addressBytes(
      address(family === 4 ? `10.17.${high}.${low}` : `fd00:10:17::${number.toString(16)}`),
    ),
    sourcePort: 5000,
    destination: addressBytes(address(family === 4 ? '172.17.0.1' : 'fd00:172:17::1')),
    destinationPort: 53,
    shared: addressBytes(SHARED[family]),
    sharedPort,
    icmpType: 0,
    icmpCode: 0,
    mark: 0x4000,
    timeout: 120,
    ...more,
  };
}
