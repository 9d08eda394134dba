/**
 * Who may hold connections to an HTTP server, and who has to give way. Pure.
 *
 * A new connection always gets a place. Where a client has as many as one may have, its own worst connection is
 * closed for it; where all places are taken, the worst of the client that has most. So nobody can keep another one
 * out, whatever the other's address is: a client with one connection gives way only to one that has fewer, and whoever
 * asks at once has an answer before that. Connections from this machine give way only to each other.
 *
 * The worst is the one that has waited longest for its client: for a request, or to read an answer. Those for which
 * the server itself is at work come last.
 */

export interface PlaceLimits {
  /** Connections, and those of one client. */
  total: number;
  perClient: number;
  /** Octets of answers that wait for their clients to read. One answer may be larger. */
  octets: number;
  /** For so long an answer may wait, ms. */
  patience: number;
}

interface Place {
  client: string;
  local: boolean;
  /** The server is at work on a request. */
  busy: boolean;
  /** Of the answer that waits to be read. */
  octets: number;
  /** Since when it is as it is, ms. */
  since: number;
}

/**
 * What counts as one client: an IPv4 address, also when it is written as IPv6, or the /64 of an IPv6 address, of
 * which one machine can have as many as it likes.
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
export const isFromHere = (local: string, remote: string): boolean => isLoopback(local) || local === remote;

/** Whether an address, as the kernel gives it, is of loopback. */
export const isLoopback = (address: string): boolean =>
  address === '::1' || /^(?:::ffff:)?127\./i.test(address);

export class Places<Connection> {
  readonly #limits: PlaceLimits;
  readonly #places = new Map<Connection, Place>();

  constructor(limits: PlaceLimits) {
    this.#limits = limits;
  }

  get size(): number {
    return this.#places.size;
  }

  /** A connection has come. Returns those that have to be closed for it. */
  enter(connection: Connection, client: string, local: boolean, now: number): Connection[] {
    const others = [...this.#places];
    this.#places.set(connection, { client, local, busy: false, octets: 0, since: now });
    const { total, perClient } = this.#limits;
    const own = others.filter(([, place]) => place.client === client);
    if (own.length >= perClient) return [worst(own)];
    if (others.length < total) return [];
    const away = others.filter(([, place]) => !place.local);
    return [worst(largest(away.length > 0 ? away : others, () => 1))];
  }

  leave(connection: Connection): void {
    this.#places.delete(connection);
  }

  /** The server works on a request, or is done and waits for the next one. */
  turn(connection: Connection, busy: boolean, now: number): void {
    this.#set(connection, { busy, octets: 0, since: now });
  }

  /** An answer of so many octets waits to be read. Returns those that have to be closed for it. */
  answer(connection: Connection, octets: number, now: number): Connection[] {
    this.#set(connection, { busy: false, octets, since: now });
    const closed: Connection[] = [];
    for (;;) {
      const waiting = [...this.#places].filter(
        ([other, place]) => place.octets > 0 && other !== connection && !closed.includes(other),
      );
      const sum = waiting.reduce((all, [, place]) => all + place.octets, octets);
      if (waiting.length === 0 || sum <= this.#limits.octets) return closed;
      closed.push(worst(largest(waiting, (place) => place.octets)));
    }
  }

  /** Those whose answer has waited too long. */
  overdue(now: number): Connection[] {
    return [...this.#places]
      .filter(([, { octets, since }]) => octets > 0 && now - since > this.#limits.patience)
      .map(([connection]) => connection);
  }

  #set(connection: Connection, change: Partial<Place>): void {
    const place = this.#places.get(connection);
    if (place !== undefined) Object.assign(place, change);
  }
}

type Held<Connection> = [Connection, Place];

/** The connections of the clients that have most, by what is counted of each. */
function largest<C>(places: Held<C>[], count: (place: Place) => number): Held<C>[] {
  const sums = new Map<string, number>();
  for (const [, place] of places) sums.set(place.client, (sums.get(place.client) ?? 0) + count(place));
  const most = Math.max(...sums.values());
  return places.filter(([, { client }]) => sums.get(client) === most);
}

function worst<C>(places: Held<C>[]): C {
  const [[connection]] = places.toSorted(
    ([, a], [, b]) => Number(a.busy) - Number(b.busy) || a.since - b.since,
  ) as [Held<C>];
  return connection;
}
