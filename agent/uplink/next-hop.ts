/**
 * Where packets to one external gateway go: the kernel's neighbour entry follows the answers to the agent's own
 * requests (gateway-mac.ts). An entry that another host on the link has changed is corrected as soon as the gateway has
 * answered again; while others claim its address, and always where the policy pins its Ethernet address, the entry is
 * permanent, which nothing on the link can change.
 *
 * Otherwise the kernel's own entry stays as it is, and so does always a permanent one that is not the agent's.
 */

import { NLM_F_CREATE, NLM_F_REPLACE } from '../../lib/linux.ts';
import type { Log } from '../../lib/log.ts';
import type { NetlinkSocket } from '../../lib/netlink.ts';
import type { Address } from '../../lib/prefix.ts';
import { conflictsToLog, isContested, recentConflicts } from './conflicts.ts';
import {
  adopt,
  confirm,
  createGatewayMac,
  type GatewayMac,
  recordClaim,
  replaceSilent,
} from './gateway-mac.ts';
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

/** The entries of a namespace that the agent made permanent. Throws `NetlinkError`. */
export const permanentEntries = (netlink: Pick<NetlinkSocket, 'dump'>): Neighbour[] =>
  netlink
    .dump(GET_NEIGHBOURS, neighbourDump(), parseNeighbour)
    .filter(({ owned, state }) => owned && state === 'permanent');

/** Removes entries: the kernel resolves the addresses itself again. Throws `NetlinkError`. */
export function removeEntries(netlink: Pick<NetlinkSocket, 'change'>, entries: readonly Neighbour[]): void {
  for (const { address, ifindex } of entries) {
    netlink.change({ type: DELETE_NEIGHBOUR, data: neighbourOf(address, ifindex) });
  }
}

/** The least time between two requests to the whole link because others claim to be the gateway, ms. */
const ASK_ALL_PERIOD = 1000;

export interface NextHopParts {
  netlink: Pick<NetlinkSocket, 'ask' | 'change'>;
  logger: Log;
  /** Called with the number of claims by others to the address of a gateway. */
  onConflict(claims: number): void;
}

export class NextHop {
  readonly gateway: Address;
  /** The Ethernet addresses that it may answer from; empty: any. */
  readonly pins: readonly string[];
  readonly #parts: NextHopParts;
  readonly #learned: GatewayMac;
  #ifindex = 0;
  /** The kernel's entry, as last read or announced by the kernel. */
  #entry: Neighbour | undefined;
  #diversion: string | undefined;
  /** Another host claims to be the gateway: the whole link is to be asked, but not before `askAllAt`. */
  #doubted = false;
  #askAllAt = 0;

  constructor(gateway: Address, pins: readonly string[], parts: NextHopParts) {
    this.gateway = gateway;
    this.pins = pins;
    this.#parts = parts;
    this.#learned = createGatewayMac();
  }

  /** The Ethernet address that it answers from, as far as known. */
  get mac(): string | undefined {
    return this.#learned.mac;
  }

  /** Why packets go elsewhere than where it answers from; undefined: they do not. */
  get diversion(): string | undefined {
    return this.#diversion;
  }

