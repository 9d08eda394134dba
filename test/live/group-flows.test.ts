/**
 * Flows of a group in real conntrack tables: two gateways with one shared address, the flows of the first as replicas in the
 * second, and a network that moves from one to the other under open connections.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import t from 'tap';
import type { FlowChange, FlowEvent } from '../../agent/group/model.ts';
import { type Namespace, NODE, ROOT, Scope, until } from '../support/netns.ts';
import { startEchoServer, Traffic } from '../support/traffic.ts';
import type { FlowText } from './group-flows-child.ts';
import { FAMILIES, network } from './group-lab.ts';

type Event = Exclude<FlowEvent, { flow: unknown }> | { type: 'update' | 'end' | 'active'; flow: FlowText };
type Line = Event | { type: 'applied'; refused: Record<string, number> } | { type: 'settled' };

/** ConntrackFlows in a gateway. */
class Child {
  readonly lines: Line[] = [];
  readonly #child: ChildProcess;

  constructor(gateway: Namespace, family: 4 | 6) {
    const program = `${ROOT}/test/live/group-flows-child.ts`;
    this.#child = spawn(
      'ip',
      ['netns', 'exec', gateway.name, NODE, program, `${family}`, FAMILIES[family].shared],
      { stdio: ['pipe', 'pipe', 'inherit'], env: { ...process.env, NODE_OPTIONS: '' } },
    );
    createInterface({ input: this.#child.stdout! }).on('line', (line) => this.lines.push(JSON.parse(line)));
  }

  /** The flows that events of a type were about so far. */
  flows(type: 'update' | 'end' | 'active'): FlowText[] {
    return this.lines.flatMap((line) => (line.type === type ? [(line as { flow: FlowText }).flow] : []));
  }

  has(type: Line['type']): boolean {
    return this.lines.some((line) => line.type === type);
  }

  async started(): Promise<this> {
    await until(() => this.has('listed'), { what: 'the table was read' });
    return this;
  }

  /** Carries out a change of each flow. Returns what was refused. */
  async apply(type: FlowChange['type'], flows: readonly FlowText[]): Promise<Record<string, number>> {
    const before = this.lines.filter((line) => line.type === 'applied').length;
    this.#child.stdin!.write(`${JSON.stringify(flows.map((flow) => ({ type, flow })))}\n`);
    const done = () => this.lines.filter((line) => line.type === 'applied')[before];
    return ((await until(done, { what: 'the changes were applied' })) as { refused: Record<string, number> })
      .refused;
  }

  async settle(slots: number[]): Promise<void> {
    this.#child.stdin!.write(`settle ${JSON.stringify(slots)}\n`);
    await until(() => this.has('settled'), { what: 'settled' });
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await until(() => this.#child.exitCode !== null || this.#child.signalCode !== null, { what: 'its end' });
  }
}

/** Each gateway translates to the shared address, with ports of its own. */
function translate(gateways: readonly Namespace[], family: 4 | 6): void {
  const net = FAMILIES[family];
  gateways.forEach((gateway, i) => {
    for (const protocol of ['tcp', 'udp']) {
      const to = family === 4 ? net.shared : `[${net.shared}]`;
      const ports = i === 0 ? '1024-5055' : '5056-9087';
      gateway.sh(
        `${net.iptables} -w -t nat -A POSTROUTING -o net1 -p ${protocol} -j SNAT --to-source ${to}:${ports} --random-fully`,
      );
    }
  });
}

const listing = (gateway: Namespace, family: 4 | 6): string =>
  gateway.sh(`conntrack -L -f ipv${family} -d ${FAMILIES[family].server}`);

for (const family of [4, 6] as const) {
  const net = FAMILIES[family];
  t.test(`IPv${family}: connections go on through a gateway that has their replicas`, async (t) => {
    const scope = new Scope();
    t.teardown(() => scope.dispose());
    const { client, server, gateways, use } = network(scope, family);
    translate(gateways, family);
    await startEchoServer(server);
    const [first, second] = await Promise.all(
      gateways.map((gateway) => new Child(gateway, family).started()),
    );
    const traffic = await Traffic.open(client, [`tcp:${net.server}`, `udp:${net.server}`]);

    const own = await until(
      () => {
        const flows = first!.flows('update');
        return ['6', '17'].every((n) => flows.some(({ protocol }) => `${protocol}` === n)) && flows;
      },
      { what: 'both flows are reported' },
    );
    t.same(await second!.apply('insert', own), {});
    t.same(await second!.apply('insert', own), {}, 'again: nothing is refused');
    t.same(second!.flows('update'), [], 'a replica is not reported as an own flow');
    t.match(listing(gateways[1], family), /tcp .*ESTABLISHED.*mark=2785017856/);

    gateways[1].sh(`conntrack -D -f ipv${family} -p udp -d ${net.server}`);
    await until(() => /udp .*mark=2785017856/.test(listing(gateways[1], family)), {
      what: 'a replica that another program deletes is inserted again',
    });

    use(1);
    const before = await traffic.report();
    await until(async () => (await traffic.report()).every((r, i) => r.received > before[i]!.received + 5), {
      what: 'both connections go on through the second gateway',
    });
    await until(() => second!.flows('active').length > 0, { what: 'packets of replicas are reported' });

    t.same(await second!.apply('adopt', own), {});
    t.notMatch(listing(gateways[1], family), /mark=2785017856/, 'adopted: an own flow');
    t.same(await second!.apply('release', own), {});
    t.match(listing(gateways[1], family), /mark=2785017856/, 'released: a replica');

    await second!.kill();
    const next = await new Child(gateways[1], family).started();
    t.same(next.flows('update'), [], 'replicas of a former process are not reported');
    t.same(
      await next.apply(
        'insert',
        own.filter(({ protocol }) => protocol === 6),
      ),
      {},
    );
    await next.settle([]);
    t.match(listing(gateways[1], family), /tcp .*mark=2801795072/, 'inserted again: it stays a replica');
    t.same(
      next.flows('update').map(({ protocol }) => protocol),
      [17],
      'not inserted again, in a slice that goes on: it is an own flow',
    );

    await next.kill();
    const last = await new Child(gateways[1], family).started();
    await last.settle([0]);
    t.notMatch(
      listing(gateways[1], family),
      /tcp /,
      'not inserted again, in a slice that has ended: it goes',
    );
    await traffic.close();

    t.same(await last.apply('remove', own), {});
    t.notMatch(listing(gateways[1], family), /mark=(?!0)/, 'an own flow can be removed too');
    await until(() => first!.flows('end').length > 0 || first!.flows('update').length > own.length, {
      what: 'the first gateway reports what becomes of its own flows',
    });
    await Promise.all([first!.kill(), last.kill()]);
  });
}
