/**
 * With which address what is masqueraded leaves: one of the gateway's own, whatever comes and goes on net1, and in
 * whatever order; and nothing when there is none.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { FAMILIES, type Family } from '../../lib/prefix.ts';
import { Agent, gatewayPolicy, PolicyDirectory, WEB } from '../support/agent.ts';
import { NODE, until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { ask, startMirror } from './nat-lab.ts';

const MIRROR = 9999;
const EIP = { 4: '172.17.0.60', 6: 'fd00:172:17::60' } as const;
/** Comes and goes. */
const EGRESS = { 4: '172.17.0.61', 6: 'fd00:172:17::61' } as const;
/** The ways in which own addresses may stand on net1. */
const OWN = {
  4: ['172.17.0.11/32', '172.17.0.11/16', '172.17.0.99/16', '192.0.2.7/24'],
  6: ['fd00:172:17::11/128', 'fd00:172:17::11/64', 'fd00:172:17::99/64', 'fd00:192::7/64'],
} as const;
/** What may stand beside them: of the link alone, and the EIP, put there by somebody else. */
const OTHERS = {
  4: ['169.254.9.9/24 scope link', '172.17.0.60/16'],
  6: ['fe80::9/64 scope link', 'fd00:172:17::60/64'],
} as const;

const scope = scopeOf(t);
const { client, gateway, server } = topology(scope);
const policy = new PolicyDirectory(scope);
const eips = FAMILIES.map((family) => ({ externalIP: EIP[family], internalIP: ADDRESS.client2[family] }));
const egress = { name: 'egress', ipBlocks: ['10.18.7.0/24'], egressIP: { address: [EGRESS[4], EGRESS[6]] } };
const PLAIN = gatewayPolicy({ policies: [WEB] });
const withEips = (...more: object[]) => gatewayPolicy({ policies: [WEB, ...more], eips });
let written = PLAIN;
policy.write({ 'gateway.yaml': PLAIN });
const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
server.ip('route add 192.0.2.0/24 dev eth0\nroute add fd00:192::/64 dev eth0');
await agent.synced();
await startMirror(server, MIRROR);

/** A datagram to the server in each family every 5 ms, each from a port of its own: a new connection each. */
const SENDER = `
  const { createSocket } = require('node:dgram');
  const send = (type, host) => {
    const socket = createSocket(type);
    socket.on('error', () => {});
    socket.send('?', 9, host, () => socket.close());
  };
  setInterval(() => {
    send('udp4', '${ADDRESS.server[4]}');
    send('udp6', '${ADDRESS.server[6]}');
  }, 5);`;
client.spawn(NODE, ['-e', SENDER], { name: 'sender' });

const program = { 4: 'iptables', 6: 'ip6tables' } as const;
/**
 * What must never come to the server. (A link-local address does in IPv6, for as long as it takes to see that the
 * only address has gone.)
 */
const WRONG = {
  4: [EIP[4], EGRESS[4], '10.0.0.0/8'],
  6: [EIP[6], EGRESS[6], 'fd00:10::/32'],
} as const;
for (const family of FAMILIES) {
  for (const condition of [...WRONG[family].map((source) => `-s ${source}`), '']) {
    server.sh(`${program[family]} -A INPUT -p udp --dport 9 ${condition} -j DROP`);
  }
}
/** How many of the sender's datagrams have come from each wrong source, and at last from others. */
const counted = (family: Family): number[] =>
  [...server.sh(`${program[family]} -nvxL INPUT`).matchAll(/^ *(\d+) +\d+ DROP/gm)].map(([, n]) => Number(n));

/** The addresses on net1 that may be the gateway's own. */
const own = (family: Family): string[] =>
  [...gateway.sh(`ip -${family} -o addr show dev net1 scope global`).matchAll(/inet6? ([^\s/]+)/g)]
    .map(([, address]) => address!)
    .filter((address) => address !== EIP[family] && address !== EGRESS[family]);

/** What holds whenever the agent has had its say. */
async function check(what: string): Promise<void> {
  await agent.ask('POST', '/v1/reconcile');
  const { kernel, reasons } = await agent.status();
  for (const family of FAMILIES) {
    const possible = own(family);
    const { source, state } = kernel.families.find((status) => status.family === family)!;
    if (possible.length > 0) {
      t.ok(possible.includes(source ?? ''), `${what}: IPv${family} leaves as ${source} of ${possible}`);
      t.equal(ask(client, ADDRESS.server[family], MIRROR), source, 'and so says the server');
      continue;
    }
    t.strictSame([state, source], ['blocked', undefined], `${what}: IPv${family} is not ready`);
    const told = `IPv${family}: the external interface net1 has no usable IPv${family} address`;
    t.ok(
      reasons.some((reason) => reason.startsWith(told)),
      reasons.join('; '),
    );
    const before = counted(family);
    // Nothing is to leave, and the sender asks a hundred times a second.
    await sleep(50);
    t.strictSame(counted(family), before, `and nothing leaves in IPv${family}`);
  }
}

