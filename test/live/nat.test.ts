/** nat against the kernel: iptables with both backends, ipset, and packets. Needs root. */
import t from 'tap';
import { FAMILIES, type Family, prefix } from '../../lib/prefix.ts';
import { desiredNat, type NatIntent } from '../../nat/desired.ts';
import { diffNat } from '../../nat/diff.ts';
import { createNatKernel } from '../../nat/kernel.ts';
import { commandLines } from '../../nat/render.ts';
import type { NatState, Rule } from '../../nat/state.ts';
import { carryOut, disturb, Model, seeded } from '../nat/model.ts';
import { type Namespace, NODE, ROOT, Scope, until } from '../support/netns.ts';
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

const intent = (blocks: number, notrackBfd = true): NatIntent =>
  FAMILIES.map((family) => ({
    family,
    internalInterface: 'eth0',
    forward: Array.from({ length: blocks }, (_, i) =>
      prefix(family === 4 ? `10.${18 + (i >> 8)}.${i & 255}.0/24` : `fd00:${(i + 1).toString(16)}::/48`),
    ),
    notrackBfd,
  }));

for (const backend of BACKENDS) {
  t.test(`${backend}: the listing is upstream's, and a second reconcile finds nothing`, async (t) => {
    const { ns, kernel } = system(scope, 'listing', backend);
    const wanted: NatIntent = [
      { family: 4, internalInterface: 'eth0', forward: [prefix('10.18.0.0/16')], notrackBfd: true },
      { family: 6, internalInterface: 'eth0', forward: [prefix('fd00:10:18::/64')], notrackBfd: true },
    ];
    await reconcile(kernel, wanted);
    for (const [family, block] of [
      [4, '10.18.0.0/16'],
      [6, 'fd00:10:18::/64'],
    ] as const) {
      t.same(
        rulesIn(ns, backend, family, 'nat').filter((line) => !line.includes('OPERATOR')),
        [
          '-P PREROUTING ACCEPT',
          '-P INPUT ACCEPT',
          '-P OUTPUT ACCEPT',
          '-P POSTROUTING ACCEPT',
          '-N VEG-MASQUERADE',
          '-A PREROUTING -i eth0 -j MARK --set-xmark 0x4000/0x4000',
          `-A POSTROUTING -d ${block} -j RETURN`,
          `-A POSTROUTING -s ${block} -j RETURN`,
          '-A POSTROUTING -j VEG-MASQUERADE',
          '-A VEG-MASQUERADE -j MARK --set-xmark 0x0/0xffffffff',
          '-A VEG-MASQUERADE -j MASQUERADE --random-fully',
        ],
      );
    }
    t.same((await kernel.observe({ families: FAMILIES })).backend, { 4: backend, 6: backend });
    t.same(await reconcile(kernel, wanted), []);
  });

  t.test(`${backend}: cleanup leaves the namespace as it was found`, async (t) => {
    const { ns, kernel } = system(scope, 'cleanup', backend);
    const foreign = [
      '-t nat -A POSTROUTING -s 10.99.0.0/16 -j RETURN',
      '-t nat -A POSTROUTING -o lo -m comment --comment not-VEG-MASQUERADE -j ACCEPT',
      '-t nat -A PREROUTING -i eth0 -j MARK --set-xmark 0x8000/0x8000',
      '-t raw -A OUTPUT -p udp -m udp --dport 3784 -j ACCEPT',
      '-t nat -N KUBE-POSTROUTING',
      '-t nat -A POSTROUTING -j KUBE-POSTROUTING',
    ];
    for (const rule of foreign) ns.sh(`iptables-${backend} ${rule}`);
    ns.sh('ipset create THEIRS hash:net');
    ns.sh('ipset add THEIRS 10.0.0.0/8');
    const found = () => [
      ...FAMILIES.flatMap((family) => ['nat', 'raw'].flatMap((table) => rulesIn(ns, backend, family, table))),
      ns.sh('ipset save').replaceAll(/initval \S+/g, ''),
    ];
    const before = found();
    const other = backend === 'nft' ? 'legacy' : 'nft';
    for (const blocks of [3, 40]) {
      await reconcile(kernel, intent(blocks));
      await reconcile(kernel, intent(blocks).slice(0, 1));
      t.notSame(found(), before);
    }
    await reconcile(kernel, []);
    t.same(found(), before);
    t.notMatch(ns.sh(`iptables-${other}-save`), /VEG-/, 'the other backend was left alone');
    if (backend === 'nft') t.equal(ns.sh('cat /proc/net/ip_tables_names'), '', 'no legacy table came to be');
  });

  t.test(`${backend}: more than 32 blocks become a set, grow in it, and become rules again`, async (t) => {
    const { ns, kernel } = system(scope, 'sets', backend);
    const elements = (family: 4 | 6) =>
      ns.sh(`ipset save VEG-FORWARD-${family}`).trim().split('\n').length - 1;
    await reconcile(kernel, intent(32));
    t.equal(ns.sh('ipset list -n'), '');
    t.equal(rulesIn(ns, backend, 6, 'nat').filter((line) => line.endsWith('-j RETURN')).length, 64);
    let previous = desiredNat(intent(32));
    for (const blocks of [33, 34, 500, 1, 40, 0]) {
      await reconcile(kernel, intent(blocks), previous);
      previous = desiredNat(intent(blocks));
      if (blocks > 32) {
        for (const family of FAMILIES) {
          t.equal(elements(family), blocks);
          t.same(
            rulesIn(ns, backend, family, 'nat').filter((line) => line.endsWith('-j RETURN')),
            ['dst', 'src'].map(
              (side) => `-A POSTROUTING -m set --match-set VEG-FORWARD-${family} ${side} -j RETURN`,
            ),
          );
        }
      } else t.equal(ns.sh('ipset list -n'), '');
      t.same(await reconcile(kernel, intent(blocks), previous), [], `${blocks} blocks: nothing left to do`);
    }
  });

  t.test(`${backend}: the whole address space is accepted in rules and in sets`, async (t) => {
    const { kernel } = system(scope, 'any', backend);
    for (const blocks of [0, 40]) {
      const wanted = intent(blocks);
      wanted[0]!.forward.push(prefix('0.0.0.0/0'));
      wanted[1]!.forward.push(prefix('::/0'), prefix('::ffff:1.2.3.0/120'), prefix('::1.2.3.4/128'));
      await reconcile(kernel, wanted);
      t.same(await reconcile(kernel, wanted), []);
    }
  });

  t.test(`${backend}: what is kept or moved keeps its counters`, async (t) => {
    const { ns, kernel } = system(scope, 'counters', backend);
    await reconcile(kernel, intent(2));
    for (let i = 0; i < 3; i++) ns.run('bash', ['-c', `echo > /dev/udp/127.0.0.1/${9000 + i}`]);
    const counters = async () => {
      const { tables } = await kernel.observe({ families: FAMILIES });
      return tables[4]
        .get('nat')!
        .get('POSTROUTING')!
        .rules.find((rule) => rule.text === '-j VEG-MASQUERADE');
    };
    const before = await counters();
    t.ok(before!.packets >= 3);
    await reconcile(kernel, intent(3));
    await reconcile(kernel, intent(40));
    t.same(await counters(), before, 'kept through policy changes');
    ns.sh(`iptables-${backend} -t nat -A POSTROUTING -j VEG-MASQUERADE`);
    await reconcile(kernel, intent(40));
    t.same(await counters(), before, 'kept when the doubled rule goes');
    ns.sh(`iptables-${backend} -t nat -D POSTROUTING -m set --match-set VEG-FORWARD-4 src -j RETURN`);
    ns.sh(`iptables-${backend} -t nat -A POSTROUTING -m set --match-set VEG-FORWARD-4 src -j RETURN`);
    await reconcile(kernel, intent(40));
    t.same(await counters(), before, 'kept when the order is mended');
  });

  t.test(`${backend}: the model in test/nat/model.ts does what the programs do`, async (t) => {
    const { ns, kernel } = system(scope, 'model', backend);
    await kernel.observe({ families: FAMILIES });
    // ip6tables-nft 1.8.9 drops the counters that a rule is given.
    const counted = ({ text, packets }: Rule, family: Family) =>
      backend === 'nft' && family === 6 ? { text } : { text, packets };
    const random = seeded(backend.length);
    const model = new Model();
    let previous: NatState | undefined;
    for (let round = 0; round < 12; round++) {
      for (let i = random.below(8); i > 0; i--) for (const family of FAMILIES) disturb(model, random, family);
      const sets = [...model.sets.keys()].flatMap((name) => [
        `create ${name} ${model.sets.get(name)!.header}`,
        `flush ${name}`,
        ...[...model.sets.get(name)!.elements].map(
          ([element, options]) => `add ${name} ${element}${options}`,
        ),
      ]);
      const fill = await execIn(ns)('ipset', ['-exist', 'restore'], { input: `${sets.join('\n')}\n` });
      t.equal(fill.stderr, '');
      for (const family of FAMILIES) {
        const input = model.saveRules(family);
        const load = await execIn(ns)(`${program[family]}-${backend}-restore`, ['-c'], { input });
        t.equal(load.stderr, '');
      }
      const observed = await kernel.observe({ families: FAMILIES });
      const wanted = desiredNat(intent([0, 2, 5, 33, 50][random.below(5)]!, random.below(2) === 0));
      const steps = diffNat(observed, wanted, previous);
      t.same(
        commandLines(steps).toSorted(),
        commandLines(diffNat(model.observe(), wanted, previous)).toSorted(),
        'both are read alike',
      );
      await kernel.apply(steps);
      carryOut(model, steps);
      const chains = ({ tables }: NatState) =>
        FAMILIES.flatMap((family) =>
          ['raw', 'nat'].flatMap((table) =>
            [...(tables[family].get(table) ?? [])]
              .filter(([name]) => name !== 'OPERATOR')
              .map(([name, { rules }]) => ({
                family,
                table,
                name,
                rules: rules.map((rule) => counted(rule, family)),
              })),
          ),
        ).toSorted((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
      const after = await kernel.observe({ families: FAMILIES });
      t.same(chains(after), chains(model.observe()), `round ${round}: rules`);
      t.same(
        [...after.sets.values()].map((set) => [set.name, [...set.elements].toSorted()]),
        [...model.observe().sets.values()].map((set) => [set.name, [...set.elements].toSorted()]),
        `round ${round}: sets`,
      );
      previous = wanted;
    }
  });

  t.test(`${backend}: a missing capability is named`, async (t) => {
    const { ns } = system(scope, 'denied', backend);
    const wrapper = ['setpriv', '--bounding-set', '-all', '--inh-caps', '-all'];
    const kernel = createNatKernel({ exec: execIn(ns, wrapper), readFile: readFileIn(ns), backend });
    const { failed } = await kernel.observe({ families: FAMILIES });
    t.match(failed[4], { name: 'NatError', kind: 'not-permitted', hint: /NET_ADMIN/ });
  });

  t.test(`${backend}: rules that no transaction can name do no harm`, async (t) => {
    const { ns, kernel } = system(scope, 'newline', backend);
    await reconcile(kernel, intent(1));
    const comment = 'a "quoted" -j VEG-MASQUERADE\n-A POSTROUTING -j DROP';
    for (const chain of ['OUTPUT', 'VEG-MASQUERADE']) {
      ns.run(`iptables-${backend}`, [
        ...['-t', 'nat', '-I', chain, '-m', 'comment', '--comment', comment, '-j', 'ACCEPT'],
      ]);
    }
    await reconcile(kernel, intent(1));
    t.same(await reconcile(kernel, intent(1)), []);
    t.equal(
      rulesIn(ns, backend, 4, 'nat').filter((line) => line.includes('quoted')).length,
      1,
      'the foreign rule is still there',
    );
  });
}

t.test('legacy: a held xtables lock is named', async (t) => {
  const { ns, kernel } = system(scope, 'lock', 'legacy');
  await kernel.observe({ families: FAMILIES });
  // A lock file of this namespace alone: /run/xtables.lock is everybody's on this machine.
  const file = `${scope.directory('lock')}/xtables.lock`;
  const held = createNatKernel({
    exec: execIn(ns, ['env', `XTABLES_LOCKFILE=${file}`]),
    readFile: readFileIn(ns),
  });
  const holder = ns.spawn('flock', [file, 'sleep', '30'], { name: 'flock' });
  await until(() => ns.run('flock', ['-n', file, 'true']).code !== 0, { what: 'the lock is held' });
  await t.rejects(
    held.apply(diffNat(await held.observe({ families: FAMILIES }), desiredNat(intent(1).slice(0, 1)))),
    {
      name: 'NatError',
      kind: 'locked',
      message: /xtables lock/,
      hint: /another process holds/,
    },
  );
  await holder.stop('SIGKILL');
});

t.test('a family whose own rules are in another backend than the other stays there', async (t) => {
  const ns = scope.namespace('mixed');
  ns.sh('ip6tables-legacy -t nat -N OPERATOR');
  const kernel = createNatKernel({ exec: execIn(ns), readFile: readFileIn(ns) });
  await reconcile(kernel, intent(1));
  t.same((await kernel.observe({ families: FAMILIES })).backend, { 4: 'nft', 6: 'legacy' });
  t.match(ns.sh('iptables-nft -t nat -S'), /VEG-MASQUERADE/);
  t.match(ns.sh('ip6tables-legacy -t nat -S'), /VEG-MASQUERADE/);
  const again = createNatKernel({ exec: execIn(ns), readFile: readFileIn(ns) });
  ns.sh('iptables-legacy -t nat -N LATER');
  t.same(await reconcile(again, intent(1)), [], 'also after a restart, and when others use legacy by then');
});

t.test('the fingerprint changes with sets and legacy rules, and with nothing else', async (t) => {
  for (const backend of BACKENDS) {
    const { ns, kernel } = system(scope, 'print', backend);
    await reconcile(kernel, intent(40));
    const program = `
      import { desiredNat } from '${ROOT}/nat/desired.ts';
      import { createFingerprint } from '${ROOT}/nat/fingerprint.ts';
      const family = (family, forward) => ({ family, internalInterface: 'eth0', forward, notrackBfd: true });
      const blocks = Array.from({ length: 40 }, (_, i) => '10.' + i + '.0.0/16');
      const reader = createFingerprint();
      console.log(reader.read({ 4: '${backend}', 6: '${backend}' }, desiredNat([family(4, blocks), family(6, [])])));
      reader.close();`;
    const read = () => ns.run(NODE, ['--input-type=module-typescript', '-e', program]).stdout;
    const first = read();
    t.match(first, /^\S{20,}\n$/);
    ns.run('bash', ['-c', 'echo > /dev/udp/127.0.0.1/9000']);
    ns.sh('ipset create THEIRS hash:ip');
    t.equal(read(), first, 'counters and sets of others');
    ns.sh('ipset del VEG-FORWARD-6 fd00:1::/48');
    const second = read();
    t.not(second, first, 'an element gone');
    ns.sh('ipset add VEG-FORWARD-6 fd00:1::/48');
    t.equal(read(), first, 'and back');
    if (backend === 'nft') continue;
    ns.sh('ip6tables-legacy -t nat -D POSTROUTING -j VEG-MASQUERADE');
    t.not(read(), first, 'a rule gone');
    ns.sh('ip6tables-legacy -t nat -A POSTROUTING -j VEG-MASQUERADE');
    t.equal(read(), first, 'and back');
  }
});

t.test('packets: translated, forwarded, and BFD of the pod untracked', async (t) => {
  const { client, client2, gateway, router, server } = topology(scope, { cniRoutes: true });
  gateway.sysctl({
    'net.ipv4.ip_forward': 1,
    'net.ipv6.conf.all.forwarding': 1,
    'net.ipv4.conf.eth0.rp_filter': 0,
  });
  gateway.ip('route add 10.255.255.255 via 10.16.0.1\nroute add fd00:ffff::1 via fd00:10:16::1');
  const kernel = createNatKernel({ exec: execIn(gateway), readFile: readFileIn(gateway) });
  const wanted = (blocks: number): NatIntent => {
    const [four, six] = intent(blocks);
    four!.forward = [
      prefix('10.18.0.0/16'),
      ...four!.forward.slice(0, -1).map((_, i) => prefix(`192.0.2.${i}/32`)),
    ];
    six!.forward = [prefix('fd00:10:18::/64'), ...six!.forward.slice(1)];
    return [four!, six!];
  };
  await startMirror(server, 3784);
  await startMirror(server, 9999);
  await startMirror(server, 50_000);
  await startMirror(router, 4784);
  for (const blocks of [1, 40]) {
    await reconcile(kernel, wanted(blocks));
    for (const family of FAMILIES) {
      const outside = ADDRESS.server[family];
      t.equal(ask(client, outside, 9999), ADDRESS.gatewayExternal[family], 'translated');
      t.equal(ask(client2, outside, 9999), ADDRESS.client2[family], 'forwarded');
      t.equal(
        ask(client, outside, 3784),
        ADDRESS.gatewayExternal[family],
        "a client's port 3784 is translated too",
      );
      t.equal(
        ask(gateway, ADDRESS.bfdPort[family], 4784),
        ADDRESS.gatewayInternal[family],
        "the pod's own BFD",
      );
    }
    const tracked = FAMILIES.map((family) => gateway.sh(`conntrack -L -f ipv${family} -p udp`)).join('');
    t.match(tracked, /dport=3784/, "a client's is tracked");
    t.notMatch(tracked, /dst=(?:10\.255\.255\.255|fd00:ffff::1) /, "the pod's is not");
  }
  // Masquerading picks any port from 1024 on, those of BFD too.
  for (const family of FAMILIES) {
    for (const port of [3784, 4784]) {
      const chosen = `${program[family]}-nft -t nat -I POSTROUTING -p udp --dport 50000 -j MASQUERADE --to-ports ${port}`;
      gateway.sh(chosen);
      const seen = ask(client, ADDRESS.server[family], 50_000);
      t.equal(seen, ADDRESS.gatewayExternal[family], `IPv${family} translated to port ${port}`);
      gateway.sh(chosen.replace('-I', '-D'));
    }
  }
});

t.test('a policy that crosses the limit of 32 blocks back and forth loses no new connection', async (t) => {
  const { client2, gateway, server } = (() => {
    const names = ['b-client', 'b-gateway', 'b-server'].map((name) => scope.namespace(name));
    const [c, g, s] = names as [Namespace, Namespace, Namespace];
    c.ip(`link add eth0 type veth peer name eth0 netns ${g.name}`);
    g.ip(`link add net1 type veth peer name eth0 netns ${s.name}`);
    c.ip('link set eth0 up\naddr add 10.18.0.9/16 dev eth0\nroute add default via 10.18.0.1');
    g.ip(
      'link set eth0 up\nlink set net1 up\naddr add 10.18.0.1/16 dev eth0\naddr add 172.17.0.11/16 dev net1',
    );
    s.ip('link set eth0 up\naddr add 172.17.0.1/16 dev eth0\nroute add 10.18.0.0/16 via 172.17.0.11');
    g.sysctl({ 'net.ipv4.ip_forward': 1 });
    return { client2: c, gateway: g, server: s };
  })();
  const kernel = createNatKernel({ exec: execIn(gateway), readFile: readFileIn(gateway) });
  const wanted = (blocks: number): NatIntent => [
    {
      ...intent(0)[0]!,
      forward: Array.from({ length: blocks }, (_, i) => prefix(`10.${18 + i}.0.0/16`)),
    },
  ];
  await reconcile(kernel, wanted(1));
  // Every datagram from a new port: each is a new connection that meets the rules of its moment.
  const sink = server.spawn(
    NODE,
    [
      '-e',
      `const seen = {};
       const socket = require('node:dgram').createSocket('udp4');
       socket.on('message', (_, from) => { seen[from.address] = (seen[from.address] ?? 0) + 1; });
       socket.bind(9998, () => console.log('ready'));
       process.on('SIGTERM', () => { console.log(JSON.stringify(seen)); process.exit(0); });`,
    ],
    { name: 'sink' },
  );
  await until(() => sink.log().includes('ready'), { what: 'the sink listens' });
  const source = client2.spawn(
    NODE,
    [
      '-e',
      `setInterval(() => {
         const socket = require('node:dgram').createSocket('udp4');
         socket.send('x', 9998, '172.17.0.1', () => socket.close());
       }, 1);`,
    ],
    { name: 'source' },
  );
  const received = () => Number(server.sh('cat /sys/class/net/eth0/statistics/rx_packets'));
  let previous = desiredNat(wanted(1));
  for (const blocks of [40, 1, 33, 2, 60, 32]) {
    await reconcile(kernel, wanted(blocks), previous);
    previous = desiredNat(wanted(blocks));
    const before = received();
    await until(() => received() > before + 20, { what: 'packets with these rules' });
  }
  await source.stop('SIGKILL');
  await sink.stop('SIGTERM');
  const seen = JSON.parse(sink.log().trim().split('\n').at(-1)!) as Record<string, number>;
  t.same(Object.keys(seen), ['10.18.0.9'], 'no connection was translated that must be forwarded');
});
