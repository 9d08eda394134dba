/**
 * A tracker and a reader by themselves, in a namespace: node conntrack-child.ts RECEIVE_BUFFER. Words on stdin, one a
 * line: `pause` stops reading, `resume` goes on, `report` prints what there is as one JSON line.
 */
import { createInterface } from 'node:readline';
import { ConntrackReader } from '../../nat/conntrack/reader.ts';
import { type Gap, Tracker } from '../../nat/conntrack/tracker.ts';

export interface Report {
  started: number;
  ended: number;
  estimated: number;
  gaps: Gap[];
  /** The ids of the flows that are known. */
  ids: number[];
  packets: number;
  bytes: number;
  dumps: number;
  /** The most that was lost between two reports of the totals; they must not go back. */
  wentBack: boolean;
  repairing: boolean;
}

const told = { started: 0, ended: 0, estimated: 0, gaps: [] as Gap[], dumps: 0, wentBack: false };

const tracker: Tracker = new Tracker(65_536, {
  classify: (flow) => {
    flow.verdict = 'translated';
  },
  started: () => told.started++,
  ended: (_flow, _at, estimated) => {
    told.ended++;
    if (estimated) told.estimated++;
  },
  repaired: (gap) => told.gaps.push(gap),
});

const reader = new ConntrackReader({
  tracker,
  now: Date.now,
  onDump: () => told.dumps++,
  receiveBuffer: Number(process.argv[2]),
});

function sums(): { packets: number; bytes: number } {
  const all = { packets: 0, bytes: 0 };
  for (const { counters } of tracker.totals) {
    all.packets += counters[0] + counters[2];
    all.bytes += counters[1] + counters[3];
  }
  return all;
}

let paused = false;
let last = sums();
setInterval(() => {
  if (paused) return;
  while (reader.turn());
  const now = sums();
  if (now.packets < last.packets || now.bytes < last.bytes) told.wentBack = true;
  last = now;
}, 20);

for await (const word of createInterface({ input: process.stdin })) {
  if (word === 'report') {
    const ids = Array.from(tracker.table, ({ id }) => id).sort((a, b) => a - b);
    const report: Report = { ...told, ids, ...sums(), repairing: tracker.mustDump };
    process.stdout.write(`${JSON.stringify(report)}\n`);
  } else {
    paused = word === 'pause';
  }
}
process.exit();
