/**
 * When a drain is over: the peers have heard AdminDown, and packets from the VPC have stopped coming.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { EngineReport } from '../bfd/intent.ts';

/** How often the counters are looked at, ms, and how many quiet looks in a row are enough. */
const SAMPLE_PERIOD = 100;
const QUIET_SAMPLES = 3;
/** Packets in a sample that still count as quiet: BFD itself, ARP, a lone retransmission. */
const QUIET_PACKETS = 2;

/** Packets received on an interface of this namespace, from /proc/net/dev; undefined when it is not there. */
export function receivedPackets(procNetDev: string, name: string): number | undefined {
  const line = procNetDev.split('\n').find((candidate) => candidate.trimStart().startsWith(`${name}:`));
  const fields = line
    ?.slice(line.indexOf(':') + 1)
    .trim()
    .split(/\s+/);
  return fields === undefined ? undefined : Number(fields[1]);
}

const counter = (name: string): number =>
  receivedPackets(readFileSync('/proc/self/net/dev', 'utf8'), name) ?? 0;

/** Whether every peer that could send traffic here has seen that this end is AdminDown. */
const peersKnow = (report: EngineReport | undefined): boolean =>
  report?.draining === true && report.sessions.every(({ remoteState }) => remoteState !== 'Up');

/**
 * Resolves true when traffic from the VPC has moved away, false when `timeoutMs` passed before.
 * `internalInterface` is where it comes in; absent before the first plan: then only the peers are waited for.
 */
export async function waitUntilMoved(
  report: () => EngineReport | undefined,
  internalInterface: string | undefined,
  timeoutMs: number,
): Promise<boolean> {
  const end = performance.now() + timeoutMs;
  let quiet = 0;
  let before = internalInterface === undefined ? 0 : counter(internalInterface);
  while (performance.now() < end) {
    await sleep(Math.min(SAMPLE_PERIOD, Math.max(1, end - performance.now())));
    const now = internalInterface === undefined ? 0 : counter(internalInterface);
    quiet = peersKnow(report()) && now - before <= QUIET_PACKETS ? quiet + 1 : 0;
    before = now;
    if (quiet >= QUIET_SAMPLES) return true;
  }
  return false;
}
