/** The log: pino JSON lines on stdout, or pretty lines for a person. */
import pino from 'pino';

export type Logger = pino.Logger;

/** The methods of a logger that most files use. */
export interface Log {
  error(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  info(fields: object, message: string): void;
  debug(fields: object, message: string): void;
}

export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent';
export type LogFormat = 'json' | 'pretty';

/** How much may wait for a blocked stdout before lines are dropped, octets. */
const MAX_BUFFERED = 1 << 20;

export interface LogOutput {
  logger: Logger;
  /** Writes what is still buffered; call it before exit. */
  flush(): void;
}

/**
 * Creates a logger on stdout. JSON is written asynchronously, so that a reader that hangs delays nothing.
 */
export async function createLog(options: {
  level: LogLevel;
  format: LogFormat;
  component: string;
}): Promise<LogOutput> {
  const settings: pino.LoggerOptions = {
    level: options.level,
    base: { component: options.component },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
  };
  if (options.format === 'pretty') {
    const { default: pretty } = await import('pino-pretty');
    const stream = pretty({
      colorize: process.stdout.isTTY === true && process.env.NO_COLOR === undefined,
      sync: true,
      ignore: 'component',
      messageFormat: '{component}: {msg}',
      translateTime: 'SYS:HH:MM:ss.l',
    });
    return { logger: pino(settings, stream), flush() {} };
  }
  const stream = pino.destination({ dest: 1, sync: false, maxLength: MAX_BUFFERED });
  return {
    logger: pino(settings, stream),
    flush() {
      try {
        stream.flushSync();
      } catch {
        // stdout is closed
      }
    },
  };
}
