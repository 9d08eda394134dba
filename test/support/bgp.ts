/** BGP speakers in namespaces: FRR (zebra, bgpd, bfdd) beside an agent and as a router, BIRD and GoBGP as routers. */
import { chmodSync, existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Daemon, must, type Namespace, type Output, run, type Scope, URGENTLY, until } from './netns.ts';

const FRR_PROGRAMS = ['zebra', 'bgpd', 'bfdd'] as const;

/**
 * The root of another Debian whose FRR runs in place of this one's, as
 * `mmdebstrap --variant=minbase --include=frr trixie DIR` makes it.
 */
const ROOT = process.env.VEG_FRR_ROOT;
const LIBRARIES = ['', '/frr'].map((directory) => `${ROOT}/usr/lib/x86_64-linux-gnu${directory}`).join(':');

/** A program of FRR as a command. */
export const frrCommand = (path: string): [string, ...string[]] =>
  ROOT === undefined
    ? [path]
    : [`${ROOT}/lib64/ld-linux-x86-64.so.2`, '--library-path', LIBRARIES, `${ROOT}${path}`];

/** What a router has learned: each prefix with its next hops, both sorted, as one line. */
export type Learned = Record<string, string>;

export interface BgpRouter {
  learned(): Learned;
}

export class Frr implements BgpRouter {
  readonly dir: string;
  readonly daemons: Daemon[];

  private constructor(dir: string, daemons: Daemon[]) {
    this.dir = dir;
    this.daemons = daemons;
  }

  /** Starts FRR, and waits until its daemons answer. */
  static async start(scope: Scope, ns: Namespace, name: string): Promise<Frr> {
    const dir = scope.directory(name);
    chmodSync(dir, 0o755);
    writeFileSync(join(dir, 'vtysh.conf'), '');
    must('chown', ['-R', 'frr:frr', dir]);
    const daemons: Daemon[] = [];
    for (const program of FRR_PROGRAMS) {
      const [file, ...words] = frrCommand(`/usr/lib/frr/${program}`);
      const [urgent, ...urgently] = [...(program === 'bfdd' ? URGENTLY : []), file];
      const args = [
        ...['-i', join(dir, `${program}.pid`), '-z', join(dir, 'zserv.api'), '--vty_socket', dir],
        ...['-f', '/dev/null', '-A', '127.0.0.1', '-P', '0'],
        ...['--log', 'stdout', '--log-level', 'informational'],
        // Newer ones have no control socket.
        ...(program === 'bfdd' && run(file, [...words, '--help']).stdout.includes('--bfdctl')
          ? ['--bfdctl', join(dir, 'bfdd.sock')]
          : []),
      ];
      daemons.push(ns.spawn(urgent!, [...urgently, ...words, ...args], { name: `${name}-${program}` }));
      // The others try again after ten seconds, and know no interface until then.
      await until(() => existsSync(join(dir, 'zserv.api')), { what: `${name}'s zebra listens` });
    }
    const frr = new Frr(dir, daemons);
    for (const program of FRR_PROGRAMS) {
      await until(() => frr.#vtysh(['-d', program, '-c', 'show version']).code === 0, {
        what: `${name}'s ${program} answers`,
      });
    }
    return frr;
  }

  #vtysh(args: string[]): Output {
    const [file, ...words] = frrCommand('/usr/bin/vtysh');
    return run(file, [...words, '--vty_socket', this.dir, ...args]);
  }

  /** The output of a command. Throws when it is refused. */
  vtysh(command: string): string {
    const { code, stdout, stderr } = this.#vtysh(['-c', command]);
    if (code !== 0) throw new Error(`vtysh -c '${command}': exit ${code}: ${stderr}`);
    return stdout;
  }

  /** Loads a configuration, as `vtysh -f` does. */
  load(text: string): Output {
    const file = join(this.dir, 'frr.conf');
    writeFileSync(file, text);
    return this.#vtysh(['-f', file]);
  }

  learned(): Learned {
    const table = new Map<string, string[]>();
    for (const family of ['ipv4', 'ipv6']) {
      const { routes = {} } = JSON.parse(this.vtysh(`show bgp ${family} unicast json`)) as {
        routes?: Record<string, { nexthops: { ip: string; scope?: string }[] }[]>;
      };
      for (const [prefix, paths] of Object.entries(routes)) {
        const all = paths.flatMap(({ nexthops }) => nexthops);
        table.set(
          prefix,
          all.filter(({ scope }) => scope !== 'link-local').map(({ ip }) => ip),
        );
      }
    }
    return sorted(table);
  }
}

