import type { BgpView } from '../../../agent/show/status.ts';
import { address, prefix } from '../../../lib/prefix.ts';

/** Two prefixes, one of them withdrawn, and a session of each family, one of them not established. */
export const bgpView = (more: Partial<BgpView> = {}): BgpView => ({
  required: false,
  prefixes: [
    { family: 4, prefix: prefix('198.51.100.50/32'), reasons: ['egressIPs', 'eips'], announced: true },
    { family: 6, prefix: prefix('fd00:10:18::/64'), reasons: ['forwarded'], announced: false },
  ],
  sessions: [
    {
      ...{ neighbour: address('172.17.0.1'), asn: 65_000, state: 'Established' },
      ...{ seconds: 61, sent: 1, accepted: 0 },
    },
    {
      ...{ neighbour: address('fd00:172:17::1'), asn: 65_000, state: 'Active' },
      ...{ seconds: 3, sent: 0, accepted: 0 },
    },
  ],
  ...more,
});
