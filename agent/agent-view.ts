/** What `status`, the page and the metrics show: filled by the gateway, and read from the other parts when asked for. */
import type { EngineReport, SessionReport } from '../bfd/intent.ts';
import { type Moment, wallTime } from '../lib/moment.ts';
import { VERSION } from '../lib/version.ts';
import type { BusiestSources } from './flows/busiest-sources.ts';
import type { ConntrackUse } from './flows/conntrack-table.ts';
import type { Translations } from './flows/translations.ts';
import type { Group } from './group/group.ts';
import type { Options } from './options.ts';
import type { BandwidthUse } from './show/bandwidth.ts';
import { reportNow, type SessionHistory } from './show/history.ts';
import type { AgentView, BgpView } from './show/status.ts';
import type { Uplink } from './uplink/uplink.ts';

/** The parts that the view reads; functions, because some are made after the view. */
export interface ViewSources {
  now(): Moment;
  /** The last report of the BFD process, and when it came; undefined before the first. */
  lastReport(): { report: EngineReport; at: Moment } | undefined;
  history: SessionHistory;
  uplink(): Pick<Uplink, 'view'>;
  translations: Pick<Translations, 'enabled' | 'traffic' | 'ports'>;
  group(): Pick<Group, 'views'>;
  bgp(): BgpView | undefined;
  bandwidth: Pick<BandwidthUse, 'rows'>;
  conntrackUse(): ConntrackUse | undefined;
  busiest(): Pick<BusiestSources, 'sources'>;
  /** Why metrics and probes are not served, for each address where that is so. */
  unserved(): readonly string[];
  /** Why the gateway is not watched; undefined while it is. */
  unwatched(): string | undefined;
}

/** The names of the pod and its node, from the environment. */
export function podNames({ NODE_NAME, POD_NAMESPACE, POD_NAME }: NodeJS.ProcessEnv): {
  node?: string;
  pod?: string;
} {
  return {
    ...(NODE_NAME && { node: NODE_NAME }),
    ...(POD_NAME && { pod: [POD_NAMESPACE, POD_NAME].filter(Boolean).join('/') }),
  };
}

export function createView(options: Pick<Options, 'policyDir'>, sources: ViewSources): AgentView {
  const startedAt = sources.now();
  return {
    version: VERSION,
    ...podNames(process.env),
    get startedAt() {
      return wallTime(startedAt, sources.now());
    },
    policy: { source: options.policyDir, valid: false, generation: 0, errors: [], warnings: [] },
    kernel: { inSync: false, families: [], notes: [], failed: [], driftRepaired: {} },
    bfdEnabled: false,
    draining: false,
    get unwatched() {
      return sources.unwatched();
    },
    get uplink() {
      return sources.uplink().view();
    },
    get bfd() {
      const last = sources.lastReport();
      return last && reportNow(last.report, last.at, sources.now());
    },
    historyOf: (session: SessionReport) => sources.history.of(session),
    get translationLog() {
      return sources.translations.enabled;
    },
    get traffic() {
      return sources.translations.traffic;
    },
    get ports() {
      return sources.translations.ports;
    },
    get unserved() {
      return sources.unserved();
    },
    get group() {
      return sources.group().views;
    },
    get bgp() {
      return sources.bgp();
    },
    get bandwidth() {
      return sources.bandwidth.rows;
    },
    get conntrack() {
      const use = sources.conntrackUse();
      return use && { ...use, busiest: sources.busiest().sources };
    },
  };
}
