/** What the agent and the exchange's thread send each other (thread.ts, group-worker.ts): plain values only. Pure. */
import type { Address, Family } from '../../lib/prefix.ts';
import type { ExchangeCounts } from './counts.ts';
import type { CredentialFiles } from './credentials.ts';
import type { LookupAnswer, MemberAnswer } from './lookups.ts';
import type { GroupConfig, GroupReport } from './model.ts';

/** What follows from the policy and the pod. */
export interface GroupSettings {
  /** One for each family that has a group. */
  configs: readonly GroupConfig[];
  port: number;
  /** The internal interface. */
  interface?: string;
  credentials: CredentialFiles;
  /** Families in which the process before this one was live until shortly before; its entries are in the kernel. */
  resumes?: readonly Family[];
}

export type ToGroup =
  | { type: 'settings'; settings: GroupSettings }
  | { type: 'path'; member: Address; up: boolean }
  /** Hand over within this many ms. */
  | { type: 'drain'; limit: number }
  | { type: 'undrain' }
  /** Ask the other members. */
  | { type: 'lookup'; id: number; query: string; families: readonly Family[]; timeout: number }
  /** What this gateway answers to a member. */
  | { type: 'answer'; id: number; answer: LookupAnswer }
  | { type: 'stop' };

export type FromGroup =
  | { type: 'report'; report: GroupReport }
  /** The file descriptors that are to be closed if the thread ends by itself. */
  | { type: 'descriptors'; descriptors: number[] }
  /** Once a second. */
  | { type: 'counts'; family: Family; counts: ExchangeCounts }
  | { type: 'found'; id: number; answers: MemberAnswer[] }
  /** A member asks this gateway. */
  | { type: 'question'; id: number; query: string }
  | { type: 'note'; level: 'error' | 'warn' | 'info' | 'debug'; message: string; fields: object };
