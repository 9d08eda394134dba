/**
 * The entry of the agent process: signals that come while the rest loads stay pending. The BFD process drains and asks
 * this one to end, so SIGTERM and SIGINT, which a terminal sends to both, do nothing here.
 */
import '../lib/signals.ts';
import { constants } from 'node:os';
import type { Options } from './options.ts';

const { signalAtParentsDeath, unblockSignal } = await import('../lib/libc.ts');
// Even where this process hangs: the next one needs the control socket.
signalAtParentsDeath(constants.signals.SIGKILL);
const { createLog } = await import('../lib/log.ts');
const { onSignals } = await import('../lib/signals.ts');
const { runAgent, systemEffects } = await import('./process.ts');

const options = JSON.parse(process.argv[2] ?? '{}') as Options;
const { logger, flush } = await createLog({
  level: options.logLevel,
  format: options.logFormat,
  component: 'agent',
});
await runAgent(options, {
  ...systemEffects,
  logger,
  exit(code) {
    flush();
    process.exit(code);
  },
  onSignals: (handlers) => onSignals(handlers, unblockSignal),
});
