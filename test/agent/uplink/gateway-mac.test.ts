// Who answers for a gateway, and who only says so.
import t from 'tap';
import { CONFLICTS, conflictsToLog, isContested, recentConflicts } from '../../../agent/uplink/conflicts.ts';
import {
  adopt,
  confirm,
  createGatewayMac,
  type GatewayMac,
  recordClaim,
  replaceSilent,
} from '../../../agent/uplink/gateway-mac.ts';

const ROUTER = '02:00:00:00:00:01';
const OTHER = '02:00:00:00:00:02';

function known(): GatewayMac {
  const gateway = createGatewayMac();
  adopt(gateway, ROUTER);
  return gateway;
}

t.test('unsolicited packets never replace a gateway that answers', async (t) => {
  const gateway = known();
  recordClaim(gateway, OTHER, false);
  recordClaim(gateway, OTHER, true);
  t.equal(gateway.mac, ROUTER);
  t.notOk(isContested(gateway.conflicts, 0), 'it is not known yet who is right');
  t.equal(confirm(gateway, 0), 2, 'so many claims');
  t.ok(isContested(gateway.conflicts, 0));
  t.strictSame(recentConflicts(gateway.conflicts, 0), [OTHER]);
  t.equal(replaceSilent(gateway, 3, 3), undefined, 'its answer is forgotten');
  t.equal(confirm(gateway, 1), 0);
});

t.test('one that stops answering is replaced by one that answers, and by no other', async (t) => {
  const gateway = known();
  recordClaim(gateway, OTHER, false);
  t.equal(replaceSilent(gateway, 3, 3), undefined, 'it has only spoken');
  recordClaim(gateway, OTHER, true);
  t.equal(replaceSilent(gateway, 1, 3), undefined);
  t.equal(replaceSilent(gateway, 2, 3), undefined, 'an answer may be lost');
  t.equal(replaceSilent(gateway, 3, 3), OTHER, 'when it would be silent');
  t.match(gateway, { mac: OTHER, candidate: undefined });
  t.equal(confirm(gateway, 0), 0, 'a router that has moved is no rival');
  t.notOk(isContested(gateway.conflicts, 0));
  const patient = known();
  recordClaim(patient, OTHER, true);
  t.equal(replaceSilent(patient, 3, 100), OTHER, 'however many losses mean silence');
  const hasty = known();
  recordClaim(hasty, OTHER, true);
  t.equal(replaceSilent(hasty, 1, 1), OTHER);
});

t.test(
  'a conflict contests the address for a while, is remembered for longer, and logged now and then',
  async (t) => {
    const { conflicts } = known();
    const gateway = { ...known(), conflicts };
    const hear = (mac: string, now: number) => {
      recordClaim(gateway, mac, false);
      confirm(gateway, now);
    };
    hear(OTHER, 0);
    t.strictSame(conflictsToLog(conflicts, 0), [OTHER]);
    t.strictSame(conflictsToLog(conflicts, 0), []);
    hear('02:00:00:00:00:03', 1);
    t.strictSame(conflictsToLog(conflicts, 1), [], 'not yet');
    t.strictSame(conflictsToLog(conflicts, CONFLICTS.logPeriod), ['02:00:00:00:00:03']);
    t.ok(isContested(conflicts, CONFLICTS.contested));
    t.notOk(isContested(conflicts, CONFLICTS.contested + 1));
    t.strictSame(recentConflicts(conflicts, CONFLICTS.memory), ['02:00:00:00:00:03']);
    t.strictSame(recentConflicts(conflicts, CONFLICTS.memory + 1), []);
    adopt(gateway, OTHER);
    hear(ROUTER, 90_000);
    adopt(gateway, ROUTER);
    t.strictSame(recentConflicts(conflicts, 90_000), [], 'the one that answers is none');
  },
);

t.test('an attacker with many addresses fills nothing', async (t) => {
  const gateway = known();
  for (let i = 0; i < 1000; i++) {
    recordClaim(
      gateway,
      `06:00:00:00:${(i >> 8).toString(16).padStart(2, '0')}:${(i & 255).toString(16).padStart(2, '0')}`,
      false,
    );
    if (i % 100 === 99) confirm(gateway, i);
  }
  t.ok(gateway.claimants.size <= CONFLICTS.most);
  t.equal(recentConflicts(gateway.conflicts, 1000).length, CONFLICTS.most);
});
