/**
 * Where packets to one external gateway go: the kernel's neighbour entry is made to follow the answers to the
 * agent's own questions (gateway-mac.ts). An entry that somebody on the link has changed is put right as soon as the
 * gateway has answered again; while somebody goes on claiming its address, and always where the policy pins its
 * Ethernet address, the entry is permanent, which nothing on the link can change.
 *
 * The kernel's own entry is left alone otherwise, and a permanent one that is not the agent's always.
 */

import { NLM_F_CREATE, NLM_F_REPLACE } from '../../lib/linux.ts';
import type { Logger } from '../../lib/log.ts';
import type { NetlinkSocket } from '../../lib/netlink.ts';
import type { Address } from '../../lib/prefix.ts';
import { isContested, recentRivals, rivalsToTell } from './conflicts.ts';
import { type Answerer, adopt, claimed, confirmed, createAnswerer, replaced } from './gateway-mac.ts';
import {
  DELETE_NEIGHBOUR,
  GET_NEIGHBOURS,
  NEW_NEIGHBOUR,
  type Neighbour,
  neighbourDump,
  neighbourEntry,
  neighbourOf,
  parseNeighbour,
} from './neighbours.ts';
import type { Answer } from './probe.ts';

/** The entries of a namespace that the agent keeps permanent. Throws `NetlinkError`. */
export const heldEntries = (netlink: Pick<NetlinkSocket, 'dump'>): Neighbour[] =>
  netlink
    .dump(GET_NEIGHBOURS, neighbourDump(), parseNeighbour)
    .filter(({ owned, state }) => owned && state === 'permanent');

/** Removes entries: the kernel asks for itself again. Throws `NetlinkError`. */
export function removeEntries(netlink: Pick<NetlinkSocket, 'change'>, entries: readonly Neighbour[]): void {
  for (const { address, ifindex } of entries) {
    netlink.change({ type: DELETE_NEIGHBOUR, data: neighbourOf(address, ifindex) });
  }
}

/** How often all of the link are asked because somebody claims to be the gateway, at most, ms. */
const ASK_ALL_PERIOD = 1000;

export interface NextHopParts {
  netlink: Pick<NetlinkSocket, 'ask' | 'change'>;
  logger: Logger;
  /** Called when others have claimed the address of a gateway, so many times. */
  onConflict(claims: number): void;
}

export class NextHop {
  readonly gateway: Address;
  /** The Ethernet addresses that it may answer from; empty: any. */
  readonly pins: readonly string[];
  readonly #parts: NextHopParts;
  readonly #answerer: Answerer;
  #ifindex = 0;
  /** The kernel's entry, as last told. */
  #entry: Neighbour | undefined;
  #diversion: string | undefined;
  /** Somebody claims to be the gateway: all are to be asked, but not before `askAllAt`. */
  #doubted = false;
  #askAllAt = 0;

  constructor(gateway: Address, pins: readonly string[], parts: NextHopParts) {
    this.gateway = gateway;
    this.pins = pins;
    this.#parts = parts;
    this.#answerer = createAnswerer();
  }

  /** Where it answers from, as far as known. */
  get mac(): string | undefined {
    return this.#answerer.mac;
  }

  /** Why packets do not go where it answers from. */
  get diversion(): string | undefined {
    return this.#diversion;
  }

