// Who answers for a gateway, and who only says so.
import t from 'tap';
import { isContested, RIVALS, recentRivals, rivalsToTell } from '../../../agent/uplink/conflicts.ts';
import {
  type Answerer,
  adopt,
  claimed,
  confirmed,
  createAnswerer,
  replaced,
} from '../../../agent/uplink/gateway-mac.ts';

const ROUTER = '02:00:00:00:00:01';
const OTHER = '02:00:00:00:00:02';

function known(): Answerer {
  const answerer = createAnswerer();
  adopt(answerer, ROUTER);
  return answerer;
}

t.test('nobody who speaks takes the place of one that answers', async (t) => {
  const answerer = known();
  claimed(answerer, OTHER, false);
  claimed(answerer, OTHER, true);
  t.equal(answerer.mac, ROUTER);
  t.notOk(isContested(answerer.rivals, 0), 'it is not known yet who is right');
  t.equal(confirmed(answerer, 0), 2, 'so many claims');
  t.ok(isContested(answerer.rivals, 0));
  t.strictSame(recentRivals(answerer.rivals, 0), [OTHER]);
  t.equal(replaced(answerer, 3, 3), undefined, 'its answer is forgotten');
  t.equal(confirmed(answerer, 1), 0);
});

t.test('one that stops answering is replaced by one that answers, and by no other', async (t) => {
  const answerer = known();
  claimed(answerer, OTHER, false);
  t.equal(replaced(answerer, 3, 3), undefined, 'it has only spoken');
  claimed(answerer, OTHER, true);
  t.equal(replaced(answerer, 1, 3), undefined);
  t.equal(replaced(answerer, 2, 3), undefined, 'an answer may be lost');
  t.equal(replaced(answerer, 3, 3), OTHER, 'when it would be silent');
  t.match(answerer, { mac: OTHER, candidate: undefined });
  t.equal(confirmed(answerer, 0), 0, 'a router that has moved is no rival');
  t.notOk(isContested(answerer.rivals, 0));
  const patient = known();
  claimed(patient, OTHER, true);
  t.equal(replaced(patient, 3, 100), OTHER, 'however many losses mean silence');
  const hasty = known();
  claimed(hasty, OTHER, true);
  t.equal(replaced(hasty, 1, 1), OTHER);
});

t.test('a rival is contested for a while, remembered for longer, and told once in a while', async (t) => {
  const { rivals } = known();
  const answerer = { ...known(), rivals };
  const hear = (mac: string, now: number) => {
    claimed(answerer, mac, false);
    confirmed(answerer, now);
  };
  hear(OTHER, 0);
  t.strictSame(rivalsToTell(rivals, 0), [OTHER]);
  t.strictSame(rivalsToTell(rivals, 0), []);
  hear('02:00:00:00:00:03', 1);
  t.strictSame(rivalsToTell(rivals, 1), [], 'not yet');
  t.strictSame(rivalsToTell(rivals, RIVALS.tell), ['02:00:00:00:00:03']);
  t.ok(isContested(rivals, RIVALS.contest));
  t.notOk(isContested(rivals, RIVALS.contest + 1));
  t.strictSame(recentRivals(rivals, RIVALS.memory), ['02:00:00:00:00:03']);
  t.strictSame(recentRivals(rivals, RIVALS.memory + 1), []);
  adopt(answerer, OTHER);
  hear(ROUTER, 90_000);
  adopt(answerer, ROUTER);
  t.strictSame(recentRivals(rivals, 90_000), [], 'the one that answers is none');
});

t.test('an attacker with many addresses fills nothing', async (t) => {
  const answerer = known();
  for (let i = 0; i < 1000; i++) {
    claimed(
      answerer,
      `06:00:00:00:${(i >> 8).toString(16).padStart(2, '0')}:${(i & 255).toString(16).padStart(2, '0')}`,
      false,
    );
    if (i % 100 === 99) confirmed(answerer, i);
  }
  t.ok(answerer.claimants.size <= RIVALS.most);
  t.equal(recentRivals(answerer.rivals, 1000).length, RIVALS.most);
});
