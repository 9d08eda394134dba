/** Messages between the main thread and the thread of the translation log. */
import type { FlowView, PolicyNumbers, PolicyRule } from '../../nat/conntrack/flow.ts';
import type { Lookup } from '../../nat/conntrack/lookup.ts';
import type { PortStatus } from '../../nat/conntrack/ports.ts';
import type { Identity, LogRules, RecordEvent } from '../../nat/conntrack/records.ts';
import type { SourceUse } from '../../nat/conntrack/sources.ts';
import type { Total } from '../../nat/conntrack/tracker.ts';
import type { OpenFlows } from './traffic.ts';

/** What the thread is started with, and keeps in memory: the settings are its first message. */
export interface WorkerOptions {
  /** The directory of store and checkpoint. */
  directory: string;
}

/** What changes with the policy. */
export interface WorkerSettings {
  log: LogRules;
  rules: PolicyRule[];
  identity: Identity;
  /** What the marks of connections have stood for; absent: the kernel does not count. */
  marked?: PolicyNumbers;
}

export type ToWorker =
  | { type: 'settings'; settings: WorkerSettings }
  | { type: 'find'; id: number; lookup: Lookup }
  | { type: 'sources'; id: number }
  /** That many records were written, or lost. */
  | { type: 'written'; records: number }
  | { type: 'stop' };

export type LogLevel = 'info' | 'warn' | 'error';

export type FromWorker =
  | { type: 'records'; lines: string[] }
  | { type: 'snapshot'; snapshot: Snapshot }
  | { type: 'answer'; id: number; answer: Found | Sources }
  | { type: 'log'; level: LogLevel; message: string; fields: object };

/** The answer to a lookup: flows, the newest first, and when events were lost in the time of the lookup. */
export interface Found {
  flows: FlowView[];
  /** There may be more than the limit. */
  more: boolean;
  gaps: { from: number; to: number; lost: number }[];
  /** Since when ended flows are stored, Unix ms; undefined while they are not. */
  since: number | undefined;
}

/** The inside addresses with most of the live flows, and how many addresses there are. */
export interface Sources {
  sources: SourceUse[];
  total: number;
}

/** Live translated flows of one kind. */
export interface Active extends Pick<Total, 'family' | 'protocol' | 'snat' | 'dnat'> {
  count: number;
}

/** What the metrics show. */
export interface Snapshot {
  /** When the reading of the kernel's table began, ms since the machine started. */
  began: number;
  totals: Total[];
  active: Active[];
  open: OpenFlows[];
  ports: PortStatus[];
  /** Flows in the thread's table, its capacity, and flows for which there was no room. */
  flows: { known: number; capacity: number; untracked: number };
  events: { new: number; destroy: number };
  /** Whether the kernel counts packets (nf_conntrack_acct). */
  accounting: boolean;
  records: Record<RecordEvent, number>;
  /** Lost records by reason. */
  lost: Record<string, number>;
}
