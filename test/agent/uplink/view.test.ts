// What status, /readyz and the metrics say of the uplink.
import { readFileSync } from 'node:fs';
import { Ajv } from 'ajv';
import t from 'tap';
import { Metrics } from '../../../agent/show/metrics.ts';
import { type AgentView, notReady, statusDocument } from '../../../agent/show/status.ts';
import { statusText } from '../../../agent/show/text.ts';
import type { UplinkView } from '../../../agent/uplink/uplink-view.ts';
import { address } from '../../../lib/prefix.ts';

const UPLINK: UplinkView = {
  families: [
    { family: 4, gateway: address('172.17.0.1'), state: 'down', reason: 'the gateway is silent', seconds: 4 },
    { family: 6, gateway: address('fd00:172:17::1'), state: 'up', reason: null, seconds: 99 },
  ],
  probes: [
    { address: address('172.17.0.1'), method: 'neighbour', state: 'silent', mac: null, kernel: 'failed' },
    {
      address: address('fd00:172:17::1'),
      method: 'neighbour',
      state: 'answers',
      mac: '02:42:ac:11:00:01',
      kernel: null,
    },
    { address: address('192.0.2.1'), method: 'icmp', state: 'blind', mac: null, kernel: null },
  ],
  notes: ['192.0.2.1 cannot be probed'],
};

const view = (more: Partial<AgentView> = {}): AgentView => ({
  version: '1.2.3',
  startedAt: 0,
  policy: { source: '/p', valid: true, name: 'default/gateway1', generation: 1, errors: [], warnings: [] },
  kernel: {
    inSync: true,
    families: [
      { family: 4, state: 'programmed' },
      { family: 6, state: 'programmed' },
    ],
    notes: [],
    failed: [],
    last: { at: 0, trigger: 'start', ok: true, changes: 0, durationMs: 1 },
    driftRepaired: {},
  },
  bfdEnabled: false,
  uplink: UPLINK,
  draining: false,
  ...more,
});

t.test('a family whose uplink is down, or not known yet, is a reason not to be ready', async (t) => {
  t.strictSame(notReady(view()), ['IPv4 uplink: the gateway is silent']);
  const [down, up] = UPLINK.families as [UplinkView['families'][0], UplinkView['families'][0]];
  t.strictSame(notReady(view({ uplink: { ...UPLINK, families: [up] } })), []);
  const undecided = { ...down, state: 'undecided' as const, reason: null };
  t.strictSame(notReady(view({ uplink: { ...UPLINK, families: [undecided, up] } })), [
    'IPv4 uplink: not probed yet',
  ]);
});

t.test('a blocked family is one reason', async (t) => {
  const { kernel } = view();
  const families = [{ family: 4 as const, state: 'blocked' as const, reason: 'net1 is down' }];
  t.strictSame(notReady(view({ kernel: { ...kernel, families } })), ['IPv4: net1 is down']);
});

t.test('a probe that has no answer yet', async (t) => {
  const probes = UPLINK.probes.map((probe) => ({ ...probe, state: 'unknown' as const, kernel: null }));
  t.match(
    statusText(statusDocument(view({ uplink: { ...UPLINK, probes } }), 1000), 1000, false),
    [
      '  172.17.0.1 has not answered ARP yet',
      '  fd00:172:17::1 has not answered Neighbor Discovery yet',
      '  192.0.2.1 has not answered ICMP echo yet',
    ].join('\n'),
  );
});

t.test('the status shows families, probes and notes, and is what its schema says', async (t) => {
  const document = statusDocument(view(), 1000);
  const text = statusText(document, 1000, false);
  t.match(
    text,
    [
      'uplink   IPv4 down, IPv6 up',
      '  IPv4: the gateway is silent',
      '  172.17.0.1 does not answer ARP (kernel: failed)',
      '  fd00:172:17::1 answers Neighbor Discovery',
      '  192.0.2.1 cannot be probed with ICMP echo',
      '  note: 192.0.2.1 cannot be probed',
    ].join('\n'),
  );
  const schema = JSON.parse(
    readFileSync(new URL('../../../docs/status.schema.json', import.meta.url), 'utf8'),
  );
  const validate = new Ajv({ strict: false, formats: { 'date-time': true } }).compile(schema);
  t.ok(validate(JSON.parse(JSON.stringify(document))), JSON.stringify(validate.errors));
});

t.test('the metric has a series for each gateway', async (t) => {
  const identity = { namespace: '', name: '', pod: '', node: '' };
  const translations = { snapshot: undefined, identity };
  const metrics = new Metrics({
    view: () => view(),
    conntrack: () => undefined,
    insertFailures: () => undefined,
    pressure: () => undefined,
    drops: { refresh: async () => {}, of: () => [] },
    counters: { refresh: async () => {}, volumes: () => undefined },
    translations,
  });
  const { body } = await metrics.text();
  t.match(
    body,
    'veg_agent_uplink_up{gateway="172.17.0.1"} 0\nveg_agent_uplink_up{gateway="fd00:172:17::1"} 1\n',
  );
});
