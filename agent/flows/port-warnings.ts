/**
 * Log lines about ports that run out: a warning for each external address and protocol that nears its end, and
 * connections that were dropped because no port was left (nat/conntrack/exhaustion.ts). Pure: `now` is milliseconds of
 * a monotonic clock.
 */
import type { PortRangeUse } from '../../nat/conntrack/exhaustion.ts';
import { protocolName } from '../../nat/conntrack/flow.ts';
import { isRunningOut, type PortsLacking, type PortsOf, type PortUse } from '../../nat/conntrack/ports.ts';
import { addressText } from '../../nat/conntrack/records.ts';

/** Below that share of the ports the warning about an address may come again. */
const CALM = 0.7;
/** Minimum interval between log lines about dropped connections, ms. */
const DROPPED_PERIOD = 60_000;

export interface Warning {
  message: string;
  fields: object;
}

export class PortWarnings {
  /** Addresses and protocols that were warned about. */
  readonly #warned = new Set<string>();
  /** Dropped connections that no log line has counted yet, and when one may. */
  #unlogged = 0;
  #dueAt = Number.NEGATIVE_INFINITY;

  /** The warnings that the ports in use now give rise to. */
  inUse(uses: readonly PortUse[], portsOf: PortsOf): Warning[] {
    const there = new Set(uses.map(({ address, protocol }) => `${addressText(address)} ${protocol}`));
    for (const key of this.#warned) if (!there.has(key)) this.#warned.delete(key);
    return uses.flatMap(({ address, protocol, used }): Warning[] => {
      const externalIP = addressText(address);
      const key = `${externalIP} ${protocol}`;
      const of = portsOf(externalIP);
      if (used < CALM * of) this.#warned.delete(key);
      if (!isRunningOut(used, of) || this.#warned.has(key)) return [];
      this.#warned.add(key);
      const fields = { externalIP, protocol, used, of };
      return [{ message: 'ports of an external address are running out', fields }];
    });
  }

  /** Adds dropped connections to those of the same address. Returns the warning, if one is due. */
  dropped(
    range: PortRangeUse,
    connections: number,
    lacking: PortsLacking[],
    now: number,
  ): Warning | undefined {
    const externalIP = addressText(range.address);
    const protocol = protocolName(range.protocol);
    const known = lacking.find((one) => one.externalIP === externalIP && one.protocol === protocol);
    if (known !== undefined) known.connections += connections;
    else lacking.push({ externalIP, protocol, connections });
    this.#unlogged += connections;
    if (now < this.#dueAt) return undefined;
    const fields = {
      ...{ externalIP, protocol, connections: this.#unlogged },
      ...{ destination: addressText(range.destination), destinationPort: range.destinationPort },
      ...(range.source && { source: addressText(range.source) }),
      ...{ used: range.used, of: range.of },
    };
    this.#unlogged = 0;
    this.#dueAt = now + DROPPED_PERIOD;
    return { message: 'no port was left for new connections, they were dropped', fields };
  }
}
