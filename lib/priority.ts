/**
 * The scheduling priority of the BFD process, so that a busy machine does not delay its packets: real-time if permitted
 * (CAP_SYS_NICE), else a better nice value, else unchanged.
 */
import os from 'node:os';
import koffi from 'koffi';
import { libc, SystemError } from './libc.ts';

// linux/sched.h
const SCHED_RR = 2;
/** Children and new threads start with the normal policy. */
const SCHED_RESET_ON_FORK = 0x4000_0000;
/** The lowest real-time priority: above all normal processes, below the kernel's threads. */
const REALTIME_PRIORITY = 1;
const NICE = -15;

const sched_setscheduler = libc.func('int sched_setscheduler(int pid, int policy, const uint8_t *param)');

export type Priority =
  | { kind: 'realtime' }
  /** `reason`: why it is not real-time. */
  | { kind: 'nice' | 'normal'; reason: string };

/** Raises the priority of the calling thread as far as permitted. Never throws. */
export function raisePriority(): Priority {
  const param = Buffer.alloc(4);
  param.writeInt32LE(REALTIME_PRIORITY);
  if (sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, param) === 0) return { kind: 'realtime' };
  const { message } = new SystemError('sched_setscheduler', koffi.errno());
  const reason = `${message}; real-time scheduling needs CAP_SYS_NICE`;
  try {
    os.setPriority(NICE);
    return { kind: 'nice', reason };
  } catch {
    return { kind: 'normal', reason };
  }
}
