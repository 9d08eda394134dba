/**
 * A headless Chromium in a namespace, driven over the DevTools protocol: JSON messages on two pipes, which reach
 * into a namespace where no port would.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import { type Namespace, run, type Scope, until } from './netns.ts';

/** The first that is there; the Debian package is chromium-headless-shell. */
const PROGRAMS = ['chromium-headless-shell', 'chromium', 'google-chrome'];

const FLAGS = [
  '--headless',
  '--no-sandbox', // needs user namespaces, and does not like root
  '--disable-gpu',
  '--disable-dev-shm-usage',
  '--disable-background-networking',
  '--disable-component-update',
  '--no-first-run',
  '--hide-scrollbars',
  '--remote-debugging-pipe',
];
/** How long an answer may take, ms. */
const TIMEOUT = 15_000;

interface Message {
  id?: number;
  method?: string;
  params?: Record<string, unknown>;
  result?: Record<string, unknown>;
  error?: { message: string };
}

export interface View {
  width: number;
  height: number;
  dark?: boolean;
  /** Pixels of a screenshot to one of the page. */
  scale?: number;
}

export class Browser {
  /** The URLs that were asked for. */
  readonly requests: string[] = [];
  /** What the page's console said that is an error, and exceptions. */
  readonly complaints: string[] = [];
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (message: Message) => void>();
  #lastId = 0;
  #session: string | undefined;

  private constructor(scope: Scope, ns: Namespace) {
    const program = PROGRAMS.find((name) => run('sh', ['-c', `command -v ${name}`]).code === 0);
    if (program === undefined) throw new Error(`no browser: install one of ${PROGRAMS.join(', ')}`);
    const args = [
      'netns',
      'exec',
      ns.name,
      program,
      ...FLAGS,
      `--user-data-dir=${scope.directory('chromium')}`,
    ];
    // It ends with its pipes, and with its namespace.
    this.#child = spawn('ip', args, { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });
    let rest = '';
    const input = this.#child.stdio[4] as Readable;
    input.setEncoding('utf8');
    input.on('data', (text: string) => {
      const messages = (rest + text).split('\0');
      rest = messages.pop()!;
      for (const message of messages) this.#receive(JSON.parse(message) as Message);
    });
    for (const stream of this.#child.stdio) stream?.on('error', () => {});
  }

  /** Starts one, with an empty page. */
  static async start(scope: Scope, ns: Namespace): Promise<Browser> {
    const browser = new Browser(scope, ns);
    const { targetId } = await browser.#call('Target.createTarget', { url: 'about:blank' });
    const { sessionId } = await browser.#call('Target.attachToTarget', { targetId, flatten: true });
    browser.#session = sessionId as string;
    for (const domain of ['Page', 'Network', 'Runtime', 'Log']) await browser.#call(`${domain}.enable`);
    return browser;
  }

  /** Goes to a page and waits until it is loaded. */
  async open(url: string): Promise<void> {
    const { errorText } = await this.#call('Page.navigate', { url });
    if (errorText !== undefined) throw new Error(`${url}: ${errorText}`);
    const there = `location.href === ${JSON.stringify(url)} && document.readyState === 'complete'`;
    await until(() => this.value<boolean>(there), { what: `${url} loaded` });
  }

  async view({ width, height, dark = false, scale = 1 }: View): Promise<void> {
    const metrics = { width, height, deviceScaleFactor: scale, mobile: false };
    await this.#call('Emulation.setDeviceMetricsOverride', metrics);
    const features = [{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }];
    await this.#call('Emulation.setEmulatedMedia', { features });
  }

  /** The value of an expression in the page; a promise is waited for. Throws what it throws. */
  async value<T>(expression: string): Promise<T> {
    const answer = await this.#call('Runtime.evaluate', {
      ...{ expression, awaitPromise: true, returnByValue: true },
    });
    const { result, exceptionDetails } = answer as {
      result: { value: T };
      exceptionDetails?: { exception?: { description?: string }; text: string };
    };
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  /** The text of an element. */
  text(selector: string): Promise<string> {
    return this.value(`document.querySelector(${JSON.stringify(selector)})?.innerText ?? ''`);
  }

  /** Presses a key without text, such as `ArrowLeft`. */
  async press(key: string): Promise<void> {
    const virtualKey = { ArrowLeft: 37, ArrowRight: 39, Home: 36, End: 35 }[key];
    for (const type of ['keyDown', 'keyUp']) {
      await this.#call('Input.dispatchKeyEvent', { type, key, windowsVirtualKeyCode: virtualKey });
    }
  }

  /** A PNG of the view. */
  async screenshot(): Promise<Buffer> {
    const { data } = await this.#call('Page.captureScreenshot');
    return Buffer.from(data as string, 'base64');
  }

  async close(): Promise<void> {
    const gone = new Promise((resolve) => this.#child.once('exit', resolve));
    void this.#call('Browser.close', {}, false).catch(() => {});
    await gone;
  }

  #receive({ id, method, params, result, error }: Message): void {
    if (id !== undefined) {
      this.#waiting.get(id)?.({ ...(result && { result }), ...(error && { error }) });
      return;
    }
    const of = <T>(): T => params as T;
    if (method === 'Network.requestWillBeSent') {
      this.requests.push(of<{ request: { url: string } }>().request.url);
    }
    if (method === 'Runtime.exceptionThrown') this.complaints.push(JSON.stringify(params));
    if (method === 'Log.entryAdded') {
      const { entry } = of<{ entry: { level: string; text: string } }>();
      if (entry.level === 'error') this.complaints.push(entry.text);
    }
  }

  async #call(method: string, params: object = {}, inPage = true): Promise<Record<string, unknown>> {
    const id = ++this.#lastId;
    const session = inPage && this.#session !== undefined ? { sessionId: this.#session } : {};
    const answer = await new Promise<Message>((resolve, reject) => {
      const fail = (why: string) => reject(new Error(`${method}: ${why}`));
      const timer = setTimeout(() => fail(`no answer in ${TIMEOUT} ms`), TIMEOUT);
      const ended = () => fail('the browser ended');
      this.#child.once('exit', ended);
      this.#waiting.set(id, (message) => {
        clearTimeout(timer);
        this.#child.off('exit', ended);
        this.#waiting.delete(id);
        resolve(message);
      });
      (this.#child.stdio[3] as Writable).write(`${JSON.stringify({ id, method, params, ...session })}\0`);
    });
    if (answer.error) throw new Error(`${method}: ${answer.error.message}`);
    return answer.result ?? {};
  }
}
