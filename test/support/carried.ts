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
 */
export function countAt(server: Namespace, peers: Record<Family, string>): (family: Family) => Carried {
  const rules = (side: 'saddr' | 'daddr') =>
    FAMILIES.flatMap((family) => {
      const ip = family === 4 ? 'ip' : 'ip6';
      const echo =
        family === 4 ? 'icmp type { echo-request, echo-reply }' : 'icmpv6 type { echo-request, echo-reply }';
      return ['meta l4proto { tcp, udp }', echo].flatMap((what) => [
        `${ip} ${side} ${peers[family]} ${what} counter name ${side}${family}`,
        ...(side === 'saddr'
          ? [
              `${ip} ${side} ${peers[family]} ${what} ct state new ct status ! confirmed counter name begun${family}`,
            ]
          : []),
      ]);
    }).join('\n');
  const names = FAMILIES.flatMap((family) => [`saddr${family}`, `daddr${family}`, `begun${family}`]);
  const script = `table inet seen {
    ${names.map((name) => `counter ${name} { }`).join('\n')}
    chain received { type filter hook prerouting priority -150; policy accept;\n${rules('saddr')}\n}
    chain sent { type filter hook postrouting priority 500; policy accept;\n${rules('daddr')}\n}
  }\n`;
  // Not by standard input: nft 0.9.8 opens it anew as a file, and it is a socket.
  const { code, stderr } = server.run('nft', [script]);
  if (code !== 0) throw new Error(stderr);
  return (family) => {
    const read = (name: string): { packets: number; bytes: number } => {
      const [, packets, bytes] = /packets (\d+) bytes (\d+)/.exec(
        server.run('nft', ['list', 'counter', 'inet', 'seen', `${name}${family}`]).stdout,
      )!;
      return { packets: Number(packets), bytes: Number(bytes) };
    };
    const [out, back] = [read('saddr'), read('daddr')];
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
