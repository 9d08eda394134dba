/** failover.ts with the timers that Kube-OVN has by default. */
import { failoverPart } from './failover.ts';

export const part = failoverPart({ interval: 1000, multiplier: 3 });
