/** The commands that do one thing to policy files or the kernel and exit, without a daemon. */
import type { Failure } from './failures.ts';
import { createKernels } from './kernels.ts';
import { keepPolicy, readLastPolicy, removeLastPolicy } from './last-policy.ts';
import { EXIT, type Options } from './options.ts';
import { formatError, loadPolicy } from './policy/load.ts';
import type { Policy, PolicyFile } from './policy/model.ts';
import { changeLines, cleanupLines, countChanges, explain, type Look, Reconciler } from './reconcile.ts';
import { type LoadedPolicy, lastGood, readSource } from './source.ts';
import { affordableTokens, readPolicy } from './watch.ts';

const say = (text: string): void => void process.stdout.write(`${text}\n`);
const complain = (text: string): void => void process.stderr.write(`veg-agent: ${text}\n`);

interface ValidPolicy extends LoadedPolicy {
  policy: Policy;
}

/** The policy, or undefined after its errors were printed. */
function valid(loaded: LoadedPolicy): ValidPolicy | undefined {
  const { result } = loaded;
  if (result.ok) return { ...loaded, policy: result.policy };
  for (const error of result.errors) process.stderr.write(`${formatError(error)}\n`);
  return undefined;
}

/** The policy as a daemon with these directories would take it. */
const load = ({ policyDir, stateDir }: Options): ValidPolicy | undefined =>
  valid(readSource(policyDir, process.env, readLastPolicy(stateDir, complain)));

/** The policy is in force: it is what a daemon goes on with that cannot use a newer one. */
function keep({ stateDir }: Options, { source, content, since = Date.now() }: ValidPolicy): void {
  try {
    if (content !== undefined) keepPolicy(stateDir, { source, content, since });
  } catch (error) {
    complain(`cannot keep the policy in the state directory: ${(error as Error).message}`);
  }
}

/** Runs work on the kernel of this namespace; what goes wrong is said on stderr. */
async function withKernel(
  options: Options,
  work: (reconciler: Reconciler) => Promise<number>,
): Promise<number> {
  const kernels = createKernels(options);
  try {
    const last = () => lastGood(readLastPolicy(options.stateDir, () => {}));
    return await work(new Reconciler(kernels, options, last));
  } catch (error) {
    complain(explain(error as Error));
    return EXIT.failed;
  } finally {
    kernels.close();
  }
}

/** What keeps a look from being what the policy asks for. */
function obstacles(look: Look): string[] {
  return look.plan.families.flatMap(({ family, state, reason }) =>
    state === 'blocked' ? [`IPv${family}: ${reason}`] : [],
  );
}

const tell = ({ object, name, reason, message }: Failure): string =>
  `${object} ${name}: ${reason}: ${message}`;

/** `check`: 0 valid, 3 invalid. Without a path it is the policy directory; `-` is standard input. */
export async function check(options: Options, paths: readonly string[] = []): Promise<number> {
  const found = paths.length === 0 ? load(options) : valid(readPaths(paths));
  if (found === undefined) return EXIT.policyInvalid;
  const { policy } = found;
  for (const { message } of policy.warnings) complain(`warning: ${message}`);
  const { rules, bfd } = policy;
  const count = `${rules.length} ${rules.length === 1 ? 'policy' : 'policies'}`;
  say(
    `valid: ${policy.origin.kind} ${policy.name}, ${count}, BFD ${bfd.enabled ? `with ${bfd.peers.join(', ')}` : 'off'}`,
  );
  return EXIT.ok;
}

/** What all the paths hold, as one policy. */
function readPaths(paths: readonly string[]): LoadedPolicy {
  const source = paths.join(', ');
  const files: PolicyFile[] = [];
  for (const path of paths) {
    const read = readPolicy(path);
    if ('unreadable' in read) {
      const error = { file: path, line: 0, col: 0, path: '', message: read.unreadable };
      return { source, result: { ok: false, errors: [error] } };
    }
    files.push(...read);
  }
  return { source, result: loadPolicy(files, affordableTokens()) };
}

/** `apply`: 0 the kernel is as the policy says, 1 it is not, 3 the policy is invalid. */
export async function apply(options: Options): Promise<number> {
  const found = load(options);
  if (found === undefined) return EXIT.policyInvalid;
  const { policy } = found;
  return withKernel(options, async (reconciler) => {
    const look = await reconciler.lookSettled(policy);
    for (const note of look.notes) complain(`note: ${note}`);
    for (const line of changeLines(look.changes)) say(line);
    const { failures } = await reconciler.carryOut(look);
    for (const failure of failures) complain(tell(failure));
    for (const obstacle of obstacles(look)) complain(obstacle);
    if (failures.length > 0 || obstacles(look).length > 0) return EXIT.failed;
    const left = await reconciler.look(policy);
    for (const line of changeLines(left.changes)) complain(`still to do: ${line}`);
    if (countChanges(left.changes) > 0) return EXIT.failed;
    keep(options, found);
    return EXIT.ok;
  });
}

/** `plan`: 0 nothing to do, 4 changes pending, 1 cannot tell, 3 the policy is invalid. */
export async function plan(options: Options, json: boolean): Promise<number> {
  const found = load(options);
  if (found === undefined) return EXIT.policyInvalid;
  const { policy } = found;
  return withKernel(options, async (reconciler) => {
    const look = await reconciler.lookSettled(policy);
    const lines = changeLines(look.changes);
    if (json) {
      const { families, interfaces } = look.plan;
      say(
        JSON.stringify(
          { schemaVersion: 'v1', changes: lines, families, interfaces, notes: look.notes },
          undefined,
          2,
        ),
      );
    } else {
      for (const note of look.notes) complain(`note: ${note}`);
      for (const line of lines) say(line);
    }
    // Of what could not be looked at it is not known what would change.
    const unknown = [...obstacles(look), ...look.failed.map(tell)];
    for (const obstacle of unknown) complain(obstacle);
    if (lines.length > 0) return EXIT.changesPending;
    return unknown.length > 0 ? EXIT.failed : EXIT.ok;
  });
}

/** `cleanup`: 0 nothing of the agent's is left, 1 something is. */
export async function cleanup(options: Options): Promise<number> {
  // First of all, so that no daemon puts back by itself what is removed now.
  let forgotten = true;
  try {
    removeLastPolicy(options.stateDir);
  } catch (error) {
    forgotten = false;
    complain(`could not remove the last good policy: ${(error as Error).message}`);
  }
  return withKernel(options, async (reconciler) => {
    const changes = await reconciler.lookForCleanup();
    for (const line of cleanupLines(changes)) say(line);
    await reconciler.cleanup(changes);
    const left = await reconciler.lookForCleanup();
    for (const line of cleanupLines(left)) complain(`could not remove: ${line}`);
    return forgotten && countChanges(left) === 0 ? EXIT.ok : EXIT.failed;
  });
}
