/**
 * Exchanges of three members in namespaces, with kernels that are maps: they find each other, replicate, adopt, hand
 * over, and refuse whoever is none of them. BFD between them is what this test says. Needs root.
 */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { copyFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import t, { type Test } from 'tap';
import type { CredentialFiles } from '../../agent/group/credentials.ts';
import type { GroupSettings } from '../../agent/group/messages.ts';
import type { GroupConfig } from '../../agent/group/model.ts';
import { portSlice, slotOf } from '../../agent/group/slices.ts';
import { type Address, address, FAMILIES, type Family } from '../../lib/prefix.ts';
import { SHARED } from '../agent/group/flows.ts';
import { PATIENCE } from '../support/machine.ts';
import { must, type Namespace, NODE, ROOT, until, veth } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import type { ChildOptions, Command, FamilyReply, Reply } from './group-child.ts';
import type { ThreadCommand, ThreadReply } from './group-thread-child.ts';

const PORT = 10_667;
const GRACE = 4000;
const HOSTS = [12, 13, 14];

const scope = scopeOf(t);
const bridge = scope.namespace('bridge');
bridge.ip('link add br0 type bridge\nlink set br0 up');

function attach(host: number): Namespace {
  const ns = scope.namespace(`m${host}`);
  veth(bridge, `p${host}`, ns, 'eth0');
  bridge.ip(`link set p${host} master br0`);
  ns.ip(`addr add 10.16.0.${host}/24 dev eth0\naddr add fd00:10:16::${host}/64 dev eth0 nodad`);
  return ns;
}

const namespaces = new Map(HOSTS.map((host) => [host, attach(host)]));
const stranger = attach(200);
const addressOf = (family: Family, host: number): Address =>
  address(family === 4 ? `10.16.0.${host}` : `fd00:10:16::${host}`);

const configOf = (family: Family, host: number, hosts = HOSTS): GroupConfig => ({
  family,
  self: addressOf(family, host),
  members: hosts.map((one) => addressOf(family, one)),
  external: address(family === 4 ? `172.17.0.${host}` : `fd00:172:17::${host}`),
  shared: [SHARED[family]],
});

function keyFile(name: string, content = randomBytes(32).toString('hex')): string {
  const path = `${scope.dir}/${name}`;
  writeFileSync(path, `${content}\n`, { mode: 0o600 });
  return path;
}

/** A member that runs. */
class Member {
  readonly host: number;
  readonly #child;
  readonly #lines;

  constructor(host: number, files: CredentialFiles) {
    this.host = host;
    const options: ChildOptions = {
      configs: FAMILIES.map((family) => configOf(family, host)),
      port: PORT,
      files,
      grace: GRACE,
    };
    const command = [NODE, `${ROOT}/test/live/group-child.ts`, JSON.stringify(options)];
    const ns = namespaces.get(host)!.name;
    this.#child = spawn('ip', ['netns', 'exec', ns, 'env', '-u', 'NODE_OPTIONS', ...command], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#lines = createInterface({ input: this.#child.stdout });
  }

  async ask(command: Command): Promise<Reply> {
    const next = once(this.#lines, 'line', { signal: AbortSignal.timeout(PATIENCE) });
    this.#child.stdin.write(`${JSON.stringify(command)}\n`);
    return JSON.parse(((await next) as [string])[0]) as Reply;
  }

  async family(family: Family): Promise<FamilyReply> {
    return (await this.ask({ do: 'show' })).families[family]!;
  }

  /** Its BFD with another host. */
  async path(host: number, up: boolean): Promise<void> {
    for (const family of FAMILIES) await this.ask({ do: 'path', member: addressOf(family, host), up });
  }

  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill('SIGKILL');
    await once(this.#child, 'exit');
  }

  async close(): Promise<void> {
    await this.ask({ do: 'close' });
  }
}

/** Runs members, all of them with a path to each other, until the test is over. */
async function start(
  t: Test,
  files: (host: number) => CredentialFiles,
  hosts: readonly number[] = HOSTS,
): Promise<Member[]> {
  const members = hosts.map((host) => new Member(host, files(host)));
  t.teardown(() => Promise.all(members.map((member) => member.kill())));
  for (const member of members) {
    for (const host of hosts) if (host !== member.host) await member.path(host, true);
  }
  return members;
}

/**
 * Runs a member whom the others refuse: it can reach them from its start on, they it when they are live. (A member that
 * starts waits for half a minute for one that it can reach and not talk to.)
 */
async function startRefused(
  t: Test,
  files: (host: number) => CredentialFiles,
  refused: number,
): Promise<{ others: Member[]; alone: Member }> {
  const others = await start(
    t,
    files,
    HOSTS.filter((host) => host !== refused),
  );
  const alone = new Member(refused, files(refused));
  t.teardown(() => alone.kill());
  for (const { host } of others) await alone.path(host, true);
  await settled(others, 1);
  for (const member of others) await member.path(refused, true);
  return { others, alone };
}

const isSettled = ({ view }: FamilyReply, peers: number): boolean =>
  view.state === 'live' &&
  view.peers.filter((peer) => peer.inSync && peer.reachability === 'live').length === peers;

/** Waits until members are live and have each other's flows, in both families. */
const settled = (members: readonly Member[], peers = members.length - 1): Promise<unknown> =>
  until(
    async () => {
      for (const member of members) {
        const { families } = await member.ask({ do: 'show' });
        if (!FAMILIES.every((family) => isSettled(families[family]!, peers))) return false;
      }
      return true;
    },
    { what: 'members in sync' },
  );

const holdersOf = async (members: readonly Member[], family: Family): Promise<number[]> => {
  const found: number[] = [];
  for (const member of members) {
    if ((await member.family(family)).view.held.length > 0) found.push(member.host);
  }
  return found;
};

/** Waits until a member has so many own flows and replicas. */
const hasFlows = (member: Member, family: Family, own: number, replicas: number): Promise<unknown> =>
  until(
    async () => {
      const reply = await member.family(family);
      return reply.own === own && reply.replicas === replicas;
    },
    { what: `${own} flows and ${replicas} replicas at .${member.host}` },
  );

t.test('members find each other, one holds the address, flows are replicated and go', async (t) => {
  const key = keyFile('key');
  const members = await start(t, () => ({ keyFile: key }));
  await settled(members);
  for (const family of FAMILIES) {
    const holders = await holdersOf(members, family);
    t.equal(holders.length, 1, `one holder of IPv${family}`);
    for (const member of members) {
      const { view } = await member.family(family);
      t.equal(view.holders[0]?.holder, addressOf(family, holders[0]!));
      t.equal(view.forward.length, 2);
    }
    for (const member of members) {
      await member.ask({ do: 'open', family, first: member.host * 1000, count: 500 });
    }
    for (const member of members) await hasFlows(member, family, 500, 1000);
  }
  const [first] = members as [Member];
  await first.ask({ do: 'see' });
  await until(async () => (await members[1]!.family(4)).refreshed > 0, {
    what: 'the owner starts timeouts of flows that another member sees',
  });
  await first.ask({ do: 'end', lost: false });
  for (const member of members.slice(1)) await hasFlows(member, 4, 500, 500);
  await members[1]!.ask({ do: 'end', lost: true });
  await members[1]!.ask({ do: 'list' });
  await hasFlows(members[2]!, 4, 500, 0);
  const { answers } = await members[2]!.ask({ do: 'lookup', query: 'external=172.17.0.50:1234' });
  t.same(
    answers?.map(({ member, answer }) => [member, answer?.status, answer?.body.trimEnd()]).sort(),
    FAMILIES.flatMap((family) =>
      [12, 13].map((host) => {
        const asked = addressOf(family, host);
        return [asked, 200, `${asked} was asked external=172.17.0.50:1234`];
      }),
    ).sort(),
    'every member answers a lookup',
  );
  for (const family of FAMILIES) {
    const { counts } = await first.family(family);
    t.same(counts.rejected, {}, 'nothing was refused');
    t.ok(
      counts.lag.buckets.slice(0, -1).some((count) => count > 0),
      'the lag is measured',
    );
  }
});

t.test('a killed member: its address and its flows are taken over, and it gets all flows back', async (t) => {
  const key = keyFile('key');
  const members = await start(t, () => ({ keyFile: key }));
  await settled(members);
  for (const member of members)
    await member.ask({ do: 'open', family: 4, first: member.host * 1000, count: 300 });
  for (const member of members) await hasFlows(member, 4, 300, 600);
  const [held] = await holdersOf(members, 4);
  const dead = members.find(({ host }) => host === held)!;
  const others = members.filter((member) => member !== dead);
  await dead.kill();
  for (const member of others) await member.path(dead.host, false);
  await until(async () => (await holdersOf(others, 4)).length === 1, { what: 'another holder' });
  for (const member of others) {
    const { view } = await member.family(4);
    t.equal(view.forward.length, 1, 'the slice of the dead member is taken here');
  }
  await until(async () => (await others[0]!.family(4)).own + (await others[1]!.family(4)).own === 900, {
    what: 'flows adopted',
  });
  const back = new Member(dead.host, { keyFile: key });
  t.teardown(() => back.kill());
  for (const member of others) {
    await member.path(dead.host, true);
    await back.path(member.host, true);
  }
  await settled([...others, back]);
  await hasFlows(back, 4, 0, 900);
  const { view } = await back.family(4);
  t.same(view.held, [], 'who comes back takes nothing');
});

t.test(
  'a member that is cut off and back: both hold the address, then one does and announces it',
  async (t) => {
    const key = keyFile('key');
    const members = await start(t, () => ({ keyFile: key }));
    await settled(members);
    for (const member of members)
      await member.ask({ do: 'open', family: 4, first: member.host * 1000, count: 50 });
    for (const member of members) await hasFlows(member, 4, 50, 100);
    const cut = members[1]!;
    const others = [members[0]!, members[2]!];
    const paths = async (up: boolean) => {
      for (const member of others) {
        await member.path(cut.host, up);
        await cut.path(member.host, up);
      }
    };
    bridge.ip(`link set p${cut.host} down`);
    await paths(false);
    await until(async () => (await holdersOf(members, 4)).length === 2, { what: 'a holder on both sides' });
    // Both sides go on, and the others' flows are adopted meanwhile.
    await cut.ask({ do: 'open', family: 4, first: 50_000, count: 10 });
    await others[0]!.ask({ do: 'open', family: 4, first: 51_000, count: 10 });
    await until(async () => (await cut.family(4)).own === 160, { what: 'flows adopted' });
    bridge.ip(`link set p${cut.host} up`);
    await paths(true);
    await settled(members);
    await until(async () => (await holdersOf(members, 4)).length === 1, { what: 'one holder' });
    const [host] = await holdersOf(members, 4);
    const winner = members.find((member) => member.host === host)!;
    await until(async () => (await winner.family(4)).reports.includes('announce'), {
      what: 'an announcement',
    });
    await until(
      async () => {
        const counts = await Promise.all(members.map((member) => member.family(4)));
        return (
          counts.every(({ own, replicas }) => own + replicas === 170) &&
          counts.reduce((all, { own }) => all + own, 0) === 170
        );
      },
      { what: 'every flow everywhere, with one owner' },
    );
  },
);

t.test(
  'a drain hands over before it is over, and a member that starts has the table before it is live',
  async (t) => {
    const key = keyFile('key');
    const members = await start(t, () => ({ keyFile: key }));
    await settled(members);
    for (const member of members)
      await member.ask({ do: 'open', family: 6, first: member.host * 1000, count: 4000 });
    const [leaving, ...others] = members as [Member, ...Member[]];
    await leaving.ask({ do: 'drain' });
    await until(async () => (await leaving.family(6)).handedOver !== undefined, { what: 'the handover' });
    t.equal((await leaving.family(6)).handedOver, true, 'every member has every flow');
    await until(async () => (await holdersOf([leaving], 6)).length === 0, { what: 'no address held' });
    await leaving.close();
    await until(async () => (await others[0]!.family(6)).own + (await others[1]!.family(6)).own === 12_000, {
      what: 'flows adopted at once',
    });
    const back = new Member(leaving.host, { keyFile: key });
    t.teardown(() => back.kill());
    for (const member of others) await back.path(member.host, true);
    const { replicas } = await until(
      async () => {
        const reply = await back.family(6);
        return reply.view.ready && reply;
      },
      { what: 'ready' },
    );
    t.equal(replicas, 12_000, 'it has all flows when it is ready');
  },
);

t.test('who has another key is refused, is not holder, and is seen by both', async (t) => {
  const good = keyFile('key');
  const bad = keyFile('bad');
  for (const wrong of [12, 14]) {
    const { others, alone } = await startRefused(
      t,
      (host) => ({ keyFile: host === wrong ? bad : good }),
      wrong,
    );
    const members = [alone, ...others];
    const refused = async (member: Member) => (await member.family(4)).counts.rejected.key ?? 0;
    await until(async () => (await Promise.all(members.map(refused))).reduce((a, b) => a + b, 0) > 4, {
      what: 'connections refused for their key',
    });
    t.same(await holdersOf([alone], 4), [], 'not holder');
    t.equal((await alone.family(4)).view.ready, false, 'not ready');
    for (const peer of (await alone.family(4)).view.peers) t.equal(peer.exchange, false);
    await Promise.all(members.map((member) => member.kill()));
  }
});

t.test(
  'keys are replaced one after the other; the former one is refused when its time is over',
  async (t) => {
    const [former, present] = [keyFile('former'), keyFile('present')];
    const files = new Map(HOSTS.map((host) => [host, `${scope.dir}/rotated-${host}`]));
    for (const path of files.values()) copyFileSync(former, path);
    const members = await start(t, (host) => ({ keyFile: files.get(host)! }));
    await settled(members);
    for (const host of [14, 12, 13]) {
      copyFileSync(present, files.get(host)!);
      await until(
        async () =>
          (await members.find((one) => one.host === host)!.ask({ do: 'show' })).log
            .join()
            .includes('changed'),
        { what: 'the new key read' },
      );
      await settled(members);
    }
    const late = members[0]!;
    await late.kill();
    for (const member of members.slice(1)) await member.path(12, false);
    // Longer than the former key is accepted.
    await until(
      async () =>
        (await members[2]!.ask({ do: 'show' })).log.filter((line) => line.includes('changed')).length >= 3,
      {
        what: 'the former key forgotten',
      },
    );
    const old = new Member(12, { keyFile: former });
    t.teardown(() => old.kill());
    await until(async () => ((await members[2]!.family(4)).counts.rejected.key ?? 0) > 0, {
      what: 'the former key refused',
    });
    await settled(members.slice(1), 1);
  },
);

t.test('certificates of one CA with a name in common are members; another name or CA is none', async (t) => {
  const dir = scope.directory('ca');
  const openssl = (...args: string[]) => must('openssl', args);
  const ca = (name: string) =>
    openssl(
      ...[
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:prime256v1',
        '-nodes',
        '-days',
        '2',
      ],
      ...['-subj', `/CN=${name}`, '-keyout', `${dir}/${name}.key`, '-out', `${dir}/${name}.crt`],
    );
  const certificate = (name: string, issuer: string, dns: string): CredentialFiles => {
    openssl(
      ...[
        'req',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:prime256v1',
        '-nodes',
        '-subj',
        `/CN=${name}`,
      ],
      ...['-keyout', `${dir}/${name}.key`, '-out', `${dir}/${name}.csr`],
    );
    writeFileSync(`${dir}/${name}.ext`, `subjectAltName=DNS:${dns},DNS:${name}.example\n`);
    openssl(
      ...[
        'x509',
        '-req',
        '-in',
        `${dir}/${name}.csr`,
        '-CA',
        `${dir}/${issuer}.crt`,
        '-CAkey',
        `${dir}/${issuer}.key`,
      ],
      ...['-CAcreateserial', '-days', '2', '-extfile', `${dir}/${name}.ext`, '-out', `${dir}/${name}.crt`],
    );
    must('chmod', ['600', `${dir}/${name}.key`]);
    return { certFile: `${dir}/${name}.crt`, certKeyFile: `${dir}/${name}.key`, caFile: `${dir}/good.crt` };
  };
  ca('good');
  ca('other');
  const files = [certificate('a', 'good', 'group.example'), certificate('b', 'good', 'group.example')];
  const wrong = [certificate('c', 'good', 'elsewhere.example'), certificate('d', 'other', 'group.example')];
  const renewed = await start(t, (host) => files[host === 12 ? 0 : 1]!, [12, 14]);
  await settled(renewed, 1);
  certificate('a', 'good', 'group.example');
  const connections = async () =>
    (await renewed[0]!.ask({ do: 'show' })).log.filter((line) => line.includes('member connected')).length;
  // One for each family, and again when the former certificate is not accepted any more.
  await until(async () => (await connections()) >= 4, { what: 'connections made again' });
  await settled(renewed, 1);
  await Promise.all(renewed.map((member) => member.kill()));
  for (const third of wrong) {
    const { others, alone } = await startRefused(
      t,
      (host) => (host === 13 ? third : files[host === 12 ? 0 : 1]!),
      13,
    );
    const refused = async (member: Member) => (await member.family(4)).counts.rejected.certificate ?? 0;
    await until(async () => (await refused(alone)) + (await refused(others[1]!)) > 0, {
      what: 'a certificate refused',
    });
    for (const peer of (await alone.family(4)).view.peers) t.equal(peer.exchange, false);
    await Promise.all([alone, ...others].map((member) => member.kill()));
  }
});

t.test(
  'the thread with the kernel: an entry of one member is a replica of the other, and goes with it',
  async (t) => {
    const keys = keyFile('key');
    const hosts = [12, 13];
    const children = hosts.map((host) => {
      const settings: GroupSettings = {
        configs: [configOf(4, host, hosts)],
        port: PORT,
        interface: 'eth0',
        credentials: { keyFile: keys },
      };
      const command = [NODE, `${ROOT}/test/live/group-thread-child.ts`, JSON.stringify(settings)];
      const child = spawn(
        'ip',
        ['netns', 'exec', namespaces.get(host)!.name, 'env', '-u', 'NODE_OPTIONS', ...command],
        { stdio: ['pipe', 'pipe', 'inherit'] },
      );
      t.teardown(() => child.stdin.end());
      const lines = createInterface({ input: child.stdout });
      return async (command: ThreadCommand): Promise<ThreadReply> => {
        const next = once(lines, 'line', { signal: AbortSignal.timeout(PATIENCE) });
        child.stdin.write(`${JSON.stringify(command)}\n`);
        return JSON.parse(((await next) as [string])[0]) as ThreadReply;
      };
    });
    const [first, second] = children as [(typeof children)[0], (typeof children)[0]];
    await first({ do: 'path', member: addressOf(4, 13), up: true });
    await second({ do: 'path', member: addressOf(4, 12), up: true });
    for (const ask of children) {
      await until(async () => (await ask({ do: 'show' })).view?.ready, { what: 'ready' });
    }
    const [here, there] = hosts.map((host) => namespaces.get(host)!) as [Namespace, Namespace];
    const sockets = () =>
      there
        .sh('cat /proc/net/netlink')
        .split('\n')
        .filter((line) => line.split(/\s+/)[1] === '12').length;
    const before = sockets();
    t.ok(before >= 3, `${before} sockets`);
    await second({ do: 'crash' });
    await until(async () => (await first({ do: 'show' })).view?.peers[0]?.inSync, { what: 'in sync again' });
    await until(() => sockets() === before, { what: 'the sockets of the thread that ended are closed' });
    const { firstPort } = portSlice(slotOf(addressOf(4, 12)));
    const flow = '-p tcp -s 10.17.0.9 -d 172.17.0.1 --sport 4000 --dport 80';
    here.sh(
      `conntrack -I ${flow} --state ESTABLISHED -u SEEN_REPLY,ASSURED -t 300 --src-nat 172.17.0.50:${firstPort}`,
    );
    // An entry that is made established is no event of one that becomes so.
    here.sh(`conntrack -U ${flow} --mark 1`);
    const replica = () => there.run('conntrack', ['-L', '-p', 'tcp']).stdout;
    await until(() => replica().includes(`dport=${firstPort}`), { what: 'the replica' });
    t.match(
      replica(),
      /ESTABLISHED src=10.17.0.9 dst=172.17.0.1 sport=4000 dport=80 src=172.17.0.1 dst=172.17.0.50/,
    );
    t.match((await second({ do: 'lookup', query: 'q' })).answers, [{ answer: { status: 200, body: 'q' } }]);
    here.sh(`conntrack -D ${flow}`);
    await until(() => here.run('conntrack', ['-L', '-p', 'tcp']).stdout.includes(`dport=${firstPort}`), {
      what: 'the entry that another program has deleted',
    });
    here.sh(`conntrack -U ${flow} --state TIME_WAIT`);
    await until(() => !replica().includes('sport=4000'), { what: 'no replica' });
    await first({ do: 'drain' });
    await until(async () => (await first({ do: 'show' })).handedOver, { what: 'the handover' });
    const { counts } = await first({ do: 'stop' });
    t.ok(counts!.sent >= 2, 'counts are there when the thread has ended');
    await until(async () => (await second({ do: 'show' })).view?.held.length === 1, {
      what: 'the address held',
    });
  },
);

t.test('a connection that is reset at one end is made again, and no flow is lost', async (t) => {
  const key = keyFile('key');
  const members = await start(t, () => ({ keyFile: key }), [13, 14]);
  await settled(members, 1);
  const [first, second] = members as [Member, Member];
  let flows = 0;
  // Who rejects keeps its socket, and the other end is reset: as by a packet that a stranger has made.
  for (const [host, port, reset] of [
    [14, '--dport', first],
    [13, '--sport', second],
    [14, '--dport', first],
  ] as const) {
    const reject = (action: '-I' | '-D') =>
      namespaces
        .get(host)!
        .sh(`iptables ${action} INPUT -p tcp ${port} ${PORT} -j REJECT --reject-with tcp-reset`);
    reject('-I');
    await until(async () => (await reset.family(4)).view.peers[0]?.exchange === false, { what: 'the reset' });
    for (const member of members) {
      await member.ask({ do: 'open', family: 4, first: member.host * 1000 + flows, count: 100 });
    }
    flows += 100;
    reject('-D');
    await settled(members, 1);
    for (const member of members) await hasFlows(member, 4, flows, flows);
  }
  // A stranger takes the address of a member, as far as a neighbour believes it, and can only connect.
  const { key: refused = 0 } = (await second.family(4)).counts.rejected;
  stranger.ip('addr add 10.16.0.12/32 dev eth0');
  namespaces.get(12)!.ip('link set eth0 down');
  await attack(
    stranger,
    `const options = { host: '10.16.0.14', port: ${PORT}, localAddress: '10.16.0.12', rejectUnauthorized: false };
     require('node:tls').connect(options, () => process.exit(1)).on('error', () => {});`,
  );
  stranger.ip('addr del 10.16.0.12/32 dev eth0');
  namespaces.get(12)!.ip('link set eth0 up\naddr replace fd00:10:16::12/64 dev eth0 nodad');
  t.ok(((await second.family(4)).counts.rejected.key ?? 0) > refused, 'it is refused by its key');
  await settled(members, 1);
});

/** Runs a script in a namespace to its end: connections to the port of a member. */
const attack = async (ns: Namespace, script: string): Promise<void> => {
  const child = spawn('ip', ['netns', 'exec', ns.name, 'env', '-u', 'NODE_OPTIONS', NODE, '-e', script], {
    stdio: 'inherit',
  });
  const [code] = (await once(child, 'exit')) as [number];
  if (code !== 0) throw new Error(`the attack ended with ${code}`);
};

t.test('strangers, junk, half-open connections and a flood are refused, counted and bounded', async (t) => {
  const key = keyFile('key');
  const members = await start(t, () => ({ keyFile: key }), [13, 14]);
  // .12 is a member of the policy, and runs nothing but attacks.
  await settled(members, 1);
  const target = members[1]!;
  const rejected = async () => (await target.family(4)).counts.rejected;
  const before = (await target.ask({ do: 'show' })).memory;
  const connectMany = (count: number, data: string, host = '10.16.0.14') => `
    const net = require('node:net');
    let left = ${count};
    const one = () => {
      if (left-- <= 0) return;
      const socket = net.connect(${PORT}, '${host}', () => ${data});
      socket.on('error', () => {}).on('close', one).setTimeout(8000, () => socket.destroy());
    };
    for (let i = 0; i < 50; i++) one();`;
  await attack(stranger, connectMany(3000, 'socket.write("x")'));
  t.ok((await rejected()).not_a_member! >= 2900, 'strangers are counted');
  await attack(stranger, connectMany(300, 'socket.write("x")', 'fd00:10:16::14'));
  t.ok((await target.family(6)).counts.rejected.not_a_member! >= 290, 'over IPv6 too');
  await attack(
    namespaces.get(12)!,
    connectMany(500, 'socket.write(require("node:crypto").randomBytes(2000))'),
  );
  const junk = await rejected();
  t.ok((junk.not_tls ?? 0) + (junk.handshake_ended ?? 0) + (junk.too_many ?? 0) >= 490, 'junk is counted');
  await attack(namespaces.get(12)!, connectMany(200, 'undefined'));
  t.ok((await rejected()).too_many! > 100, 'half-open connections make room for each other');
  const listening = namespaces
    .get(14)!
    .run('ss', ['-Htn', 'state', 'established', `sport = :${PORT}`]).stdout;
  const open = listening.split('\n').filter((line) => line.includes('10.16.0.12'));
  t.ok(open.length <= 2, `${open.length} connections of the attacker are left`);
  await attack(
    namespaces.get(12)!,
    `const tls = require('node:tls');
     const host = { host: '10.16.0.14', port: ${PORT}, rejectUnauthorized: false };
     const psk = (identity) => ({
       ciphers: 'TLS_AES_128_GCM_SHA256',
       pskCallback: () => ({ psk: Buffer.alloc(32, 1), identity }),
       checkServerIdentity: () => undefined,
     });
     const tries = [{}, { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' }, psk('guess'), psk('')];
     const next = () => {
       const options = tries.shift();
       if (options === undefined) return;
       tls.connect({ ...host, ...options }, () => process.exit(1)).on('error', () => {}).on('close', next);
     };
     next();`,
  );
  const withoutKey = await rejected();
  t.ok(withoutKey.key! > (junk.key ?? 0), 'TLS without the key is refused, and counted');
  await attack(
    namespaces.get(12)!,
    `const record = Buffer.from('16030103e8010003e40303', 'hex');
     for (let i = 0; i < 2; i++) {
       const socket = require('node:net').connect(${PORT}, '10.16.0.14');
       let sent = 0;
       const timer = setInterval(() => socket.write(record.subarray(sent % 11, (sent++ % 11) + 1)), 300);
       socket.on('error', () => {}).on('close', () => clearInterval(timer));
     }`,
  );
  t.ok((await rejected()).handshake_timeout! >= 2, 'slow handshakes end, and are counted');
  const flood = stranger.spawn(NODE, [`${ROOT}/test/live/group-flood.ts`, '10.16.0.14', `${PORT}`], {
    name: 'flood',
  });
  await until(() => flood.log().includes('flooding'), { what: 'the flood of SYN' });
  await members[0]!.kill();
  const again = new Member(13, { keyFile: key });
  t.teardown(() => again.kill());
  await again.path(14, true);
  await settled([again, target], 1);
  await flood.stop();
  await again.ask({ do: 'open', family: 4, first: 1000, count: 100 });
  await hasFlows(target, 4, 0, 100);
  const after = (await target.ask({ do: 'show' })).memory;
  t.ok(after - before < 40 << 20, `it took ${(after - before) >> 20} MiB`);
});
