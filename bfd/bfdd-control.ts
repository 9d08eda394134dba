/** Carries out the commands of `bfdd-control` (control-text.ts) on the engine's sessions. */
import { currentMoment } from './clock.ts';
import {
  allowReply,
  blockReply,
  type Command,
  connectReply,
  noSessionReply,
  parse,
  type Selector,
  type SessionCommand,
  sessionReply,
  statusReply,
  versionReply,
} from './control-text.ts';
import type { Engine } from './engine.ts';
import { type ManagedSession, type SessionDefaults, viewOf } from './managed-session.ts';

export interface Answer {
  /** False: the words are no command, or it failed. */
  ok: boolean;
  text: string;
}

/** What the commands need of the engine. */
export type Controllable = Pick<
  Engine,
  | 'log'
  | 'sessions'
  | 'allow'
  | 'block'
  | 'connect'
  | 'setDefaults'
  | 'override'
  | 'force'
  | 'suspend'
  | 'kill'
  | 'reset'
>;

const done = (text: string): Answer => ({ ok: true, text });
const failed = (text: string): Answer => ({ ok: false, text });

export class BfddControl {
  readonly #engine: Controllable;
  readonly #version: string;
  readonly #onStop: () => void;

  /** `version`: the reply to `bfdd-control version`. `onStop`: called for `bfdd-control stop`. */
  constructor(engine: Controllable, version: string, onStop: () => void = () => {}) {
    this.#engine = engine;
    this.#version = version;
    this.#onStop = onStop;
  }

  /** Carries out the words of one command. */
  execute(words: readonly string[]): Answer {
    const command = parse(words);
    // Probes ask for the status each second.
    if (command.command !== 'status') this.#engine.log.info('command', { words }, 'bfdd-control');
    return this.#execute(command);
  }

  #execute(command: Command): Answer {
    const { log } = this.#engine;
    switch (command.command) {
      case 'answer':
        return done(command.text);
      case 'error':
        return failed(command.text);
      case 'version':
        return done(versionReply(this.#version));
      case 'status':
        return this.#status(command);
      case 'allow':
        this.#engine.allow(command.address);
        return done(allowReply(command.address));
      case 'block':
        this.#engine.block(command.address);
        return done(blockReply(command.address));
      case 'connect':
        return this.#connect(command.local, command.remote);
      case 'session':
        return this.#session(command.select, command.what);
      case 'log level':
        log.setLevel(command.level);
        return done(`Log level set to ${command.level}.`);
      case 'log type': {
        const was = log.has(command.type);
        log.setType(command.type, command.on);
        return done(`Log type ${command.type} set to ${yesNo(command.on)}, was ${yesNo(was)}`);
      }
      case 'log timing':
        log.timing = command.on;
        return done(`Extended time logging ${command.on ? 'enabled' : 'disabled'}.`);
      case 'load':
        // script.ts reads files, outside of the engine, and passes on their commands.
        return failed(`Failed to load ${command.file}: this process reads no files`);
      case 'stop':
        this.#onStop();
        return done('stopping');
      default:
        return command satisfies never;
    }
  }

  #find(by: Selector): ManagedSession[] {
    const { sessions } = this.#engine;
    switch (by.by) {
      case 'all':
        return sessions;
      case 'id':
        return sessions.filter(({ id }) => id === by.id);
      case 'pair':
        return sessions.filter(({ local, remote }) => local === by.local && remote === by.remote);
      default:
        return [];
    }
  }

  #status({ select, style }: Command & { command: 'status' }): Answer {
    const found = this.#find(select);
    const all = select.by === 'all';
    if (found.length === 0 && !all) return failed(noSessionReply(select));
    const now = currentMoment();
    return done(
      statusReply(
        found.map((managed) => viewOf(managed, now)),
        style,
        all,
      ),
    );
  }

  #connect(local: string, remote: string): Answer {
    const ok = local !== '0.0.0.0' && local !== '::' && this.#engine.connect(local, remote);
    return { ok, text: connectReply(ok, local, remote) };
  }

  #session(by: Selector, what: SessionCommand): Answer {
    const text = sessionReply(what);
    if (by.by === 'new' && what.action === 'set') {
      this.#engine.setDefaults(changeOf(what));
      return done(text);
    }
    const found = this.#find(by);
    if (found.length === 0 && by.by !== 'all') return failed(`${text}\n${noSessionReply(by)}`);
    for (const managed of found) this.#change(managed, what);
    return done(text);
  }

  #change(managed: ManagedSession, what: SessionCommand): void {
    switch (what.action) {
      case 'set':
        this.#engine.override(managed, changeOf(what));
        break;
      case 'state':
        this.#engine.force(
          managed,
          what.state === 'Up' ? undefined : { state: what.state, diagnostic: what.diagnostic },
        );
        break;
      case 'suspend':
      case 'resume':
        this.#engine.suspend(managed, what.action === 'suspend');
        break;
      case 'kill':
        this.#engine.kill(managed);
        break;
      case 'reset':
        this.#engine.reset(managed);
        break;
      default:
        what satisfies never;
    }
  }
}

const yesNo = (on: boolean): string => (on ? 'yes' : 'no');

/** The parameters that `set` changes. */
function changeOf(what: SessionCommand & { action: 'set' }): Partial<SessionDefaults> {
  switch (what.item) {
    case 'mintx':
      return { desiredMinTx: what.microseconds };
    case 'minrx':
      return { requiredMinRx: what.microseconds };
    case 'multi':
      return { detectMult: what.multiplier };
    case 'cpi':
      return { controlPlaneIndependent: what.on };
    case 'admin_up_poll':
      return { adminUpPoll: what.on };
    default:
      return what satisfies never;
  }
}
