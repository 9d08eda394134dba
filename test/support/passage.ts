/** Whether datagrams that come into gateways leave them: what a gateway loses, apart from what the networks around it do. */
import type { Namespace } from './netns.ts';

/** A datagram may be under way while its gateway is read: the median of so many readings is right. */
const READINGS = 5;

/**
 * Lets gateways count the datagrams from and to a port that they are given and that they send, before and after everything else that
 * they do with them. One that another gateway passes on counts there too, both ways.
 * @returns how many they were given and have not sent, until now
 */
export function countPassage(gateways: readonly Namespace[], port: number): () => number {
  const chain = (name: string, hook: string): string =>
    `counter ${name} { }
     chain ${name} { type filter hook ${hook}; policy accept; udp dport ${port} counter name ${name}; udp sport ${port} counter name ${name}; }`;
  const script = `table inet passage {
    ${chain('given', 'prerouting priority -500')}
    ${chain('sent', 'postrouting priority 500')}
  }`;
  for (const gateway of gateways) gateway.nft(script);
  const read = (gateway: Namespace): number => {
    const counters = gateway.sh('nft list counters table inet passage');
    const [given, sent] = ['given', 'sent'].map((name) =>
      Number(new RegExp(`counter ${name} \\{\\s*packets (\\d+)`).exec(counters)![1]),
    );
    return given! - sent!;
  };
  const lost = (gateway: Namespace): number =>
    Array.from({ length: READINGS }, () => read(gateway)).sort((a, b) => a - b)[(READINGS - 1) / 2]!;
  return () => gateways.reduce((sum, gateway) => sum + lost(gateway), 0);
}
