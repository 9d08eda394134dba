/** Looks at a full table of flows, none of which shares anything with another: a thread of memory.test.ts. */
import { workerData } from 'node:worker_threads';
import { exhaustedRange } from '../../../nat/conntrack/exhaustion.ts';
import { PortCount } from '../../../nat/conntrack/ports.ts';
import { topSources } from '../../../nat/conntrack/sources.ts';
import { FlowTable } from '../../../nat/conntrack/table.ts';

const FLOWS = 4 * 65_536;

const LOOKS: Record<string, (table: FlowTable) => void> = {
  'the sources': (table) => topSources(table, 10),
  'a range of ports without end': (table) =>
    exhaustedRange(
      table,
      () => 0,
      () => 0,
    ),
  'port blocks': (table) =>
    exhaustedRange(
      table,
      () => 64,
      () => 0,
    ),
  'ports in use': (table) => {
    const count = new PortCount();
    for (const flow of table) count.add(flow);
  },
};

/** A table in which every flow has a source and a destination of its own, with long addresses. */
function table(): FlowTable {
  const octets = (i: number, first: number) => {
    const address = new Uint8Array(16);
    address.set([first, i >> 8, i & 255], 13);
    return address;
  };
  const flows = new FlowTable(FLOWS);
  const outside = octets(0, 3);
  for (let i = 0; i < FLOWS; i++) {
    const [source, destination, port] = [octets(i, 1), octets(i, 2), 1024 + (i % 64_512)];
    const flow = flows.add({
      ...{ family: 6, protocol: 6, id: i, zone: 0, status: 0 },
      original: { source, sourcePort: 2000, destination, destinationPort: 443 },
      reply: { source: destination, sourcePort: 443, destination: outside, destinationPort: port },
    })!;
    flow.verdict = 'translated';
    flow.counters = { originalPackets: 1, originalBytes: i, replyPackets: 1, replyBytes: i };
  }
  return flows;
}

LOOKS[workerData as string]!(table());
