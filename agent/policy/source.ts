/**
 * Where the policy comes from: the policy directory, else the environment of Kube-OVN's gateway pods.
 *
 * A directory whose policy came into force is never given up for the environment, not over a restart either: one
 * that is gone or empty is an invalid policy, and what was in force stays. Whoever means to change from the
 * directory to the environment names no directory, or starts with a state directory of its own.
 */
import { resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { policyFromEnv, policyVariables } from './kube-ovn/env.ts';
import { type LastGood, type Missing, NOTHING_MISSING } from './last-good.ts';
import type { LoadOptions, loadPolicy } from './load.ts';
import type { PolicyFile, PolicyResult } from './model.ts';
import { affordableTokens, type PolicySource, readPolicy, watchPolicy } from './watch.ts';

type Environment = Readonly<Record<string, string | undefined>>;

/** What a policy is made from. */
export type PolicyContent =
  | { files: readonly PolicyFile[] }
  | { environment: Readonly<Record<string, string>> };

export interface LoadedPolicy {
  /** The directory, or `environment`. */
  source: string;
  result: PolicyResult;
  /** What `result` was made from; absent when that could not be read. */
  content?: PolicyContent;
  /** Since when this very policy has been in force, Unix milliseconds; absent: it is new. */
  since?: number;
}

export interface PolicyWatcher {
  /** Reads now, whether something has changed or not; resolves when it was delivered. */
  reread(): Promise<void>;
  close(): void;
}

/** A policy that came into force (last-policy.ts keeps the last one). */
export interface KeptPolicy {
  /** As of `LoadedPolicy`. */
  source: string;
  /** Since when it has been in force, Unix milliseconds. */
  since: number;
  content: PolicyContent;
  /** What the kernel refused of it; absent: nothing is known. */
  missing?: Missing;
}

const isEmpty = (content: PolicySource): boolean =>
  'unreadable' in content || content.every(({ ignored }) => ignored);

type Parser = typeof loadPolicy;

/**
 * Reads documents; undefined: it is not loaded. It is a third of the program, and a gateway whose policy is the
 * environment has no use for it.
 */
let parser: Parser | undefined;

/** Loads the parser, or returns the one that is loaded. */
export async function loadParser(): Promise<Parser> {
  ({ loadPolicy: parser } = await import('./load.ts'));
  return parser;
}

const isOfDocuments = (kept: KeptPolicy | undefined): kept is KeptPolicy =>
  kept !== undefined && 'files' in kept.content;

/** Whether the directory is what the policy that was in force last came from. */
const isSourceOf = (kept: KeptPolicy | undefined, directory: string): boolean =>
  isOfDocuments(kept) && resolve(kept.source) === resolve(directory);

function fromEnvironment(env: Environment): LoadedPolicy | undefined {
  const result = policyFromEnv(env);
  return result && { source: 'environment', result, content: { environment: policyVariables(env) } };
}

/** The result with the errors about the directory as a whole under its path. */
export const placed = (result: PolicyResult, source: string): PolicyResult =>
  result.ok
    ? result
    : { ...result, errors: result.errors.map((one) => (one.file === '.' ? { ...one, file: source } : one)) };

const fromFiles = (
  parse: Parser,
  source: string,
  files: readonly PolicyFile[],
  tokens = affordableTokens(),
  options?: LoadOptions,
): LoadedPolicy => ({
  source,
  result: placed(parse(files, tokens, options), source),
  content: { files: files.filter(({ ignored }) => !ignored) },
});

/** What the content of the directory comes to. The environment counts when the directory holds nothing. */
async function load(
  directory: string,
  content: PolicySource,
  env: Environment,
  tokens?: number,
  options?: LoadOptions,
): Promise<LoadedPolicy> {
  const environment = isEmpty(content) ? fromEnvironment(env) : undefined;
  if (environment !== undefined) return environment;
  if (!('unreadable' in content)) {
    return fromFiles(await loadParser(), directory, content, tokens, options);
  }
  const error = { file: content.path, line: 0, col: 0, path: '', message: content.unreadable };
  return { source: directory, result: { ok: false, errors: [error] } };
}

/** The policy that was in force last, read again. This version may have no use for it. */
function restore({ source, since, content }: KeptPolicy): LoadedPolicy | undefined {
  const loaded =
    'files' in content
      ? parser && fromFiles(parser, source, content.files)
      : fromEnvironment(content.environment);
  if (loaded === undefined || loaded.result.ok) return loaded && { ...loaded, since };
  return { ...loaded, source: `the last good policy, from ${source}` };
}

/**
 * The policy that was in force last; undefined when there is none that this version has a use for. For one of documents
 * the parser has to be loaded; `readSource` and `watchSource` do that when they are given it.
 */
export function lastGood(kept: KeptPolicy | undefined): LastGood | undefined {
  const result = kept && restore(kept)?.result;
  // An earlier version wrote less.
  const missing = { ...NOTHING_MISSING, ...kept?.missing };
  return result?.ok ? { policy: result.policy, missing } : undefined;
}

/** What is read now, since when it is in force if it is what was in force last. */
const dated = (loaded: LoadedPolicy, kept: KeptPolicy | undefined): LoadedPolicy =>
  kept !== undefined && isDeepStrictEqual(loaded.content, kept.content)
    ? { ...loaded, since: kept.since }
    : loaded;

/** Reads the policy once, from a directory or file. `kept`: what was in force last; `tokens`, `options`: see `loadPolicy`. */
export async function readSource(
  location: string,
  env: Environment,
  kept?: KeptPolicy,
  tokens?: number,
  options?: LoadOptions,
): Promise<LoadedPolicy> {
  const variables = isSourceOf(kept, location) ? {} : env;
  if (isOfDocuments(kept)) await loadParser();
  return dated(await load(location, readPolicy(location), variables, tokens, options), kept);
}

/**
 * Reads the policy now and whenever it changes; resolves when the first was delivered. When that cannot be used, `kept`,
 * the one that was in force last, is delivered before it and stays in force.
 */
export async function watchSource(
  directory: string,
  env: Environment,
  kept: KeptPolicy | undefined,
  onChange: (loaded: LoadedPolicy) => void,
): Promise<PolicyWatcher> {
  let inUse = isSourceOf(kept, directory);
  let before = kept;
  let isClosed = false;
  if (isOfDocuments(kept)) await loadParser();
  const deliver = async (content: PolicySource) => {
    inUse ||= !isEmpty(content);
    const loaded = await load(directory, content, inUse ? {} : env);
    if (isClosed) return;
    const restored = loaded.result.ok || before === undefined ? undefined : restore(before);
    if (restored !== undefined) onChange(restored);
    onChange(dated(loaded, before));
    before = undefined;
  };
  // One after the other: the parser may still be loading.
  let last = Promise.resolve();
  const enqueue = (content: PolicySource): Promise<void> => {
    last = last.then(() => deliver(content));
    return last;
  };
  const watch = watchPolicy(directory, enqueue);
  const reread = () => enqueue(watch.read());
  await reread();
  return {
    reread,
    close() {
      isClosed = true;
      watch.close();
    },
  };
}
