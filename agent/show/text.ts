/** The text of `veg-agent status`. Pure. */
import { duration, scaled } from '../../lib/units.ts';
import { documentsOf, type Explained, explained } from './help.ts';
import {
  grouped,
  isRemoved,
  NOT_COUNTED,
  type Overview,
  overview,
  plural,
  policyLabel,
  type SessionRow,
  type State,
} from './overview.ts';
import { printable } from './printable.ts';
import type { StatusDocument } from './status.ts';

type Painter = ReturnType<typeof painter>;

/** SGR sequences of a terminal; plain text when `colours` is false. */
function painter(colours: boolean) {
  const paint = (code: number) => (text: string) => (colours ? `\x1b[${code}m${text}\x1b[0m` : text);
  const [good, warn, bad, faint, strong] = [paint(32), paint(33), paint(31), paint(2), paint(1)];
  const bySeverity = { good, warn, bad, idle: (text: string) => text };
  return { bad, faint, strong, state: ({ severity, text }: State) => bySeverity[severity](text) };
}

function policyLines({ policies }: StatusDocument, { policy }: Overview, { strong, bad }: Painter): string[] {
  const { name, generation, source, state } = policy;
  const invalid = state.severity === 'bad' ? bad(' (newest input is invalid)') : '';
  return [
    `${strong('policy')}   ${name}, ${generation}, ${source}${invalid}`,
    ...policies.flatMap((rule) =>
      rule.portBlockSize > 0 ? [`  ${rule.name}: ${rule.portBlockSize} ports for each source`] : [],
    ),
  ];
}

const notes = (texts: readonly string[], kind: string): string[] => texts.map((text) => `  ${kind}: ${text}`);

/** Where texts are explained; none without any. */
const seeLines = (texts: readonly Explained[], { faint }: Painter): string[] =>
  texts.length === 0 ? [] : [`  ${faint(`see ${documentsOf(texts).join(', ')}`)}`];

function kernelLines(status: StatusDocument, { kernel }: Overview, paint: Painter): string[] {
  const { strong, bad, state } = paint;
  const { families, interfaces, backend, failures, reconcile, drift } = kernel;
  const head = [state(kernel.state), ...families, ...interfaces, ...backend];
  const lines = [
    `${strong('kernel')}   ${head.join(', ')}`,
    ...failures.map(({ text, age }) => `  ${bad(text)}, ${age}`),
    ...notes(status.kernel.notes, 'note'),
    ...seeLines(explained('note', status.kernel.notes), paint),
  ];
  if (reconcile !== undefined) {
    const { when, result, took } = reconcile;
    lines.push(
      `  last reconcile ${when}: ${result.severity === 'bad' ? state(result) : result.text} in ${took}`,
    );
  }
  return [...lines, `  ${drift}`];
}

/** The state of each family, the reasons, and the results of the probes. */
function uplinkLines({ uplink }: Overview, { strong, bad, state }: Painter): string[] {
  return [
    `${strong('uplink')}   ${uplink.families.map(state).join(', ') || 'not watched'}`,
    ...uplink.reasons.map((reason) => `  ${bad(reason)}`),
    ...uplink.probes.map((probe) => `  ${probe}`),
  ];
}

type Traffic = Pick<NonNullable<StatusDocument['snat']>, 'open' | 'connections' | 'bytes'>;

/** `12 connections open, 340 in total, 1.20 MB out, 3.40 MB in`. */
function trafficText({ open, connections, bytes }: Traffic): string {
  const volume = `${scaled(bytes.out, 'B')} out, ${scaled(bytes.in, 'B')} in`;
  const living = open === null ? '' : `${plural(open, 'connection')} open, `;
  const all = open === null ? plural(connections, 'connection') : `${grouped(connections)} altogether`;
  return `${living}${all}, ${volume}`;
}

/** SNAT in total, each policy, and the ports of each external address. */
function trafficLines(status: StatusDocument, { strong, faint, bad }: Painter): string[] {
  const { snat, policies } = status;
  const title = strong('traffic');
  if (snat === null) return [`${title}  ${faint(NOT_COUNTED)}`];
  return [
    `${title}  SNAT: ${trafficText(snat)}`,
    ...policies.map((policy) => {
      const { name, snat, traffic } = policy;
      const removed = isRemoved(policy) ? ', removed from the policy' : '';
      const what = `  ${policyLabel(name)} (${snat ? 'translated' : 'forwarded'}${removed}): `;
      return what + (traffic === null ? 'nothing yet' : trafficText(traffic));
    }),
    ...snat.ports.map(({ externalIP, protocol, used, of, runningOut, lacking }) => {
      const use = `${used} of ${of} ports in use`;
      const dropped = lacking > 0 ? bad(`, ${plural(lacking, 'connection')} got none`) : '';
      return `  ${externalIP} ${protocol}: ${runningOut ? bad(`${use}: they run out`) : use}${dropped}`;
    }),
  ];
}

