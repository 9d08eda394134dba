/**
 * `veg-bfdd`: the BFD engine as a daemon of its own, for hosts that need only BFD, and as the peer in the lab.
 *
 * Every local address has a session with every peer of its family. `bfdd-control` works through the control
 * socket. SIGTERM and SIGINT send AdminDown and exit; SIGUSR2 exits without AdminDown, for a restart in place;
 * SIGUSR1 logs the sessions.
 */
import { join } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import pino from 'pino';
import { systemClock } from '../lib/clock.ts';
import { unblockSignal } from '../lib/libc.ts';
import { LogOnChange } from '../lib/log-on-change.ts';
import { reapOrphans } from '../lib/reaper.ts';
import { onSignals } from '../lib/signals.ts';
import { StateDir } from '../lib/state-dir.ts';
import { VERSION } from '../lib/version.ts';
import { BfddControl } from './bfdd-control.ts';
import { AUTH_TYPES } from './constants.ts';
import { parseAddress, splitWords } from './control-text.ts';
import { Engine } from './engine.ts';
import type { AuthTypeName, PeerIntent } from './intent.ts';

/** An integer within bounds. */
const integer = (least: number, greatest: number) => (text: string) => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < least || value > greatest || text.trim() === '') {
    throw new InvalidArgumentError(`It must be an integer from ${least} to ${greatest}.`);
  }
  return value;
};

/** Addresses separated by commas or blanks; a flag may also be given more than once. */
function addresses(text: string, before: string[] = []): string[] {
  const words = text.split(/[\s,]+/).filter((word) => word !== '');
  const parsed = words.map((word) => {
    const address = parseAddress(word);
    if (address === undefined) throw new InvalidArgumentError(`${word} is not an IPv4 or IPv6 address.`);
    return address;
  });
  return [...before, ...parsed];
}

/** How often the state directory is checked, ms. */
const STATE_DIR_PERIOD = 1000;
/** Milliseconds on the command line, microseconds in the protocol. */
const LONGEST_MS = Math.floor(0xffffffff / 1000);

const program = new Command('veg-bfdd')
  .description('A BFD daemon (RFC 5880, 5881, 5883)')
  .version(VERSION)
  .addOption(new Option('--local <addresses>', 'local addresses').env('POD_IPS').argParser(addresses))
  .addOption(new Option('--peer <addresses>', 'peers').env('BFD_PEER_IPS').argParser(addresses))
  .addOption(
    new Option('--min-tx <ms>', 'Desired Min TX Interval')
      .env('BFD_MIN_TX')
      .default(1000)
      .argParser(integer(1, LONGEST_MS)),
  )
  .addOption(
    new Option('--min-rx <ms>', 'Required Min RX Interval')
      .env('BFD_MIN_RX')
      .default(1000)
      .argParser(integer(1, LONGEST_MS)),
  )
  .addOption(
    new Option('--multiplier <n>', 'Detect Mult').env('BFD_MULTI').default(3).argParser(integer(1, 255)),
  )
  .option('--active', 'active role: send before the peer is heard', false)
  .option('--multihop', 'RFC 5883: port 4784', false)
  .addOption(new Option('--min-ttl <n>', 'least TTL accepted').default(254).argParser(integer(1, 255)))
  .option('--interface <name>', 'accept packets of this interface only')
  .option('--no-adopt', 'do not adopt a stale discriminator that a peer keeps sending')
  .addOption(new Option('--auth-type <type>', 'authentication').choices(AUTH_TYPES))
  .addOption(new Option('--auth-key-id <n>', 'Auth Key ID').default(1).argParser(integer(0, 255)))
  .option('--auth-key-file <file>', 'file with the secret')
  .addOption(
    new Option('--demand-poll <ms>', 'Demand mode: interval between polls').argParser(integer(1, LONGEST_MS)),
  )
  .option('--state-dir <dir>', 'control socket and state file', '/run/veg-bfdd')
  .addOption(new Option('--log-level <level>').choices(['error', 'warn', 'info', 'debug']).default('info'));

interface Flags {
  local?: string[];
  peer?: string[];
  minTx: number;
  minRx: number;
  multiplier: number;
  active: boolean;
  multihop: boolean;
  minTtl: number;
  interface?: string;
  adopt: boolean;
  authType?: AuthTypeName;
  authKeyId: number;
  authKeyFile?: string;
  demandPoll?: number;
  stateDir: string;
  logLevel: string;
}

