/**
 * When a drain is complete: the peers have received AdminDown, and traffic has moved away (drained.ts). Takes samples
 * all the time, a few, to know the usual rates.
 *
 * The kernel does not count what the fast path forwards. So a drain waits until it is out of force; before, the packets that
 * policies have carried show the usual rate.
 */
import { readFileSync } from 'node:fs';
import type { EngineReport } from '../../bfd/intent.ts';
import { type Clock, systemClock, type Timer } from '../../lib/clock.ts';
import type { Exec } from '../../lib/exec.ts';
import type { Log } from '../../lib/log.ts';
import { FAMILIES, type Family } from '../../lib/prefix.ts';
import { parseTables } from '../../nat/parse.ts';
import { markRule } from '../../nat/rules.ts';
import type { Observation } from '../reconcile/observation.ts';
import { isDrained, type Rates, ratesBetween, type Sample } from './drained.ts';

/** How often samples are taken before a drain and during one, ms. */
const USUAL_PERIOD = 10_000;
const DRAIN_PERIOD = 100;
/** No packet was forwarded for so long: none comes any more, ms. */
const IDLE = 300;
/** Counting new flows starts two processes: not with every sample of a drain. */
const FLOWS_EVERY = 5;
/** New flows are counted with every third of the samples before a drain. */
const USUAL_FLOWS_EVERY = 3;
/** The usual rates are those over this many samples before. */
const USUAL_SAMPLES = 6;

/** Packets forwarded in this namespace, both families, from /proc/net/snmp and /proc/net/snmp6. */
export function forwardedPackets(snmp: string, snmp6: string): number {
  const [names = [], values = []] = snmp
    .split('\n')
    .filter((line) => line.startsWith('Ip: '))
    .map((line) => line.split(' '));
  const ip4 = Number(values[names.indexOf('ForwDatagrams')] ?? 0);
  const ip6 = Number(/^Ip6OutForwDatagrams\s+(\d+)/m.exec(snmp6)?.[1] ?? 0);
  return ip4 + ip6;
}

/**
 * Flows from the VPC so far, by `iptables-save -c -t nat`: the nat table sees the first packet of each. Undefined
 * when only `nft` can list the table.
 */
export function flowsCounted(save: string, family: Family, internalInterface: string): number | undefined {
  if (save.startsWith("# Table `nat' is incompatible")) return undefined;
  const chain = parseTables(save, family).get('nat')?.get('PREROUTING');
  const rule = markRule(internalInterface);
  return chain?.rules.find(({ text }) => text === rule)?.packets ?? 0;
}

