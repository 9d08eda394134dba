/** What the agent process says to the BFD process, its parent. The other direction is bfd/intent.ts. */
import type { ToEngine } from '../bfd/intent.ts';

export type FromAgent =
  | ToEngine
  /** The agent process works; once a second. */
  | { type: 'alive' };
