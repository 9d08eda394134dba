/** Counts the live flows for metrics and status: by kind, by policy, and the ports that they hold. Pure. */
import { PortCount, type PortUse } from '../../nat/conntrack/ports.ts';
import type { Flow } from '../../nat/conntrack/table.ts';
import type { OpenFlows } from './traffic.ts';
import type { Active } from './translations-messages.ts';

export interface LiveFlows {
  active: Active[];
  open: OpenFlows[];
  ports: PortUse[];
}

/** @param policyName the name of the policy that a flow belongs to */
export function countLiveFlows(flows: Iterable<Flow>, policyName: (flow: Flow) => string): LiveFlows {
  const active = new Map<number, Active>();
  const open = new Map<number, OpenFlows>();
  const ports = new PortCount();
  for (const flow of flows) {
    const { verdict, family, protocol, snat, dnat } = flow;
    const treatment = verdict === 'forwarded' ? 'forward' : verdict === 'translated' && snat ? 'snat' : '';
    if (treatment !== '') {
      const key = flow.policy * 2 + Number(snat);
      const known = open.get(key);
      if (known !== undefined) known.flows++;
      else open.set(key, { policy: policyName(flow), treatment, flows: 1 });
    }
    if (verdict !== 'translated') continue;
    const key = protocol * 8 + (family === 6 ? 4 : 0) + (snat ? 2 : 0) + (dnat ? 1 : 0);
    const known = active.get(key);
    if (known !== undefined) known.count++;
    else active.set(key, { family, protocol, snat, dnat, count: 1 });
    if (snat) ports.add(flow);
  }
  return { active: [...active.values()], open: [...open.values()], ports: ports.uses };
}
