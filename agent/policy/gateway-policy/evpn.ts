/** `spec.evpn`. Pure. */
import type { EvpnPolicy } from '../model.ts';
import { type EvpnSpec, each, toEvpn } from '../resolve.ts';
import type { GatewayPolicy } from './resource.ts';

/** What translates, limits or records; and for one policy. */
const UNUSED = [
  'eips',
  'dnats',
  'inbound',
  'limits',
  'mssClamp',
  'fastPath',
  'bandwidth',
  'group',
  'translationLog',
] as const;
const UNUSED_OF_POLICY = ['destinationCIDRs', 'excludedCIDRs', 'priority', 'bandwidth'] as const;

/** Translates `spec.evpn`. Its errors, and those of what it rules out, are reported through the document. */
export function translateEvpn(document: GatewayPolicy, spec: EvpnSpec): EvpnPolicy {
  const { bgp, defaultAction = 'forward', policies, ...others } = document.value.spec ?? {};
  if (document.sound && bgp === undefined) {
    document.fail(['spec', 'evpn'], 'needs spec.bgp: the neighbours that routes are exchanged with', 'key');
  }
  if (defaultAction !== 'forward') {
    document.fail(['spec', 'defaultAction'], 'must be forward, or left out: spec.evpn forwards all packets');
  }
  for (const field of UNUSED) {
    if (others[field] === undefined) continue;
    document.fail(
      ['spec', field],
      'has no effect with spec.evpn, which forwards all packets unchanged; leave it out',
      'key',
    );
  }
  each(policies, (policy, i) => {
    const path = ['spec', 'policies', i];
    if (policy.snat !== false) {
      const at = policy.snat === undefined ? path : [...path, 'snat'];
      document.fail(at, 'must have snat: false: spec.evpn translates nothing');
    }
    for (const field of UNUSED_OF_POLICY) {
      if (policy[field] === undefined) continue;
      const why =
        'has no effect with spec.evpn, where all packets follow the routes of the VRF; leave it out';
      document.fail([...path, field], why, 'key');
    }
  });
  return toEvpn(spec);
}
