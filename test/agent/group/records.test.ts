import t from 'tap';
import {
  decodeFlow,
  encodeFlow,
  hasPorts,
  isRecord,
  MAX_TIMEOUT,
  recordSize,
  sharedPortOf,
  willDo,
} from '../../../agent/group/records.ts';
import { FAMILIES } from '../../../lib/prefix.ts';
import { flowOf } from './flows.ts';

const tcp = { state: 3, originalScale: 7, replyScale: 14, originalFlags: 0x2b, replyFlags: 0x23 };

const sctp = { state: 4, originalTag: 0xffff_fffe, replyTag: 7 };

t.test('a flow comes back as it was, of both families', async (t) => {
  for (const family of FAMILIES) {
    for (const flow of [
      flowOf(family, 300, 51_000),
      flowOf(family, 1, 1024, { protocol: 6, mark: 0xffff_ffff, timeout: 432_000, tcp }),
      flowOf(family, 2, 77, {
        protocol: family === 4 ? 1 : 58,
        sourcePort: 9,
        destinationPort: 9,
        icmpType: 8,
      }),
      flowOf(family, 4, 1030, { protocol: 132, sctp }),
      flowOf(family, 3, 0, { protocol: 47, sourcePort: 0, destinationPort: 0 }),
    ]) {
      const record = encodeFlow(flow);
      t.equal(record.length, recordSize(family));
      t.ok(isRecord(record));
      t.same(decodeFlow(record), {
        ...flow,
        ...Object.fromEntries(
          ['source', 'destination', 'shared'].map((name) => [name, Buffer.from(flow[name as 'source'])]),
        ),
      });
      t.equal(sharedPortOf(record, family), flow.sharedPort);
    }
  }
});

t.test('only protocols of which SNAT divides the ports have slices', async (t) => {
  const protocols = [1, 6, 17, 33, 47, 50, 58, 132];
  const divided = protocols.filter((protocol) => hasPorts(encodeFlow(flowOf(4, 1, 2000, { protocol }))));
  t.same(divided, [6, 17, 33, 132]);
});

t.test('what the kernel must not be given is no record', async (t) => {
  const good = encodeFlow(flowOf(4, 1, 2000, { protocol: 6, tcp }));
  const changed = (at: number, octet: number) => {
    const copy = Buffer.from(good);
    copy[copy.length + at] = octet;
    return copy;
  };
  t.notOk(isRecord(encodeFlow(flowOf(4, 1, 2000, { protocol: 0 }))), 'protocol 0');
  t.notOk(isRecord(changed(-16, 0x7f)), 'a timeout of years');
  t.notOk(isRecord(changed(-12, 10)), 'a TCP state that there is not');
  t.notOk(isRecord(changed(-11, 0xf0)), 'a window scale of 15');
  t.notOk(isRecord(changed(-11, 0x0f)), 'a window scale of 15, the other way');
  t.notOk(isRecord(changed(-1, 1)), 'a tag of SCTP');
  const udp = encodeFlow(flowOf(4, 1, 2000));
  udp[udp.length - 12] = 3;
  t.notOk(isRecord(udp), 'a state of UDP');
  const association = encodeFlow(flowOf(4, 1, 2000, { protocol: 132, sctp }));
  association[association.length - 10] = 1;
  t.notOk(isRecord(association), 'TCP flags of SCTP');
  t.equal(decodeFlow(encodeFlow(flowOf(4, 1, 2000, { timeout: 2 ** 33 }))).timeout, MAX_TIMEOUT);
});

t.test(
  'a replica will do while mark and state are the same, and when its handshake is complete',
  async (t) => {
    const record = encodeFlow(flowOf(4, 1, 2000, { protocol: 6, tcp }));
    const other = (more: object) => encodeFlow(flowOf(4, 1, 2000, { protocol: 6, tcp, ...more }));
    t.ok(willDo(record, other({ timeout: 5 })));
    t.notOk(willDo(record, other({ mark: 1 })));
    t.notOk(willDo(record, other({ tcp: { ...tcp, state: 7 } })));
    const tagged = (more: object) =>
      encodeFlow(flowOf(4, 1, 2000, { protocol: 132, sctp: { ...sctp, ...more } }));
    t.notOk(willDo(tagged({}), tagged({ replyTag: 8 })));

    const opening = other({ tcp: { ...tcp, state: 2 } });
    t.ok(willDo(opening, record), 'SYN_RECV, then ESTABLISHED');
    t.notOk(willDo(record, opening), 'ESTABLISHED, then SYN_RECV');
    t.notOk(willDo(opening, other({ tcp: { ...tcp, state: 5 } })), 'SYN_RECV, then CLOSE_WAIT');
    t.notOk(willDo(opening, other({ tcp: { ...tcp, replyScale: 13 } })), 'with another window scale');
    t.notOk(willDo(opening, other({ mark: 1 })), 'with another mark');
    for (const state of [2, 3])
      t.ok(willDo(tagged({ state }), tagged({})), `SCTP ${state}, then ESTABLISHED`);
    t.notOk(willDo(tagged({ state: 2 }), tagged({ state: 3 })), 'COOKIE_WAIT, then COOKIE_ECHOED');
  },
);
