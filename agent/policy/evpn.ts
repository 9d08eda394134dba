/** What the languages of EVPN have in common: identifiers, route targets, and what has no effect. Pure. */
import { familyOf, parseAddress } from '../../lib/prefix.ts';
import type { Policy, PolicyWarning } from './model.ts';

/** The largest VXLAN network identifier (RFC 7348): 24 bits. */
export const MAX_VNI = 2 ** 24 - 1;

const ROUTE_TARGET = /^(\d{1,10}|[\d.]+):(\d{1,10})$/;

/**
 * Whether a text is a route target (RFC 4360, RFC 5668): `65000:1016`, or `172.17.0.1:1016`. With an AS number of four octets,
 * or an address, two are left for the number.
 */
export function isRouteTarget(text: string): boolean {
  const [, administrator = '', assigned = ''] = ROUTE_TARGET.exec(text) ?? [];
  if (assigned === '') return false;
  if (administrator.includes('.')) {
    const address = parseAddress(administrator);
    return address !== undefined && familyOf(address) === 4 && Number(assigned) < 2 ** 16;
  }
  return (
    Number(administrator) < 2 ** 32 &&
    Number(assigned) < (Number(administrator) < 2 ** 16 ? 2 ** 32 : 2 ** 16)
  );
}

/** What would happen without EVPN. */
export const evpnWarnings = ({ evpn, rules, ...policy }: Policy): PolicyWarning[] => {
  if (evpn === undefined) return [];
  const unused = (['eips', 'dnats', 'bandwidth', 'addressLimits', 'translationLog'] as const).filter(
    (field) => policy[field] !== undefined,
  );
  return [
    ...rules
      .filter(({ snat }) => snat)
      .map(({ name }) => ({
        message: `policy ${name} has no effect: with EVPN nothing is translated, and nothing leads back to its sources; use snat: false`,
        about: { policy: name, path: [] },
      })),
    ...unused.map((field) => ({
      message: `${field} has no effect: with EVPN nothing is translated, limited or recorded`,
      about: { path: ['spec', field] },
    })),
  ];
};
