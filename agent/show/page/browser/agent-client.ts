/** The agent's documents over HTTP, and its clock from the Date header of its answers. */

/** Timeout of a request, ms. */
const TIMEOUT = 8000;
/** The Date of an answer has a resolution of a second: up to this difference, ms, the clock here goes on. */
const RESOLUTION = 1500;

export class AgentClient {
  readonly #fetch: typeof fetch;
  readonly #clock: () => number;
  /** The clock here less the agent's, ms. */
  #skew = 0;

  /** @param clock Unix milliseconds here */
  constructor(send: typeof fetch, clock: () => number) {
    this.#fetch = send;
    this.#clock = clock;
  }

  /** The agent's clock, Unix milliseconds. */
  now(): number {
    return this.#clock() - this.#skew;
  }

  /** A document. Throws with the text of any other answer than 200. */
  async get<T>(path: string): Promise<T> {
    const send = this.#fetch;
    const response = await send(path, { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT) });
    if (!response.ok) throw new Error((await response.text()).trim());
    const date = Date.parse(response.headers.get('date') ?? '');
    if (Math.abs(date - this.now()) > RESOLUTION) this.#skew = this.#clock() - date;
    return response.json() as Promise<T>;
  }
}
