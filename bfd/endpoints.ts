/** Which receiving sockets the sessions need, and what each accepts. Pure. */
import type { Path } from './demux.ts';
import type { PeerIntent } from './intent.ts';
import type { Endpoint } from './receive-filter.ts';

/** A session as the sockets see it. */
export interface Listening extends Path {
  intent: Pick<PeerIntent, 'minTTL' | 'interface'>;
}

/**
 * One endpoint for each local address and port: it accepts the lowest TTL of its sessions, is bound to the interface
 * that the last of them names, and guards the peers whose next hop has trusted Ethernet addresses.
 * @param macsOf the trusted Ethernet addresses of a session's next hop; none without one
 * @param listen more single-hop addresses, for peers that have no session yet, with the parameters in `defaults`
 */
export function endpointsOf<T extends Listening>(
  sessions: readonly T[],
  macsOf: (session: T) => readonly string[],
  listen: readonly string[],
  defaults: Listening['intent'],
): Endpoint[] {
  const endpoints = new Map<string, Endpoint>();
  const add = (local: string, multihop: boolean, { minTTL, interface: device }: Listening['intent']) => {
    const key = `${local} ${multihop}`;
    const known = endpoints.get(key);
    const endpoint: Endpoint = {
      local,
      multihop,
      minTTL: Math.min(minTTL, known?.minTTL ?? 255),
      interface: multihop ? undefined : (device ?? known?.interface),
      guard: known?.guard ?? { remotes: [], macs: [] },
    };
    endpoints.set(key, endpoint);
    return endpoint;
  };
  for (const session of sessions) {
    const endpoint = add(session.local, session.multihop, session.intent);
    const trusted = macsOf(session);
    if (trusted.length === 0) continue;
    const { remotes, macs } = endpoint.guard;
    endpoint.guard = {
      remotes: [...remotes, session.remote],
      macs: [...new Set([...macs, ...trusted])],
    };
  }
  for (const local of listen) add(local, false, defaults);
  return [...endpoints.values()];
}
