/**
 * The commands of `veg-agent`, their flags, help and exit codes. Each command loads only what it needs, so
 * that `run` stays small and `check` needs no kernel.
 */
import { writeFileSync } from 'node:fs';
import { Command, CommanderError, type OptionValues } from 'commander';
import { releaseSignals } from '../../lib/signals.ts';
import { VERSION } from '../../lib/version.ts';
import { LOOKUP_OPTIONS } from '../flows/lookup-options.ts';
import {
  EXIT,
  type Flags,
  GLOBAL_OPTIONS,
  KERNEL_OPTIONS,
  type OptionName,
  type Options,
  parseTimeout,
  planQuery,
  RUN_OPTIONS,
  resolveOptions,
  TIMEOUT,
  UsageError,
  variableOf,
} from '../options.ts';

type OptionTable = Record<string, { value: string; help: string; fallback?: string }>;

function addOptions(command: Command, table: OptionTable): Command {
  for (const [name, { value, help, fallback }] of Object.entries(table)) {
    const defaults = fallback === undefined ? '' : `, default ${fallback}`;
    const variable = variableOf(name as OptionName);
    command.option(`--${name} <${value}>`, `${help} (${variable}${defaults})`);
  }
  return command;
}

/** commander's camelCase keys back to the names of the flags. */
function flagsOf(values: OptionValues): Flags {
  const flags: Record<string, string> = {};
  for (const [key, value] of Object.entries(values)) {
    if (typeof value === 'string')
      flags[key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)] = value;
  }
  return flags;
}

/** Makes the kernel kill this command, not the daemon beside it, when memory runs out. Needs no privilege. */
function dieFirst(): void {
  try {
    writeFileSync('/proc/self/oom_score_adj', '1000');
  } catch {
    // A process with more rights than its user cannot; in the image the shell has done it before.
  }
}

const colours = (stream: { isTTY?: boolean }): boolean =>
  stream.isTTY === true && process.env.NO_COLOR === undefined;

/** Runs the command line and sets the exit code. Never throws. */
export async function cli(argv: string[]): Promise<void> {
  try {
    await program().parseAsync(argv);
  } catch (error) {
    if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    else if (error instanceof UsageError) fail(EXIT.usage, error);
    else fail(EXIT.failed, error as Error);
  }
}

function fail(code: number, error: Error): void {
  process.stderr.write(`veg-agent: ${error.message}\n`);
  process.exitCode = code;
}

/** A command: its action returns the exit code. */
interface CommandSpec {
  name: string;
  description: string;
  /** The options of the daemon that it takes, beside the global ones. */
  tables?: readonly OptionTable[];
  /** Adds its own arguments and flags. */
  extend?(command: Command): Command;
  action(invocation: Invocation): Promise<number>;
}

interface Invocation {
  /** Resolved from flags, environment and defaults. */
  options: Options;
  /** The text of the flags that `options` came from. */
  flags: Flags;
  /** The command's own flags. */
  own: OptionValues;
  args: readonly string[];
}

const run: CommandSpec = {
  name: 'run',
  description: 'run the daemon until SIGTERM',
  tables: [RUN_OPTIONS, KERNEL_OPTIONS],
  action: async ({ options }) => (await import('./run.ts')).run(options),
};

const apply: CommandSpec = {
  name: 'apply',
  description: 'reconcile once and exit (for an init container)',
  tables: [KERNEL_OPTIONS],
  action: async ({ options }) => (await import('./apply.ts')).apply(options),
};

const check: CommandSpec = {
  name: 'check',
  description: 'validate policy files without touching the kernel; exit 3 when they are invalid',
  extend: (command) =>
    command.argument('[path...]', 'files, directories, or - for stdin (default: the policy directory)'),
  action: async ({ options, args }) => (await import('./check.ts')).check(options, args),
};

const render: CommandSpec = {
  name: 'render',
  description:
    'print what runs a gateway without its controller: kubernetes (for kubectl apply), ovn (a script) or frr (for vtysh -f)',
  extend: (command) =>
    command
      .argument('<what>', 'kubernetes, ovn or frr')
      .requiredOption(
        '-f, --file <PATH...>',
        'files, directories, or - for stdin: the VpcEgressGateway, its Subnets and Vpc (frr: or a GatewayPolicy)',
      )
      .option('--gateway <NAMESPACE/NAME>', 'which of several VpcEgressGateways')
      .option(
        '--image <IMAGE>',
        "the pod's image, as the nodes can pull it (kubernetes; default: spec.image)",
      )
      .option(
        '--frr-image <IMAGE>',
        "the image of FRR's container, for a gateway with bgpConf (kubernetes; images/frr builds one)",
      )
      .option('--service-monitor', 'a Service and a ServiceMonitor too')
      .option(
        '--shared-address <IP...>',
        'all replicas translate to these addresses as one group (kubernetes)',
      )
      .option('--accept-default-route', 'take a default route from the neighbours; otherwise nothing (frr)')
      .option('--password-placeholders', 'print @FILE@ where the password of FILE belongs (frr)'),
  async action({ own, args: [what] }) {
    const { RENDERED, render } = await import('./render.ts');
    const target = RENDERED.find((name) => name === what);
    if (target === undefined) {
      throw new UsageError(`render takes ${RENDERED.join(' or ')}, not ${JSON.stringify(what)}`);
    }
    const frr = {
      acceptDefault: own.acceptDefaultRoute === true,
      placeholders: own.passwordPlaceholders === true,
    };
    return render({
      what: target,
      paths: own.file as string[],
      ...(own.gateway === undefined ? {} : { gateway: String(own.gateway) }),
      ...(own.image === undefined ? {} : { image: String(own.image) }),
      ...(own.frrImage === undefined ? {} : { frrImage: String(own.frrImage) }),
      serviceMonitor: own.serviceMonitor === true,
      sharedAddresses: (own.sharedAddress ?? []) as string[],
      frr,
    });
  },
};

