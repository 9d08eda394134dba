/** How many ports of each external address translations hold. Pure. */
import { protocolName } from './flow.ts';
import { addressText } from './records.ts';
import type { Flow } from './table.ts';

/** The ports of one address and protocol that are in use towards anybody. */
export interface PortUse {
  /** 4 or 16 octets. */
  address: Uint8Array;
  /** IP protocol number. */
  protocol: number;
  used: number;
}

/** The ports that masquerading gives to sources above 1023 (nf_nat_core.c): 1024 to 65535. */
export const PORTS = 65_536 - 1024;

/** Of how many ports of an external address a connection through this gateway gets one. */
export type PortsOf = (externalIP: string) => number;

/** Whether so many ports are in use that the log warns. */
export const isRunningOut = (used: number, of: number): boolean => used >= 0.8 * of;

/**
 * Counts the ports. The kernel can use a port again towards another destination, so all in use is the earliest
 * moment at which a destination may get no more connections.
 */
export class PortCount {
  readonly uses: PortUse[] = [];
  /** The place of an address and protocol in `uses`. */
  readonly #places = new Map<string, number>();
  /** The ports that were counted, each with that place. */
  readonly #seen = new Set<number>();
  /** Mostly a flow has the address and protocol of the one before it. */
  #last = 0;

  /** Counts a flow that has a translated source. */
  add({ translatedSource, translatedSourcePort, protocol }: Flow): void {
    const last = this.uses[this.#last];
    if (last?.protocol !== protocol || !translatedSource.equals(last.address)) {
      this.#last = this.#place(translatedSource, protocol);
    }
    const port = this.#last * 65_536 + translatedSourcePort;
    if (this.#seen.has(port)) return;
    this.#seen.add(port);
    this.uses[this.#last]!.used++;
  }

  #place(address: Buffer, protocol: number): number {
    const key = `${protocol} ${address.toString('latin1')}`;
    let place = this.#places.get(key);
    if (place === undefined) {
      place = this.uses.push({ address: Uint8Array.from(address), protocol, used: 0 }) - 1;
      this.#places.set(key, place);
    }
    return place;
  }
}

/** New connections that were dropped because an address had no port left. */
export interface PortsLacking {
  externalIP: string;
  protocol: string;
  connections: number;
}

/** The ports of an address and protocol that are in use, and the new connections for which none was left. */
export interface PortStatus {
  externalIP: string;
  protocol: string;
  used: number;
  of: number;
  lacking: number;
}

/** Both together, by the names of addresses and protocols. */
export function portStatus(
  uses: readonly PortUse[],
  lacking: readonly PortsLacking[],
  portsOf: PortsOf,
): PortStatus[] {
  const all = new Map<string, PortStatus>();
  const of = (externalIP: string, protocol: string): PortStatus => {
    const key = `${externalIP} ${protocol}`;
    const status = all.get(key) ?? { externalIP, protocol, used: 0, of: portsOf(externalIP), lacking: 0 };
    all.set(key, status);
    return status;
  };
  for (const { address, protocol, used } of uses)
    of(addressText(address), protocolName(protocol)).used += used;
  for (const { externalIP, protocol, connections } of lacking)
    of(externalIP, protocol).lacking += connections;
  return [...all.values()];
}
