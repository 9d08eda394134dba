// What the tests of the policy share: a small good policy, and ways to load and to print.
import { addDeckhouse } from '../../../agent/policy/deckhouse/policy.ts';
import { type PolicyDocument, readDocuments } from '../../../agent/policy/documents.ts';
import { formatError } from '../../../agent/policy/error-text.ts';
import { translateGatewayPolicy } from '../../../agent/policy/gateway-policy/policy.ts';
import { Inbound } from '../../../agent/policy/inbound.ts';
import { Pods } from '../../../agent/policy/kubernetes/selectors.ts';
import { type LoadOptions, loadPolicy } from '../../../agent/policy/load.ts';
import type { Policy, PolicyError, PolicyResult } from '../../../agent/policy/model.ts';
import { addSpidernet } from '../../../agent/policy/spidernet/policy.ts';

/** A good `GatewayPolicy`; tests append to its spec (two spaces of indentation). */
export const GATEWAY = `apiVersion: veg-agent.io/v1alpha1
kind: GatewayPolicy
metadata: { name: gateway1 }
spec:
  internal: { gateways: [10.16.0.1, "fd00:10:16::1"] }
  external: { gateways: [172.17.0.1, "fd00:172:17::1"] }
`;

/** The same as a value. */
export const DOCUMENT = {
  apiVersion: 'veg-agent.io/v1alpha1',
  kind: 'GatewayPolicy',
  metadata: { name: 'gateway1' },
  spec: {
    internal: { gateways: ['10.16.0.1', 'fd00:10:16::1'] },
    external: { gateways: ['172.17.0.1', 'fd00:172:17::1'] },
  },
};

/** Loads files given by name. */
export const load = (files: Record<string, string>, options?: LoadOptions): PolicyResult =>
  loadPolicy(
    Object.entries(files).map(([name, text]) => ({ name, text })),
    undefined,
    options,
  );

/** The policy of files that are right; throws what is wrong with them. */
export function policyOf(files: Record<string, string>): Policy {
  const result = load(files);
  if (result.ok) return result.policy;
  throw new Error(result.errors.map(formatError).join('\n'));
}

/** The errors of files that are wrong, as they are printed; empty when they are right. */
export function printed(files: Record<string, string>): string[] {
  const result = load(files);
  return result.ok ? [] : result.errors.map(formatError);
}

/** The policy of files and their errors, without the refusals of what is not supported yet. */
export function supported(files: Record<string, string>): { policy: Policy; errors: string[] } {
  const errors: PolicyError[] = [];
  const texts = Object.entries(files).map(([name, text]) => ({ name, text }));
  const set = readDocuments(texts, errors, { tokens: 1_000_000 });
  const pods = new Pods(set);
  const gateway = set.documents.find(({ kind }) => kind === 'GatewayPolicy') as PolicyDocument<object>;
  const inbound = new Inbound();
  const policy = translateGatewayPolicy(gateway, inbound);
  addDeckhouse(policy, set, pods);
  addSpidernet(policy, set, pods);
  inbound.finish(policy);
  const sorted = errors.toSorted((a, b) => a.line - b.line || a.col - b.col || a.path.localeCompare(b.path));
  return { policy, errors: sorted.map(formatError) };
}

/** The same of one `GatewayPolicy`. */
export const translated = (text: string) => supported({ 'a.yaml': text });