const hops = (addresses: readonly string[]): string => [...new Set(addresses)].sort().join(' ');

export interface RouterOptions {
  asn: number;
  /** An IPv4 address. */
  id: string;
  /** The gateway's addresses. */
  neighbours: readonly string[];
  peerASN: number;
}

/** A table of prefixes with next hops, in the order of FRR's. */
const sorted = (table: ReadonlyMap<string, string[]>): Learned =>
  Object.fromEntries(
    [...table].sort(([a], [b]) => (a < b ? -1 : 1)).map(([prefix, addresses]) => [prefix, hops(addresses)]),
  );

/** Starts BIRD with one session for each neighbour. */
export async function startBird(scope: Scope, ns: Namespace, options: RouterOptions): Promise<BgpRouter> {
  const { asn, id, neighbours, peerASN } = options;
  const dir = scope.directory('bird');
  const [config, socket] = [join(dir, 'bird.conf'), join(dir, 'bird.ctl')];
  const sessions = neighbours.map(
    (address, i) => `protocol bgp p${i} {
  local as ${asn};
  neighbor ${address} as ${peerASN};
  direct;
  ${address.includes(':') ? 'ipv6' : 'ipv4'} { import all; export none; };
}`,
  );
  writeFileSync(config, `router id ${id};\nprotocol device {}\n${sessions.join('\n')}\n`);
  ns.spawn('bird', ['-f', '-c', config, '-s', socket, '-P', join(dir, 'bird.pid')], { name: 'bird' });
  const birdc = (...words: string[]) => run('birdc', ['-s', socket, ...words]).stdout;
  await until(() => birdc('show', 'status').includes('Daemon is up'), { what: 'BIRD answers' });
  return {
    learned() {
      const table = new Map<string, string[]>();
      let prefix = '';
      for (const line of birdc('show', 'route', 'all').split('\n')) {
        prefix = /^([0-9a-f.:]+\/\d+) /.exec(line)?.[1] ?? prefix;
        // With IPv6 the link-local address follows. BIRD 3 has `bgp_next_hop`.
        const hop = /BGP[._]next_hop: (\S+)/i.exec(line)?.[1];
        if (hop !== undefined) table.set(prefix, [...(table.get(prefix) ?? []), hop]);
      }
      return sorted(table);
    },
  };
}

/** Starts GoBGP with one session for each neighbour. */
export async function startGoBgp(scope: Scope, ns: Namespace, options: RouterOptions): Promise<BgpRouter> {
  const { asn, id, neighbours, peerASN } = options;
  const config = join(scope.directory('gobgp'), 'gobgpd.json');
  const neighborOf = (address: string) => ({
    config: { 'neighbor-address': address, 'peer-as': peerASN },
    'afi-safis': [{ config: { 'afi-safi-name': address.includes(':') ? 'ipv6-unicast' : 'ipv4-unicast' } }],
  });
  const global = { config: { as: asn, 'router-id': id } };
  writeFileSync(config, JSON.stringify({ global, neighbors: neighbours.map(neighborOf) }));
  ns.spawn('gobgpd', ['-t', 'json', '-f', config, '--api-hosts', '127.0.0.1:50051'], { name: 'gobgpd' });
  const gobgp = (...words: string[]) => ns.run('gobgp', [...words, '-j']);
  await until(() => gobgp('global').code === 0, { what: 'GoBGP answers' });
  return {
    learned() {
      const table = new Map<string, string[]>();
      for (const family of ['ipv4', 'ipv6']) {
        const rib = JSON.parse(gobgp('global', 'rib', '-a', family).stdout || '{}') as Record<
          string,
          { attrs: { nexthop?: string }[] }[]
        >;
        for (const [prefix, paths] of Object.entries(rib)) {
          table.set(
            prefix,
            paths.flatMap(({ attrs }) => attrs.flatMap(({ nexthop }) => nexthop ?? [])),
          );
        }
      }
      return sorted(table);
    },
  };
}
