/** What the kernel's filter does with a packet: how many octets of it a socket receives. */
import t from 'tap';
import { type Endpoint, receiveFilter, STRANGE_LENGTH, unguarded } from '../../bfd/receive-filter.ts';
import {
  type Bpf,
  JEQ_K,
  JGE_K,
  LD_B_ABS,
  LD_H_ABS,
  LD_W_ABS,
  SKF_LL_OFF,
  SKF_NET_OFF,
} from '../../lib/bpf.ts';
import { macBytes } from '../../lib/mac.ts';
import { type Address, addressBytes } from '../../lib/prefix.ts';

const ROUTER = '02:00:00:00:00:01';
const SECOND = '02:00:00:00:00:02';
const THIEF = '02:00:00:00:00:66';
const UDP_HEADER = 8;
const OWN = { 4: '10.16.0.12', 6: 'fd00:10:16::12' } as const;
const PEER = { 4: '10.255.255.255', 6: 'fd00:ffff::1' } as const;
const NEIGHBOUR = { 4: '10.255.255.254', 6: 'fd00:ffff::2' } as const;

interface Received {
  mac: string;
  from: string;
  ttl: number;
}

/** Runs a program over a UDP packet, as the kernel does: the octets that are left of it, 0 for none. */
function run(program: Bpf, { mac, from, ttl }: Received): number {
  const ethernet = Buffer.alloc(14);
  ethernet.set(macBytes(mac), 6);
  const v6 = from.includes(':');
  const ip = Buffer.alloc(v6 ? 40 : 20);
  ip.writeUInt8(ttl, v6 ? 7 : 8);
  ip.set(addressBytes(from as Address), v6 ? 8 : 12);
  let a = 0;
  for (let pc = 0; ; pc++) {
    const [code, yes, no, k] = program[pc]!;
    const width = { [LD_W_ABS]: 4, [LD_H_ABS]: 2, [LD_B_ABS]: 1 }[code];
    if (width !== undefined) {
      a =
        k >= SKF_NET_OFF ? ip.readUIntBE(k - SKF_NET_OFF, width) : ethernet.readUIntBE(k - SKF_LL_OFF, width);
    } else if (code === JEQ_K) pc += a === k >>> 0 ? yes : no;
    else if (code === JGE_K) pc += a >= k ? yes : no;
    else return k;
  }
}

for (const family of [4, 6] as const) {
  const endpoint: Endpoint = {
    ...{ local: OWN[family], multihop: false, interface: undefined, minTTL: 254 },
    guard: { remotes: [PEER[family], `${NEIGHBOUR[family]}`], macs: [ROUTER, SECOND] },
  };
  const octets = (changes: Partial<Received> = {}, of = endpoint) =>
    run(receiveFilter(of), { mac: ROUTER, from: PEER[family], ttl: 255, ...changes });
  const WHOLE = 0x7fff_ffff;
  const CUT = UDP_HEADER + STRANGE_LENGTH;

  t.test(`IPv${family}: a low TTL or Hop Limit is dropped`, async (t) => {
    t.equal(octets({ ttl: 253 }), 0);
    t.equal(octets({ ttl: 254 }), WHOLE);
    t.equal(octets({ ttl: 254 }, { ...endpoint, minTTL: 255 }), 0);
    t.equal(octets({ ttl: 1 }, { ...endpoint, minTTL: 1 }), WHOLE);
  });

  t.test(`IPv${family}: a guarded peer is accepted from the guard’s Ethernet addresses only`, async (t) => {
    t.equal(octets(), WHOLE);
    t.equal(octets({ mac: SECOND }), WHOLE);
    for (const mac of [THIEF, '02:00:00:00:01:01', '03:00:00:00:00:01']) {
      t.equal(octets({ mac }), CUT, mac);
      t.equal(octets({ mac, from: NEIGHBOUR[family] }), CUT);
    }
  });

  t.test(`IPv${family}: other peers are accepted from every Ethernet address`, async (t) => {
    t.equal(octets({ mac: THIEF, from: OWN[family] }), WHOLE);
    t.equal(octets({ mac: THIEF }, unguarded(endpoint)), WHOLE);
    t.equal(octets({ mac: THIEF, ttl: 1 }, unguarded(endpoint)), 0);
  });
}

t.test('the zone of a link-local peer is no part of its packets', async (t) => {
  const guard = { remotes: ['fe80::1%eth0'], macs: [ROUTER] };
  const filter = receiveFilter({ local: 'fe80::2', multihop: false, interface: 'eth0', minTTL: 254, guard });
  t.equal(run(filter, { mac: THIEF, from: 'fe80::1', ttl: 255 }), UDP_HEADER + STRANGE_LENGTH);
});
