/**
 * Which connections an HTTP server keeps and which it closes to make room. Pure.
 *
 * A new connection always gets a slot. If its client is at its own limit, the client's worst connection is closed. If
 * all slots are taken, the worst connection of the client with the most is closed. So no client can keep another one
 * out, whatever its address: a client with one connection is only evicted by one that has none, and a client that sends
 * its request at once is answered before that. Connections from this machine only evict each other.
 *
 * The worst connection is the one that has waited longest for its client, to send a request or to read a response.
 * Connections that the server is working on come last.
 */

export interface ConnectionLimits {
  /** Connections in total, and of one client. */
  total: number;
  perClient: number;
  /** Octets of responses that wait for their clients to read. A single response may be larger. */
  octets: number;
  /** How long a response may wait to be read, ms. */
  readTimeout: number;
}

interface Slot {
  client: string;
  local: boolean;
  /** The server is working on a request. */
  busy: boolean;
  /** Octets of the response that waits to be read. */
  octets: number;
  /** When the slot last changed, ms. */
  since: number;
}

/**
 * The client that an address belongs to: an IPv4 address, also when it is IPv4-mapped, or the /64 of an IPv6 address,
 * because one machine can have any number of addresses of its /64.
 */
export function clientOf(address: string): string {
  const v4 = /^(?:::ffff:)?(\d+\.\d+\.\d+\.\d+)$/i.exec(address);
  if (v4 !== null) return v4[1]!;
  const [head = '', tail] = address.replace(/%.*/, '').split('::') as [string, string?];
  const groups = head === '' ? [] : head.split(':');
  if (tail !== undefined) {
    const rest = tail === '' ? [] : tail.split(':');
    groups.push(...Array<string>(Math.max(0, 8 - groups.length - rest.length)).fill('0'), ...rest);
  }
  return groups.slice(0, 4).join(':');
}

/** Whether a connection between these addresses comes from this machine. */
export const isLocalConnection = (local: string, remote: string): boolean =>
  isLoopback(local) || local === remote;

/** Whether an address, as the kernel prints it, is a loopback address. */
export const isLoopback = (address: string): boolean =>
  address === '::1' || /^(?:::ffff:)?127\./i.test(address);

export class ConnectionSlots<Connection> {
  readonly #limits: ConnectionLimits;
  readonly #slots = new Map<Connection, Slot>();

  constructor(limits: ConnectionLimits) {
    this.#limits = limits;
  }

  get size(): number {
    return this.#slots.size;
  }

  /** Adds a new connection. Returns the connections to close for it. */
  add(connection: Connection, client: string, local: boolean, now: number): Connection[] {
    const others = [...this.#slots];
    this.#slots.set(connection, { client, local, busy: false, octets: 0, since: now });
    const { total, perClient } = this.#limits;
    const own = others.filter(([, slot]) => slot.client === client);
    if (own.length >= perClient) return [worst(own)];
    if (others.length < total) return [];
    const remote = others.filter(([, slot]) => !slot.local);
    return [worst(largest(remote.length > 0 ? remote : others, () => 1))];
  }

  remove(connection: Connection): void {
    this.#slots.delete(connection);
  }

  /** Marks whether the server is working on a request of the connection, or waits for the next one. */
  setBusy(connection: Connection, busy: boolean, now: number): void {
    this.#update(connection, { busy, octets: 0, since: now });
  }

  /** Records a response of `octets` that waits to be read. Returns the connections to close for it. */
  setPending(connection: Connection, octets: number, now: number): Connection[] {
    this.#update(connection, { busy: false, octets, since: now });
    const closed: Connection[] = [];
    for (;;) {
      const waiting = [...this.#slots].filter(
        ([other, slot]) => slot.octets > 0 && other !== connection && !closed.includes(other),
      );
      const sum = waiting.reduce((all, [, slot]) => all + slot.octets, octets);
      if (waiting.length === 0 || sum <= this.#limits.octets) return closed;
      closed.push(worst(largest(waiting, (slot) => slot.octets)));
    }
  }

  /** The connections whose response has waited too long. */
  overdue(now: number): Connection[] {
    return [...this.#slots]
      .filter(([, { octets, since }]) => octets > 0 && now - since > this.#limits.readTimeout)
      .map(([connection]) => connection);
  }

  #update(connection: Connection, change: Partial<Slot>): void {
    const slot = this.#slots.get(connection);
    if (slot !== undefined) Object.assign(slot, change);
  }
}

type Held<Connection> = [Connection, Slot];

/** The connections of the clients with the largest sum of `count`. */
function largest<C>(slots: Held<C>[], count: (slot: Slot) => number): Held<C>[] {
  const sums = new Map<string, number>();
  for (const [, slot] of slots) sums.set(slot.client, (sums.get(slot.client) ?? 0) + count(slot));
  const most = Math.max(...sums.values());
  return slots.filter(([, { client }]) => sums.get(client) === most);
}

function worst<C>(slots: Held<C>[]): C {
  const [[connection]] = slots.toSorted(
    ([, a], [, b]) => Number(a.busy) - Number(b.busy) || a.since - b.since,
  ) as [Held<C>];
  return connection;
}
