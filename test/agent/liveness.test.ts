import t from 'tap';
import { notLiveReasons, unwatchedReason } from '../../agent/liveness.ts';
import { WATCHDOG } from '../../agent/watchdog.ts';

t.test('a gateway that was observed in time is watched', async (t) => {
  t.equal(unwatchedReason(WATCHDOG.unwatched, 'why'), undefined);
  t.match(
    unwatchedReason(WATCHDOG.unwatched + 1000, 'iptables-save: exit 1'),
    /for 61 s: iptables-save: exit 1$/,
  );
  t.match(unwatchedReason(WATCHDOG.unwatched + 1, undefined), /the first observation has not ended$/);
});

t.test(
  'a process without reports of the BFD process is not alive, nor one that does not observe',
  async (t) => {
    t.strictSame(notLiveReasons(10_000, undefined), []);
    t.strictSame(notLiveReasons(10_001, 'not observed'), ['no report from the BFD process', 'not observed']);
  },
);
