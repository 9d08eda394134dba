/**
 * A member of a group in a namespace, for group.test.ts: the thread of the exchange with the kernel's conntrack. Reads
 * a command a line on stdin and answers each with a line on stdout.
 */
import { createInterface } from 'node:readline';
import type { ExchangeCounts } from '../../agent/group/counts.ts';
import type { MemberAnswer } from '../../agent/group/lookups.ts';
import type { GroupSettings } from '../../agent/group/messages.ts';
import type { GroupReport, GroupView } from '../../agent/group/model.ts';
import { GroupThread } from '../../agent/group/thread.ts';
import { type Address, FAMILIES } from '../../lib/prefix.ts';
import { until } from '../support/netns.ts';

export type ThreadCommand =
  | { do: 'show' }
  | { do: 'path'; member: Address; up: boolean }
  | { do: 'drain' }
  /** Ends the thread by settings that it cannot use, and configures it again. */
  | { do: 'crash' }
  | { do: 'lookup'; query: string }
  | { do: 'stop' };

export interface ThreadReply {
  view?: GroupView;
  counts?: ExchangeCounts;
  handedOver?: boolean;
  answers: MemberAnswer[];
}

const log: string[] = [];
const note = (fields: object, message: string) => void log.push(`${message} ${JSON.stringify(fields)}`);
let view: GroupView | undefined;
let handedOver: boolean | undefined;
const thread = new GroupThread({
  log: { error: note, warn: note, info: note, debug: note },
  report(report: GroupReport) {
    if (report.type === 'view') view = report.view;
    if (report.type === 'handed-over') handedOver = report.complete;
  },
  answer: async (query) => ({ status: 200, body: query }),
});
const settings = JSON.parse(process.argv[2]!) as GroupSettings;
await thread.configure(settings);

async function crash(): Promise<void> {
  await thread.configure({ ...settings, configs: null as never });
  await until(() => log.some((line) => line.startsWith('exchange of the group ended')), { what: 'its end' });
  await thread.configure(settings);
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line) as ThreadCommand;
  let answers: MemberAnswer[] = [];
  if (command.do === 'path') thread.setPath(command.member, command.up);
  else if (command.do === 'drain') thread.drain(5000);
  else if (command.do === 'lookup') answers = await thread.lookup(command.query, FAMILIES, 3000);
  else if (command.do === 'crash') await crash();
  else if (command.do === 'stop') await thread.stop();
  const counts = thread.counts(4);
  const reply: ThreadReply = {
    answers,
    ...(view !== undefined && { view }),
    ...(counts !== undefined && { counts }),
    ...(handedOver !== undefined && { handedOver }),
  };
  console.log(JSON.stringify(reply));
}
