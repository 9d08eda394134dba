/** Lookups among members: who was behind an address and a port. Answers are bounded. */
import type { Address } from '../../lib/prefix.ts';
import { MAX_ANSWER, MAX_QUERY, type Message } from './codec.ts';

/** Octets of one answer. */
const MAX_BODY = 1 << 20;
/** Lookups of others that are answered at the same time. */
const MAX_AT_WORK = 4;

export interface LookupAnswer {
  status: number;
  body: string;
}

/** A member's answer; absent if it did not answer in time. */
export interface MemberAnswer {
  member: Address;
  answer?: LookupAnswer;
}

interface Question {
  member: Address;
  parts: Buffer[];
  octets: number;
  done(answer?: LookupAnswer): void;
}

export interface LookupOptions {
  send(member: Address, message: Message): void;
  /** Answers from what this gateway alone knows. */
  answer(query: string): Promise<LookupAnswer>;
}

export class Lookups {
  readonly #options: LookupOptions;
  readonly #questions = new Map<number, Question>();
  #lastNumber = 0;
  #atWork = 0;

  constructor(options: LookupOptions) {
    this.#options = options;
  }

  /** Asks members, and waits at most so long, ms. Throws `RangeError` for a query that is too long. */
  ask(members: readonly Address[], query: string, timeout: number): Promise<MemberAnswer[]> {
    if (Buffer.byteLength(query) > MAX_QUERY) throw new RangeError('the query is too long');
    return Promise.all(members.map((member) => this.#ask(member, query, timeout)));
  }

  /** A member asks or answers. */
  receive(member: Address, message: Message & { type: 'lookup' | 'answer' }): void {
    if (message.type === 'lookup') void this.#answer(member, message.number, message.query);
    else this.#receiveAnswer(member, message);
  }

  /** The connection to a member is gone. */
  forget(member: Address): void {
    for (const question of this.#questions.values()) if (question.member === member) question.done();
  }

  #ask(member: Address, query: string, timeout: number): Promise<MemberAnswer> {
    this.#lastNumber = (this.#lastNumber + 1) >>> 0;
    const number = this.#lastNumber;
    return new Promise((resolve) => {
      const done = (answer?: LookupAnswer) => {
        clearTimeout(timer);
        this.#questions.delete(number);
        resolve({ member, ...(answer !== undefined && { answer }) });
      };
      const timer = setTimeout(done, timeout);
      this.#questions.set(number, { member, parts: [], octets: 0, done });
      this.#options.send(member, { type: 'lookup', number, query });
    });
  }

  #receiveAnswer(member: Address, { number, last, status, body }: Message & { type: 'answer' }): void {
    const question = this.#questions.get(number);
    if (question?.member !== member) return;
    question.parts.push(Buffer.from(body));
    question.octets += body.length;
    if (question.octets > MAX_BODY) question.done();
    else if (last) question.done({ status, body: Buffer.concat(question.parts).toString() });
  }

  async #answer(member: Address, number: number, query: string): Promise<void> {
    let answer: LookupAnswer = { status: 503, body: 'too many lookups at once\n' };
    if (this.#atWork < MAX_AT_WORK) {
      this.#atWork++;
      try {
        answer = await this.#options.answer(query);
      } catch {
        answer = { status: 500, body: 'the lookup failed\n' };
      }
      this.#atWork--;
    }
    let body = Buffer.from(answer.body);
    if (body.length > MAX_BODY) {
      answer = { status: 413, body: '' };
      body = Buffer.from('the answer is too large: ask more precisely\n');
    }
    for (let at = 0; at === 0 || at < body.length; at += MAX_ANSWER) {
      const part = body.subarray(at, at + MAX_ANSWER);
      const last = at + MAX_ANSWER >= body.length;
      this.#options.send(member, { type: 'answer', number, last, status: answer.status, body: part });
    }
  }
}