const add = (family: Family, address: string): string =>
  `addr add ${address} dev net1${family === 6 ? ' nodad' : ''}`;
const remove = (_: Family, address: string): string => `addr del ${address} dev net1`;
const both = (way: number, line: typeof add): string =>
  FAMILIES.map((family) => line(family, OWN[family][way]!)).join('\n');

/** Puts a policy into force. */
async function use(text: string): Promise<void> {
  if (text === written) return;
  const { generation } = (await agent.status()).policy;
  policy.write({ 'gateway.yaml': text });
  written = text;
  await agent.statusUntil('the policy', (status) => status.policy.generation > generation);
}

/** A policy in force, and of the addresses that tests move only the gateway's usual ones. */
async function begin(text: string): Promise<void> {
  for (const family of FAMILIES) {
    for (const address of [...OWN[family], ...OTHERS[family]]) {
      gateway.run('ip', remove(family, address).split(' '));
    }
  }
  gateway.ip(both(1, add));
  await use(text);
}

t.test('without virtual addresses the kernel chooses, and nothing leaves when it cannot', async (t) => {
  await begin(PLAIN);
  await check('at first');
  for (const family of FAMILIES) t.notMatch(gateway.sh(`${program[family]} -t nat -S`), 'SNAT');
  for (const round of [1, 2]) {
    gateway.ip(both(1, remove));
    await check(`round ${round}: gone`);
    gateway.ip(both(1, add));
    await check(`round ${round}: back`);
  }
});

t.test('a /32 that goes and returns beside an EIP', async (t) => {
  await begin(withEips());
  gateway.ip(both(1, remove));
  await check('without an own address');
  for (const round of [1, 2]) {
    gateway.ip(both(0, add));
    await check(`round ${round}: it is there`);
    // An uplink that flaps is held down for longer each time.
    await agent.statusUntil('ready again', ({ ready }) => ready);
    gateway.ip(both(0, remove));
    await check(`round ${round}: it is not`);
    t.equal(agent.http('/readyz').status, 503);
  }
});

/** Numbers from 0 to 1 (mulberry32), the same for a seed. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let value = Math.imul(state ^ (state >>> 15), 1 | state);
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value;
    return ((value ^ (value >>> 14)) >>> 0) / 2 ** 32;
  };
}

t.test('addresses come, go, are renewed and deprecated in any order', async (t) => {
  const seed = Number(process.env.SEED ?? 11);
  t.comment(`SEED=${seed}`);
  const next = random(seed);
  const pick = <T>(values: readonly T[]): T => values[Math.floor(next() * values.length)]!;
  const lines = {
    add,
    remove,
    renew: (_: Family, address: string) => `addr change ${address} dev net1 valid_lft 999 preferred_lft 900`,
    deprecate: (_: Family, address: string) =>
      `addr change ${address} dev net1 valid_lft 999 preferred_lft 0`,
  };
  await begin(withEips());
  await check('at first');
  let withEgress = false;
  for (let step = 0; step < 20; step++) {
    const done: string[] = [];
    for (const family of FAMILIES) {
      const address = pick([...OWN[family], ...OTHERS[family]]);
      const line = lines[pick(['add', 'add', 'remove', 'remove', 'renew', 'deprecate'] as const)](
        family,
        address,
      );
      // Not every step is possible where it falls.
      if (gateway.run('ip', line.split(' ')).code === 0) done.push(line);
    }
    if (next() < 0.2) {
      withEgress = !withEgress;
      await use(withEips(...(withEgress ? [egress] : [])));
      done.push(withEgress ? 'an egress address comes' : 'the egress address goes');
    }
    await check(`step ${step}: ${done.join(', ') || 'nothing'}`);
  }
});

t.test('no connection ever came with a virtual or an inside address', async (t) => {
  for (const family of FAMILIES) {
    await until(() => counted(family).at(-1)! > 0, { what: `connections in IPv${family}` });
    const wrong = counted(family);
    const others = wrong.pop()!;
    t.ok(others > 0, `IPv${family}: ${others} connections`);
    t.strictSame(
      wrong,
      WRONG[family].map(() => 0),
      WRONG[family].join(', '),
    );
  }
});
