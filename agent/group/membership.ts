/**
 * Who is there, and who answers for which shared address. Pure: `step(state, event, now)` returns the next state and
 * what to do. The rules and their reasons are in docs/design/0009-group.md.
 */
import type { Address } from '../../lib/prefix.ts';
import type { Claim, StateMessage } from './codec.ts';
import type { GroupConfig, GroupView, HolderView, MemberState, PeerView } from './model.ts';
import { hashOf } from './records.ts';
import { portSlice, slotOf } from './slices.ts';

/** A member that cannot be reached is waited for by one that starts, ms. */
export const JOIN_WAIT = 3000;
/** A member that starts is live after this, if the exchange works with any member that is reachable, ms. */
export const JOIN_LIMIT = 30_000;
/** By then the flows of a member that is gone are another one's, ms. */
export const SETTLE_AFTER = 60_000;
/** A member that started so much earlier than we knows what our former process knew, ms. */
const REMEMBERS = 60_000;
/** How long a member holds less than others before it takes one of their addresses, ms. */
export const BALANCE_AFTER = 60_000;
/** A member that is live waits so long before OVN may use it, ms: the others forward its slice to it by then. */
export const FORWARDED_AFTER = 1000;
const MAX_TERM = 0xffff_ffff;
/** Interval between repeated announcements of the state, ms. */
export const STATE_PERIOD = 1000;

/** What is known of another member. */
export interface Peer {
  path: boolean;
  connected: boolean;
  /** Its table was received on this connection. */
  synced: boolean;
  /** When its process started. */
  startedAt: number;
  state?: MemberState;
  external?: Address;
  claims: readonly Claim[];
  /** Since when it has neither path nor connection, or is `left`. */
  goneSince?: number;
}

export interface Membership {
  config: GroupConfig;
  state: MemberState;
  /** When this member started. */
  since: number;
  /** Since when it waits for the others before it claims addresses: its start, or the end of `cutOff`. */
  joinsSince: number;
  /** It has synchronized with every reachable member, or waited long enough: it may claim addresses. */
  joined: boolean;
  /** Since when it is live; of one that resumes: always. */
  liveSince?: number;
  /** OVN may send traffic. */
  ready: boolean;
  /** `settle` was given. */
  settled: boolean;
  peers: ReadonlyMap<Address, Peer>;
  /** Our own claims, by address. */
  claims: ReadonlyMap<Address, number>;
  /** The highest known term of each address. */
  terms: ReadonlyMap<Address, number>;
  /** Addresses of ours that another member claims as well, and is going to release. */
  rivals: ReadonlySet<Address>;
  /** Since when another member has two more addresses than we. */
  lessSince?: number;
  stateDue: number;
}

export type MembershipEvent =
  | { type: 'configure'; config: GroupConfig }
  | { type: 'path'; member: Address; up: boolean }
  | { type: 'connected'; member: Address; startedAt: number }
  | { type: 'disconnected'; member: Address }
  /** The table of the member was received. */
  | { type: 'synced'; member: Address }
  | { type: 'state'; member: Address; message: StateMessage }
  | { type: 'drain' }
  | { type: 'undrain' }
  | { type: 'leave' }
  | { type: 'tick' };

export type MembershipAction =
  /** Send our state to every connected member. */
  | { type: 'send-state' }
  | { type: 'announce'; address: Address }
  /** All members have reported, or the wait is over. `slots`: those that reported and knew our former process. */
  | { type: 'settle'; slots: number[] }
  | {
      type: 'holder';
      address: Address;
      from: Address | undefined;
      to: Address | undefined;
      reason: HolderReason;
    };

/** Why an address has another holder: what the former one is now, or that it has released its claim to a higher one. */
export type HolderReason = 'none before' | 'unreachable' | MemberState | 'no member' | 'claimed';

export interface MembershipStep {
  state: Membership;
  actions: MembershipAction[];
}

const newPeer = (now: number): Peer => ({
  path: false,
  connected: false,
  synced: false,
  startedAt: now,
  claims: [],
  goneSince: now,
});

/** @param resumes a former process of this network namespace was live, and what it had is still in the kernel */
export function startMembership(config: GroupConfig, now: number, resumes = false): Membership {
  const others = config.members.filter((member) => member !== config.self);
  return {
    config,
    state: resumes ? 'live' : 'joining',
    since: now,
    joinsSince: now,
    joined: false,
    ...(resumes && { liveSince: -Infinity }),
    ready: resumes,
    settled: false,
    peers: new Map(others.map((member) => [member, newPeer(now)])),
    claims: new Map(),
    terms: new Map(),
    rivals: new Set(),
    stateDue: now,
  };
}

