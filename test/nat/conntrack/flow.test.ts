import t from 'tap';
import { address, addressBytes, prefix } from '../../../lib/prefix.ts';
import {
  classify,
  PolicyIndex,
  type PolicyNumbers,
  type PolicyRule,
  viewFlow,
} from '../../../nat/conntrack/flow.ts';
import { Flow } from '../../../nat/conntrack/table.ts';
import { policyMark } from '../../../nat/policy-marks.ts';
import { type EntrySpec, entry } from './entries.ts';

const octets = (text: string) => addressBytes(address(text));
const OWN = ['10.16.0.12', '172.17.0.11', '127.0.0.1', 'fd00:172:17::11'];
const isLocal = (bytes: Uint8Array) => OWN.some((own) => Buffer.from(bytes).equals(octets(own)));

const RULES: PolicyRule[] = [
  { name: 'direct', snat: false, ipBlocks: ['10.18.0.0/16', 'fd00:10:18::/64'].map(prefix) },
  { name: 'web', snat: true, ipBlocks: ['10.17.0.0/16', 'fd00:10:17::/64'].map(prefix) },
  { name: 'wide', snat: true, ipBlocks: [prefix('10.0.0.0/8')] },
];

/** `verdict policy in|out` of an entry under rules. */
function decide(spec: EntrySpec, rules = RULES, marked: PolicyNumbers = new Map()): string {
  const flow = new Flow();
  flow.set(entry(spec));
  const names = [''];
  classify(flow, new PolicyIndex(rules), isLocal, (name) => names.push(name) - 1, {
    mark: spec.mark ?? 0,
    marked,
  });
  return `${flow.verdict} ${names[flow.policy] || '-'} ${flow.inbound ? 'in' : 'out'}`;
}

t.test('verdict and policy of a flow, by what the kernel did to it and by its source', async (t) => {
  const cases: [string, EntrySpec, string][] = [
    ['translated', { flow: '10.17.0.9 1 1.1.1.1 2', snat: '172.17.0.11 3' }, 'translated web out'],
    [
      'translated, IPv6',
      { flow: 'fd00:10:17::9 1 2001::1 2', snat: 'fd00:172:17::11 3' },
      'translated web out',
    ],
    ['only the port changed', { flow: '10.17.0.9 1 1.1.1.1 2', snat: '10.17.0.9 3' }, 'translated web out'],
    [
      'the first rule that matches',
      { flow: '10.99.0.9 1 1.1.1.1 2', snat: '172.17.0.11 3' },
      'translated wide out',
    ],
    [
      'a source of no rule',
      { flow: '192.168.0.1 1 1.1.1.1 2', snat: '172.17.0.11 3' },
      'translated default out',
    ],
    ['forwarded', { flow: '10.18.0.9 1 1.1.1.1 2' }, 'forwarded direct out'],
    ['forwarded from outside', { flow: '1.1.1.1 1 10.18.0.9 2' }, 'forwarded direct in'],
    ['forwarded, of no rule', { flow: '192.168.0.1 1 1.1.1.1 2' }, 'forwarded default out'],
    [
      'translated under an older policy',
      { flow: '10.18.0.9 1 1.1.1.1 2', snat: '172.17.0.11 3' },
      'translated wide out',
    ],
    ['to a pod by DNAT', { flow: '1.1.1.1 1 172.17.0.60 80', dnat: '10.17.0.9 80' }, 'translated web in'],
    [
      'to no pod of a rule',
      { flow: '1.1.1.1 1 172.17.0.60 80', dnat: '192.168.0.1 80' },
      'translated default in',
    ],
    [
      'from a pod to another pod by its outer address',
      { flow: '10.17.0.8 1 172.17.0.60 80', dnat: '10.17.0.9 80', snat: '10.16.0.12 5' },
      'translated web out',
    ],
    [
      "the pod's own, to the outside",
      { flow: '172.17.0.11 1 1.1.1.1 2', snat: '172.17.0.11 3' },
      'translated - out',
    ],
    ["the pod's own, unchanged", { flow: '172.17.0.11 1 1.1.1.1 2' }, 'local - out'],
    ['to the pod', { flow: '1.1.1.1 1 10.16.0.12 10669' }, 'local - out'],
    [
      'inside the pod, translated for nothing',
      { flow: '127.0.0.1 1 127.0.0.1 2', snat: '10.16.0.12 3' },
      'local - out',
    ],
  ];
  for (const [name, spec, expected] of cases) t.equal(decide(spec), expected, name);
});

t.test('the policy of the mark is that of the flow, also when no rule names it any more', async (t) => {
  const forwarded = (number: number, inbound = false) => policyMark(number, { inbound, forwarded: true });
  const marked = new Map([
    [7, 'legacy'],
    [8, 'web'],
  ]);
  const legacy: EntrySpec = { flow: '10.99.0.9 1 1.1.1.1 2' };
  const cases: [string, EntrySpec, string][] = [
    ['no mark', legacy, 'forwarded default out'],
    ['a policy that was removed', { ...legacy, mark: forwarded(7) }, 'forwarded legacy out'],
    ['the same in a group', { ...legacy, mark: (0xa700_0000 | forwarded(7)) >>> 0 }, 'forwarded legacy out'],
    [
      'opened from outside',
      { flow: '1.1.1.1 2 10.99.0.9 1', mark: forwarded(7, true) },
      'forwarded legacy in',
    ],
    [
      'a rule names it differently',
      { flow: '10.18.0.9 1 1.1.1.1 2', mark: forwarded(7) },
      'forwarded legacy out',
    ],
    ['a number of no policy', { flow: '10.18.0.9 1 1.1.1.1 2', mark: forwarded(9) }, 'forwarded direct out'],
    [
      "the pod's own",
      { flow: '172.17.0.11 1 1.1.1.1 2', snat: '172.17.0.11 3', mark: 8 },
      'translated - out',
    ],
  ];
  for (const [name, spec, expected] of cases) t.equal(decide(spec, RULES, marked), expected, name);
});

t.test('destinations and exclusions of a rule decide with the source', async (t) => {
  const rules: PolicyRule[] = [
    {
      name: 'bank',
      snat: true,
      ipBlocks: [prefix('10.17.0.0/16')],
      destinationCIDRs: [prefix('198.51.100.0/24')],
      excludedCIDRs: [prefix('198.51.100.7/32')],
    },
    { name: 'rest', snat: true, ipBlocks: [prefix('10.17.0.0/16')] },
    { name: 'any', snat: true, ipBlocks: [] },
  ];
  const to = (destination: string, source = '10.17.0.9') =>
    decide({ flow: `${source} 1 ${destination} 2`, snat: '172.17.0.11 3' }, rules);
  t.equal(to('198.51.100.1'), 'translated bank out');
  t.equal(to('198.51.100.7'), 'translated rest out');
  t.equal(to('1.1.1.1'), 'translated rest out');
  t.equal(to('1.1.1.1', '10.99.0.1'), 'translated any out', 'no block means any source');
});

t.test('a view stays as it is when the flow changes', async (t) => {
  const flow = new Flow();
  flow.set(entry({ flow: '10.17.0.9 1 1.1.1.1 2', snat: '172.17.0.11 3' }));
  flow.verdict = 'translated';
  const view = viewFlow(flow, 'web', 5);
  flow.set(entry({ flow: '9.9.9.9 1 8.8.8.8 2' }));
  t.match(view, { policy: 'web', natType: ['snat'], sourcePort: 1, end: 5 });
  t.same([...view.source], [10, 17, 0, 9]);
});
