/**
 * Bandwidth limits of policies, EIPs and the whole gateway, checked, and as bits per second. Pure.
 *
 * A number is Mbit/s, as in a VpcEgressGateway; a text may have a unit of bit/s.
 */
import { quantityOf } from './formats.ts';
import type { Bandwidth, Policy, PolicyWarning } from './model.ts';
import type { Path } from './parse.ts';

/** What reports an error at a field. */
interface Failing {
  fail(path: Path, message: string, at?: 'key' | 'value'): void;
  sound: boolean;
}

export interface BandwidthSpec {
  egress?: number | string;
  ingress?: number | string;
  burst?: number | string;
  perSource?: boolean;
}

/** Bits per second. A full packet takes 0.2 s at the least, and no interface of a pod is faster than the most. */
const LEAST_RATE = 64_000;
const MOST_RATE = 1e12;
/** Bits of a packet of an Ethernet: a smaller burst would hold each back. */
const LEAST_BURST = 1500 * 8;
/** A burst may be what passes in this time, s. */
export const LONGEST_BURST = 10;
/** Limits of a gateway: they have numbers (shaping/desired.ts), and each source one of a ring. */
const MOST_PER_SOURCE = 8;
const MOST_LIMITS = 4096;

const MEGA = 1e6;

/** Bits of a value that has the format. */
export function bitsOf(value: number | string): number {
  const isPlain = typeof value === 'number' || /^\d+(\.\d+)?$/.test(value);
  return Math.round(isPlain ? Number(value) * MEGA : quantityOf(value));
}

/** The limit that a document has at `path`. Its errors are reported; undefined: none, or a wrong one. */
export function translateBandwidth(
  document: Failing,
  path: Path,
  spec: BandwidthSpec | undefined,
): Bandwidth | undefined {
  if (spec === undefined) return undefined;
  const { egress, ingress, burst, perSource } = spec;
  if (document.sound && egress === undefined && ingress === undefined) {
    document.fail(path, 'needs egress, ingress or both', 'key');
    return undefined;
  }
  const rate = (field: 'egress' | 'ingress', value: number | string | undefined) => {
    if (value === undefined) return {};
    const problem = rateProblem(value);
    if (problem !== undefined) document.fail([...path, field], problem);
    return { [field]: bitsOf(value) };
  };
  const bandwidth: Bandwidth = {
    ...rate('egress', egress),
    ...rate('ingress', ingress),
    ...(burst !== undefined && { burst: bitsOf(burst) }),
    ...(perSource && { perSource }),
  };
  const problem = burstProblem(bandwidth);
  if (problem !== undefined) document.fail([...path, 'burst'], problem);
  return bandwidth;
}

function rateProblem(value: number | string): string | undefined {
  const bits = bitsOf(value);
  if (bits === 0) return 'must be more than 0; leave the field out for no limit';
  if (bits >= LEAST_RATE && bits <= MOST_RATE) return undefined;
  return `must be between 64k and 1T bit/s, is ${value}${typeof value === 'number' ? ' (a number is Mbit/s)' : ''}`;
}

function burstProblem({ egress, ingress, burst }: Bandwidth): string | undefined {
  if (burst === undefined) return undefined;
  if (burst < LEAST_BURST) {
    return `must be at least 12k (a number is Mbit): a packet of 1500 octets has 12 000 bits, this is ${burst}`;
  }
  const rate = Math.min(egress ?? Number.POSITIVE_INFINITY, ingress ?? Number.POSITIVE_INFINITY);
  if (burst <= rate * LONGEST_BURST) return undefined;
  return `must be at most what passes in ${LONGEST_BURST} s, ${rate * LONGEST_BURST} bits, is ${burst}`;
}

interface NamedLimit {
  /** What messages call it. */
  what: string;
  /** The name of the policy that has it. */
  policy?: string;
  bandwidth: Bandwidth;
}

/** Every limit of a policy. */
const limitsOf = ({ rules, addressLimits = [] }: Policy): NamedLimit[] => [
  ...rules.flatMap(({ name, bandwidth }) =>
    bandwidth ? [{ what: `policy ${name}`, policy: name, bandwidth }] : [],
  ),
  ...addressLimits.map(({ name, bandwidth }) => ({ what: name, bandwidth })),
];

/** Reports limits that are too many for the numbers of classes. */
export function checkLimits(document: Failing, policy: Policy): void {
  const limits = limitsOf(policy);
  if (limits.length > MOST_LIMITS) {
    document.fail(['spec'], `${limits.length} bandwidth limits; at most ${MOST_LIMITS} are possible`, 'key');
  }
  const bySource = limits.filter(({ bandwidth }) => bandwidth.perSource).length;
  if (bySource + Number(policy.bandwidth?.perSource ?? false) > MOST_PER_SOURCE) {
    const message = `more than ${MOST_PER_SOURCE} bandwidth limits with perSource; let policies share one`;
    document.fail(['spec'], message, 'key');
  }
}

/** Warns about limits that limit nothing. */
export function bandwidthWarnings(given: Policy): PolicyWarning[] {
  const whole = given.bandwidth?.perSource ? undefined : given.bandwidth;
  return limitsOf(given).flatMap(({ what, policy, bandwidth }) =>
    (['egress', 'ingress'] as const).flatMap((direction) => {
      const [most, own] = [whole?.[direction], bandwidth[direction]];
      if (most === undefined || own === undefined || own <= most) return [];
      return [
        {
          message: `${what}: bandwidth.${direction} is above that of the whole gateway, which limits it`,
          ...(policy !== undefined && { about: { policy, path: ['bandwidth', direction] } }),
        },
      ];
    }),
  );
}