function parameters(flags: Flags): Omit<PeerIntent, 'local' | 'remote'> {
  const { authType: type, authKeyId: keyId, authKeyFile: keyFile } = flags;
  if ((type === undefined) !== (keyFile === undefined)) {
    program.error('error: --auth-type and --auth-key-file go together', { exitCode: 2 });
  }
  return {
    desiredMinTx: flags.minTx * 1000,
    requiredMinRx: flags.minRx * 1000,
    detectMult: flags.multiplier,
    role: flags.active ? 'active' : 'passive',
    minTTL: flags.minTtl,
    multihop: flags.multihop,
    adoptDiscriminator: flags.adopt,
    ...(flags.interface === undefined ? {} : { interface: flags.interface }),
    ...(type === undefined || keyFile === undefined ? {} : { auth: { type, keyId, keyFile } }),
    ...(flags.demandPoll === undefined ? {} : { demandPollInterval: flags.demandPoll * 1000 }),
  };
}

program.exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));
const flags = program.parse().opts<Flags>();
const common = parameters(flags);
const locals = flags.local ?? [];
if (locals.length === 0) program.error('error: no local address: give --local or POD_IPS', { exitCode: 2 });

const output = pino.destination({ dest: 1, sync: false, maxLength: 1 << 20 });
const logger = pino(
  {
    level: flags.logLevel,
    base: { component: 'bfd' },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
  },
  output,
);

/** Exits after writing out the log. */
function exit(code: number): never {
  try {
    output.flushSync();
  } catch {
    // stdout is closed
  }
  process.exit(code);
}

// Before the state file is read: a second daemon would resume the sessions of the first.
const stateDir = await StateDir.acquire(flags.stateDir, {
  onWait: () =>
    logger.info({ stateDir: flags.stateDir }, 'waiting for the daemon that holds the state directory'),
}).catch((error: Error): never => {
  logger.fatal({ reason: error.message }, 'cannot start');
  exit(1);
});

const stateDirFailures = new LogOnChange();
/** Creates the state directory again when it was removed. */
function ensureStateDir(): void {
  try {
    stateDir.ensure();
    stateDirFailures.ended();
  } catch (error) {
    const { message: reason } = error as Error;
    if (stateDirFailures.isNew(reason)) logger.error({ reason }, 'the state directory is lost');
  }
}

const { role: _role, multihop: _multihop, ...newSession } = common;
const engine = new Engine({
  logger,
  checkpoint: join(flags.stateDir, 'bfd.json'),
  newSession,
});
engine.configure({
  peers: locals.flatMap((local) =>
    (flags.peer ?? [])
      .filter((remote) => remote.includes(':') === local.includes(':'))
      .map((remote) => ({ ...common, local, remote })),
  ),
  readiness: { 4: { ready: true }, 6: { ready: true } },
  // Peers that `allow` lets in are single-hop.
  listen: common.multihop ? [] : locals,
});

let ending = false;
function end(how: () => Promise<void> | void): void {
  if (ending) return;
  ending = true;
  Promise.resolve(how())
    .catch((error: unknown) => logger.error({ err: error }, 'cannot end cleanly'))
    .finally(() => exit(0));
}
onSignals(
  {
    SIGTERM: () => end(() => engine.stop()),
    SIGINT: () => end(() => engine.stop()),
    SIGUSR2: () => end(() => engine.abandon()),
    SIGUSR1: () => logger.info({ report: engine.report() }, 'state'),
  },
  unblockSignal,
);
reapOrphans();
systemClock.every(STATE_DIR_PERIOD, ensureStateDir).unref();

// The sessions run already; load the rest meanwhile.
const { serveControl, SocketInUseError } = await import('../lib/control/server.ts');
const { createScripts } = await import('./script.ts');
const bfddControl = new BfddControl(engine, VERSION, () => end(() => engine.stop()));
const control = createScripts((words) => bfddControl.execute(words));
try {
  await serveControl(
    flags.stateDir,
    {
      'POST /v1/bfdd': async ({ body }) => {
        const { ok, text } = await control(splitWords(body));
        return { status: ok ? 200 : 400, body: `${text}\n` };
      },
    },
    logger,
  );
} catch (error) {
  if (!(error instanceof SocketInUseError)) throw error;
  // Another program owns the socket: bfdd-control would never reach this daemon.
  logger.fatal({ reason: error.message, hint: 'stop the other program, or set --state-dir' }, 'cannot start');
  engine.abandon();
  exit(1);
}
