/**
 * The protocol of one family's group: membership, holders and replicas together. Pure: `step(state, event, now)`
 * returns the next state and what to do; the table of flows in the state is changed in place.
 *
 * This file connects the parts: a member goes live once it has the others' tables, and the flows of a member that is
 * gone are adopted by one of the others.
 */
import type { Address } from '../../lib/prefix.ts';
import type { Message } from './codec.ts';
import {
  isCandidate,
  type Membership,
  type MembershipAction,
  type MembershipEvent,
  startMembership,
  stateMessage,
  step as stepMembership,
  viewMembership,
} from './membership.ts';
import type { FlowChange, FlowEvent, GroupConfig, GroupView } from './model.ts';
import { hashOf } from './records.ts';
import { Replication } from './replication.ts';
import { SLICES, slotOf } from './slices.ts';

/** A member that is gone for so long does not come back with its flows, ms. */
export const ORPHAN_AFTER = 10_000;
/** Orphans that the elected adopter does not have are adopted by any member that has them after this, ms. */
const LEFTOVER_AFTER = 30_000;

export interface GroupState {
  membership: Membership;
  replication: Replication;
  /** Slices with orphans: since when, and how many of them we have adopted. */
  orphans: ReadonlyMap<number, { since: number; adopted: number }>;
  /** The members that have not acknowledged the handover yet, and when it is given up. */
  handover?: { waiting: ReadonlySet<Address>; until: number };
  /** What keeps the exchange from connections, as of `GroupView`. */
  problem?: string | undefined;
  /** The last view that was reported, as text. */
  shown: string;
}

export type GroupEvent =
  | Exclude<MembershipEvent, { type: 'connected' | 'state' | 'synced' | 'drain' }>
  /** The exchange with a member is established, and it is this process of its. */
  | { type: 'connected'; member: Address; instance: number; uptime: number }
  | { type: 'message'; member: Address; message: Message }
  | { type: 'flows'; events: readonly FlowEvent[] }
  /** Hand over within this many ms. */
  | { type: 'drain'; limit: number }
  /** Something keeps the exchange from connections; undefined: nothing does any more. */
  | { type: 'problem'; problem: string | undefined };

export type GroupAction =
  | { type: 'send'; member: Address; message: Message }
  | { type: 'kernel'; changes: FlowChange[] }
  | { type: 'settle'; slots: number[] }
  | { type: 'view'; view: GroupView }
  | { type: 'announce'; address: Address }
  | { type: 'handed-over'; complete: boolean }
  | Extract<MembershipAction, { type: 'holder' }>
  | { type: 'adopted'; member: Address | undefined; slot: number; flows: number }
  | { type: 'lag'; lag: number; flows: number }
  | { type: 'traffic'; sent: number; received: number }
  | { type: 'rejected'; reason: string; count: number };

export interface GroupStep {
  state: GroupState;
  actions: GroupAction[];
}

/** @param options `resumes` as of `startMembership`; `capacity`: flows in the table */
export function startGroup(
  config: GroupConfig,
  now: number,
  { resumes, capacity }: { resumes?: boolean; capacity?: number } = {},
): GroupState {
  const replication = new Replication(config.family, config.self, capacity);
  replication.configure(othersOf(config), config.shared);
  return { membership: startMembership(config, now, resumes), replication, orphans: new Map(), shown: '' };
}

const othersOf = ({ members, self }: GroupConfig): Address[] => members.filter((member) => member !== self);

export function step(state: GroupState, event: GroupEvent, now: number): GroupStep {
  const actions: GroupAction[] = [];
  const { replication } = state;
  let next = replicate(state, event, now);
  for (const change of membershipEvents(event, now)) next = stepMembers(next, change, now, actions);
  if (event.type !== 'message' && event.type !== 'flows') next = adopt(next, now, actions);
  replication.restore();
  replication.flush(now);
  const outbox = replication.flushOutbox();
  // The kernel first: an acknowledgement promises that its changes are applied.
  if (outbox.changes.length > 0) actions.push({ type: 'kernel', changes: outbox.changes });
  for (const member of outbox.synced) next = stepMembers(next, { type: 'synced', member }, now, actions);
  next = finishHandover(next, outbox.handedOver, now, actions);
  for (const { member, message } of outbox.sends) actions.push({ type: 'send', member, message });
  for (const lag of outbox.lags) actions.push({ type: 'lag', ...lag });
  const { sent, received } = outbox;
  if (sent + received > 0) actions.push({ type: 'traffic', sent, received });
  for (const [reason, count] of Object.entries(outbox.rejected)) {
    actions.push({ type: 'rejected', reason, count });
  }
  return { state: show(next, event, actions, outbox.synced.length > 0), actions };
}

/** What an event means for the flows. */
function replicate(state: GroupState, event: GroupEvent, now: number): GroupState {
  const { replication } = state;
  switch (event.type) {
    case 'configure':
      replication.configure(othersOf(event.config), event.config.shared);
      break;
    case 'connected':
      replication.connect(event.member, event.instance, now);
      if (state.handover?.waiting.has(event.member)) replication.beginHandover(now, [event.member]);
      break;
    case 'disconnected':
      replication.disconnect(event.member);
      break;
    case 'message':
      replication.receive(event.member, event.message, now);
      break;
    case 'flows':
      replication.report(event.events, now);
      break;
    case 'drain':
      replication.beginHandover(now, connectedTo(state.membership));
      return { ...state, handover: { waiting: receivers(state.membership), until: now + event.limit } };
    case 'undrain': {
      const { handover: _, ...rest } = state;
      return rest;
    }
    case 'tick':
      replication.insertAbsent();
      break;
    case 'problem':
      return { ...state, problem: event.problem };
    default:
      break;
  }
  return state;
}

