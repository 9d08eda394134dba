import t from 'tap';
import {
  neighbourDump,
  neighbourEntry,
  neighbourOf,
  parseNeighbour,
} from '../../../agent/uplink/neighbours.ts';
import { address } from '../../../lib/prefix.ts';

t.test('a dump asks for one interface', async (t) => {
  t.equal(Buffer.from(neighbourDump(7)).toString('hex'), `${'00'.repeat(12)}0800080007000000`);
});

t.test('an entry is written as the agent’s, and read as such', async (t) => {
  for (const text of ['172.17.0.1', 'fd00:172:17::1']) {
    const gateway = address(text);
    for (const permanent of [true, false]) {
      const written = Buffer.from(neighbourEntry(gateway, 7, { mac: '02:42:ac:11:00:01', permanent }));
      t.strictSame(parseNeighbour(written), {
        ...{ ifindex: 7, address: text, state: permanent ? 'permanent' : 'reachable' },
        ...{ mac: '02:42:ac:11:00:01', owned: true },
      });
      t.equal(written[10], text.includes(':') ? 0x80 : 0, 'a router');
    }
    t.strictSame(parseNeighbour(Buffer.from(neighbourOf(gateway, 7))), {
      ...{ ifindex: 7, address: text, state: 'other', owned: false },
    });
  }
});

/** An RTM_NEWNEIGH as the kernel sends it: ndmsg, NDA_DST, NDA_LLADDR, NDA_CACHEINFO. */
const entry = (family: string, state: string, address: string, confirmed: string) =>
  Buffer.from(
    `${family}00000007000000${state}000001${address}0a0002000242ac1100010000` +
      `14000300${confirmed}000000000000000001000000`,
    'hex',
  );
const V4 = '08000100ac110001';
const V6 = '14000100fd000172001700000000000000000001';

t.test('an entry has the state that the kernel found', async (t) => {
  t.strictSame(parseNeighbour(entry('02', '02', V4, '0c000000')), {
    ...{ ifindex: 7, address: '172.17.0.1', state: 'reachable', mac: '02:42:ac:11:00:01', owned: false },
  });
  t.match(parseNeighbour(entry('0a', '20', V6, '00000000')), { address: 'fd00:172:17::1', state: 'failed' });
  t.match(parseNeighbour(entry('02', '04', V4, '00000000')), { state: 'other' }, 'stale');
});

t.test('an entry without an address is left out', async (t) => {
  t.equal(
    parseNeighbour(entry('07', '02', '0a000100010203040506' + '0000', '00000000')),
    undefined,
    'a bridge’s',
  );
});
