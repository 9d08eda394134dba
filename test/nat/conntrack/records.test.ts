import t from 'tap';
import { address, addressBytes, prefix } from '../../../lib/prefix.ts';
import { viewFlow } from '../../../nat/conntrack/flow.ts';
import {
  addressText,
  compileFilters,
  type Identity,
  type LogFilter,
  recordLine,
  TokenBucket,
} from '../../../nat/conntrack/records.ts';
import { Flow } from '../../../nat/conntrack/table.ts';
import { counters, type EntrySpec, entry } from './entries.ts';

const IDENTITY: Identity = { namespace: 'default', name: 'gateway1', pod: 'gateway1-0', node: 'worker-1' };
const START = Date.parse('2026-11-21T14:03:00.250Z');

function flow(spec: EntrySpec, start = START): Flow {
  const made = new Flow();
  made.set(entry(spec));
  Object.assign(made, { start, verdict: made.snat || made.dnat ? 'translated' : 'forwarded' });
  return made;
}

t.test("a record has Kube-OVN's fields in their order, and then ours", async (t) => {
  const ended = flow({ flow: '10.17.0.9 42136 203.0.113.10 443', snat: '172.17.0.11 39449', id: 2471802592 });
  ended.counters = counters([8, 624, 7, 591]);
  t.equal(
    recordLine('end', viewFlow(ended, 'web', START + 1042), IDENTITY),
    `${JSON.stringify({
      schemaVersion: 'v1',
      timestamp: '2026-11-21T14:03:01.292Z',
      event: 'end',
      conntrackID: 2471802592,
      zone: 0,
      namespace: 'default',
      name: 'gateway1',
      pod: 'gateway1-0',
      node: 'worker-1',
      addressFamily: 'ipv4',
      protocol: 'tcp',
      protocolNumber: 6,
      natType: ['snat'],
      original: {
        sourceIP: '10.17.0.9',
        sourcePort: 42136,
        destinationIP: '203.0.113.10',
        destinationPort: 443,
      },
      translated: {
        sourceIP: '172.17.0.11',
        sourcePort: 39449,
        destinationIP: '203.0.113.10',
        destinationPort: 443,
      },
      counters: { originalPackets: 8, originalBytes: 624, replyPackets: 7, replyBytes: 591 },
      policy: 'web',
      verdict: 'translated',
      startTime: '2026-11-21T14:03:00.250Z',
      duration: 1.042,
    })}\n`,
  );
});

t.test('a start has neither counters nor duration', async (t) => {
  const record = JSON.parse(
    recordLine(
      'start',
      viewFlow(flow({ flow: '10.17.0.9 1 1.1.1.1 2', snat: '2.2.2.2 3' }), 'web'),
      IDENTITY,
    ),
  );
  t.match(record, {
    event: 'start',
    timestamp: '2026-11-21T14:03:00.250Z',
    startTime: '2026-11-21T14:03:00.250Z',
  });
  t.notOk('counters' in record || 'duration' in record || 'endEstimated' in record);
});

t.test('an end without an event is marked as estimated', async (t) => {
  const view = viewFlow(flow({ flow: '10.17.0.9 1 1.1.1.1 2' }), 'web', START + 5);
  t.match(JSON.parse(recordLine('end', { ...view, endEstimated: true }, IDENTITY)), { endEstimated: true });
});

t.test('ICMP has its identifier, before and after translation, and no ports', async (t) => {
  const view = viewFlow(
    flow({ flow: 'fd00:10:17::9 7 2001:db8::1 7', snat: 'fd00::11 9', protocol: 58 }),
    'web',
  );
  t.match(JSON.parse(recordLine('start', view, IDENTITY)), {
    addressFamily: 'ipv6',
    protocol: 'icmpv6',
    icmpID: 7,
    original: { sourceIP: 'fd00:10:17::9', destinationIP: '2001:db8::1', icmpID: 7, sourcePort: undefined },
    translated: { sourceIP: 'fd00::11', icmpID: 9 },
  });
});

t.test('a protocol without ports is `other`, with its number', async (t) => {
  const view = viewFlow(flow({ flow: '10.17.0.9 0 1.1.1.1 0', protocol: 99 }), 'direct');
  const record = JSON.parse(recordLine('start', view, IDENTITY));
  t.match(record, { protocol: 'other', protocolNumber: 99, natType: [], verdict: 'forwarded' });
  t.same(record.original, { sourceIP: '10.17.0.9', destinationIP: '1.1.1.1' });
});