export function step(state: Membership, event: MembershipEvent, now: number): MembershipStep {
  const before = holders(state);
  const actions: MembershipAction[] = [];
  let next = receive(state, event, now);
  next = settle(join(next, now), now, actions);
  next = elect(next, now, actions);
  next = { ...next, ready: isReady(next, now) };
  if (announcement(next) !== announcement(state) || event.type === 'connected' || now >= next.stateDue) {
    next = { ...next, stateDue: now + STATE_PERIOD };
    actions.push({ type: 'send-state' });
  }
  for (const { address, holder } of holders(next)) {
    const from = before.find((one) => one.address === address)?.holder;
    if (from === holder) continue;
    actions.push({ type: 'holder', address, from, to: holder, reason: holderReason(next, from) });
  }
  return { state: next, actions };
}

/** What the other members need at once if it changes. */
const announcement = ({ state, claims, config }: Membership): string =>
  JSON.stringify([state, [...claims], config.external]);

/** Our state, as it is sent to the others. */
export const stateMessage = ({ state, claims, config }: Membership): StateMessage => ({
  type: 'state',
  state,
  external: config.external,
  claims: [...claims].map(([address, term]) => ({ address, term })),
});

function receive(state: Membership, event: MembershipEvent, now: number): Membership {
  switch (event.type) {
    case 'configure':
      return configure(state, event.config, now);
    case 'path':
      return change(state, event.member, now, (peer) => {
        const { state: word, ...rest } = peer;
        // Its last state may be outdated once it was unreachable.
        const known = word !== undefined && (event.up || peer.connected);
        return { ...rest, path: event.up, ...(known && { state: word }) };
      });
    case 'connected':
      return change(state, event.member, now, (peer) => {
        return { ...peer, connected: true, synced: false, startedAt: event.startedAt };
      });
    case 'disconnected':
      return change(state, event.member, now, ({ state: word, ...peer }) => ({
        ...peer,
        connected: false,
        synced: false,
        ...(peer.path && word !== undefined && { state: word }),
      }));
    case 'synced':
      return change(state, event.member, now, (peer) => ({ ...peer, synced: true }));
    case 'state':
      return receiveState(state, event.member, event.message, now);
    case 'drain':
      return { ...state, state: 'draining' };
    case 'undrain':
      return state.state === 'draining' ? { ...state, state: 'joining' } : state;
    case 'leave':
      return { ...state, state: 'left' };
    case 'tick':
      return state;
  }
}

function configure(state: Membership, config: GroupConfig, now: number): Membership {
  const peers = new Map<Address, Peer>();
  for (const member of config.members) {
    if (member !== config.self) peers.set(member, state.peers.get(member) ?? newPeer(now));
  }
  const claims = new Map([...state.claims].filter(([address]) => config.shared.includes(address)));
  const wasCutOff = state.config.cutOff ?? false;
  const next = {
    ...{ ...state, config, peers, claims },
    // Another member holds its addresses by then.
    joined: state.joined && !config.cutOff,
    joinsSince: wasCutOff && !config.cutOff ? now : state.joinsSince,
  };
  return { ...next, terms: highestTerms(next) };
}

function change(state: Membership, member: Address, now: number, edit: (peer: Peer) => Peer): Membership {
  const peer = state.peers.get(member);
  if (peer === undefined) return state;
  const { goneSince, ...edited } = edit(peer);
  const gone = edited.state === 'left' || (!edited.path && !edited.connected);
  const next: Peer = gone ? { ...edited, goneSince: goneSince ?? now } : edited;
  return { ...state, peers: new Map(state.peers).set(member, next) };
}

function receiveState(state: Membership, member: Address, message: StateMessage, now: number): Membership {
  const { state: word, external, claims } = message;
  const next = change(state, member, now, (peer) => ({ ...peer, state: word, external, claims }));
  return { ...next, terms: highestTerms(next) };
}

