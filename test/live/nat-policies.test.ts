/** Policies, egress addresses, EIP and DNAT against the kernel, in rules and in packets. Needs root. */
import t from 'tap';
import { type Address, address, FAMILIES, type Family, type Prefix, prefix } from '../../lib/prefix.ts';
import type { FamilyNat, NatIntent } from '../../nat/desired.ts';
import type { EgressPolicy } from '../../nat/egress.ts';
import { createNatKernel } from '../../nat/kernel.ts';
import { seeded } from '../nat/model.ts';
import { type Namespace, NODE, Scope, until } from '../support/netns.ts';
import { sendStraySegments } from '../support/stray.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import {
  ask,
  BACKENDS,
  execIn,
  program,
  readFileIn,
  reconcile,
  rulesIn,
  startMirror,
  system,
} from './nat-lab.ts';

const scope = new Scope();
t.teardown(() => scope.dispose());

const policy = (name: string, more: Partial<EgressPolicy> = {}): EgressPolicy => ({
  ...{ name, action: 'masquerade', sources: [], destinations: [], excluded: [] },
  ...more,
});

/** An address in one of both families by two numbers: inside 10.a.b.9, outside 172.17.a.b. */
const inside = (family: Family, a: number, b: number): Address =>
  address(family === 4 ? `10.${a}.${b}.9` : `fd00:10:${a}:${b}::9`);
const outside = (family: Family, a: number, b: number): Address =>
  address(family === 4 ? `172.17.${a}.${b}` : `fd00:172:17::${a + 1}:${b}`);
const block = (family: Family, a: number, b: number): Prefix =>
  prefix(family === 4 ? `10.${a}.${b}.0/24` : `fd00:10:${a}:${b}::/64`);

/** Something of everything. */
function everything(family: Family, seed: number): FamilyNat {
  const random = seeded(seed + family);
  const blocks = (most: number, net: number) =>
    Array.from({ length: random.below(most + 1) }, () => block(family, net, random.below(9)));
  return {
    family,
    internalInterface: 'eth0',
    forward: Array.from({ length: [0, 3, 40][random.below(3)]! }, (_, i) => block(family, 18, i)),
    notrackBfd: true,
    policies: Array.from({ length: 3 + random.below(40) }, (_, i) =>
      policy(`p${i}`, {
        sources: blocks(4, 17),
        destinations: random.below(2) === 0 ? [] : [...blocks(7, 20), ...(i === 2 ? [prefix('::/0')] : [])],
        excluded: random.below(3) === 0 ? blocks(2, 20) : [],
        action: (
          [
            'masquerade',
            'forward',
            { snat: [outside(family, 1, i)] },
            { snat: [outside(family, 1, 1), outside(family, 1, 2)] },
            { snat: [outside(family, 1, 1), outside(family, 1, 5), outside(family, 1, 9)] },
          ] as const
        )[random.below(5)] as EgressPolicy['action'],
      }),
    ).map((one) => ({
      ...one,
      destinations: one.destinations.filter((each) => each.includes(':') === (family === 6)),
    })),
    defaultAction: (['masquerade', 'forward', 'drop'] as const)[random.below(3)]!,
    eips: Array.from({ length: [0, 2, 34][random.below(3)]! }, (_, i) => ({
      externalIP: outside(family, 2, i),
      internalIP: inside(family, 19, i),
    })),
    dnats: (['tcp', 'udp', 'sctp'] as const).flatMap((protocol) =>
      [true, false].map((preserveClientIP, i) => ({
        ...{
          externalIP: outside(family, 3, 1),
          protocol,
          preserveClientIP,
          internalIP: inside(family, 19, 9),
        },
        externalPorts: { first: 8000 + 100 * i, last: 8000 + 110 * i },
        internalPorts:
          random.below(2) === 0
            ? { first: 9000, last: 9000 + 10 * i }
            : { first: 8000 + 100 * i, last: 8000 + 110 * i },
      })),
    ),
    mssClamp: random.below(2) === 0,
    dropInvalid: random.below(2) === 0,
    inbound: random.below(3) === 0 ? 'any' : 'forwarded',
    connectionsPerSource: random.below(3) * 50,
    nowhere: Array.from({ length: [0, 2, 34][random.below(3)]! }, (_, i) => outside(family, 4, i)),
  };
}

