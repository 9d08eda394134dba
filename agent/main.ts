#!/usr/bin/env node
/**
 * The entry of `veg-agent`. It takes signals, and looks at Node's version before it loads anything that needs a newer
 * one.
 */
import '../lib/signals.ts';

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < 22 || (major === 22 && minor < 18)) {
  process.stderr.write(
    `veg-agent needs Node 22.18 or newer (24 LTS is best), and this is ${process.version}\n`,
  );
  process.exit(1);
}
const { EXIT, plainRunFlags, resolveOptions, UsageError } = await import('./options.ts');
const flags = plainRunFlags(process.argv.slice(2));
if (flags === undefined) {
  const { cli } = await import('./commands/cli.ts');
  await cli(process.argv);
} else {
  const { run } = await import('./commands/run.ts');
  try {
    await run(resolveOptions(flags, process.env, process.stdout.isTTY === true));
  } catch (error) {
    process.stderr.write(`veg-agent: ${(error as Error).message}\n`);
    process.exitCode = error instanceof UsageError ? EXIT.usage : EXIT.failed;
  }
}