/** What this gateway is in each of its groups, and what it knows of the others. */
const groupLines = ({ group }: Overview, { strong, bad }: Painter): string[] =>
  group.flatMap(({ family, self, state, ports, flows, replicas, members, addresses }) => [
    `${strong('group')}    ${family} ${state.text} as ${self}, ${ports}, ${flows}, ${replicas}`,
    ...members.map(({ member, state, flows, troubles }) => {
      const text = `  ${member} ${state.text}, ${flows}`;
      return troubles.length === 0 ? text : `${text}, ${bad(troubles.join(', '))}`;
    }),
    ...addresses.map(({ address, holder }) =>
      holder.severity === 'bad'
        ? `  ${bad(`${address} has ${holder.text}`)}`
        : `  ${address} is ${holder.text}`,
    ),
  ]);

/** What is announced by BGP, and to whom. */
function bgpLines({ bgp }: StatusDocument, { strong, bad }: Painter): string[] {
  if (bgp === null) return [];
  const { announced, sessions } = bgp;
  const now = announced.filter((one) => one.announced).length;
  const head = `${strong('BGP')}      ${now} of ${plural(announced.length, 'prefix', 'prefixes')} announced`;
  return [
    sessions === null ? `${head}, FRR does not answer` : head,
    ...announced.map(({ prefix, reasons, announced: isNow }) => {
      const text = `  ${prefix} (${reasons.join(', ')})`;
      return isNow ? text : `${text} ${bad('withdrawn')}`;
    }),
    ...(sessions ?? []).map(({ neighbour, asn, state, seconds, sent }) => {
      const shown = state === 'Established' ? state : bad(state);
      return `  ${neighbour} AS ${asn} ${shown} for ${duration(seconds)}, ${plural(sent, 'prefix', 'prefixes')} sent`;
    }),
  ];
}

/** Each limit, with what waits and was dropped. */
const bandwidthLines = ({ bandwidth }: StatusDocument, { strong, bad }: Painter): string[] =>
  bandwidth.map(({ policy, direction, limitBits, perSource, active, passedBytes, droppedPackets }, i) => {
    const title = i === 0 ? strong('limits') : '      ';
    const limit = `${policy} ${direction} ${scaled(limitBits, 'bit/s')}${perSource ? ' for each source' : ''}`;
    const use = `${scaled(passedBytes, 'B')} passed, ${droppedPackets} packets dropped`;
    return `${title}   ${limit}: ${active ? use : bad('not in the kernel')}`;
  });

function sessionLine({ name, local, remote, age, timers }: SessionRow): string {
  const words = timers === undefined ? '' : `, every ${timers.transmit} ms, detection ${timers.detection} ms`;
  return `  ${name.padEnd(9)} ${local} → ${remote}, for ${age}${words}`;
}

/** The text of `veg-agent status`, ending with a newline. `now`: Unix milliseconds. */
export function statusText(document: StatusDocument, now: number, colours: boolean): string {
  const status = printable(document);
  const paint = painter(colours);
  const { bad, faint, strong } = paint;
  const shown = overview(status, now);
  const { bfd, conntrack } = shown;
  const where = [status.pod, status.node].filter(Boolean).join(' on ');
  const about = [`veg-agent ${status.version}`, where, `up ${duration(status.uptimeSeconds)}`];
  // A drain makes a gateway not ready; see the reason.
  const head: State = status.ready ? shown.state : { severity: 'bad', text: 'not ready' };
  const lines = [
    `${strong(paint.state(head))}  ${faint(about.filter(Boolean).join(', '))}`,
    ...shown.reasons.map(({ text }) => `  ${bad(text)}`),
    ...seeLines(shown.reasons, paint),
    ...policyLines(status, shown, paint),
    ...notes(status.policy.warnings, 'warning'),
    ...seeLines(explained('warning', status.policy.warnings), paint),
    ...kernelLines(status, shown, paint),
    ...(status.uplink === null ? [] : uplinkLines(shown, paint)),
    ...notes(status.uplink?.notes ?? [], 'note'),
    ...seeLines(explained('note', status.uplink?.notes ?? []), paint),
    ...(conntrack.busiest.length === 0
      ? []
      : [`${strong('crowded')}  most connections: ${conntrack.busiest.join(', ')}`]),
    ...groupLines(shown, paint),
    ...notes(shown.groupWarnings, 'warning'),
    ...seeLines(explained('warning', shown.groupWarnings), paint),
    ...bgpLines(status, paint),
    ...bandwidthLines(status, paint),
    ...trafficLines(status, paint),
    `${strong('bfd')}      ${status.bfd.enabled ? plural(bfd.total, 'session') : 'not used'}`,
    ...bfd.sessions.map(sessionLine),
  ];
  return `${lines.join('\n')}\n`;
}
