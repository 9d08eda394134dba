/** What connections have carried: as a server counts it, and as the agent's metrics have it. */
import type { Agent } from './agent.ts';
import type { Namespace } from './netns.ts';

const FAMILIES = [4, 6] as const;
export type Family = (typeof FAMILIES)[number];
/** What connections of a policy have carried. */
export interface Carried {
  connections: number;
  packets: { out: number; in: number };
  bytes: { out: number; in: number };
}

export const NOTHING: Carried = { connections: 0, packets: { out: 0, in: 0 }, bytes: { out: 0, in: 0 } };

/**
 * Lets a server count TCP, UDP and echoes of a peer, by family. A connection is new until it is answered, and not confirmed only
 * with its first packet.
 * @param device what comes in there counts, also with an Ethernet address that the server no longer has; default: what
 * the server accepts
 */
export function countAt(
  server: Namespace,
  peers: Record<Family, string>,
  device?: string,
): (family: Family) => Carried {
  const rules = (side: 'saddr' | 'daddr', counter: string, extra = '') =>
    FAMILIES.flatMap((family) => {
      const ip = family === 4 ? 'ip' : 'ip6';
      const echo =
        family === 4 ? 'icmp type { echo-request, echo-reply }' : 'icmpv6 type { echo-request, echo-reply }';
      return ['meta l4proto { tcp, udp }', echo].map(
        (what) => `${ip} ${side} ${peers[family]} ${what} ${extra} counter name ${counter}${family}`,
      );
    }).join('\n');
  const chain = (name: string, hook: string, list: string) =>
    `chain ${name} { type filter hook ${hook}; policy accept;\n${list}\n}`;
  const table = (kind: string, names: string[], ...chains: string[]) => `table ${kind} seen {
    ${FAMILIES.flatMap((family) => names.map((name) => `counter ${name}${family} { }`)).join('\n')}
    ${chains.join('\n')}
  }\n`;
  const received = rules('saddr', 'saddr');
  const begun = rules('saddr', 'begun', 'ct state new ct status ! confirmed');
  const sent = chain('sent', 'postrouting priority 500', rules('daddr', 'daddr'));
  const script =
    device === undefined
      ? table(
          'inet',
          ['saddr', 'begun', 'daddr'],
          chain('received', 'prerouting priority -150', `${received}\n${begun}`),
          sent,
        )
      : table('netdev', ['saddr'], chain('received', `ingress device ${device} priority 0`, received)) +
        table('inet', ['begun', 'daddr'], chain('begun', 'prerouting priority -150', begun), sent);
  server.nft(script);
  return (family) => {
    const read = (name: string, kind = 'inet'): { packets: number; bytes: number } => {
      const [, packets, bytes] = /packets (\d+) bytes (\d+)/.exec(
        server.sh(`nft list counter ${kind} seen ${name}${family}`),
      )!;
      return { packets: Number(packets), bytes: Number(bytes) };
    };
    const [out, back] = [read('saddr', device && 'netdev'), read('daddr')];
    const connections = read('begun').packets;
    return {
      connections,
      packets: { out: out.packets, in: back.packets },
      bytes: { out: out.bytes, in: back.bytes },
    };
  };
}

/** The values of a scrape by series. */
export function scrape(agent: Agent): Map<string, number> {
  const lines = agent.http('/metrics').body.split('\n');
  return new Map(
    lines.flatMap((line) => {
      const at = line.lastIndexOf(' ');
      return line.startsWith('#') || at < 0 ? [] : [[line.slice(0, at), Number(line.slice(at + 1))] as const];
    }),
  );
}

/** What the metrics have of a policy. */
export const carriedBy = (
  values: Map<string, number>,
  kind: 'snat' | 'forward',
  policy: string,
  family: Family,
): Carried => {
  const value = (unit: string, direction: string) =>
    values.get(
      `veg_${kind}_${unit}_total{policy="${policy}",family="ipv${family}",direction="${direction}"}`,
    ) ?? Number.NaN;
  const both = (unit: string) => ({ out: value(unit, 'out'), in: value(unit, 'in') });
  const connections =
    values.get(`veg_${kind}_connections_total{policy="${policy}",family="ipv${family}"}`) ?? Number.NaN;
  return { connections, packets: both('packets'), bytes: both('bytes') };
};
