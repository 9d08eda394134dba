/** The metrics of BGP: `veg_bgp_*`. */
import type { Registry } from 'prom-client';
import { addScraped } from '../../lib/scraped.ts';
import { isEstablished } from '../bgp/sessions.ts';
import type { BgpView } from './status.ts';

/** Registers `veg_bgp_*`. */
export function addBgpMetrics(registry: Registry, view: () => BgpView | undefined): void {
  addScraped(registry, {
    ...{ type: 'gauge', name: 'veg_bgp_announced', labels: ['prefix', 'reason'] },
    help: 'Whether a prefix of the policy is announced by BGP, by prefix and what of spec.bgp.announce it is; 0 while it is withdrawn.',
    read: () =>
      (view()?.prefixes ?? []).flatMap(({ prefix, reasons, announced }) =>
        reasons.map((reason) => ({ labels: { prefix, reason }, value: Number(announced) })),
      ),
  });
  addScraped(registry, {
    ...{ type: 'gauge', name: 'veg_bgp_session_up', labels: ['neighbour'] },
    help: 'Whether the BGP session with a neighbour is established, where FRR answers.',
    read: () =>
      (view()?.sessions ?? []).map((session) => ({
        labels: { neighbour: session.neighbour },
        value: Number(isEstablished(session)),
      })),
  });
}