/** A file of /proc/self/net; empty where the kernel does not have it, as `snmp6` without IPv6. Throws otherwise. */
function readNet(name: string): string {
  try {
    return readFileSync(`/proc/self/net/${name}`, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '';
    throw error;
  }
}

/** Whether every peer that could send traffic here has received AdminDown. */
const peersKnow = (report: EngineReport | undefined): boolean =>
  report?.draining === true && report.sessions.every(({ remoteState }) => remoteState !== 'Up');

export interface DrainParts {
  exec: Exec;
  logger: Pick<Log, 'error'>;
  /** A file of /proc/self/net, by its name. */
  readCounters?(name: string): string;
  /** The last report of the BFD process. */
  report(): EngineReport | undefined;
  /** The last observation of the kernel; undefined before the first. */
  observation(): Pick<Observation, 'plan' | 'backend' | 'fastPath'> | undefined;
  /** All packets that policies have carried so far, with a fast path; undefined without. */
  carried?(): number | undefined;
  /** Default: the system's. */
  clock?: Clock;
}

export class DrainWatch {
  readonly #parts: DrainParts;
  readonly #clock: Clock;
  readonly #timer: Timer;
  /** Samples from before a drain. */
  #usual: Sample[] = [];
  /** Set while draining: the usual rates when it began, and whether it is complete. */
  #drain: { usual: Promise<Rates>; complete: boolean } | undefined;

  constructor(parts: DrainParts) {
    this.#parts = parts;
    this.#clock = parts.clock ?? systemClock;
    this.#timer = this.#clock.every(USUAL_PERIOD, () => this.#recordUsual());
    this.#recordUsual();
  }

  /**
   * Resolves true when the gateway is drained, false when `timeoutMs` passed before. The peers have been sent
   * AdminDown. A drain that is complete has nothing to wait for.
   */
  async drained(timeoutMs: number): Promise<boolean> {
    const end = this.#clock.now() + timeoutMs;
    this.#drain ??= { usual: this.#rates(), complete: false };
    const drain = this.#drain;
    if (drain.complete) return true;
    const usual = await drain.usual;
    let samples: Sample[] = [];
    for (let i = 0; this.#clock.now() < end; i++) {
      await this.#sleep(Math.min(DRAIN_PERIOD, Math.max(1, end - this.#clock.now())));
      const sample = await this.#sample(i % FLOWS_EVERY === 0);
      const counts = sample !== undefined && !this.#hasFastPath && peersKnow(this.#parts.report());
      // Now forwarded packets are all that there are, and known at once.
      samples = counts ? [...samples, { ...sample, carried: undefined }] : [];
      if (!isDrained(samples, usual)) continue;
      drain.complete = true;
      return true;
    }
    return false;
  }

  /**
   * Waits until no packet is forwarded any more, at most `timeoutMs`. A drain does not wait for answers to what left here before:
   * the other members of a group send them here until they know that this one has left.
   */
  async idle(timeoutMs: number): Promise<void> {
    const end = this.#clock.now() + timeoutMs;
    let last = await this.#sample(false);
    for (let now = this.#clock.now(); now < end; now = this.#clock.now()) {
      await this.#sleep(Math.min(DRAIN_PERIOD, end - now));
      const sample = await this.#sample(false);
      if (sample?.packets !== last?.packets) last = sample;
      else if (last !== undefined && this.#clock.now() - last.at >= IDLE) return;
    }
  }

  /** The drain was ended. */
  undrain(): void {
    this.#drain = undefined;
    this.#usual = [];
    this.#recordUsual();
  }

  close(): void {
    this.#timer.cancel();
  }

  get #hasFastPath(): boolean {
    return this.#parts.observation()?.fastPath ?? false;
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.#clock.after(ms, resolve);
    });
  }

  #recordUsual(): void {
    if (this.#drain !== undefined) return;
    const lately = this.#usual.slice(1 - USUAL_FLOWS_EVERY);
    this.#sample(lately.every(({ flows }) => flows === undefined))
      .then((sample) => {
        if (sample !== undefined) this.#usual = [...this.#usual, sample].slice(-USUAL_SAMPLES);
      })
      .catch((error: Error) => this.#parts.logger.error({ err: error }, 'cannot count forwarded packets'));
  }

  async #rates(): Promise<Rates> {
    const now = (await this.#sample(true)) ?? this.#usual.at(-1);
    if (now === undefined) return { packets: 0, flows: undefined };
    const { packets } = ratesBetween(this.#usual[0] ?? now, now);
    const { flows } = ratesBetween(this.#usual.find(({ flows }) => flows !== undefined) ?? now, now);
    return { packets, flows };
  }

  /** The counters now; undefined when they cannot be read. */
  async #sample(withFlows: boolean): Promise<Sample | undefined> {
    const { readCounters = readNet, carried } = this.#parts;
    let packets: number;
    try {
      packets = forwardedPackets(readCounters('snmp'), readCounters('snmp6'));
    } catch {
      return undefined;
    }
    const at = this.#clock.now();
    return { at, packets, carried: carried?.(), flows: withFlows ? await this.#flows() : undefined };
  }

  /** Flows from the VPC so far; undefined when they cannot be read. */
  async #flows(): Promise<number | undefined> {
    const observation = this.#parts.observation();
    if (observation === undefined) return undefined;
    let sum = 0;
    for (const family of FAMILIES) {
      const backend = observation.backend[family];
      if (backend === undefined) continue;
      const program = family === 4 ? 'iptables' : 'ip6tables';
      const args = ['-c', '-t', 'nat'];
      let result = await this.#parts.exec(`${program}-${backend}-save`, args);
      // An image with one backend may have only the plain name.
      if (result.exitCode === -1) result = await this.#parts.exec(`${program}-save`, args);
      if (result.exitCode !== 0) return undefined;
      const counted = flowsCounted(result.stdout, family, observation.plan.interfaces.internal);
      if (counted === undefined) return undefined;
      sum += counted;
    }
    return sum;
  }
}
