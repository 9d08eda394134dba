/** Which session a packet is for. */
import t from 'tap';
import { type Path, pathKey, select } from '../../bfd/demux.ts';
import type { Packet } from '../../bfd/packet.ts';

const session = (remote: string, multihop = false): Path => ({ local: '10.0.0.1', remote, multihop });
const peer = session('10.0.0.2');
const other = session('10.0.0.3');
const far = session('10.0.0.2', true);
const table = {
  byDiscriminator: new Map([
    [101, peer],
    [102, other],
    [103, far],
  ]),
  byPath: new Map([peer, other, far].map((s) => [pathKey(s), s])),
};
const packet = (yourDiscriminator: number, state: Packet['state'] = 'Down') =>
  ({ yourDiscriminator, state }) as Packet;
const from = (remote: string, multihop = false): Path => ({ local: '10.0.0.1', remote, multihop });

t.test('6.8.6 Your Discriminator selects the session', async (t) => {
  t.strictSame(select(packet(101, 'Up'), from('10.0.0.2'), table), { session: peer, stale: false });
});

t.test("6.8.6 discards a known Your Discriminator from an address that is not that session's", async (t) => {
  t.equal(select(packet(102, 'Up'), from('10.0.0.2'), table), 'wrong-address');
  t.equal(select(packet(101, 'Up'), { ...from('10.0.0.2'), local: '10.0.0.9' }, table), 'wrong-address');
  t.equal(select(packet(101, 'Up'), from('10.0.0.66'), table), 'wrong-address');
});

t.test('5883 a single-hop packet does not reach a multihop session', async (t) => {
  t.equal(select(packet(103, 'Up'), from('10.0.0.2'), table), 'wrong-address');
  t.strictSame(select(packet(103, 'Up'), from('10.0.0.2', true), table), { session: far, stale: false });
});

t.test('6.8.6 discards an unknown Your Discriminator from a stranger', async (t) => {
  t.equal(select(packet(999), from('10.0.0.66'), table), 'unknown-discriminator');
});

t.test('an unknown Your Discriminator from a peer is stale', async (t) => {
  t.strictSame(select(packet(999), from('10.0.0.2'), table), { session: peer, stale: true });
});

t.test('6.8.6 discards Your Discriminator 0 in state Init or Up', async (t) => {
  t.equal(select(packet(0, 'Init'), from('10.0.0.2'), table), 'your-discriminator-zero');
  t.equal(select(packet(0, 'Up'), from('10.0.0.2'), table), 'your-discriminator-zero');
});

t.test('6.8.6 Your Discriminator 0 in state Down or AdminDown selects by addresses', async (t) => {
  t.strictSame(select(packet(0), from('10.0.0.2'), table), { session: peer, stale: false });
  t.strictSame(select(packet(0, 'AdminDown'), from('10.0.0.3'), table), { session: other, stale: false });
  t.strictSame(select(packet(0), from('10.0.0.2', true), table), { session: far, stale: false });
});

t.test('6.8.6 without a session for the addresses one may be created', async (t) => {
  t.equal(select(packet(0), from('10.0.0.66'), table), 'create');
});
