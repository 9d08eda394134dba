/** The bandwidth limits of a policy for the pod's two interfaces. Pure. */
import type { Family } from '../../lib/prefix.ts';
import { DEFAULT_POLICY } from '../../nat/conntrack/names.ts';
import { OWN_POLICY } from '../../nat/counters/table.ts';
import { POLICY_NUMBER_MASK, policyNumbers } from '../../nat/policy-marks.ts';
import type { Limit, ShapedDevice, ShapingIntent } from '../../shaping/state.ts';
import type { Facts } from '../pod/interfaces.ts';
import type { Bandwidth, Policy } from '../policy/model.ts';
import type { Interfaces } from './served-family.ts';

/** The label `policy` of the limit of the whole gateway: no policy can have this name. */
export const WHOLE_GATEWAY = '(gateway)';

export const NO_SHAPING: ShapingIntent = {
  ...{ devices: [], families: [], limits: [], markMask: POLICY_NUMBER_MASK },
};

/** The limits, and why they cannot be applied. `families`: those that the gateway serves. */
export function shapingOf(
  policy: Policy,
  { links }: Pick<Facts, 'links'>,
  { internal, external }: Interfaces,
  families: Family[],
): { shaping: ShapingIntent; notes: string[] } {
  const limits = limitsOf(policy);
  if (limits.length === 0) return { shaping: NO_SHAPING, notes: [] };
  if (internal === external) {
    const notes = [
      `bandwidth is not limited: ${internal} is both sides of the gateway, and a limit needs one interface for each`,
    ];
    return { shaping: NO_SHAPING, notes };
  }
  const device = (direction: ShapedDevice['direction'], name: string, from: string): ShapedDevice[] => {
    const link = links.find((one) => one.name === name);
    return link === undefined ? [] : [{ direction, name, from, mtu: link.mtu }];
  };
  const devices = [...device('egress', external, internal), ...device('ingress', internal, external)];
  return { shaping: { ...NO_SHAPING, devices, families, limits }, notes: [] };
}

const numbersOf = ({ rules }: Policy): Map<string, number> =>
  policyNumbers([OWN_POLICY, DEFAULT_POLICY, ...rules.map(({ name }) => name)]);

/** The numbers of the policies with a limit. */
export function limitedPolicies(policy: Policy): number[] {
  const numbers = numbersOf(policy);
  return policy.rules.flatMap(({ name, bandwidth }) => (bandwidth ? [numbers.get(name)!] : []));
}

function limitsOf(policy: Policy): Limit[] {
  const { rules, addressLimits = [], bandwidth } = policy;
  const numbers = numbersOf(policy);
  return [
    ...rules.flatMap((rule) =>
      rule.bandwidth ? [limitOf(rule.name, rule.bandwidth, { mark: numbers.get(rule.name)! })] : [],
    ),
    ...addressLimits.map((one) => limitOf(one.name, one.bandwidth, { addresses: one.addresses })),
    ...(bandwidth ? [limitOf(WHOLE_GATEWAY, bandwidth, 'rest')] : []),
  ];
}

const limitOf = (
  name: string,
  { egress, ingress, burst, perSource = false }: Bandwidth,
  applies: Limit['applies'],
): Limit => ({
  ...{ name, perSource, applies },
  rate: { ...(egress !== undefined && { egress }), ...(ingress !== undefined && { ingress }) },
  ...(burst !== undefined && { burst }),
});
