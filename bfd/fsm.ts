/**
 * The session state machine as a table (RFC 5880 6.2 and 6.8.6). Every cell is the next state with its diagnostic;
 * in an empty cell the event has no effect. Pure.
 *
 *     event                AdminDown     Down         Init         Up
 *     received AdminDown   -             -            Down (3)     Down (3)
 *     received Down        -             Init         -            Down (3)
 *     received Init        -             Up           Up           -
 *     received Up          -             -            Up           -
 *     timeout              -             -            Down (1)     Down (1)
 *     disable              -             AdminDown    AdminDown    AdminDown
 *     force down           Down          -            Down         Down
 *     enable               Down          -            -            -
 *
 * `disable` and `force down` carry a diagnostic of their own.
 */
import { DIAG } from './constants.ts';
import type { SessionStateName } from './intent.ts';

export type FsmEvent =
  | 'received AdminDown'
  | 'received Down'
  | 'received Init'
  | 'received Up'
  | 'timeout'
  | 'disable'
  | 'force down'
  | 'enable';

export interface Transition {
  state: SessionStateName;
  diagnostic: number;
}

const to = (state: SessionStateName, diagnostic: number = DIAG.none): Transition => ({ state, diagnostic });

const TABLE: Record<SessionStateName, Partial<Record<FsmEvent, Transition>>> = {
  AdminDown: {
    'force down': to('Down', DIAG.pathDown),
    enable: to('Down'),
  },
  Down: {
    'received Down': to('Init'),
    'received Init': to('Up'),
    disable: to('AdminDown', DIAG.administrativelyDown),
  },
  Init: {
    'received AdminDown': to('Down', DIAG.neighborSignaledDown),
    'received Init': to('Up'),
    'received Up': to('Up'),
    timeout: to('Down', DIAG.detectionTimeExpired),
    disable: to('AdminDown', DIAG.administrativelyDown),
    'force down': to('Down', DIAG.pathDown),
  },
  Up: {
    'received AdminDown': to('Down', DIAG.neighborSignaledDown),
    'received Down': to('Down', DIAG.neighborSignaledDown),
    timeout: to('Down', DIAG.detectionTimeExpired),
    disable: to('AdminDown', DIAG.administrativelyDown),
    'force down': to('Down', DIAG.pathDown),
  },
};

/** The transition that an event causes in a state, or undefined when it causes none. */
export function transition(state: SessionStateName, event: FsmEvent): Transition | undefined {
  return TABLE[state][event];
}

const RECEIVED: Record<SessionStateName, FsmEvent> = {
  AdminDown: 'received AdminDown',
  Down: 'received Down',
  Init: 'received Init',
  Up: 'received Up',
};

/** The event of a received packet, by its Sta value. */
export const receivedEvent = (state: SessionStateName): FsmEvent => RECEIVED[state];
