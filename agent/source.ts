/** Where the policy comes from: the policy directory, else the environment of Kube-OVN's gateway pods. */

import { policyFromEnv } from './policy/kube-ovn-env.ts';
import { loadPolicy } from './policy/load.ts';
import type { PolicyResult } from './policy/model.ts';
import { affordableTokens, type PolicySource, readPolicy, watchPolicy } from './watch.ts';

type Environment = Record<string, string | undefined>;

export interface LoadedPolicy {
  /** The directory, or `environment`. */
  source: string;
  result: PolicyResult;
}

const isEmpty = (content: PolicySource): boolean => 'unreadable' in content || content.length === 0;

/** What the content of the directory comes to. The environment counts when the directory holds nothing. */
function load(directory: string, content: PolicySource, env: Environment): LoadedPolicy {
  const fromEnv = isEmpty(content) ? policyFromEnv(env) : undefined;
  if (fromEnv !== undefined) return { source: 'environment', result: fromEnv };
  if (!('unreadable' in content)) {
    return { source: directory, result: loadPolicy(content, affordableTokens()) };
  }
  const error = { file: directory, line: 0, col: 0, path: '', message: content.unreadable };
  return { source: directory, result: { ok: false, errors: [error] } };
}

/** Reads the policy once, from a directory or file. */
export const readSource = (location: string, env: Environment): LoadedPolicy =>
  load(location, readPolicy(location), env);

/** Reads the policy now and whenever it changes. */
export function watchSource(
  directory: string,
  env: Environment,
  onChange: (loaded: LoadedPolicy) => void,
): { reread(): void; close(): void } {
  // A directory that held a policy and is gone for a while is no reason to take another one.
  let inUse = false;
  const take = (content: PolicySource) => {
    inUse ||= !isEmpty(content);
    onChange(load(directory, content, inUse ? {} : env));
  };
  const watch = watchPolicy(directory, take);
  const reread = () => take(watch.read());
  reread();
  return { reread, close: () => watch.close() };
}
