/**
 * Flows of a group in real conntrack tables: two gateways with one shared address, the flows of the first as replicas in the
 * second, and a network that moves from one to the other under open connections.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import t from 'tap';
import type { FlowChange, FlowEvent } from '../../agent/group/model.ts';
import { IPPROTO_SCTP } from '../../lib/linux.ts';
import { address, addressBytes } from '../../lib/prefix.ts';
import { type Namespace, NODE, ROOT, Scope, until } from '../support/netns.ts';
import { CHUNK } from '../support/raw.ts';
import { startEchoServer, Traffic } from '../support/traffic.ts';
import type { FlowText } from './group-flows-child.ts';
import { FAMILIES, network, waitForSctp } from './group-lab.ts';

type Event =
  | Exclude<FlowEvent, { flow: unknown }>
  | { type: 'update' | 'end' | 'deleted' | 'absent' | 'active'; flow: FlowText };
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
  flows(type: 'update' | 'end' | 'deleted' | 'absent' | 'active'): FlowText[] {
    return this.lines.flatMap((line) => (line.type === type ? [(line as { flow: FlowText }).flow] : []));
  }

  /** Whether every flow from the `first` that was reported on, of this one's protocol and another port, has ended since. */
  haveEnded(first: number, { protocol, sharedPort }: FlowText): boolean {
    const ports = this.flows('update')
      .slice(first)
      .filter((flow) => flow.protocol === protocol && flow.sharedPort !== sharedPort)
      .map((flow) => flow.sharedPort);
    const last = (port: number) =>
      this.lines.findLast((line) => 'flow' in line && line.flow.sharedPort === port)?.type;
    return ports.length > 0 && ports.every((port) => last(port) === 'end');
  }

  has(type: Line['type']): boolean {
    return this.lines.some((line) => line.type === type);
  }

  async started(): Promise<this> {
    await until(() => this.has('listed'), { what: 'the table was read' });
    return this;
  }

  /** Carries out a change of each flow. Returns what was refused. */
  async apply(
    type: FlowChange['type'],
    flows: readonly FlowText[],
    more: { again?: true; ifFree?: true } = {},
  ): Promise<Record<string, number>> {
    const before = this.lines.filter((line) => line.type === 'applied').length;
    this.#child.stdin!.write(`${JSON.stringify(flows.map((flow) => ({ type, flow, ...more })))}\n`);
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
    // As the agent has it: what belongs to no flow makes no entry.
    gateway.sh(`${net.iptables} -w -A FORWARD -d ${net.shared} -j DROP`);
    for (const protocol of ['tcp', 'udp', 'sctp']) {
      const to = family === 4 ? net.shared : `[${net.shared}]`;
      const ports = i === 0 ? '1024-5055' : '5056-9087';
      gateway.sh(
        `${net.iptables} -w -t nat -A POSTROUTING -o net1 -p ${protocol} -j SNAT --to-source ${to}:${ports} --random-fully`,
      );
    }
  });
}

/** IP protocol number. */
const ESP = 50;

/** A client that prints what the server has said of its source, when it has. */
const CONNECT = `
  const [host, port] = process.argv.slice(1);
  const socket = require('node:net').connect({ host, port, noDelay: true });
  socket.once('connect', () => console.log('connected'));
  socket.once('data', (data) => {
    console.log(data.toString().trim());
    socket.end();
  });`;

