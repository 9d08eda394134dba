/**
 * What the plots show, from one process of the agent to the next: samples, marks, and the file that keeps both.
 * `answer` promises at most 400 KiB of JSON.
 */
import type { EngineReport } from '../../../bfd/intent.ts';
import { uptime } from '../../../lib/clock.ts';
import type { ControlReply } from '../../../lib/control/server.ts';
import type { Log } from '../../../lib/log.ts';
import type { Family } from '../../../lib/prefix.ts';
import type { AgentView } from '../status.ts';
import { HistoryFile } from './history-file.ts';
import type { Reading, Recorder } from './recorder.ts';
import { isRange, RANGES } from './series.ts';

/** Samples between two writes of the file: a process that is killed loses so many. */
const SAMPLES_A_WRITE = 3;

export class PlotHistory {
  readonly #file: HistoryFile;
  readonly #recorder: Recorder;
  readonly #read: () => Reading;
  #samples = 0;

  /** @param read what is sampled */
  constructor(stateDir: string, log: Log, read: () => Reading) {
    this.#file = new HistoryFile(stateDir, log);
    this.#recorder = this.#file.read();
    this.#read = read;
  }

  /** Takes a sample; some of them are followed by a write. */
  sample(): void {
    this.#recorder.sample(this.#read(), uptime());
    this.#samples++;
    if (this.#samples % SAMPLES_A_WRITE === 0) this.save();
  }

  /** An external gateway has answered a probe after so many milliseconds. */
  roundTrip(family: Family, ms: number): void {
    this.#recorder.roundTrip(family, ms);
  }

  /** Marks what happened since the last report of the BFD process. */
  observe(view: AgentView, report: EngineReport, uplink: (family: Family) => boolean | undefined): void {
    const { policy, kernel, group = [] } = view;
    const facts = {
      ...{ generation: policy.generation, valid: policy.valid, repaired: { ...kernel.driftRepaired } },
      ...{ sessions: report.sessions, draining: report.draining, groups: group },
      uplinks: { 4: uplink(4), 6: uplink(6) },
    };
    this.#recorder.observe(facts, uptime());
  }

  save(): void {
    this.#file.write(this.#recorder);
  }

  /** Answers `GET /v1/history`. */
  answer(query: URLSearchParams): ControlReply {
    const range = query.get('range') ?? '5m';
    if (!isRange(range)) return { status: 400, body: `range must be ${Object.keys(RANGES).join(', ')}\n` };
    return { status: 200, body: this.#recorder.document(range, uptime(), Date.now()) };
  }
}
