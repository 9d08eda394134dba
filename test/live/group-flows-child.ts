/**
 * What group-flows.test.ts runs in a gateway: ConntrackFlows, with changes as JSON lines on stdin, and events and the answers
 * to changes as JSON lines on stdout. `settle [SLOTS]` is a command too.
 */
import { createInterface } from 'node:readline';
import { ConntrackFlows } from '../../agent/group/kernel/flows.ts';
import type { FlowChange, GroupFlow } from '../../agent/group/model.ts';
import type { Address, Family } from '../../lib/prefix.ts';
import { silentLog } from '../bfd/silent.ts';

/** A flow with its addresses in base64. */
export type FlowText = Omit<GroupFlow, 'source' | 'destination' | 'shared'> &
  Record<'source' | 'destination' | 'shared', string>;

const ADDRESSES = ['source', 'destination', 'shared'] as const;
const print = (value: unknown): void => console.log(JSON.stringify(value));

function textOf(flow: GroupFlow): FlowText {
  const text = Object.fromEntries(
    ADDRESSES.map((name) => [name, Buffer.from(flow[name]).toString('base64')]),
  );
  return { ...flow, ...text } as unknown as FlowText;
}

function flowOf(text: FlowText): GroupFlow {
  const bytes = Object.fromEntries(ADDRESSES.map((name) => [name, Buffer.from(text[name], 'base64')]));
  return { ...text, ...bytes } as unknown as GroupFlow;
}

if (import.meta.main) {
  const [family, ...shared] = process.argv.slice(2);
  const flows = new ConntrackFlows({
    ...{ family: Number(family) as Family, shared: shared as Address[] },
    ...{ log: silentLog, sweepInterval: 1 },
  });
  flows.start((events) => {
    for (const event of events) print('flow' in event ? { ...event, flow: textOf(event.flow) } : event);
  });
  const lines = createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    const slots = /^settle (.*)/.exec(line)?.[1];
    if (slots !== undefined) {
      flows.settle(JSON.parse(slots) as number[]);
      print({ type: 'settled' });
      return;
    }
    const changes = (JSON.parse(line) as (Omit<FlowChange, 'flow'> & { flow: FlowText })[]).map(
      ({ flow, ...change }): FlowChange => ({ ...change, flow: flowOf(flow) }),
    );
    print({ type: 'applied', refused: flows.apply(changes) });
  });
  lines.on('close', () => flows.close());
}