const ports = (flows: readonly FlowText[]): number[] => flows.map(({ sharedPort }) => sharedPort);

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
    await until(() => second!.flows('deleted').length > 0, { what: 'the deletion of a replica is reported' });
    t.same(await second!.apply('insert', second!.flows('deleted')), {});
    t.match(listing(gateways[1], family), /udp .*mark=2785017856/, 'it is there again');

    // The client goes on: its datagrams get another port until the flow is restored.
    const [udp] = own.filter(({ protocol }) => protocol === 17);
    const updates = first!.flows('update').length;
    gateways[0].sh(`conntrack -D -f ipv${family} -p udp`);
    await until(() => first!.flows('deleted').length > 0, { what: 'the deletion is reported' });
    await until(() => first!.flows('update').length > updates, { what: 'the client has another flow' });
    t.same(
      first!.flows('end').filter(({ protocol }) => protocol === 17),
      [],
      'a deletion by another program is no end',
    );
    for (const what of ['deleted', 'there']) t.same(await first!.apply('restore', [udp!]), {}, what);
    await until(() => first!.haveEnded(updates, udp!), { what: 'the other flow has ended' });
    t.match(listing(gateways[0], family), new RegExp(`udp .*dport=${udp!.sharedPort} .*mark=0`));
    t.same(await second!.apply('insert', [{ ...udp!, sharedPort: udp!.sharedPort + 1 }]), {}, 'replaced');
    t.same(await second!.apply('remove', [udp!]), {});
    t.match(listing(gateways[1], family), /udp /, 'a flow with another port is not removed');
    t.same(ports(second!.flows('absent')), [udp!.sharedPort], 'the one that was replaced is absent');
    const [former, present] = [udp!, { ...udp!, sharedPort: udp!.sharedPort + 1 }];
    t.same(
      await second!.apply('insert', [former], { ifFree: true }),
      {},
      'its place is taken: it is not counted again',
    );
    t.same(ports(second!.flows('absent')), [former.sharedPort, former.sharedPort], 'but reported again');
    t.same(await second!.apply('remove', [present]), {});
    t.same(await second!.apply('insert', [former], { ifFree: true }), {});
    t.match(listing(gateways[1], family), new RegExp(`udp .*dport=${former.sharedPort} .*mark=2785017856`));
    t.equal(second!.flows('absent').length, 2);

    use(1);
    const before = await traffic.report();
    await until(async () => (await traffic.report()).every((r, i) => r.received > before[i]!.received + 5), {
      what: 'both connections go on through the second gateway',
    });
    await until(() => second!.flows('active').length > 0, { what: 'packets of replicas are reported' });

    // Where packets of a replica come through, they begin another flow too.
    const reported = second!.flows('update').length;
    gateways[1].sh(`conntrack -D -f ipv${family} -p udp -d ${net.server}`);
    await until(() => second!.flows('update').length > reported, { what: 'datagrams have another flow' });
    t.same(await second!.apply('insert', [udp!]), { EEXIST: 1 }, 'a replica that only arrives is refused');
    t.same(await second!.apply('insert', [udp!], { again: true }), {}, 'one that was deleted is not');
    await until(() => second!.haveEnded(reported, udp!), { what: 'the other flow has ended here' });
    t.match(listing(gateways[1], family), new RegExp(`udp .*dport=${udp!.sharedPort} .*mark=2785017856`));

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

  t.test(`IPv${family}: the flow from before a flush gets its place back`, async (t) => {
    const scope = new Scope();
    t.teardown(() => scope.dispose());
    const { gateways } = network(scope, family);
    const child = await new Child(gateways[0], family).started();
    const octets = (text: string) => Buffer.from(addressBytes(address(text))).toString('base64');
    const flow: FlowText = {
      ...{ protocol: 17, icmpType: 0, icmpCode: 0, mark: 0, timeout: 600 },
      ...{
        source: octets(net.clientAddress.split('/')[0]!),
        destination: octets(net.server),
        shared: octets(net.shared),
      },
      ...{ sourcePort: 1000, destinationPort: 8000, sharedPort: 5000 },
    };
    const present = (sourcePort: number, sharedPort: number): boolean =>
      new RegExp(` sport=${sourcePort} .* dport=${sharedPort} `).test(listing(gateways[0], family));
    // A flow to be adopted that has no entry gets one, unless another has its place: then it has ended.
    t.same(await child.apply('adopt', [flow]), {});
    t.ok(present(1000, 5000), 'adopted');
    t.same(await child.apply('adopt', [{ ...flow, sharedPort: 5002 }]), { EEXIST: 1 });
    await until(() => ports(child.flows('end')).includes(5002), { what: 'that it has ended is reported' });
    t.ok(present(1000, 5000), 'the one that has its place stays');
    t.same(await child.apply('remove', [flow]), {});
    const thief = { ...flow, sourcePort: 1001 };
    for (const change of ['insert', 'adopt'] as const) t.same(await child.apply(change, [thief]), {});
    // One that came and went during the flush, and the one that has had the port meanwhile, are deleted by it too.
    const later = { ...flow, sharedPort: 5001 };
    await child.apply('restore', [flow, later, thief]);
    t.ok(present(1000, 5000), 'it is there again');
    t.notOk(present(1001, 5000), 'and has its port, which another one had');
    for (const { sourcePort, sharedPort } of [later, thief]) {
      const ended = (one: FlowText) => one.sourcePort === sourcePort && one.sharedPort === sharedPort;
      await until(() => child.flows('end').some(ended), { what: 'that the others have ended is reported' });
    }
    await child.kill();
  });

  t.test(
    `IPv${family}: a handshake that began through one gateway is completed through the other`,
    async (t) => {
      const scope = new Scope();
      t.teardown(() => scope.dispose());
      const { client, server, gateways, use } = network(scope, family);
      translate(gateways, family);
      // As the agent has it: what belongs to no flow begins none, unless it is a SYN.
      for (const gateway of gateways) {
        gateway.sh(`${net.iptables} -w -A FORWARD -p tcp ! --syn -m conntrack --ctstate NEW -j DROP`);
      }
      await startEchoServer(server);
      const [first, second] = await Promise.all(
        gateways.map((gateway) => new Child(gateway, family).started()),
      );
      // The last segment of the handshake is lost, as one is that arrives before the replica.
      const lose = `OUTPUT -p tcp --tcp-flags SYN,ACK ACK -d ${net.server} -j DROP`;
      client.sh(`${net.iptables} -w -A ${lose}`);
      const connecting = client.spawn(NODE, ['-e', CONNECT, net.server, '8000'], { name: 'connect' });
      await until(() => connecting.log().includes('connected'), { what: 'SYN and ACK have come' });
      const [opening] = await until(() => first!.flows('update').length > 0 && first!.flows('update'), {
        what: 'the flow is reported before its handshake is complete',
      });
      t.equal(opening!.tcp!.state, 2);
      t.same(await second!.apply('insert', [opening!]), {});
      use(1);
      client.sh(`${net.iptables} -w -D ${lose}`);
      await until(() => second!.flows('active').length > 0, {
        what: 'the segment that completed it is reported',
      });
      const source = await until(() => /^\S+ \d+$/m.exec(connecting.log())?.[0], {
        what: 'the server answers',
      });
      t.equal(source, `${net.shared} ${opening!.sharedPort}`, 'with the port that the first gateway gave');
      t.match(listing(gateways[0], family), /SYN_RECV/, 'the first gateway does not know');
      t.same(await first!.apply('refresh', [opening!]), {});
      t.notMatch(listing(gateways[0], family), /SYN_RECV/, 'it is told');
      const complete = await until(() => first!.flows('update').find(({ tcp }) => tcp!.state === 3), {
        what: 'it reports the flow as established',
      });
      t.equal(
        complete.timeout,
        Number(gateways[0].sh('sysctl -n net.netfilter.nf_conntrack_tcp_timeout_established')),
      );
      const updates = first!.flows('update').length;
      t.same(await first!.apply('refresh', [opening!]), {}, 'told once more');
      t.equal(first!.flows('update').length, updates, 'nothing is new then');
      t.same(await second!.apply('remove', [opening!]), {});
      await Promise.all([first!.kill(), second!.kill()]);
    },
  );

  t.test(`IPv${family}: an association and packets without ports go on with a replica`, async (t) => {
    const scope = new Scope();
    t.teardown(() => scope.dispose());
    const { client, server, gateways, use } = network(scope, family);
    translate(gateways, family);
    for (const gateway of gateways) {
      gateway.sh(
        `${net.iptables} -w -t nat -A POSTROUTING -o net1 -p ${ESP} -j SNAT --to-source ${net.shared}`,
      );
    }
    waitForSctp(gateways);
    const [first, second] = await Promise.all(
      gateways.map((gateway) => new Child(gateway, family).started()),
    );
    const program = `${ROOT}/test/support/raw.ts`;
    const ask = (protocol: number, chunk: number): string =>
      client.run(NODE, [program, 'client', `${family}`, `${protocol}`, net.server, `${chunk}`]).stdout.trim();
    const servers = [IPPROTO_SCTP, ESP].map((protocol) =>
      server.spawn(NODE, [program, 'server', `${family}`, `${protocol}`], { name: `raw${protocol}` }),
    );
    await until(() => ask(ESP, 0) === 'answered', { what: 'an answer without ports' });
    await until(() => ask(IPPROTO_SCTP, CHUNK.init) === `${CHUNK.initAck}`, { what: 'an answer to INIT' });
    const opening = await until(
      () => first!.flows('update').find(({ protocol }) => protocol === IPPROTO_SCTP),
      { what: 'the association is reported before its handshake is complete' },
    );
    t.equal(opening.sctp!.state, 2);
    t.same(await second!.apply('insert', [opening]), {});
    use(1);
    await until(() => ask(IPPROTO_SCTP, CHUNK.cookieEcho) === `${CHUNK.cookieAck}`, {
      what: 'COOKIE ACK through the other gateway',
    });
    await until(() => second!.flows('active').length > 0, { what: 'that one reports it' });
    t.same(await first!.apply('refresh', [opening]), {});
    use(0);
    await until(() => ask(IPPROTO_SCTP, CHUNK.data) === `${CHUNK.sack}`, { what: 'the first one goes on' });
    t.same(await second!.apply('remove', [opening]), {});
    const own = await until(
      () => {
        const flows = first!.flows('update');
        const last = [IPPROTO_SCTP, ESP].map((n) => flows.findLast(({ protocol }) => protocol === n));
        return !last.includes(undefined) && (last as FlowText[]);
      },
      { what: 'both flows are reported' },
    );
    t.same(own[0]!.sctp, { state: 4, originalTag: 0x2222_2222, replyTag: 0x1111_1111 });
    t.same(await second!.apply('insert', own), {});
    const sources = servers[0]!.log();
    use(1);
    await until(() => ask(IPPROTO_SCTP, CHUNK.data) === `${CHUNK.sack}`, { what: 'the association goes on' });
    await until(() => ask(ESP, 0) === 'answered', { what: 'and so do packets without ports' });
    const [before] = sources.trim().split('\n');
    t.equal(servers[0]!.log().trim().split('\n').at(-1), before, 'with the same port');
    await Promise.all([first!.kill(), second!.kill(), ...servers.map((one) => one.stop())]);
  });
}
