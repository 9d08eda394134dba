/** From the errors of the kernel and its tools to failures by object. Pure. */
import type { Family } from '../../lib/prefix.ts';
import type { OptionalPart } from '../../nat/desired.ts';
import type { NatStep } from '../../nat/diff.ts';
import { CHANGED, NatError, type NatErrorKind } from '../../nat/errors.ts';
import { isRuleStep, isSetStep } from '../../nat/render.ts';
import type { RoutingStep } from '../../routing/diff.ts';
import type { RoutingError } from '../../routing/kernel.ts';
import type { ShapingError } from '../../shaping/kernel.ts';
import type { SysctlStep } from '../pod/sysctl.ts';
import { routingFamily, shapingObject } from './changes.ts';
import type { Failure, FailureReason } from './failures.ts';
import { partsIn, sysctlFamily } from './targets.ts';

/** A step that was refused. */
export interface ApplyFailure extends Failure {
  /** Of translation: why, and the optional parts among what was refused. */
  kind?: NatErrorKind;
  parts?: readonly OptionalPart[];
  /** Of routing: the step. */
  step?: RoutingStep;
  /** Of a sysctl: the family that forwards nothing without it. */
  required?: Family | undefined;
}

/** An error with what to do about it, where that is known. */
export function explain(error: Error): string {
  const { hint } = error as { hint?: string };
  return hint === undefined ? error.message : `${error.message} (${hint})`;
}

const ERRNO_REASONS: Record<string, FailureReason> = {
  ...{ EPERM: 'not_permitted', EACCES: 'not_permitted', EROFS: 'not_permitted' },
  ...{ ENETUNREACH: 'unreachable', EHOSTUNREACH: 'unreachable', ENETDOWN: 'unreachable' },
  ...{ ENODEV: 'unreachable', EADDRINUSE: 'in_use', EBUSY: 'in_use', EEXIST: 'in_use' },
  ...{ EINVAL: 'invalid', EADDRNOTAVAIL: 'invalid', ERANGE: 'invalid' },
  ...{ ENOTSUP: 'unsupported', EAFNOSUPPORT: 'unsupported', ENOENT: 'unsupported' },
};

const errnoReason = (code: string | undefined): FailureReason => ERRNO_REASONS[code ?? ''] ?? 'failed';

export const natReason = ({ kind }: NatError): FailureReason => kind.replace('-', '_') as FailureReason;

/** The object of a routing step, by its kind and its name. */
function routingObject(step: RoutingStep): Pick<Failure, 'object' | 'name'> {
  if ('address' in step) return { object: 'address', name: step.address.address };
  if ('proxy' in step) return { object: 'address', name: step.proxy.address };
  if ('link' in step) return { object: 'link', name: step.link.name };
  return 'route' in step
    ? { object: 'route', name: step.route.destination }
    : { object: 'rule', name: `${step.rule.priority}` };
}

/** The failure of a routing step. */
export const routingFailure = (error: RoutingError): ApplyFailure => ({
  ...routingObject(error.step),
  step: error.step,
  // Both families need a device.
  ...(!('link' in error.step) && { family: routingFamily(error.step) }),
  reason: errnoReason(error.code),
  message: error.message,
});

/** At most this many tables or sets are named where the refused one is unknown. */
const NAMED = 3;

/** The failure of a batch of translation steps in a family. */
export function natFailure(error: Error, family: Family, steps: readonly NatStep[]): ApplyFailure {
  const { kind, object, subject } = error instanceof NatError ? error : new NatError('failed', error.message);
  const names = steps.flatMap((step) => {
    if (object === 'chain') return isRuleStep(step) ? [step.table] : [];
    return isSetStep(step) ? [step.set] : [];
  });
  return {
    ...{ object, family, name: subject ?? [...new Set(names)].slice(0, NAMED).join(', '), kind },
    parts: partsIn(steps),
    reason: error instanceof NatError ? natReason(error) : 'failed',
    message: explain(error),
  };
}

/** The failure of a sysctl. */
export function sysctlFailure(
  error: NodeJS.ErrnoException,
  { path, line, required }: SysctlStep,
): ApplyFailure {
  const family = sysctlFamily(path);
  return {
    ...{ object: 'sysctl', ...(family && { family }), name: path, required },
    ...{ reason: errnoReason(error.code), message: `${line}: ${error.message}` },
  };
}

/** The failure of a step of traffic control. */
export const shapingFailure = ({ step, code, message }: ShapingError): ApplyFailure => ({
  ...{ object: shapingObject(step), name: 'dev' in step ? step.dev : 'VEG-BANDWIDTH' },
  ...{ reason: errnoReason(code), message },
});

/** What a kernel answers that lacks a module; EINVAL without nf_tables (nfnetlink_rcv_msg of nfnetlink.c). */
const LACK = /\((?:EAFNOSUPPORT|EINVAL|ENOENT|ENOTSUP|EPROTONOSUPPORT)\)/;

/** Whether an answer of nf_tables to a new table, or to a question, says that the kernel lacks something. */
export const isLack = ({ message }: Error): boolean => LACK.test(message);

/** The failure of a table of nf_tables. */
export const tableFailure = (
  table: Pick<Failure, 'family' | 'name'>,
  { code = '' }: NodeJS.ErrnoException,
  message: string,
): ApplyFailure => ({
  ...{ object: 'table', ...table, message },
  reason: CHANGED.has(code) ? 'changed' : errnoReason(code),
});

/** The failure of an observation. */
export const listingFailure = (error: Error, family?: Family): Failure => ({
  ...{ object: 'listing', ...(family && { family }), name: 'kernel', message: explain(error) },
  reason: error instanceof NatError ? natReason(error) : errnoReason((error as NodeJS.ErrnoException).code),
});

/** A failure without what only the reconciler needs of it. */
export const bareFailure = ({ object, family, name, reason, message }: Failure): Failure => ({
  ...{ object, ...(family && { family }), name, reason, message },
});
