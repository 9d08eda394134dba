/** Multicast messages of traffic control as events. Pure. */
import { BANDWIDTH_HANDLE } from '../routing/numbers.ts';
import { majorOf, parseTc, TC_H_ROOT, TcMessage } from './tc-codec.ts';

/** RTNLGRP_TC (linux/rtnetlink.h). */
export const TC_GROUP = 4;

/** What happened, where it concerns the agent: a root qdisc, or what is below its own. */
export function shapingEvent(
  { type, data }: { type: number; data: Buffer },
  nameOf: (ifindex: number) => string | undefined,
): { object: 'qdisc'; what: string } | undefined {
  const isQdisc = type === TcMessage.NEWQDISC || type === TcMessage.DELQDISC;
  if (!isQdisc && type !== TcMessage.NEWTCLASS && type !== TcMessage.DELTCLASS) return undefined;
  const found = parseTc(data);
  if (found === undefined) return undefined;
  const { ifindex, handle, parent, kind } = found;
  if (parent !== TC_H_ROOT && majorOf(parent) !== BANDWIDTH_HANDLE) return undefined;
  const verb = type === TcMessage.NEWQDISC || type === TcMessage.NEWTCLASS ? 'set' : 'removed';
  const number = `${majorOf(handle).toString(16)}:${isQdisc ? '' : (handle & 0xffff).toString(16)}`;
  const dev = nameOf(ifindex) ?? `if${ifindex}`;
  return { object: 'qdisc', what: `${isQdisc ? 'qdisc' : 'class'} ${verb}: ${kind} ${number} dev ${dev}` };
}