/** The highest known term of each shared address. */
function highestTerms({ config, terms, claims, peers }: Membership): Map<Address, number> {
  const all = [...peers.values()].flatMap((peer) => peer.claims);
  return new Map(
    config.shared.map((address) => {
      const known = all.filter((claim) => claim.address === address).map(({ term }) => term);
      return [address, Math.max(terms.get(address) ?? 0, claims.get(address) ?? 0, ...known)];
    }),
  );
}

/** A term above all known ones. */
const nextTerm = ({ terms }: Membership, address: Address): number =>
  Math.min((terms.get(address) ?? 0) + 1, MAX_TERM);

/** Whether a member's slice and claims count: it is reachable and announced that it is live or draining. */
const isUsable = (peer: Peer): boolean => peer.path && (peer.state === 'live' || peer.state === 'draining');

function join(state: Membership, now: number): Membership {
  if (state.config.cutOff || (state.joined && state.state !== 'joining')) return state;
  const age = now - state.joinsSince;
  const peers = [...state.peers.values()];
  const waiting = peers.some((peer) => {
    if (!peer.connected) return peer.path || age < JOIN_WAIT;
    return !peer.synced || (!peer.path && age < JOIN_WAIT);
  });
  const late = age >= JOIN_LIMIT && exchangeWorks(state);
  if (waiting && !late) return state;
  const { liveSince = now } = state;
  return { ...state, joined: true, liveSince, state: state.state === 'joining' ? 'live' : state.state };
}

/** Whether OVN may send traffic: answers to what we translate find their way back to us. */
function isReady({ ready, state, liveSince = Infinity, peers }: Membership, now: number): boolean {
  if (state !== 'live' && state !== 'draining') return false;
  return ready || now - liveSince >= FORWARDED_AFTER || ![...peers.values()].some(isUsable);
}

function settle(state: Membership, now: number, actions: MembershipAction[]): Membership {
  if (state.settled) return state;
  const all = [...state.peers.values()].every((peer) => peer.synced);
  if (!all && now - state.since < SETTLE_AFTER) return state;
  const slots = [...state.peers]
    .filter(([, peer]) => peer.synced && peer.startedAt < state.since - REMEMBERS)
    .map(([member]) => slotOf(member));
  actions.push({ type: 'settle', slots });
  return { ...state, settled: true };
}

/** Our exchange works with any member, or no member is reachable. */
function exchangeWorks({ peers }: Membership): boolean {
  const all = [...peers.values()];
  return all.some((peer) => peer.connected) || !all.some((peer) => peer.path);
}

interface Standing extends Claim {
  member: Address;
  /** Another member is to take it. */
  leaving: boolean;
}

/** The claims to an address that count, the best one first. */
function standing(state: Membership, address: Address): Standing[] {
  const found: Standing[] = [];
  const own = state.claims.get(address);
  const { self } = state.config;
  if (own !== undefined) {
    found.push({ member: self, address, term: own, leaving: state.state === 'draining' });
  }
  for (const [member, peer] of state.peers) {
    const claim = isUsable(peer) && peer.claims.find((one) => one.address === address);
    if (claim) found.push({ member, ...claim, leaving: peer.state === 'draining' });
  }
  return found.sort((a, b) => b.term - a.term || rank(address, a.member) - rank(address, b.member));
}

/** The order of members for an address: another one for each, and the same everywhere. */
function rank(address: Address, member: Address): number {
  const text = Buffer.from(`${address} ${member}`);
  return hashOf(text, 0, text.length, 0);
}

/** Whether another member may be made holder: it is reachable, live, not draining, and the exchange with it works. */
export const isCandidate = (peer: Peer): boolean => peer.path && peer.connected && peer.state === 'live';

function candidates(state: Membership): Address[] {
  const found = [...state.peers].filter(([, peer]) => isCandidate(peer)).map(([member]) => member);
  if (state.state === 'live' && state.joined && exchangeWorks(state)) found.push(state.config.self);
  return found;
}

