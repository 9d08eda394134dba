// Which sessions may be Up, by the kernel and the uplink of their family.
import t from 'tap';
import { bfdIntent, createBfdReadiness } from '../../agent/bfd-readiness.ts';
import type { FamilyReadiness, PeerIntent } from '../../bfd/intent.ts';

const session = (remote: string, more: Partial<PeerIntent> = {}): PeerIntent => ({
  ...{ local: '10.16.0.12', remote, role: 'active', minTTL: 255, multihop: false, adoptDiscriminator: true },
  ...{ desiredMinTx: 100_000, requiredMinRx: 100_000, detectMult: 3, ...more },
});
const [OVN, MEMBER] = [session('10.255.255.255'), session('10.16.0.13', { unconditional: true })];
const DOWN: FamilyReadiness = { ready: false, diagnostic: 6, reason: 'no answer' };

/** The intent for IPv4. */
function intentOf(programmed: FamilyReadiness | undefined, uplink: FamilyReadiness | undefined) {
  const readiness = createBfdReadiness();
  readiness.programmed[4] = programmed;
  readiness.peers[4] = [OVN, MEMBER];
  return bfdIntent(readiness, (family) => (family === 4 ? uplink : undefined));
}

t.test('nothing is known before the kernel and the uplink are', async (t) => {
  t.equal(intentOf(undefined, { ready: true }), undefined);
  t.equal(intentOf({ ready: true }, undefined), undefined);
});

t.test('a session with a member of the group does not depend on the kernel, but on the uplink', async (t) => {
  const dependent = { ...MEMBER };
  delete dependent.unconditional;
  for (const [programmed, uplink, peers, readiness] of [
    [{ ready: true }, { ready: true }, [OVN, MEMBER], { ready: true }],
    [DOWN, { ready: true }, [OVN, MEMBER], DOWN],
    [DOWN, undefined, [OVN, MEMBER], DOWN],
    [{ ready: true }, DOWN, [OVN, dependent], DOWN],
    [DOWN, DOWN, [OVN, dependent], DOWN],
  ] as const) {
    t.same(intentOf(programmed, uplink), { peers, readiness: { 4: readiness } });
  }
});
