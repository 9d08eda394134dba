/**
 * The entry of the agent process: it loads, and begins when the BFD process says so (agent-fork.ts). Signals that come while it
 * loads stay pending. The BFD process drains and asks this one to end, so SIGTERM and SIGINT, which a terminal sends to both,
 * do nothing here.
 */
import '../lib/signals.ts';
import { once } from 'node:events';
import { constants } from 'node:os';
import { signalAtParentsDeath, unblockSignal } from '../lib/libc.ts';
import { onSignals } from '../lib/signals.ts';
import type { Options } from './options.ts';

// Even where this process hangs: the next one needs the control socket.
signalAtParentsDeath(constants.signals.SIGKILL);
const end = () => process.exit(1);
process.once('disconnect', end);
if (!process.connected) end();
// Whatever follows it is kept for the next listener.
const begun = once(process, 'message');
const { createLog, runAgent, systemEffects } = await import('./process.ts');

const options = JSON.parse(process.argv[2] ?? '{}') as Options;
const { logger, flush } = await createLog({
  level: options.logLevel,
  format: options.logFormat,
  component: 'agent',
});
await begun;
process.off('disconnect', end);
await runAgent(options, {
  ...systemEffects,
  logger,
  exit(code) {
    flush();
    process.exit(code);
  },
  onSignals: (handlers) => onSignals(handlers, unblockSignal),
});