  /** Other hosts that have claimed to be it since its last answer. */
  get claimants(): string[] {
    return [...this.#learned.claimants.keys()];
  }

  /** Reads the kernel's entry. Returns whether it was changed by packets of other hosts. */
  observe(ifindex: number, now: number): boolean {
    this.#ifindex = ifindex;
    const diverted = this.update(this.#read());
    const learned = this.#learned;
    const known = this.#entry?.mac;
    // Where packets have gone until now is right unless another host answers.
    if (learned.mac === undefined) {
      learned.mac = known !== undefined && this.#permits(known) ? known : this.pins[0];
    }
    const outdated =
      this.#entry?.owned && this.#entry.state === 'permanent' && !isContested(learned.conflicts, now);
    if (this.pins.length > 0 || outdated) this.#correct(now);
    return diverted;
  }

  /** Takes the kernel's entry as it is now. Returns whether it was changed by packets of other hosts. */
  update(entry: Neighbour | undefined): boolean {
    this.#entry = entry;
    const { mac } = this.#learned;
    if (entry?.mac === undefined || mac === undefined || entry.mac === mac) return false;
    if (entry.state !== 'permanent') recordClaim(this.#learned, entry.mac, false);
    this.#doubted = true;
    return true;
  }

  /**
   * Takes a packet about the gateway. Returns whether it proves that the gateway is reachable.
   * @param open where the outstanding request went; undefined: there is none
   * @param silent the gateway has not answered for long
   */
  receive(
    { mac, solicited }: Answer,
    open: 'one' | 'all' | undefined,
    silent: boolean,
    now: number,
  ): boolean {
    const learned = this.#learned;
    if (mac === undefined || mac === learned.mac) {
      if (!solicited) return false;
      const claims = confirm(learned, now);
      if (claims > 0) this.#logConflicts(claims, now);
      this.#correct(now);
      return true;
    }
    const answers = solicited && open === 'all' && this.#permits(mac);
    if (answers && (learned.mac === undefined || silent)) {
      this.#adopt(mac, now);
      return true;
    }
    if (learned.mac === undefined) return false;
    recordClaim(learned, mac, answers);
    this.#doubted = true;
    return false;
  }

  /**
   * A request was lost, the `lost`th in a row; this many `failures` mean silence. Returns whether another host has
   * answered instead, and takes over.
   */
  lost(lost: number, failures: number, now: number): boolean {
    const before = this.mac;
    const mac = replaceSilent(this.#learned, lost, failures);
    if (mac === undefined) return false;
    this.#logReplaced(before, mac);
    this.#correct(now);
    return true;
  }

  /** Whether the next request is to go to the whole link though the gateway answers. */
  asksAll(now: number): boolean {
    if (!this.#doubted || now < this.#askAllAt) return false;
    this.#doubted = false;
    this.#askAllAt = now + ASK_ALL_PERIOD;
    return true;
  }

  notes(now: number): string[] {
    const others = recentConflicts(this.#learned.conflicts, now);
    if (others.length === 0) return [];
    const pinned = this.pins.length > 0 ? '' : '; pin the right one with external.gatewayMACs';
    return [
      `${others.join(', ')} claimed to be the external gateway ${this.gateway} within the last minute; packets go to ${this.mac}, which answers${pinned}`,
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
    this.#logReplaced(this.mac, mac);
    adopt(this.#learned, mac);
    this.#correct(now);
  }

  /** Makes packets go where the gateway answers from. */
  #correct(now: number): void {
    const { mac, conflicts } = this.#learned;
    const entry = this.#entry;
    const hold = this.pins.length > 0 || isContested(conflicts, now);
    const unknown = entry?.mac === undefined;
    const asWanted = entry?.mac === mac && (entry?.state === 'permanent') === hold;
    this.#diversion = undefined;
    // Without an entry the kernel resolves the address when it has a packet, and what it learns is checked.
    if (mac === undefined || asWanted || (unknown && !hold)) return;
    const foreign = entry?.state === 'permanent' && !entry.owned;
    const problem = foreign
      ? 'another program made the neighbour entry permanent; ip neigh del removes it'
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

  #logConflicts(claims: number, now: number): void {
    const { gateway, mac } = this;
    this.#parts.onConflict(claims);
    const others = conflictsToLog(this.#learned.conflicts, now);
    if (others.length === 0) return;
    this.#parts.logger.warn({ gateway, mac, others }, 'another host claims to be the external gateway');
  }

  #logReplaced(before: string | undefined, mac: string): void {
    if (before === undefined || before === mac) return;
    this.#parts.logger.warn(
      { gateway: this.gateway, mac, before },
      'the external gateway answers from another Ethernet address; packets go there now',
    );
  }
}
