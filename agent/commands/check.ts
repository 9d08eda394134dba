/** The command `veg-agent check`, and the policy as a command has it that does its work by itself. */

import { passwordFileProblem } from '../bgp/password-file.ts';
import { credentialProblem } from '../group/credentials.ts';
import { EXIT, type Options } from '../options.ts';
import { formatError, formatWarning } from '../policy/error-text.ts';
import { readLastPolicy } from '../policy/last-policy.ts';
import { type LoadOptions, loadPolicy } from '../policy/load.ts';
import type { Policy, PolicyFile } from '../policy/model.ts';
import type { Path } from '../policy/parse.ts';
import { type LoadedPolicy, placed, readSource } from '../policy/source.ts';
import { affordableTokens, COMMAND_HEAP, readPolicy } from '../policy/watch.ts';

export const say = (text: string): void => void process.stdout.write(`${text}\n`);
export const complain = (text: string): void => void process.stderr.write(`veg-agent: ${text}\n`);

export interface ValidPolicy extends LoadedPolicy {
  policy: Policy;
}

/** The policy, or undefined after its errors were printed. */
function valid(loaded: LoadedPolicy): ValidPolicy | undefined {
  const { result } = loaded;
  if (result.ok) return { ...loaded, policy: result.policy };
  for (const error of result.errors) process.stderr.write(`${formatError(error)}\n`);
  return undefined;
}

const read = (
  { policyDir, stateDir }: Options,
  tokens = affordableTokens(),
  options?: LoadOptions,
): Promise<LoadedPolicy> =>
  readSource(policyDir, process.env, readLastPolicy(stateDir, complain), tokens, options);

/** The policy as a daemon with these directories reads it; undefined after its errors were printed. */
export const load = async (options: Options): Promise<ValidPolicy | undefined> => valid(await read(options));

/** What all the paths hold, as one policy. */
function readPaths(paths: readonly string[], tokens: number, options: LoadOptions): LoadedPolicy {
  const source = paths.join(', ');
  const files: PolicyFile[] = [];
  for (const path of paths) {
    const read = readPolicy(path);
    if ('unreadable' in read) {
      const error = { file: read.path, line: 0, col: 0, path: '', message: read.unreadable };
      return { source, result: { ok: false, errors: [error] } };
    }
    files.push(...read);
  }
  return { source, result: placed(loadPolicy(files, tokens, options), source), content: { files } };
}

/** What is wrong with the key or the certificates of the group, and with the passwords of BGP sessions. */
function inspect({ group, bgp }: Policy): { path: Path; message: string }[] {
  const problem = group && credentialProblem(group.credentials);
  const passwords = (bgp?.neighbours ?? []).flatMap(({ password }, i) => {
    const message = password && 'file' in password ? passwordFileProblem(password.file) : undefined;
    return message === undefined ? [] : [{ path: ['spec', 'bgp', 'neighbours', i, 'passwordFile'], message }];
  });
  return [
    ...(problem === undefined ? [] : [{ path: ['spec', 'group', problem.field], message: problem.message }]),
    ...passwords,
  ];
}

/** `check`: 0 valid, 3 invalid. Without a path it is the policy directory; `-` is standard input. */
export async function check(options: Options, paths: readonly string[] = []): Promise<number> {
  const tokens = affordableTokens(COMMAND_HEAP);
  const more = { inspect, places: true };
  const loaded = paths.length === 0 ? await read(options, tokens, more) : readPaths(paths, tokens, more);
  const found = valid(loaded);
  if (found === undefined) return EXIT.policyInvalid;
  const { policy } = found;
  for (const warning of policy.warnings) process.stderr.write(`${formatWarning(warning)}\n`);
  const { rules, bfd } = policy;
  const count = `${rules.length} ${rules.length === 1 ? 'policy' : 'policies'}`;
  say(
    `valid: ${policy.origin.kind} ${policy.name}, ${count}, BFD ${bfd.enabled ? `with ${bfd.peers.join(', ')}` : 'off'}`,
  );
  return EXIT.ok;
}