const connectedTo = ({ peers }: Membership): Set<Address> =>
  new Set([...peers].filter(([, peer]) => peer.connected).map(([member]) => member));

/** The members that are to have every own flow: those that are connected, or were and are reachable still. */
const receivers = ({ peers }: Membership): Set<Address> =>
  new Set(
    [...peers]
      .filter(([, { connected, path, state }]) => {
        return connected || (path && state !== undefined && state !== 'left');
      })
      .map(([member]) => member),
  );

/** What an event means for the membership. */
function membershipEvents(event: GroupEvent, now: number): MembershipEvent[] {
  switch (event.type) {
    case 'flows':
    case 'problem':
      return [];
    case 'message':
      return event.message.type === 'state'
        ? [{ type: 'state', member: event.member, message: event.message }]
        : [];
    case 'connected':
      return [{ type: 'connected', member: event.member, startedAt: now - event.uptime * 1000 }];
    case 'drain':
      return [{ type: 'drain' }];
    default:
      return [event];
  }
}

function stepMembers(
  state: GroupState,
  event: MembershipEvent,
  now: number,
  actions: GroupAction[],
): GroupState {
  const { state: membership, actions: wanted } = stepMembership(state.membership, event, now);
  for (const action of wanted) {
    if (action.type === 'send-state') {
      const message = stateMessage(membership);
      for (const member of connectedTo(membership)) actions.push({ type: 'send', member, message });
    } else {
      actions.push(action);
    }
  }
  return { ...state, membership };
}

/** Adopts the flows of members that are gone, if we are the elected adopter. */
function adopt(state: GroupState, now: number, actions: GroupAction[]): GroupState {
  const { membership, replication } = state;
  const owners = new Map([...membership.peers.keys()].map((member) => [slotOf(member), member]));
  for (const [member, peer] of membership.peers) {
    if (peer.goneSince === undefined) continue;
    if (peer.state === 'left' || now - peer.goneSince >= ORPHAN_AFTER) replication.orphan(slotOf(member));
  }
  const orphans = new Map<number, { since: number; adopted: number }>();
  for (let slot = 0; slot < SLICES; slot++) {
    if (replication.orphans(slot) === 0) continue;
    let { since, adopted } = state.orphans.get(slot) ?? { since: now, adopted: 0 };
    if (isAdopter(membership, slot) || now - since >= LEFTOVER_AFTER) adopted += replication.adopt(slot, now);
    if (replication.orphans(slot) > 0) orphans.set(slot, { since, adopted });
    else if (adopted > 0) actions.push({ type: 'adopted', member: owners.get(slot), slot, flows: adopted });
  }
  return { ...state, orphans };
}

/** Whether we adopt for a slice: one member does, the same for all that see the same members. */
function isAdopter({ config, state, peers }: Membership, slot: number): boolean {
  const others = [...peers].filter(([, peer]) => isCandidate(peer)).map(([member]) => member);
  const able = [...others, ...(state === 'live' ? [config.self] : [])].filter((one) => slotOf(one) !== slot);
  const rank = (member: Address) => {
    const text = Buffer.from(`${slot} ${member}`);
    return hashOf(text, 0, text.length, 0);
  };
  return able.length > 0 && able.reduce((a, b) => (rank(b) < rank(a) ? b : a)) === config.self;
}

function finishHandover(
  state: GroupState,
  done: readonly Address[],
  now: number,
  actions: GroupAction[],
): GroupState {
  if (state.handover === undefined) return state;
  const present = receivers(state.membership);
  const waiting = new Set(
    [...state.handover.waiting].filter((member) => present.has(member) && !done.includes(member)),
  );
  if (waiting.size > 0 && now < state.handover.until) {
    return { ...state, handover: { ...state.handover, waiting } };
  }
  actions.push({ type: 'handed-over', complete: waiting.size === 0 });
  const { handover: _, ...rest } = state;
  return rest;
}

/** Reports the view where it may have changed: flows alone change its counts, which each tick brings. */
function show(state: GroupState, event: GroupEvent, actions: GroupAction[], always: boolean): GroupState {
  const busy = event.type === 'flows' || (event.type === 'message' && event.message.type !== 'state');
  if (busy && !always) return state;
  const view = viewGroup(state);
  const shown = JSON.stringify(view);
  if (shown === state.shown) return state;
  actions.push({ type: 'view', view });
  return { ...state, shown };
}

export function viewGroup({ membership, replication, problem }: GroupState): GroupView {
  const view = viewMembership(membership);
  return {
    ...view,
    peers: view.peers.map((peer) => ({
      ...peer,
      replicas: replication.replicasOf(peer.member),
      inSync: replication.isInSync(peer.member),
    })),
    flows: replication.own,
    replicas: replication.replicas,
    ...(problem !== undefined && { problem }),
  };
}