for (const backend of BACKENDS) {
  t.test(`${backend}: from any policies to any others, and a second reconcile finds nothing`, async (t) => {
    const { ns, kernel } = system(scope, 'policies', backend);
    const tables = ['raw', 'mangle', 'nat'];
    const found = () =>
      FAMILIES.flatMap((family) => tables.flatMap((table) => rulesIn(ns, backend, family, table)));
    const before = found();
    for (let seed = 1; seed <= 8; seed++) {
      const wanted: NatIntent = FAMILIES.map((family) => everything(family, seed));
      await reconcile(kernel, wanted);
      t.same(await reconcile(kernel, wanted), [], `seed ${seed}`);
    }
    await reconcile(kernel, []);
    t.same(found(), before, 'cleanup leaves it as it was');
    t.equal(ns.sh('ipset list -n'), '');
  });
}

const NET = {
  client: { 4: prefix('10.17.0.0/16'), 6: prefix('fd00:10:17::/64') },
  client2: { 4: prefix('10.18.0.0/16'), 6: prefix('fd00:10:18::/64') },
  outside: { 4: prefix('172.17.0.0/16'), 6: prefix('fd00:172:17::/64') },
} as const;
const EGRESS = { 4: address('172.17.0.50'), 6: address('fd00:172:17::50') } as const;
const EIP = { 4: address('172.17.0.60'), 6: address('fd00:172:17::60') } as const;

/** Holds one connection and says something all the time. */
const TALK = `
  const socket = require('node:net').connect(7777, '172.17.0.1', () => {
    console.log('connected');
    setInterval(() => socket.write('x'), 20);
  });
  socket.on('error', () => {});`;
const LISTEN = `
  require('node:net')
    .createServer((socket) => socket.on('error', () => {}).resume())
    .listen(7777, () => console.log('ready'));`;

/** Answers each octet of each connection to a port, and says when one ends. */
const ECHO = (port: number): string => `
  require('node:net')
    .createServer((socket) => {
      socket.on('error', () => {}).on('close', () => console.log('closed')).pipe(socket);
    })
    .listen(${port}, () => console.log('ready'));`;
/** Says something in a connection all the time, each answer makes a dot; and says when it ends. */
const CONVERSE = (host: string, port: number): string => `
  const socket = require('node:net').connect(${port}, '${host}');
  socket.on('data', (data) => process.stdout.write('.'.repeat(data.length)));
  socket.on('error', () => {}).on('close', () => console.log('closed'));
  setInterval(() => socket.write('x'), 20);`;
/** Sends SCTP, GRE and ESP, in fragments, a SYN and an ICMP echo request. */
const RAW = (from: string, host: string): string => `
  use Socket qw(:all);
  my $v6 = '${host}' =~ /:/;
  my ($from, $to) = map { inet_pton($v6 ? AF_INET6 : AF_INET, $_) } ('${from}', '${host}');
  my $echo = $v6 ? pack('n4', 0x8000, 0, 1, 1) : pack('n4', 0x0800, 0xf7fd, 1, 1);
  my $syn = pack('nnNNCCnnn', 40_000 + int(rand(9999)), 9999, 1, 0, 0x50, 2, 65535, 0, 0);
  my $sum = 0;
  $sum += $_ for unpack('n*', $from . $to . pack('nn', 6, 20) . $syn);
  $sum = ($sum & 0xffff) + ($sum >> 16) while $sum >> 16;
  substr($syn, 16, 2) = pack('n', ~$sum & 0xffff);
  for (132, 47, 50, 6, $v6 ? 58 : 1) {
    socket(my $s, $v6 ? AF_INET6 : AF_INET, SOCK_RAW, $_) or die $!;
    my $packet = $_ == 1 || $_ == 58 ? $echo : $_ == 6 ? $syn : pack('N750', 1..750);
    send($s, $packet, 0, $v6 ? pack_sockaddr_in6(0, $to) : pack_sockaddr_in(0, $to)) or die $!;
  }`;

