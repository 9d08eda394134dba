/**
 * The thread of the exchange (thread.ts starts it): an exchange for each family, with its conntrack. What happens here
 * delays neither a reconcile nor BFD, which is in another process.
 */
import { getHeapStatistics } from 'node:v8';
import { type MessagePort, parentPort } from 'node:worker_threads';
import { FAMILIES, type Family } from '../../lib/prefix.ts';
import { Credentials } from './credentials.ts';
import { Exchange } from './exchange.ts';
import { ConntrackFlows } from './kernel/flows.ts';
import type { LookupAnswer } from './lookups.ts';
import type { FromGroup, GroupSettings, ToGroup } from './messages.ts';

/** How often counts are reported, ms. */
const COUNT_PERIOD = 1000;
/** With a heap of less than so many octets, that of a container of 96 MiB or less, fewer flows are replicated. */
const SMALL_HEAP = 20 << 20;
const SMALL_CAPACITY = 32_768;
/** Questions of members that wait for the agent's answer. */
const MAX_QUESTIONS = 16;

interface Running {
  exchange: Exchange;
  /** What it cannot change. */
  identity: string;
  kernel: ConntrackFlows;
}

class GroupWorker {
  readonly #port: MessagePort;
  readonly #exchanges = new Map<Family, Running>();
  readonly #questions = new Map<number, (answer: LookupAnswer) => void>();
  readonly #counter: NodeJS.Timeout;
  /** Paths and the drain as they are now, for exchanges that start. */
  readonly #paths = new Set<string>();
  #drainLimit: number | undefined;
  #lastQuestion = 0;

  constructor(port: MessagePort) {
    this.#port = port;
    this.#counter = setInterval(() => this.#count(), COUNT_PERIOD);
  }

  async take(message: ToGroup): Promise<void> {
    switch (message.type) {
      case 'settings':
        await this.#use(message.settings);
        break;
      case 'path':
        if (message.up) this.#paths.add(message.member);
        else this.#paths.delete(message.member);
        for (const exchange of this.#all()) exchange.setPath(message.member, message.up);
        break;
      case 'drain':
        this.#drainLimit = message.limit;
        for (const exchange of this.#all()) exchange.drain(message.limit);
        break;
      case 'undrain':
        this.#drainLimit = undefined;
        for (const exchange of this.#all()) exchange.undrain();
        break;
      case 'lookup':
        // Not waited for: the members may ask this one meanwhile.
        void this.#lookup(message);
        break;
      case 'answer':
        this.#questions.get(message.id)?.(message.answer);
        break;
      case 'stop':
        await this.#stop();
        break;
      default:
        message satisfies never;
    }
  }

  #all(): Exchange[] {
    return [...this.#exchanges.values()].map(({ exchange }) => exchange);
  }

  async #lookup({ id, query, families, timeout }: ToGroup & { type: 'lookup' }): Promise<void> {
    const exchanges = families.flatMap((family) => this.#exchanges.get(family)?.exchange ?? []);
    const found = await Promise.allSettled(
      exchanges.map(async (exchange) => exchange.lookup(query, timeout)),
    );
    const answers = found.flatMap((result) => (result.status === 'fulfilled' ? result.value : []));
    this.#send({ type: 'found', id, answers });
  }

  async #use(settings: GroupSettings): Promise<void> {
    for (const family of FAMILIES) {
      const config = settings.configs.find((one) => one.family === family);
      const running = this.#exchanges.get(family);
      // What an exchange cannot change while it runs.
      const identity = JSON.stringify([config?.self, settings.port, settings.interface]);
      if (running !== undefined && running.identity === identity && config !== undefined) {
        running.exchange.configure(config, settings.credentials);
        continue;
      }
      await running?.exchange.close();
      this.#exchanges.delete(family);
      this.#sendDescriptors();
      if (config === undefined) continue;
      const log = this.#log(family);
      const kernel = new ConntrackFlows({ family, shared: config.shared, log });
      const exchange = new Exchange({
        config,
        port: settings.port,
        ...(settings.interface !== undefined && { interface: settings.interface }),
        credentials: new Credentials(settings.credentials),
        resumes: settings.resumes?.includes(family) ?? false,
        ...(getHeapStatistics().heap_size_limit < SMALL_HEAP && { capacity: SMALL_CAPACITY }),
        kernel,
        log,
        report: (report) => this.#send({ type: 'report', report }),
        answer: (query) => this.#ask(query),
      });
      this.#exchanges.set(family, { exchange, identity, kernel });
      this.#sendDescriptors();
      for (const member of config.members) if (this.#paths.has(member)) exchange.setPath(member, true);
      if (this.#drainLimit !== undefined) exchange.drain(this.#drainLimit);
    }
  }

  /** A member's question goes to the agent, which has the translation log. */
  #ask(query: string): Promise<LookupAnswer> {
    if (this.#questions.size >= MAX_QUESTIONS) {
      return Promise.resolve({ status: 503, body: 'too many lookups at once\n' });
    }
    const id = ++this.#lastQuestion;
    return new Promise((resolve) => {
      this.#questions.set(id, (answer) => {
        this.#questions.delete(id);
        resolve(answer);
      });
      this.#send({ type: 'question', id, query });
    });
  }

  #count(): void {
    for (const [family, { exchange }] of this.#exchanges) {
      this.#send({ type: 'counts', family, counts: exchange.counts });
    }
  }

  async #stop(): Promise<void> {
    clearInterval(this.#counter);
    await Promise.all(this.#all().map((exchange) => exchange.close()));
    this.#count();
    this.#exchanges.clear();
    this.#sendDescriptors();
    this.#port.close();
  }

  #sendDescriptors(): void {
    const descriptors = [...this.#exchanges.values()].flatMap(({ kernel }) => kernel.descriptors);
    this.#send({ type: 'descriptors', descriptors });
  }

  #log(family: Family) {
    const note = (level: 'error' | 'warn' | 'info' | 'debug') => (fields: object, message: string) => {
      // An Error with its fields does not pass a port.
      const { err, ...rest } = fields as { err?: Error };
      const noted = err === undefined ? rest : { ...rest, reason: err.message };
      this.#send({ type: 'note', level, message, fields: { family, ...noted } });
    };
    return { error: note('error'), warn: note('warn'), info: note('info'), debug: note('debug') };
  }

  #send(message: FromGroup): void {
    this.#port.postMessage(message);
  }
}

if (parentPort !== null) {
  const port = parentPort;
  const worker = new GroupWorker(port);
  // One message after the other: an exchange that ends has ended before the next one starts.
  let last = Promise.resolve();
  port.on('message', (message: ToGroup) => {
    last = last.then(() => worker.take(message));
    last.catch((error: Error) => {
      throw error;
    });
  });
}
