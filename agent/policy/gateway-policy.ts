/** `GatewayPolicy` (veg-agent.io/v1alpha1), the resource of our own, as the policy model. */
import type { PolicyDocument } from './documents.ts';
import type { BfdAuthType, BfdPolicy, EgressRule, Policy, Side } from './model.ts';
import { PrefixIndex } from './overlap.ts';
import { quote } from './quote.ts';
import { addresses, checkOneGatewayAFamily, each, prefixes, sources } from './resolve.ts';

/** What the translator reads of the document; all of it is optional, see `PolicyDocument`. */
export interface GatewayPolicyResource {
  spec?: {
    internal?: SideSpec;
    external?: SideSpec;
    bfd?: BfdSpec;
    policies?: PolicySpec[];
  };
}

interface SideSpec {
  interface?: string;
  gateways?: string[];
}

interface BfdSpec {
  enabled?: boolean;
  peers?: string[];
  minTX?: number;
  minRX?: number;
  multiplier?: number;
  mode?: 'passive' | 'active';
  minTTL?: number;
  adoptDiscriminator?: boolean;
  auth?: { type: BfdAuthType; keyID: number; keyFile: string };
}

interface PolicySpec {
  name?: string;
  snat?: boolean;
  ipBlocks?: string[];
}

/** Translates the document. Its errors are reported through it; the result counts only when there are none. */
export function translateGatewayPolicy(document: PolicyDocument<GatewayPolicyResource>): Policy {
  const { internal, external, bfd, policies } = document.value.spec ?? {};
  checkOneGatewayAFamily(document, ['spec', 'internal', 'gateways'], internal?.gateways);
  checkOneGatewayAFamily(document, ['spec', 'external', 'gateways'], external?.gateways);
  if (document.sound && bfd?.enabled === true && (bfd.peers ?? []).length === 0) {
    document.fail(['spec', 'bfd', 'peers'], 'BFD is enabled, so at least one peer is required', 'key');
  }
  const rules = translateRules(document, policies ?? []);
  refuseOrder(document, rules);
  return {
    name: document.name,
    origin: document.origin,
    internal: translateSide(internal),
    external: translateSide(external),
    bfd: translateBfd(bfd ?? {}),
    rules,
    warnings: [],
  };
}

const translateSide = (side: SideSpec | undefined): Side => ({
  ...(side?.interface !== undefined && { interface: side.interface }),
  gateways: addresses(side?.gateways),
});

function translateBfd(bfd: BfdSpec): BfdPolicy {
  const enabled = bfd.enabled ?? false;
  return {
    enabled,
    peers: enabled ? addresses(bfd.peers) : [],
    minTX: bfd.minTX ?? 1000,
    minRX: bfd.minRX ?? 1000,
    multiplier: bfd.multiplier ?? 3,
    mode: bfd.mode ?? 'passive',
    minTTL: bfd.minTTL ?? 254,
    adoptDiscriminator: bfd.adoptDiscriminator ?? true,
    ...(bfd.auth !== undefined && { auth: bfd.auth }),
  };
}

function translateRules(document: PolicyDocument, policies: PolicySpec[]): EgressRule[] {
  const rules: EgressRule[] = [];
  const names = new Map<string, number>();
  each(policies, (policy, i) => {
    const name = policy.name ?? `policy-${i}`;
    const earlier = names.get(name);
    if (earlier === undefined) names.set(name, i);
    else
      document.fail(
        ['spec', 'policies', i, 'name'],
        `policies[${earlier}] has the name ${quote(name)} already`,
      );
    rules[i] = { name, snat: policy.snat ?? true, ipBlocks: prefixes(policy.ipBlocks) };
  });
  return rules;
}

/** Forwarded blocks come before all translated ones: a policy that needs the other order is refused. */
function refuseOrder(document: PolicyDocument, rules: readonly EgressRule[]): void {
  if (!rules.some((rule) => rule?.snat)) return;
  const translated = new PrefixIndex<number>();
  const forwarded = new PrefixIndex<number>();
  for (const [i, rule] of rules.entries()) {
    if (rule?.snat) for (const block of sources(rule)) translated.add(block, i);
  }
  for (const [j, rule] of [...rules.entries()].reverse()) {
    if (rule?.snat === false) for (const block of sources(rule)) forwarded.add(block, j);
  }
  const refused = new Map<number, number>();
  const meet = (i: number, j: number) => {
    if (i < j) refused.set(j, Math.min(i, refused.get(j) ?? i));
  };
  each(rules, (rule, at) => {
    for (const block of sources(rule)) {
      if (rule.snat) for (const j of forwarded.holding(block)) meet(at, j);
      else for (const i of translated.holding(block)) meet(i, at);
    }
  });
  for (const [j, i] of refused) {
    document.fail(
      ['spec', 'policies', j],
      `forwards sources that policies[${i}] before it translates: not supported by this version of veg-agent;` +
        ' put what is forwarded first',
    );
  }
}
