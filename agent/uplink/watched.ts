/** What is known of a family's way out, and what follows for its health. Pure. */
import type { Address, Family } from '../../lib/prefix.ts';
import type { UplinkPolicy } from '../policy/model.ts';
import type { ConntrackHealth } from './conntrack-health.ts';
import { createPath, type FamilyHealth, type Path, TOGETHER, type Verdict } from './health.ts';
import type { NextHop } from './next-hop.ts';
import type { Method, Origin, Prober } from './probe.ts';
import type { ProbeTarget, WayOut } from './way-out.ts';

/** The share of the interval after which a gateway is probed again when another host claims its address. */
const HURRY = 1 / 8;

/** A probed address. */
export interface Probe extends ProbeTarget {
  path: Path;
  /** The outstanding request went to the whole link. */
  askedAll: boolean;
  /** When the last request was sent. */
  askedAt: number;
  /** Why no probe can be sent from here. */
  problem: string | undefined;
}

/** A family whose way out is watched. */
export interface Watched {
  family: Family;
  gateway: Address;
  way: WayOut;
  hop: NextHop;
  health: FamilyHealth;
  /** The gateway (unless the policy has `probe: none`) and the targets. */
  probes: Probe[];
  sockets: Map<Method, Prober>;
  /** What the sockets were opened for; for another origin they are opened again. */
  origin: Origin | undefined;
  /** What is wrong with the link or its addresses. */
  linkProblem: string | undefined;
}

export const newProbe = ({ method, address, aside }: ProbeTarget, now: number): Probe => ({
  ...{ method, address, aside },
  path: createPath(now),
  askedAll: false,
  askedAt: Number.NEGATIVE_INFINITY,
  problem: undefined,
});

/** Whether to probe now; an outstanding probe keeps its whole timeout. */
export const isDue = ({ nextAt, sentAt }: Path, { interval }: UplinkPolicy, now: number): boolean =>
  nextAt <= (sentAt === undefined ? now + interval * TOGETHER : now);

/** Whether it is the gateway's probe, or with `probe: none` that of the first target. */
export const isFirst = ({ probes }: Watched, probe: Probe): boolean =>
  probes.find(({ aside }) => !aside) === probe;

/** Makes the next request to the gateway due soon, unless one is outstanding. */
export function hurry({ gateway, probes, way }: Watched, now: number): void {
  for (const { method, address, path, askedAt } of probes) {
    if (method !== 'neighbour' || address !== gateway || path.sentAt !== undefined) continue;
    path.nextAt = Math.min(path.nextAt, Math.max(now, askedAt + way.policy.interval * HURRY));
  }
}

/** Forgets the results of all probes. */
export function resetProbes(watched: Watched, now: number): void {
  watched.probes = watched.probes.map((probe) => newProbe(probe, now));
}

/** The verdict on a family. */
export function judge(watched: Watched, conntrack: ConntrackHealth | undefined): Verdict {
  const { gateway, hop, probes, linkProblem } = watched;
  if (linkProblem !== undefined) return { obstacle: linkProblem };
  if (hop.diversion !== undefined) return { obstacle: hop.diversion };
  if (conntrack?.level === 'full') {
    return {
      obstacle: `the connection tracking table is ${conntrack.percent} % full and new connections fail`,
    };
  }
  const counted = probes.filter(({ aside }) => !aside);
  const [first, ...others] = counted;
  const gatewayProbe = first?.address === gateway ? first : undefined;
  if (gatewayProbe?.path.state === 'silent') return { obstacle: silentGateway(watched, gatewayProbe.method) };
  const targets = gatewayProbe === undefined ? counted : others;
  if (targets.length > 0 && targets.every(({ path }) => path.state === 'silent')) {
    const names = targets.map(({ address }) => address).join(', ');
    return { obstacle: `no target answers ICMP echo (${names})` };
  }
  const known = ({ path }: Probe) => path.state === 'answers' || path.state === 'blind';
  const decided =
    (gatewayProbe === undefined || known(gatewayProbe)) && (targets.length === 0 || targets.some(known));
  return decided ? { obstacle: undefined } : 'undecided';
}

function silentGateway({ family, gateway, hop }: Watched, method: Method): string {
  const request = method === 'icmp' ? 'ICMP echo' : family === 4 ? 'ARP' : 'Neighbor Discovery';
  const { pins, claimants } = hop;
  const from = pins.length === 0 || method === 'icmp' ? '' : ` from ${pins.join(' or ')}`;
  const but = claimants.length === 0 ? '' : `, but ${claimants.join(', ')} claims to be it`;
  return `the external gateway ${gateway} does not answer ${request}${from}${but}`;
}
