/** How the lab tells its story on a terminal or in a file: steps, commands with their output, checks. */

export class Story {
  readonly #colours: boolean;
  readonly #checks: { ok: boolean; text: string }[] = [];
  #step = 0;
  /** The last line was a blank one. */
  #blank = false;

  constructor(colours: boolean) {
    this.#colours = colours;
  }

  #paint(code: number, text: string): string {
    return this.#colours ? `\x1b[${code}m${text}\x1b[0m` : text;
  }

  #line(text = ''): void {
    this.#blank = text === '';
    process.stdout.write(`${text}\n`);
  }

  /** Begins a step. */
  step(title: string): void {
    if (!this.#blank) this.#line();
    this.#line(this.#paint(1, `${++this.#step}. ${title}`));
  }

  /** A paragraph; indentation of its lines is kept. */
  say(text: string): void {
    for (const line of text.replace(/^\n|\s+$/g, '').split('\n')) this.#line(`   ${line}`.trimEnd());
  }

  /** A command and what it printed. */
  output(command: string, text: string): void {
    if (!this.#blank) this.#line();
    this.#line(`   ${this.#paint(36, `$ ${command}`)}`);
    for (const line of text.trimEnd().split('\n').filter(Boolean)) {
      this.#line(`   ${this.#paint(2, line.trimEnd())}`);
    }
    this.#line();
  }

  /** Something that has to be true; it comes back in the summary. Returns it. */
  check(ok: boolean, text: string): boolean {
    this.#checks.push({ ok, text });
    this.#line(this.#mark(ok, text));
    return ok;
  }

  #mark(ok: boolean, text: string): string {
    return `   ${ok ? this.#paint(32, '✓') : this.#paint(31, '✗')} ${text}`;
  }

  /** Everything that was checked. Returns whether all of it was true. */
  summary(seconds: number): boolean {
    const failed = this.#checks.filter(({ ok }) => !ok).length;
    const verdict = failed === 0 ? this.#paint(32, 'all of it worked') : this.#paint(31, `${failed} failed`);
    this.#line();
    this.#line(
      `${this.#paint(1, 'Summary')}: ${this.#checks.length} checks in ${seconds.toFixed(1)} s, ${verdict}`,
    );
    for (const { ok, text } of this.#checks) this.#line(this.#mark(ok, text));
    this.#line();
    return failed === 0;
  }
}
