/**
 * What a client behind real OVN loses when a gateway goes: one of three gateways has the agent, one FRR's bfdd on the
 * same kernel state, and the third takes the traffic. The two take turns.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type AgentPod, stopForwarding } from '../../support/agent-pod.ts';
import { type Failover, failover, RATE } from '../../support/failover.ts';
import { Ovn, startFrrGateway } from '../../support/ovn.ts';
import type { BfdPeer } from '../../support/peers.ts';
import type { Timers } from '../bfd-daemons.ts';
import { inScope, type Part } from '../context.ts';
import type { Cell } from '../report.ts';
import { median } from '../stats.ts';

/** After so long without a change OVN acts at once on what it hears of a session; sooner, up to 5 s later, ms. */
const REST = 12_000;
const AGENT = 'veg-agent';
const FRR = 'FRR bfdd';

interface Case {
  event: string;
  daemon: typeof AGENT | typeof FRR;
  act(): unknown;
  seen: Failover[];
  failures: string[];
}

/** A gateway without an agent that runs: programmed by `apply`, with FRR's bfdd. */
class FrrPod {
  readonly pod: AgentPod;
  frr: BfdPeer | undefined;

  constructor(pod: AgentPod) {
    this.pod = pod;
  }

  kill(signal: NodeJS.Signals): Promise<unknown> {
    return this.frr!.daemon.stop(signal);
  }
}

export const failoverPart =
  (timers: Timers): Part =>
  (context) =>
    inScope(async (scope) => {
      const { interval, multiplier } = timers;
      const window = interval * multiplier + context.pick(3500, 2500);
      context.say('starting OVN');
      const ovn = await Ovn.start(scope, {
        wake: true,
        gateways: 3,
        minTX: interval,
        minRX: interval,
        multiplier,
      });
      const [own, other, third] = ovn.gateways.map((gateway) => ovn.agentPod(gateway)) as [
        AgentPod,
        AgentPod,
        AgentPod,
      ];
      const frr = new FrrPod(other);
      own.start();
      third.start();
      /** Makes everything as it was before. */
      const restore = async () => {
        for (const { pod } of [own, other]) ovn.restoreUplink(pod);
        if (own.agent.daemon.exitCode !== undefined) own.start();
        if (frr.frr === undefined || frr.frr.daemon.exitCode !== undefined) {
          other.apply();
          frr.frr = await startFrrGateway(scope, ovn, other.pod);
        }
        await ovn.reaches('up', ovn.gateways);
      };
      const events: Record<string, Record<Case['daemon'], () => unknown>> = {
        'stopped, then removed': {
          [AGENT]: () => own.agent.stop().then(() => stopForwarding(own.pod)),
          [FRR]: () => frr.kill('SIGTERM').then(() => stopForwarding(other.pod)),
        },
        'pod dead': {
          [AGENT]: () => own.die(),
          [FRR]: () => {
            stopForwarding(other.pod);
            return frr.kill('SIGKILL');
          },
        },
        'uplink silent': {
          [AGENT]: () => ovn.cutUplink(own.pod, 'silent'),
          [FRR]: () => ovn.cutUplink(other.pod, 'silent'),
        },
        'uplink’s cable pulled': {
          [AGENT]: () => ovn.cutUplink(own.pod, 'cable'),
          [FRR]: () => ovn.cutUplink(other.pod, 'cable'),
        },
      };
      const cases = Object.entries(events).flatMap(([event, acts]) =>
        ([AGENT, FRR] as const).map(
          (daemon): Case => ({ event, daemon, act: acts[daemon], seen: [], failures: [] }),
        ),
      );
      await context.rounds(context.pick(5 * cases.length, 2), 3000, async (round) => {
        const each = cases[round % cases.length]!;
        context.say(`${each.event}, ${each.daemon}`);
        try {
          await restore();
          await sleep(REST);
          const pod = each.daemon === AGENT ? own.pod : other.pod;
          each.seen.push(await failover(ovn, pod, each.act, { afterMs: window }));
        } catch (error) {
          each.failures.push((error as Error).message);
          context.say(`failed: ${(error as Error).message}`);
        }
      });
      return findings(cases, window);
    });

function findings(cases: Case[], window: number) {
  const shown = cases.filter(({ seen, failures }) => seen.length + failures.length > 0);
  const middle = (values: (number | undefined)[]): Cell => {
    const known = values.filter((value) => value !== undefined);
    if (known.length === 0) return 'never';
    return known.length < values.length
      ? `${Math.round(median(known))}, or never`
      : Math.round(median(known));
  };
  const of = (seen: Failover[], pick: (f: Failover) => number | undefined): Cell =>
    seen.length === 0 ? undefined : middle(seen.map(pick));
  const failures = shown.flatMap((one) => one.failures.map((text) => `${one.event}, ${one.daemon}: ${text}`));
  const events = [...new Set(shown.map(({ event }) => event))];
  return {
    tables: [
      {
        title: `A client behind OVN, ${RATE} packets a second through the gateway: medians`,
        columns: [
          'event',
          'gateway with',
          'times',
          'packets lost',
          'longest gap, ms',
          'moved to another gateway after, ms',
          'last Up sent, ms',
          'OVN’s row left up after, ms',
          'lost through others',
          'sender’s own stall, ms',
        ],
        rows: shown.map(({ event, daemon, seen }) => [
          ...[
            event,
            daemon,
            seen.length,
            of(seen, (f) => f.lost),
            of(seen, (f) => f.longestGapMs),
            of(seen, (f) => f.movedMs),
          ],
          ...[
            of(seen, (f) => f.lastUpMs),
            of(seen, (f) => f.statusMs),
            of(seen, (f) => f.othersLost),
            of(seen, (f) => f.senderStallMs),
          ],
        ]),
        note: `Counted for ${(window / 1000).toFixed(1)} s after the event; what never moved goes on losing. The bfdd pod has the agent's kernel state, put there once.${failures.length > 0 ? ` Not everything could be measured: ${failures.join('; ')}.` : ''}`,
      },
    ],
    panels: [
      {
        kind: 'bars' as const,
        title: 'Packets lost at 1000 a second (median)',
        y: { label: 'packets' },
        categories: events,
        series: [AGENT, FRR].map((daemon) => ({
          name: daemon,
          values: events.map((event) => {
            const seen = shown.find((one) => one.event === event && one.daemon === daemon)?.seen ?? [];
            return seen.length === 0 ? undefined : median(seen.map(({ lost }) => lost));
          }),
        })),
      },
    ],
    samples: shown.map(({ event, daemon, seen, failures: failed }) => ({
      event,
      daemon,
      seen,
      failures: failed,
    })),
  };
}

export const part = failoverPart({ interval: 100, multiplier: 5 });
