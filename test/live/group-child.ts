/**
 * A member of a group in a namespace, for group.test.ts: the exchanges of its families with kernels that are maps.
 * Reads a command a line on stdin and answers each with a line on stdout.
 */
import { createInterface } from 'node:readline';
import type { ExchangeCounts } from '../../agent/group/counts.ts';
import { type CredentialFiles, Credentials } from '../../agent/group/credentials.ts';
import { Exchange } from '../../agent/group/exchange.ts';
import type { MemberAnswer } from '../../agent/group/lookups.ts';
import type { GroupConfig, GroupReport, GroupView } from '../../agent/group/model.ts';
import { portSlice, slotOf } from '../../agent/group/slices.ts';
import type { Address, Family } from '../../lib/prefix.ts';
import { FakeKernel } from '../agent/group/fake-kernel.ts';
import { flowOf } from '../agent/group/flows.ts';

export interface ChildOptions {
  configs: GroupConfig[];
  port: number;
  files: CredentialFiles;
  /** ms */
  grace: number;
}

export type Command =
  | { do: 'show' }
  | { do: 'path'; member: Address; up: boolean }
  | { do: 'configure'; config: GroupConfig }
  | { do: 'open'; family: Family; first: number; count: number }
  | { do: 'end'; lost: boolean }
  | { do: 'list' | 'see' }
  | { do: 'drain' | 'undrain' }
  | { do: 'lookup'; query: string }
  | { do: 'close' };

export interface FamilyReply {
  view: GroupView;
  counts: ExchangeCounts;
  own: number;
  replicas: number;
  refreshed: number;
  reports: GroupReport['type'][];
  handedOver?: boolean;
}

export interface Reply {
  families: Partial<Record<Family, FamilyReply>>;
  answers?: MemberAnswer[];
  /** Octets. */
  memory: number;
  log: string[];
}

const options = JSON.parse(process.argv[2]!) as ChildOptions;
const log: string[] = [];
const note = (level: string) => (fields: object, message: string) => {
  const { err, ...rest } = fields as { err?: Error };
  log.push(`${level} ${message} ${JSON.stringify(rest)} ${err?.message ?? ''}`);
};

const members = options.configs.map((config) => {
  const kernel = new FakeKernel();
  const reports: GroupReport[] = [];
  const exchange = new Exchange({
    config,
    port: options.port,
    interface: 'eth0',
    credentials: new Credentials(options.files, options.grace),
    kernel,
    log: { error: note('error'), warn: note('warn'), info: note('info'), debug: note('debug') },
    report: (report) => void reports.push(report),
    answer: async (query) => ({ status: 200, body: `${config.self} was asked ${query}`.padEnd(40_000) }),
  });
  return { config, kernel, reports, exchange };
});

const show = (): Reply => ({
  families: Object.fromEntries(
    members.map(({ config, kernel, reports, exchange }) => {
      const handover = reports.findLast((report) => report.type === 'handed-over');
      const reply: FamilyReply = {
        view: exchange.view,
        counts: exchange.counts,
        own: kernel.count('own'),
        replicas: kernel.count('replica'),
        refreshed: kernel.applied.filter((type) => type === 'refresh').length,
        reports: reports.map(({ type }) => type).filter((type) => type !== 'view'),
        ...(handover !== undefined && { handedOver: handover.complete }),
      };
      return [config.family, reply];
    }),
  ),
  memory: process.memoryUsage.rss(),
  log: log.slice(-20),
});

async function obey(command: Command): Promise<Reply> {
  let answers: MemberAnswer[] = [];
  for (const { config, kernel, exchange } of members) {
    switch (command.do) {
      case 'path':
        if (config.members.includes(command.member)) exchange.setPath(command.member, command.up);
        break;
      case 'configure':
        if (command.config.family === config.family) exchange.configure(command.config, options.files);
        break;
      case 'open': {
        if (command.family !== config.family) break;
        const { firstPort } = portSlice(slotOf(config.self));
        const flows = Array.from({ length: command.count }, (_, i) =>
          flowOf(config.family, command.first + i, firstPort + (i % 4000)),
        );
        kernel.open(flows);
        break;
      }
      case 'end':
        kernel.endAll(command.lost);
        break;
      case 'list':
        kernel.list();
        break;
      case 'see':
        kernel.see();
        break;
      case 'drain':
        exchange.drain(5000);
        break;
      case 'undrain':
        exchange.undrain();
        break;
      case 'lookup':
        answers = [...answers, ...(await exchange.lookup(command.query, 3000))];
        break;
      case 'close':
        await exchange.close();
        break;
      default:
        break;
    }
  }
  return { ...show(), ...(command.do === 'lookup' && { answers }) };
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line) as Command;
  console.log(JSON.stringify(await obey(command)));
  if (command.do === 'close') process.exit(0);
}
process.exit(0);
