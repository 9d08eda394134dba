/**
 * Kube-OVN's `QoSPolicy` as the limit of an `IptablesEIP` that names it. Its rules have rateMax in Mbit/s and burstMax in
 * MB, and of the rules of a direction the one with the lowest priority number decides. Pure.
 */
import { LONGEST_BURST } from '../bandwidth.ts';
import type { PolicyDocument } from '../documents.ts';
import type { Bandwidth } from '../model.ts';
import { quote } from '../quote.ts';
import { each } from '../resolve.ts';

interface LimitRule {
  name?: string;
  rateMax?: string;
  burstMax?: string;
  priority?: number;
  direction?: 'ingress' | 'egress' | '';
  matchType?: string;
  matchValue?: string;
}

export type QosPolicy = PolicyDocument<{
  spec?: { bindingType?: string; bandwidthLimitRules?: LimitRule[] };
}>;

const MEGABIT = 1e6;
/** Bits of an MB, as tc reads it. */
const MEGABYTE_BITS = 8 * 2 ** 20;

/** The limit, and what of the document it leaves out. Undefined: no rule limits an EIP. */
export function qosBandwidth(policy: QosPolicy): { bandwidth: Bandwidth | undefined; omitted: string[] } {
  const omitted: string[] = [];
  const called = `QoSPolicy ${quote(policy.name)}`;
  const { bindingType, bandwidthLimitRules } = policy.value.spec ?? {};
  if (bindingType && bindingType !== 'EIP') {
    omitted.push(`${called} has the bindingType ${quote(bindingType)}, and limits no EIP`);
    return { bandwidth: undefined, omitted };
  }
  const bandwidth: Bandwidth = {};
  let burst = 0;
  const rules = each(bandwidthLimitRules, (rule) => rule).sort(
    (a, b) => (a.priority ?? 0) - (b.priority ?? 0),
  );
  for (const { name = '', direction, rateMax = '0', burstMax = '0', matchType, matchValue } of rules) {
    const rule = `rule ${quote(name)} of ${called}`;
    const rate = Math.round(Number(rateMax) * MEGABIT);
    if (matchType || matchValue) omitted.push(`${rule} limits only what it matches, and is not used`);
    else if (!direction || rate <= 0) omitted.push(`${rule} has no direction or no rateMax, and is not used`);
    else if (bandwidth[direction] !== undefined) {
      omitted.push(`${rule} is not used: another one limits ${direction} before it`);
    } else {
      bandwidth[direction] = rate;
      burst = Math.max(burst, Math.min(Number(burstMax) * MEGABYTE_BITS, rate * LONGEST_BURST));
    }
  }
  if (bandwidth.egress === undefined && bandwidth.ingress === undefined) {
    return { bandwidth: undefined, omitted };
  }
  return { bandwidth: { ...bandwidth, ...(burst > 0 && { burst: Math.round(burst) }) }, omitted };
}
