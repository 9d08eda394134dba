/** Where metrics and probes are served. Pure. */
import type { Options } from './options.ts';
import type { Listener } from './show/http.ts';

/** The port for metrics and probes, as Kube-OVN's. */
const HTTP_PORT = 10_669;

/**
 * The addresses to listen on: what the options name; else loopback and the pod's own addresses, never from the external
 * interface.
 */
export function httpListeners(
  { listen }: Pick<Options, 'listen'>,
  hasIPv6: boolean,
  addresses: readonly string[],
  external?: string,
): Listener[] {
  if (listen !== undefined) return listen;
  const loopback = ['127.0.0.1', ...(hasIPv6 ? ['::1'] : [])];
  const notFrom = external === undefined ? {} : { notFrom: external };
  return [
    ...loopback.map((host) => ({ host, port: HTTP_PORT })),
    ...addresses.map((host) => ({ host, port: HTTP_PORT, ...notFrom })),
  ];
}