const plan: CommandSpec = {
  name: 'plan',
  description: 'show what a reconcile would change now; exit 4 when there is something',
  tables: [KERNEL_OPTIONS],
  extend: (command) => command.option('--json', 'as JSON'),
  async action({ options, own, flags }) {
    const { plan } = await import('./plan.ts');
    return plan(options, planQuery(flags, process.env), own.json === true);
  },
};

const status: CommandSpec = {
  name: 'status',
  description: 'show the running agent; exit 5 when it is not ready, 1 when there is none',
  extend: (command) =>
    command
      .option('--json', 'as JSON')
      .option('--watch', 'again every second; on a terminal with traffic, until Ctrl-C'),
  async action({ options, own }) {
    const form = { json: own.json === true, colours: colours(process.stdout) };
    if (own.watch === true) return (await import('./status-watch.ts')).watchStatus(options.stateDir, form);
    const { status } = await import('./client.ts');
    return status(options, form.json ? 'json' : form.colours ? 'colours' : 'text');
  },
};

const translations: CommandSpec = {
  name: 'translations',
  description: 'show who was behind an external address and port; exit 6 when nothing was found',
  extend(command) {
    for (const [name, { value, help }] of Object.entries(LOOKUP_OPTIONS)) {
      command.option(`--${name} <${value}>`, help);
    }
    return command.option('--json', 'as JSON');
  },
  action: async ({ options, own }) => (await import('./translations.ts')).translations(options, own),
};

const drain: CommandSpec = {
  name: 'drain',
  description: 'send AdminDown to the peers, wait until traffic has moved, stay drained',
  extend: (command) =>
    command.option(
      '--timeout <TIME>',
      'the longest wait, seconds (20) or a time (20s); default: the --drain-timeout of the daemon',
    ),
  async action({ options, own }) {
    const timeout = own.timeout === undefined ? undefined : parseTimeout(String(own.timeout));
    if (own.timeout !== undefined && timeout === undefined) {
      throw new UsageError(`--timeout must be ${TIMEOUT}, is ${JSON.stringify(own.timeout)}`);
    }
    return (await import('./client.ts')).drain(options, timeout);
  },
};

const undrain: CommandSpec = {
  name: 'undrain',
  description: 'end a drain: sessions come Up again',
  action: async ({ options }) => (await import('./client.ts')).undrain(options),
};

const cleanup: CommandSpec = {
  name: 'cleanup',
  description: 'remove everything that the agent owns in this network namespace',
  tables: [KERNEL_OPTIONS],
  action: async ({ options }) => (await import('./cleanup.ts')).cleanup(options),
};

const COMMANDS = [run, apply, check, render, plan, status, translations, drain, undrain, cleanup];

function program(): Command {
  const root = addOptions(new Command('veg-agent'), GLOBAL_OPTIONS)
    .description('The agent of a Kube-OVN VPC egress gateway: policy in, kernel programmed, BFD up.')
    .version(VERSION, '--version')
    .exitOverride()
    .showHelpAfterError('(--help shows the commands and flags)');
  for (const spec of COMMANDS) addCommand(root, spec);
  return root;
}

function addCommand(root: Command, { name, description, tables = [], extend, action }: CommandSpec): void {
  const bare = new Command(name).description(description);
  const command = extend?.(bare) ?? bare;
  for (const table of [...tables, GLOBAL_OPTIONS]) addOptions(command, table);
  command.exitOverride().showHelpAfterError(`(veg-agent ${name} --help shows the flags)`);
  command.action(async (...parameters: unknown[]) => {
    const own = command.opts();
    const flags: Flags = { ...flagsOf(root.opts()), ...flagsOf(own) };
    const options = resolveOptions(flags, process.env, process.stdout.isTTY === true);
    // The daemon sets its own handlers.
    if (name !== 'run') {
      releaseSignals();
      dieFirst();
    }
    const args = parameters.slice(0, -2).flat() as string[];
    process.exitCode = await action({ options, flags, own, args });
  });
  root.addCommand(command);
}
