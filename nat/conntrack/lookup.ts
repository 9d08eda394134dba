/** A lookup of translations: by internal address, external address and port, destination, protocol and time. Pure. */
import type { Flow } from './table.ts';

/** An address of 4 or 16 octets; with a port (of ICMP the identifier), or any port. */
export interface Endpoint {
  address: Uint8Array;
  port?: number;
}

export interface Lookup {
  /** The pod: the source of a flow, or the inner end of one that came from outside. */
  internal?: Endpoint;
  /** The translated source, or the address that a flow from outside was sent to. */
  external?: Endpoint;
  /** The destination of a flow, before or after translation. */
  dest?: Endpoint;
  /** IP protocol numbers; absent for any. */
  protocols?: number[];
  /** Flows that lived between these times, both included; Unix, ms. */
  from: number;
  to: number;
  /** The most flows to return, the newest first. */
  limit: number;
}

const isAt = ({ address, port }: Endpoint, flowAddress: Buffer, flowPort: number): boolean =>
  (port === undefined || port === flowPort) && flowAddress.equals(address);

/** Whether a live flow matches. */
export function matches(flow: Flow, lookup: Lookup, now: number): boolean {
  const { internal, external, dest, protocols, from, to } = lookup;
  if (flow.verdict === 'local' || Math.floor(flow.start) > to || now < from) return false;
  if (protocols !== undefined && !protocols.includes(flow.protocol)) return false;
  const source = (endpoint: Endpoint) => isAt(endpoint, flow.source, flow.sourcePort);
  const seen = (endpoint: Endpoint) => isAt(endpoint, flow.translatedSource, flow.translatedSourcePort);
  const sentTo = (endpoint: Endpoint) => isAt(endpoint, flow.destination, flow.destinationPort);
  const reached = (endpoint: Endpoint) =>
    flow.dnat && isAt(endpoint, flow.translatedDestination, flow.translatedDestinationPort);
  return (
    (internal === undefined || source(internal) || reached(internal)) &&
    (external === undefined || seen(external) || (flow.dnat && sentTo(external))) &&
    (dest === undefined || sentTo(dest) || reached(dest))
  );
}
