/** What the tracker's totals come to by policy: the figures of metrics and status. Pure. */
import type { Family } from '../../lib/prefix.ts';
import type { Total } from './tracker.ts';

/** Away from the VPC and towards it. */
interface Directions {
  out: number;
  in: number;
}

/** Connections that began, and what they carried. */
export interface Volume {
  connections: number;
  packets: Directions;
  bytes: Directions;
}

export interface PolicyVolume extends Volume {
  policy: string;
  family: Family;
}

/** What is done to the source: translated, or nothing. */
export type Treatment = 'snat' | 'forward';

const isTreated: Record<Treatment, (total: Total) => boolean> = {
  // Of a replica its packets alone: each goes through one gateway, whichever the flow belongs to.
  snat: ({ verdict, snat }) => (verdict === 'translated' || verdict === 'replica') && snat,
  forward: ({ verdict }) => verdict === 'forwarded',
};

function volumeOf({ inbound, started, counters }: Total): Volume {
  const [packets, bytes, replyPackets, replyBytes] = counters;
  const directions = (original: number, reply: number): Directions =>
    inbound ? { out: reply, in: original } : { out: original, in: reply };
  return {
    connections: started,
    packets: directions(packets, replyPackets),
    bytes: directions(bytes, replyBytes),
  };
}

/** The sum. */
export function sumVolumes(volumes: readonly Volume[]): Volume {
  const sum: Volume = { connections: 0, packets: { out: 0, in: 0 }, bytes: { out: 0, in: 0 } };
  for (const { connections, packets, bytes } of volumes) {
    sum.connections += connections;
    sum.packets.out += packets.out;
    sum.packets.in += packets.in;
    sum.bytes.out += bytes.out;
    sum.bytes.in += bytes.in;
  }
  return sum;
}

/** What is treated so, by policy and family. */
export function policyVolumes(totals: readonly Total[], treatment: Treatment): PolicyVolume[] {
  const groups = Map.groupBy(
    totals.filter(isTreated[treatment]),
    ({ policy, family }) => `${policy} ${family}`,
  );
  return [...groups.values()].map((group) => {
    const { policy, family } = group[0]!;
    return { policy, family, ...sumVolumes(group.map(volumeOf)) };
  });
}
