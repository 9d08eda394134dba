/** What a member of a group says of itself and costs, before and after a load. */
import type { Agent } from '../support/agent.ts';
import { until } from '../support/netns.ts';
import { ownCpu, threadCpu, tree } from './processes.ts';
import { sum } from './stats.ts';

export interface Cumulative {
  /** Upper bounds, s, and how many were at most that; the last is of all. */
  bounds: number[];
  counts: number[];
  sum: number;
}

export interface Reading {
  /** Processor time, s: the thread of the exchange, the agent process, and the BFD process. */
  thread: number;
  agent: number;
  bfd: number;
  /** Flows sent to and received from other members. */
  sent: number;
  received: number;
  rejected: Record<string, number>;
  lag: Cumulative;
  late: Cumulative;
  /** Changes of BFD sessions. */
  transitions: number;
}

const LINE = /^(\w+)(?:\{([^}]*)\})? (\S+)$/;

/** All series of the agent's metrics. Throws when it does not answer. */
export function read(agent: Agent): Reading {
  const { status, body } = agent.http('/metrics');
  if (status !== 200) throw new Error(`no metrics: ${status}`);
  const series = body.split('\n').flatMap((line) => {
    const [, name = '', labels = '', value = ''] = LINE.exec(line) ?? [];
    return name === '' ? [] : [{ name, labels, value: Number(value) }];
  });
  const all = (name: string, label = '') =>
    series.filter((one) => one.name === name && one.labels.includes(label));
  const total = (name: string, label?: string) => sum(all(name, label).map(({ value }) => value));
  const histogram = (name: string): Cumulative => {
    const buckets = all(`${name}_bucket`).filter(({ labels }) => !labels.includes('+Inf'));
    return {
      bounds: buckets.map(({ labels }) => Number(/le="([^"]+)"/.exec(labels)![1])),
      counts: [...buckets.map(({ value }) => value), total(`${name}_count`)],
      sum: total(`${name}_sum`),
    };
  };
  const reason = (labels: string) => /reason="([^"]+)"/.exec(labels)![1]!;
  const [bfd, ...agents] = tree(agent.daemon.pid) as [number, ...number[]];
  return {
    thread: sum(agents.map((pid) => threadCpu(pid, 'group'))),
    agent: sum(agents.map(ownCpu)),
    bfd: ownCpu(bfd),
    sent: total('veg_group_updates_total', 'direction="out"'),
    received: total('veg_group_updates_total', 'direction="in"'),
    rejected: Object.fromEntries(
      all('veg_group_rejected_total').map(({ labels, value }) => [reason(labels), value]),
    ),
    lag: histogram('veg_group_replication_lag_seconds'),
    late: histogram('veg_bfd_transmit_lateness_seconds'),
    transitions: total('veg_bfd_session_transitions_total'),
  };
}

const minus = (a: Cumulative, b: Cumulative): Cumulative => ({
  bounds: a.bounds,
  counts: a.counts.map((count, i) => count - (b.counts[i] ?? 0)),
  sum: a.sum - b.sum,
});

/** What happened between two readings. */
export const since = (now: Reading, then: Reading): Reading => ({
  thread: now.thread - then.thread,
  agent: now.agent - then.agent,
  bfd: now.bfd - then.bfd,
  sent: now.sent - then.sent,
  received: now.received - then.received,
  rejected: Object.fromEntries(
    Object.entries(now.rejected)
      .map(([reason, count]) => [reason, count - (then.rejected[reason] ?? 0)] as const)
      .filter(([, count]) => count > 0),
  ),
  lag: minus(now.lag, then.lag),
  late: minus(now.late, then.late),
  transitions: now.transitions - then.transitions,
});

/** The least bound, s, that this share of the values was at most; infinite beyond the last. */
export function atMost({ bounds, counts }: Cumulative, share: number): number {
  const wanted = (counts.at(-1) ?? 0) * share;
  return bounds.find((_, i) => counts[i]! >= wanted) ?? Number.POSITIVE_INFINITY;
}

/** Waits until every member has exactly the flows of every other, and says so. Returns how long it took, ms. */
export async function agreed(agents: readonly Agent[]): Promise<number> {
  const began = performance.now();
  await until(
    async () => {
      const groups = (await Promise.all(agents.map((agent) => agent.status()))).map(({ group }) => group[0]!);
      return groups.every(({ members }) =>
        members.every(
          ({ member, inSync, replicas }) =>
            inSync && replicas === groups.find(({ self }) => self === member)?.flows,
        ),
      );
    },
    { what: 'every member has the flows of the others', everyMs: 200 },
  );
  return performance.now() - began;
}
