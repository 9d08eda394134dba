/** A member of a group of four, whose others are live, dead and joining. */
import type { GroupView } from '../../../agent/group/model.ts';
import { portSlice } from '../../../agent/group/slices.ts';
import { address } from '../../../lib/prefix.ts';

export function groupView(more: Partial<GroupView> = {}): GroupView {
  const peer = (last: number, reachability: 'live' | 'joining' | 'unreachable', replicas: number) => {
    const isReachable = reachability !== 'unreachable';
    return {
      ...{
        member: address(`10.16.0.${last}`),
        slice: portSlice(last),
        path: isReachable,
        exchange: isReachable,
      },
      ...{ reachability, replicas, inSync: reachability === 'live' },
    };
  };
  return {
    ...{ family: 4, self: address('10.16.0.12'), state: 'live', slice: portSlice(12), ready: true },
    peers: [peer(13, 'live', 7), peer(14, 'unreachable', 0), peer(15, 'joining', 2)],
    holders: [
      { address: address('172.17.0.50'), holder: address('10.16.0.12') },
      { address: address('172.17.0.51'), holder: address('10.16.0.13') },
      { address: address('172.17.0.52') },
    ],
    ...{ held: [address('172.17.0.50')], forward: [], flows: 1, replicas: 1234 },
    ...more,
  };
}