function elect(state: Membership, now: number, actions: MembershipAction[]): Membership {
  const { self, shared } = state.config;
  const claims = new Map(state.claims);
  if (state.config.cutOff || state.state === 'left' || state.state === 'joining') claims.clear();
  const current = { ...state, claims };
  const rivals = new Set<Address>();
  const open: Address[] = [];
  for (const address of shared) {
    const [best, ...worse] = standing(current, address);
    if (best?.member !== self) claims.delete(address);
    else if (worse.length > 0) rivals.add(address);
    if (best === undefined || best.leaving) open.push(address);
  }
  for (const [address, member] of assign(current, open)) {
    if (member === self) claims.set(address, nextTerm(current, address));
  }
  const balanced = balance(current, now);
  if (balanced.take !== undefined) claims.set(balanced.take, nextTerm(current, balanced.take));
  for (const address of state.rivals) {
    if (claims.has(address) && !rivals.has(address)) actions.push({ type: 'announce', address });
  }
  const { lessSince: _, ...rest } = state;
  const { lessSince } = balanced;
  const terms = highestTerms(current);
  return { ...rest, claims, terms, rivals, ...(lessSince !== undefined && { lessSince }) };
}

/** How many addresses each member holds. */
function loads(state: Membership): Map<Address, number> {
  const found = new Map<Address, number>();
  for (const address of state.config.shared) {
    const holder = standing(state, address).find(({ leaving }) => !leaving)?.member;
    if (holder !== undefined) found.set(holder, (found.get(holder) ?? 0) + 1);
  }
  return found;
}

/** The next holder of each open address: the candidate with the fewest addresses, then by rank. */
function assign(state: Membership, open: readonly Address[]): [Address, Address][] {
  const members = candidates(state);
  if (members.length === 0) return [];
  const load = loads(state);
  return open.map((address) => {
    const [taker] = members.toSorted(
      (a, b) => (load.get(a) ?? 0) - (load.get(b) ?? 0) || rank(address, a) - rank(address, b),
    );
    load.set(taker!, (load.get(taker!) ?? 0) + 1);
    return [address, taker!];
  });
}

/** Whether we take an address of a member that has held two more than we for a while. */
function balance(state: Membership, now: number): { take?: Address; lessSince?: number } {
  const { self, shared } = state.config;
  const members = candidates(state);
  if (!members.includes(self)) return {};
  const load = loads(state);
  const own = load.get(self) ?? 0;
  const most = members.toSorted((a, b) => (load.get(b) ?? 0) - (load.get(a) ?? 0) || compare(a, b))[0]!;
  const first = members.toSorted((a, b) => (load.get(a) ?? 0) - (load.get(b) ?? 0) || compare(a, b))[0]!;
  if (first !== self || (load.get(most) ?? 0) < own + 2) return {};
  const since = state.lessSince ?? now;
  if (now - since < BALANCE_AFTER) return { lessSince: since };
  const theirs = shared.filter((address) => standing(state, address)[0]?.member === most);
  return { take: theirs.toSorted((a, b) => rank(a, self) - rank(b, self))[0]! };
}

const compare = (a: string, b: string): number => (a < b ? -1 : Number(a > b));

function holderReason({ config, state, peers }: Membership, from: Address | undefined): HolderReason {
  if (from === undefined) return 'none before';
  const former = from === config.self ? { path: !config.cutOff, state } : peers.get(from);
  if (former === undefined) return 'no member';
  if (!former.path) return 'unreachable';
  return former.state === 'live' ? 'claimed' : (former.state ?? 'unreachable');
}

/** Who answers for each shared address, as far as is known. */
function holders(state: Membership): HolderView[] {
  return state.config.shared.map((address) => {
    const holder = standing(state, address)[0]?.member;
    return { address, ...(holder !== undefined && { holder }) };
  });
}

/** What the kernel and `status` need, without the flows. */
export function viewMembership(
  state: Membership,
): Omit<GroupView, 'flows' | 'replicas' | 'peers'> & { peers: Omit<PeerView, 'replicas' | 'inSync'>[] } {
  const { config, claims } = state;
  const peers = [...state.peers].map(([member, peer]) => ({
    member,
    slice: portSlice(slotOf(member)),
    path: peer.path,
    exchange: peer.connected,
    ...(peer.state !== undefined && { state: peer.state }),
    ...(peer.external !== undefined && { external: peer.external }),
    reachability: isUsable(peer)
      ? ('live' as const)
      : peer.path || peer.connected
        ? ('joining' as const)
        : ('unreachable' as const),
  }));
  return {
    family: config.family,
    self: config.self,
    state: state.state,
    slice: portSlice(slotOf(config.self)),
    peers,
    holders: holders(state),
    held: [...claims.keys()].sort(compare),
    forward: peers.flatMap(({ slice, external, reachability }) =>
      reachability === 'live' && external !== undefined ? [{ slice, via: external }] : [],
    ),
    ready: state.ready,
  };
}