t.test('both kinds of translation are named, sorted', async (t) => {
  const view = viewFlow(
    flow({ flow: '10.17.0.8 1 172.17.0.60 80', dnat: '10.17.0.9 80', snat: '10.16.0.12 5' }),
    '',
  );
  t.same(JSON.parse(recordLine('start', view, IDENTITY)).natType, ['dnat', 'snat']);
});

t.test('addresses are text in canonical form, however many', async (t) => {
  for (let i = 0; i < 5000; i++) {
    const text = `fd00:10:17::${(i + 1).toString(16)}`;
    if (addressText(addressBytes(address(text))) !== text) t.fail(text);
  }
  t.equal(addressText(Uint8Array.of(10, 0, 0, 1)), '10.0.0.1');
});

t.test('a filter takes any of the values of a part, and needs every part', async (t) => {
  const subject = flow({ flow: '10.17.0.9 5000 198.51.100.1 443', snat: '172.17.0.11 2000' });
  const both = flow({ flow: '10.17.0.8 1 172.17.0.60 80', dnat: '10.17.0.9 80', snat: '10.16.0.12 5' });
  const takes = (filter: LogFilter, one = subject) => compileFilters({ include: [filter], exclude: [] })(one);
  const yes: LogFilter[] = [
    {},
    { addressFamilies: [], protocols: [] },
    { addressFamilies: ['ipv6', 'ipv4'], protocols: ['udp', 'tcp'], natTypes: ['snat'] },
    { original: { sourceCIDRs: [prefix('10.17.0.0/16')], destinationPorts: [{ first: 80, last: 443 }] } },
    {
      original: { destinationCIDRs: [prefix('198.51.100.0/24')], sourcePorts: [{ first: 5000, last: 5000 }] },
    },
    { translated: { sourceCIDRs: [prefix('172.17.0.11/32')], sourcePorts: [{ first: 1, last: 2000 }] } },
  ];
  const no: LogFilter[] = [
    { addressFamilies: ['ipv6'] },
    { protocols: ['udp', 'other'] },
    { natTypes: ['dnat', 'snat_dnat'] },
    { protocols: ['tcp'], natTypes: ['dnat'] },
    { original: { sourceCIDRs: [prefix('10.18.0.0/16'), prefix('fd00::/8')] } },
    {
      original: {
        destinationPorts: [
          { first: 444, last: 500 },
          { first: 1, last: 442 },
        ],
      },
    },
    { translated: { sourceCIDRs: [prefix('10.17.0.0/16')] } },
    { translated: { destinationCIDRs: [prefix('192.0.2.0/24')] } },
  ];
  for (const filter of yes) t.ok(takes(filter), JSON.stringify(filter));
  for (const filter of no) t.notOk(takes(filter), JSON.stringify(filter));
  for (const natType of ['snat', 'dnat', 'snat_dnat'] as const)
    t.ok(takes({ natTypes: [natType] }, both), natType);
});

t.test('without include everything is taken; exclude is stronger', async (t) => {
  const subject = flow({ flow: '10.17.0.9 5000 198.51.100.1 443', snat: '172.17.0.11 2000' });
  const tcp: LogFilter = { protocols: ['tcp'] };
  const udp: LogFilter = { protocols: ['udp'] };
  t.ok(compileFilters({ include: [], exclude: [] })(subject));
  t.ok(compileFilters({ include: [udp, tcp], exclude: [udp] })(subject));
  t.notOk(compileFilters({ include: [udp], exclude: [] })(subject));
  t.notOk(compileFilters({ include: [tcp], exclude: [udp, tcp] })(subject));
});

t.test('the rate limit lets a burst through and then its rate', async (t) => {
  const bucket = new TokenBucket({ recordsPerSecond: 10, burst: 3 }, 0);
  const taken = (now: number, tries: number) =>
    Array.from({ length: tries }, () => bucket.take(now)).filter(Boolean).length;
  t.equal(taken(0, 10), 3);
  t.equal(taken(50, 10), 0, 'half a record');
  t.equal(taken(100, 10), 1);
  t.equal(taken(1100, 20), 3, 'never more than the burst');
  t.equal(taken(500, 10), 0, 'a clock that goes back gives nothing');
  t.equal(taken(600, 10), 1, 'and takes nothing');
});
