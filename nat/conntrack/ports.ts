/** How many ports of each external address translations hold. Pure. */
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

/**
 * Counts the ports. The kernel can use a port again towards another destination, so all in use is the earliest
 * moment at which a destination may get no more connections.
 */
export class PortCount {
  readonly #uses = new Map<string, PortUse & { index: number }>();
  /** The ports that were counted, each with the index of its address and protocol. */
  readonly #seen = new Set<number>();

  /** Counts a flow that has a translated source. */
  add({ translatedSource, translatedSourcePort, protocol }: Flow): void {
    const key = `${protocol} ${translatedSource.toString('latin1')}`;
    let use = this.#uses.get(key);
    if (use === undefined) {
      use = { address: Uint8Array.from(translatedSource), protocol, used: 0, index: this.#uses.size };
      this.#uses.set(key, use);
    }
    const port = use.index * 65_536 + translatedSourcePort;
    if (this.#seen.has(port)) return;
    this.#seen.add(port);
    use.used++;
  }

  get uses(): PortUse[] {
    return [...this.#uses.values()].map(({ index: _, ...use }) => use);
  }
}