  /** Others that claim to be it since it has answered last. */
  get claimants(): string[] {
    return [...this.#answerer.claimants.keys()];
  }

  /** Reads the kernel's entry, which may have changed without a word. Returns whether somebody has changed it. */
  look(ifindex: number, now: number): boolean {
    this.#ifindex = ifindex;
    const diverted = this.notice(this.#read());
    const answerer = this.#answerer;
    const known = this.#entry?.mac;
    // Where packets have gone until now is right unless somebody else answers.
    if (answerer.mac === undefined) {
      answerer.mac = known !== undefined && this.#permits(known) ? known : this.pins[0];
    }
    const left =
      this.#entry?.owned && this.#entry.state === 'permanent' && !isContested(answerer.rivals, now);
    if (this.pins.length > 0 || left) this.#keep(now);
    return diverted;
  }

  /** Takes what the kernel says of its entry. Returns whether it was changed by what came from the link. */
  notice(entry: Neighbour | undefined): boolean {
    this.#entry = entry;
    const { mac } = this.#answerer;
    if (entry?.mac === undefined || mac === undefined || entry.mac === mac) return false;
    if (entry.state !== 'permanent') claimed(this.#answerer, entry.mac, false);
    this.#doubted = true;
    return true;
  }

  /**
   * Takes what was heard of the gateway. Returns whether it proves that the gateway is there.
   * @param open whom the question was put to that waits for its answer
   * @param silent nobody has answered for long
   */
  heard({ mac, solicited }: Answer, open: 'one' | 'all' | undefined, silent: boolean, now: number): boolean {
    const answerer = this.#answerer;
    if (mac === undefined || mac === answerer.mac) {
      if (!solicited) return false;
      const claims = confirmed(answerer, now);
      if (claims > 0) this.#tellRivals(claims, now);
      this.#keep(now);
      return true;
    }
    const answers = solicited && open === 'all' && this.#permits(mac);
    if (answers && (answerer.mac === undefined || silent)) {
      this.#adopt(mac, now);
      return true;
    }
    if (answerer.mac === undefined) return false;
    claimed(answerer, mac, answers);
    this.#doubted = true;
    return false;
  }

  /**
   * A question has stayed without its answer, the `lost`th in a row; so many `failures` mean silence. Returns whether
   * another one has answered instead, and takes its place.
   */
  lost(lost: number, failures: number, now: number): boolean {
    const before = this.mac;
    const mac = replaced(this.#answerer, lost, failures);
    if (mac === undefined) return false;
    this.#tellReplaced(before, mac);
    this.#keep(now);
    return true;
  }

  /** Whether the next question is to go to all of the link though the gateway answers. */
  asksAll(now: number): boolean {
    if (!this.#doubted || now < this.#askAllAt) return false;
    this.#doubted = false;
    this.#askAllAt = now + ASK_ALL_PERIOD;
    return true;
  }

  notes(now: number): string[] {
    const rivals = recentRivals(this.#answerer.rivals, now);
    if (rivals.length === 0) return [];
    const pinned = this.pins.length > 0 ? '' : '; pin the right one with external.gatewayMACs';
    return [
      `${rivals.join(', ')} claimed to be the external gateway ${this.gateway} within the last minute; packets go to ${this.mac}, which answers${pinned}`,
    ];
  }

  /** Leaves the entry to the kernel, unless it is pinned. */
  release(): void {
    if (this.pins.length === 0 && this.#entry?.owned && this.#entry.state === 'permanent') {
      this.#write(this.#entry.mac!, false);
    }
  }

  #permits(mac: string): boolean {
    return this.pins.length === 0 || this.pins.includes(mac);
  }

  #adopt(mac: string, now: number): void {
    this.#tellReplaced(this.mac, mac);
    adopt(this.#answerer, mac);
    this.#keep(now);
  }

  /** Makes packets go where the gateway answers from. */
  #keep(now: number): void {
    const { mac, rivals } = this.#answerer;
    const entry = this.#entry;
    const hold = this.pins.length > 0 || isContested(rivals, now);
    const unknown = entry?.mac === undefined;
    const asWanted = entry?.mac === mac && (entry?.state === 'permanent') === hold;
    this.#diversion = undefined;
    // Without an entry the kernel asks when it has a packet, and what it learns is looked at.
    if (mac === undefined || asWanted || (unknown && !hold)) return;
    const foreign = entry?.state === 'permanent' && !entry.owned;
    const problem = foreign
      ? 'somebody has made the neighbour entry permanent; ip neigh del removes it'
      : this.#write(mac, hold);
    if (problem !== undefined && !unknown && entry?.mac !== mac) {
      this.#diversion = `packets to the external gateway ${this.gateway} go to ${entry?.mac}, but it answers from ${mac}: ${problem}`;
    }
  }

  /** Writes the entry. Returns why it could not. */
  #write(mac: string, permanent: boolean): string | undefined {
    const data = neighbourEntry(this.gateway, this.#ifindex, { mac, permanent });
    try {
      this.#parts.netlink.change({ type: NEW_NEIGHBOUR, flags: NLM_F_CREATE | NLM_F_REPLACE, data });
      const state = permanent ? 'permanent' : 'reachable';
      this.#entry = { ifindex: this.#ifindex, address: this.gateway, state, mac, owned: true };
      return undefined;
    } catch (error) {
      return `the neighbour entry cannot be changed: ${(error as Error).message}`;
    }
  }

  #read(): Neighbour | undefined {
    try {
      return parseNeighbour(
        this.#parts.netlink.ask(GET_NEIGHBOURS, neighbourOf(this.gateway, this.#ifindex)),
      );
    } catch {
      return undefined;
    }
  }

  #tellRivals(claims: number, now: number): void {
    const { gateway, mac } = this;
    this.#parts.onConflict(claims);
    const rivals = rivalsToTell(this.#answerer.rivals, now);
    if (rivals.length === 0) return;
    this.#parts.logger.warn({ gateway, mac, rivals }, 'somebody else claims to be the external gateway');
  }

  #tellReplaced(before: string | undefined, mac: string): void {
    if (before === undefined || before === mac) return;
    this.#parts.logger.warn(
      { gateway: this.gateway, mac, before },
      'the external gateway answers from another Ethernet address; packets go there now',
    );
  }
}