/** The packets that a rule of a table has counted. */
function counted(ns: Namespace, save: string, table: string, rule: string): number {
  const line = ns
    .sh(`${save} -c -t ${table}`)
    .split('\n')
    .find((each) => each.endsWith(rule))!;
  return Number(/^\[(\d+):/.exec(line)![1]);
}

t.test('packets meet the policies', async (t) => {
  const { client, client2, gateway, server } = topology(scopeOf(t), { cniRoutes: true });
  gateway.sysctl({
    'net.ipv4.ip_forward': 1,
    'net.ipv6.conf.all.forwarding': 1,
    'net.ipv4.conf.eth0.rp_filter': 0,
  });
  const kernel = createNatKernel({ exec: execIn(gateway), readFile: readFileIn(gateway) });
  const apply = async (more: (family: Family) => Partial<FamilyNat>): Promise<void> => {
    const wanted = FAMILIES.map((family) => ({
      ...{ family, internalInterface: 'eth0', forward: [], notrackBfd: true },
      ...more(family),
    }));
    await reconcile(kernel, wanted);
  };
  for (const extra of [EGRESS, EIP]) {
    // Deprecated, or IPv6 may masquerade to them (RFC 6724 5, rule 3).
    gateway.ip(`addr add ${extra[4]}/32 dev net1\naddr add ${extra[6]}/128 dev net1 nodad preferred_lft 0`);
  }
  await startMirror(server, 9999);
  await startMirror(client, 9999);
  const seen = (ns: Namespace, family: Family): string => ask(ns, ADDRESS.server[family], 9999);

  await t.test('an egress address, and after an edit another treatment', async (t) => {
    await apply((family) => ({
      policies: [policy('web', { sources: [NET.client[family]], action: { snat: [EGRESS[family]] } })],
    }));
    for (const family of FAMILIES) {
      t.equal(seen(client, family), EGRESS[family]);
      t.equal(seen(client2, family), ADDRESS.gatewayExternal[family], 'others are masqueraded');
    }
    await apply((family) => ({
      policies: [policy('web', { sources: [NET.client2[family]], action: 'forward' })],
    }));
    for (const family of FAMILIES) {
      t.equal(seen(client, family), ADDRESS.gatewayExternal[family]);
      t.equal(seen(client2, family), ADDRESS.client2[family]);
    }
  });

  await t.test('destinations and exclusions', async (t) => {
    const any = { 4: prefix('0.0.0.0/0'), 6: prefix('::/0') };
    const server32 = (family: Family) => prefix(`${ADDRESS.server[family]}/${family === 4 ? 32 : 128}`);
    for (const [destinations, excluded, expected] of [
      [[NET.outside], [], EGRESS],
      [[any], [], EGRESS],
      [[NET.client, NET.outside], [], EGRESS],
      [[NET.client], [], ADDRESS.gatewayExternal],
      [[any], [server32], ADDRESS.gatewayExternal],
      [[], [server32], ADDRESS.gatewayExternal],
    ] as const) {
      const of = (family: Family) => (each: unknown) =>
        typeof each === 'function' ? each(family) : (each as Record<Family, Prefix>)[family];
      await apply((family) => ({
        policies: [
          policy('some', {
            sources: [NET.client[family]],
            destinations: destinations.map(of(family)),
            excluded: excluded.map(of(family)),
            action: { snat: [EGRESS[family]] },
          }),
        ],
      }));
      for (const family of FAMILIES) t.equal(seen(client, family), expected[family]);
    }
  });

  await t.test('the default', async (t) => {
    for (const [defaultAction, expected] of [
      ['drop', { 4: '', 6: '' }],
      ['masquerade', ADDRESS.gatewayExternal],
      ['forward', ADDRESS.client2],
    ] as const) {
      await apply((family) => ({
        defaultAction,
        policies: [policy('one', { sources: [NET.client[family]] })],
      }));
      for (const family of FAMILIES) {
        t.equal(seen(client2, family), expected[family], `${defaultAction} for others`);
        t.equal(seen(client, family), ADDRESS.gatewayExternal[family]);
        t.equal(seen(gateway, family), ADDRESS.gatewayExternal[family], "the pod's own packets go out");
      }
    }
  });

  await t.test('an EIP both ways, and from inside', async (t) => {
    await apply((family) => ({
      forward: [NET.client2[family]],
      eips: [{ externalIP: EIP[family], internalIP: address(ADDRESS.client[family]) }],
    }));
    for (const family of FAMILIES) {
      t.equal(seen(client, family), EIP[family], 'outwards');
      t.equal(ask(server, EIP[family], 9999), ADDRESS.gatewayInternal[family], 'inwards, by way of here');
      t.equal(ask(client2, EIP[family], 9999), ADDRESS.gatewayInternal[family], 'hairpin');
      t.equal(seen(client2, family), ADDRESS.client2[family], 'the forwarded block is still forwarded');
    }
  });

  await t.test('DNAT with and without the address of the client', async (t) => {
    const dnat = (family: Family, first: number, preserveClientIP: boolean) => ({
      ...{
        externalIP: ADDRESS.gatewayExternal[family] as Address,
        internalIP: ADDRESS.client[family] as Address,
      },
      ...{ protocol: 'udp' as const, externalPorts: { first: first, last: first + 5 } },
      ...{ internalPorts: { first: 9996, last: 10_001 }, preserveClientIP },
    });
    await apply((family) => ({ dnats: [dnat(family, 5000, false), dnat(family, 6000, true)] }));
    for (const family of FAMILIES) {
      const external = ADDRESS.gatewayExternal[family];
      t.equal(ask(server, external, 5003), ADDRESS.gatewayInternal[family], 'translated, the port shifted');
      t.equal(ask(server, external, 6003), ADDRESS.server[family], 'kept');
      t.equal(ask(client2, external, 6003), ADDRESS.gatewayInternal[family], 'not for a client inside');
      t.equal(ask(server, external, 5004), '', 'a port that nothing listens on behind it');
    }
  });

  await t.test('what belongs to no connection does not leave with its own address', async (t) => {
    const save = 'iptables-nft-save';
    const outside = (): number => counted(server, save, 'filter', '-A INPUT -s 10.17.0.9/32 -j ACCEPT');
    server.sh('iptables-nft -A INPUT -s 10.17.0.9 -j ACCEPT');
    // A connection that conntrack forgets, and does not pick up: then its packets are invalid.
    gateway.sysctl({ 'net.netfilter.nf_conntrack_tcp_loose': 0 });
    const listener = server.spawn(NODE, ['-e', LISTEN], { name: 'listener' });
    await until(() => listener.log().includes('ready'), { what: 'the listener listens' });
    for (const dropInvalid of [false, true]) {
      await apply(() => ({ dropInvalid }));
      const talker = client.spawn(NODE, ['-e', TALK], { name: 'talker' });
      await until(() => talker.log().includes('connected'), { what: 'the connection' });
      const before = outside();
      gateway.run('conntrack', ['-F']);
      if (dropInvalid) {
        const drop = '-A VEG-INVALID -j DROP';
        await until(() => counted(gateway, save, 'mangle', drop) > 0, { what: 'a packet is dropped' });
        t.equal(outside(), before, 'nothing came through');
      } else {
        await until(() => outside() > before, { what: 'a packet comes out with its own address' });
      }
      await talker.stop('SIGKILL');
    }
  });

  await apply(() => ({}));
  for (const family of FAMILIES) t.equal(seen(client, family), ADDRESS.gatewayExternal[family]);
  await reconcile(kernel, []);
});

for (const backend of BACKENDS) {
  t.test(`${backend}: what comes from outside and what is stray`, async (t) => {
    const { client, client2, gateway, server } = topology(scopeOf(t), { cniRoutes: true });
    gateway.sysctl({
      'net.ipv4.ip_forward': 1,
      'net.ipv6.conf.all.forwarding': 1,
      'net.ipv4.conf.eth0.rp_filter': 0,
    });
    gateway.ip(`addr add ${EIP[4]}/32 dev net1\naddr add ${EIP[6]}/128 dev net1 nodad preferred_lft 0`);
    // A neighbour that has found out where the pods are, and how large their packets may be.
    server.ip(`
      route add ${NET.client[4]} via ${ADDRESS.gatewayExternal[4]} mtu 1300
      route add ${NET.client[6]} via ${ADDRESS.gatewayExternal[6]} mtu 1300`);
    const kernel = createNatKernel({ exec: execIn(gateway), readFile: readFileIn(gateway), backend });
    const apply = async (more: (family: Family) => Partial<FamilyNat>): Promise<void> => {
      const plain = { internalInterface: 'eth0', notrackBfd: true, dropInvalid: true };
      const wanted = FAMILIES.map((family) => ({ family, forward: [], ...plain, ...more(family) }));
      await reconcile(kernel, wanted);
      t.same(await reconcile(kernel, wanted), [], 'a second reconcile finds nothing');
    };
    await startMirror(client, 9999);
    await startMirror(client2, 9999);
    const refused = (family: Family): number =>
      counted(gateway, `${program[family]}-${backend}-save`, 'mangle', '-A VEG-REFUSED -j DROP');

    await t.test('a new connection from outside passes only to what the policy opens', async (t) => {
      for (const [what, more] of Object.entries<(family: Family) => Partial<FamilyNat>>({
        'forwarded blocks': (family) => ({ forward: [NET.client2[family]] }),
        'policies and drop': (family) => ({
          policies: [policy('out', { sources: [NET.client2[family]], action: 'forward' })],
          defaultAction: 'drop',
        }),
      })) {
        await apply(more);
        for (const family of FAMILIES) {
          const pod = ADDRESS.client[family];
          const before = refused(family);
          server.run('perl', ['-e', RAW(ADDRESS.server[family], pod)]);
          t.equal(ask(server, pod, 9999), '', `${what}: UDP does not come in`);
          t.equal(refused(family) - before, 6, `${what}: SCTP, GRE, ESP, TCP, an echo, UDP`);
          await until(() => ask(server, ADDRESS.client2[family], 9999) === ADDRESS.server[family], {
            what: `${what}: this may, IPv${family}`,
          });
        }
      }
      await apply(() => ({ inbound: 'any' }));
      for (const family of FAMILIES) {
        await until(() => ask(server, ADDRESS.client[family], 9999) === ADDRESS.server[family], {
          what: `any: with its own source, IPv${family}`,
        });
      }
      await apply((family) => ({ inbound: 'any', nowhere: [address(ADDRESS.client[family])] }));
      for (const family of FAMILIES) {
        await until(() => ask(server, ADDRESS.client2[family], 9999) === ADDRESS.server[family], {
          what: `any but an address on no interface, IPv${family}`,
        });
        t.equal(
          ask(server, ADDRESS.client[family], 9999),
          '',
          `what is for that one ends here, IPv${family}`,
        );
      }
    });

    await t.test('a source has as many connections as it may, and others have theirs', async (t) => {
      const [most, port] = [3, 7000];
      await startMirror(server, 9999);
      const listener = server.spawn(NODE, ['-e', ECHO(port)], { name: 'echo' });
      await until(() => listener.log().includes('ready'), { what: 'the server listens' });
      await apply(() => ({ connectionsPerSource: most }));
      const talkers = FAMILIES.map((family) =>
        client.spawn(NODE, ['-e', CONVERSE(ADDRESS.server[family], port)], { name: 'talker' }),
      );
      await until(() => talkers.every((talker) => talker.log().includes('.')), { what: 'both talk' });
      for (const family of FAMILIES) {
        const answers = Array.from({ length: most }, () => ask(client, ADDRESS.server[family], 9999));
        const seen = ADDRESS.gatewayExternal[family];
        t.same(answers, [...Array(most - 1).fill(seen), ''], 'with TCP it has three');
        t.equal(ask(client2, ADDRESS.server[family], 9999), seen);
      }
      await apply(() => ({ connectionsPerSource: most + 1 }));
      for (const talker of talkers) {
        const said = talker.log().length;
        await until(() => talker.log().length > said + 5, { what: 'it talks on when the limit is another' });
        t.equal(await talker.stop('SIGKILL'), 137);
      }
    });

    await t.test(
      'a segment that conntrack finds invalid ends no connection, nor does it leave',
      async (t) => {
        const [masqueraded, outwards, inwards, dnat] = [7001, 7002, 7003, 7004] as const;
        await apply((family) => ({
          eips: [{ externalIP: EIP[family], internalIP: address(ADDRESS.client[family]) }],
          dnats: [
            {
              ...{ externalIP: address(ADDRESS.gatewayExternal[family]), protocol: 'tcp' },
              ...{
                externalPorts: { first: dnat, last: dnat },
                internalIP: address(ADDRESS.client[family]),
                internalPorts: { first: dnat, last: dnat },
              },
              preserveClientIP: false,
            },
          ],
        }));
        const echo = (ns: Namespace, port: number) =>
          ns.spawn(NODE, ['-e', ECHO(port)], { name: `echo-${port}` });
        const servers = [
          ...[masqueraded, outwards].map((port) => echo(server, port)),
          ...[inwards, dnat].map((port) => echo(client, port)),
        ];
        await until(() => servers.every((daemon) => daemon.log().includes('ready')), { what: 'all listen' });
        const inside = { 4: '10.16.0.0/12', 6: 'fd00:10::/32' } as const;
        for (const family of FAMILIES) {
          server.sh(`${program[family]}-nft -A INPUT -s ${inside[family]} -j ACCEPT`);
          const strays = [
            await sendStraySegments(server, ADDRESS.server[family], [masqueraded, outwards, inwards, dnat]),
            await sendStraySegments(client, ADDRESS.client[family], [outwards, inwards, dnat]),
            await sendStraySegments(client2, ADDRESS.client2[family], [masqueraded]),
          ];
          const talkers = (
            [
              [client2, ADDRESS.server[family], masqueraded, 'masqueraded'],
              [client, ADDRESS.server[family], outwards, 'from an EIP'],
              [server, EIP[family], inwards, 'to an EIP'],
              [server, ADDRESS.gatewayExternal[family], dnat, 'to a DNAT'],
            ] as const
          ).map(([ns, host, port, what]) => ({
            what,
            daemon: ns.spawn(NODE, ['-e', CONVERSE(host, port)], { name: `talker-${port}` }),
          }));
          await until(() => strays.every(({ exitCode }) => exitCode === 0), {
            what: 'all segments are sent',
          });
          for (const { what, daemon } of talkers) {
            const said = daemon.log().length;
            await until(() => daemon.log().includes('closed') || daemon.log().length > said + 10, {
              what: `${what}: the connection ends or goes on`,
            });
            t.notMatch(daemon.log(), 'closed', `IPv${family}, ${what}: it goes on`);
            t.equal(await daemon.stop('SIGKILL'), 137);
          }
          const leaked = `-A INPUT -s ${inside[family]} -j ACCEPT`;
          t.equal(
            counted(server, `${program[family]}-nft-save`, 'filter', leaked),
            0,
            'none leaves as it is',
          );
        }
      },
    );
  });
}
