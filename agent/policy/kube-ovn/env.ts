/** The environment variables that Kube-OVN gives to the containers of a gateway pod, as the policy model. Pure. */
import { type Address, type Family, familyOf, type Prefix } from '../../../lib/prefix.ts';
import { MAX_VNI } from '../evpn.ts';
import { FORMATS } from '../formats.ts';
import type { Policy, PolicyError, PolicyResult } from '../model.ts';
import { describe } from '../quote.ts';
import {
  addresses,
  familyName,
  KUBE_OVN_BFD,
  policyWarnings,
  prefixes,
  programmedFamilies,
} from '../resolve.ts';

type Environment = Readonly<Record<string, string | undefined>>;

const GATEWAY_VARIABLES = ['INTERNAL_GATEWAY_IPV4', 'INTERNAL_GATEWAY_IPV6'];
/** All variables of the policy. */
const POLICY_VARIABLES =
  /^(?:(?:INTERNAL|EXTERNAL)_GATEWAY_IPV[46]|NO_SNAT_SOURCES_IPV[46]|BFD_[A-Z_]+|ENABLE_BGP|ENABLE_EVPN|VNI)$/;

/** What ENABLE_BGP means for a gateway. */
const BGP_MODE =
  "BGP mode (ENABLE_BGP): nothing is translated, not even for policies with snat: true, as in Kube-OVN's own image; FRR routes, the agent turns forwarding on and answers BFD; to translate as well, use a policy with spec.bgp (veg-agent render kubernetes)";

const EVPN_MODE =
  "EVPN mode (ENABLE_EVPN): nothing is translated, not even for policies with snat: true, as in Kube-OVN's own image; what comes from the VPC follows the routes that FRR learns, through the VXLAN tunnel";

/** Those of the variables that the policy is made from. */
export const policyVariables = (env: Environment): Record<string, string> =>
  Object.fromEntries(
    Object.entries(env).flatMap(([name, value]) =>
      POLICY_VARIABLES.test(name) && value !== undefined ? [[name, value]] : [],
    ),
  );

/**
 * Reads the policy from the environment; undefined when no internal gateway is set there. What it does not
 * forward (NO_SNAT_SOURCES) is masqueraded, but nothing with ENABLE_BGP; with ENABLE_EVPN it is what the tunnel is for.
 * Errors carry the file `environment` and the variable's name.
 */
export function policyFromEnv(env: Environment): PolicyResult | undefined {
  if (!GATEWAY_VARIABLES.some((name) => env[name])) return undefined;
  const errors: PolicyError[] = [];
  const reader = new EnvironmentReader(env, errors);
  const gateways = (side: string): Address[] => [
    ...addresses(reader.one(`${side}_GATEWAY_IPV4`, 4)),
    ...addresses(reader.one(`${side}_GATEWAY_IPV6`, 6)),
  ];
  const internal = { gateways: gateways('INTERNAL') };
  const external = { gateways: gateways('EXTERNAL') };
  const blocks: Prefix[] = [
    ...prefixes(reader.list('NO_SNAT_SOURCES_IPV4', 'prefix', 4)),
    ...prefixes(reader.list('NO_SNAT_SOURCES_IPV6', 'prefix', 6)),
  ];
  const peers = addresses(reader.list('BFD_PEER_IPS', 'host-address'));
  const forwardOnly = env.ENABLE_BGP === 'true';
  const evpn = env.ENABLE_EVPN === 'true';
  const vni = evpn ? reader.number('VNI', 1, MAX_VNI, 0) : 0;
  if (evpn && !env.VNI?.trim()) reader.fail('VNI', 'is required with ENABLE_EVPN');
  if (evpn && !forwardOnly) reader.fail('ENABLE_EVPN', 'needs ENABLE_BGP=true, as with Kube-OVN');
  const policy: Policy = {
    name: 'environment',
    origin: { file: 'environment', kind: 'Environment', name: 'environment' },
    internal,
    external,
    bfd: {
      enabled: peers.length > 0,
      peers,
      minTX: reader.number('BFD_MIN_TX', 1, 3_600_000, 1000),
      minRX: reader.number('BFD_MIN_RX', 1, 3_600_000, 1000),
      multiplier: reader.number('BFD_MULTI', 1, 255, 3),
      ...KUBE_OVN_BFD,
    },
    rules: blocks.length === 0 ? [] : [{ name: 'no-snat-sources', snat: false, ipBlocks: blocks }],
    ...(forwardOnly && { forwardOnly, defaultAction: 'forward' }),
    ...(evpn && { evpn: { vni, routeTargets: [] } }),
    warnings: forwardOnly ? [{ message: evpn ? EVPN_MODE : BGP_MODE }] : [],
  };
  if (!forwardOnly && errors.length === 0 && programmedFamilies(policy).length === 0) {
    reader.fail(
      'EXTERNAL_GATEWAY_IPV4',
      'no address family has a gateway on both sides, internal and external',
    );
  }
  if (errors.length > 0) return { ok: false, errors };
  if (!forwardOnly) policy.warnings.push(...policyWarnings(policy).map(({ message }) => ({ message })));
  return { ok: true, policy };
}

class EnvironmentReader {
  readonly #env: Environment;
  readonly #errors: PolicyError[];

  constructor(env: Environment, errors: PolicyError[]) {
    this.#env = env;
    this.#errors = errors;
  }

  fail(variable: string, message: string): void {
    this.#errors.push({ file: 'environment', line: 0, col: 0, path: variable, message });
  }

  /** The checked parts of a comma-separated list; a variable that is not set or empty is an empty one. */
  list(variable: string, format: 'host-address' | 'prefix', family?: Family): string[] {
    const parts = (this.#env[variable] ?? '').split(',').map((part) => part.trim());
    return parts.filter((part) => {
      if (part === '') return false;
      const { test, explain } = FORMATS[format]!;
      if (!test(part)) this.fail(variable, explain(part));
      else if (family !== undefined && familyOf(part as Address) !== family) {
        this.fail(variable, `must be ${familyName(family)}, is ${describe(part)}`);
      } else return true;
      return false;
    });
  }

  /** A list of at most one address. */
  one(variable: string, family: Family): string[] {
    const parts = this.list(variable, 'host-address', family);
    if (parts.length > 1) this.fail(variable, `must be one address, is ${describe(this.#env[variable])}`);
    return parts;
  }

  number(variable: string, minimum: number, maximum: number, fallback: number): number {
    const text = this.#env[variable]?.trim();
    if (!text) return fallback;
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= minimum && value <= maximum) return value;
    this.fail(variable, `must be a whole number between ${minimum} and ${maximum}, is ${describe(text)}`);
    return fallback;
  }
}
