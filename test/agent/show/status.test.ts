import { readFileSync } from 'node:fs';
import { Ajv } from 'ajv';
import t from 'tap';
import type { PolicyTraffic } from '../../../agent/flows/traffic.ts';
import { type AgentView, notReady, statusDocument } from '../../../agent/show/status.ts';
import { statusText } from '../../../agent/show/text.ts';
import type { SessionReport } from '../../../bfd/intent.ts';
import { address, prefix } from '../../../lib/prefix.ts';
import { bgpView } from './bgp-view.ts';
import { groupView } from './group-view.ts';

const NOW = Date.parse('2026-11-21T14:03:00Z');

const session: SessionReport = {
  id: 1,
  local: '10.16.0.12',
  remote: '10.255.255.255',
  role: 'passive',
  state: 'Up',
  remoteState: 'Up',
  localDiagnostic: 0,
  remoteDiagnostic: 0,
  localDiscriminator: 7,
  remoteDiscriminator: 9,
  since: NOW - 190_000,
  transmitInterval: 100_000,
  detectionTime: 500_000,
  packetsIn: 10,
  packetsOut: 11,
  transitions: [{ from: 'Down', to: 'Up', diagnostic: 0, count: 1 }],
};

const TRAFFIC = { connections: 340, packets: { out: 9, in: 8 }, bytes: { out: 1_200_000, in: 90 }, open: 12 };

/** A gateway that works. */
function healthy(): AgentView {
  return {
    version: '1.2.3',
    node: 'worker-1',
    pod: 'default/gateway1-abc',
    startedAt: NOW - 3_700_000,
    policy: {
      source: '/etc/veg-agent/policy',
      valid: true,
      name: 'default/gateway1',
      generation: 3,
      lastChange: NOW - 60_000,
      errors: [],
      warnings: ['10.18.0.0/16 is in a true and a false policy'],
      rules: [
        { name: 'legacy', snat: false, ipBlocks: [1, 2, 3, 4, 5].map((n) => prefix(`10.${n}.0.0/16`)) },
        { name: 'web', snat: true, ipBlocks: [], portBlockSize: 64 },
      ],
    },
    kernel: {
      inSync: true,
      families: [
        { family: 4, state: 'programmed' },
        { family: 6, state: 'unused' },
      ],
      interfaces: { internal: 'eth0', external: 'net1' },
      backend: 'nft',
      notes: [],
      failed: [],
      last: { at: NOW - 5000, trigger: 'policy', ok: true, changes: 2, durationMs: 31 },
      driftRepaired: { rule: 2 },
    },
    historyOf: () => [{ at: NOW - 190_000, from: 'Init', to: 'Up', diagnostic: 0 }],
    conntrack: { entries: 12, limit: 1000, busiest: [] },
    translationLog: true,
    traffic: [
      { ...TRAFFIC, policy: '', treatment: 'snat' },
      { ...TRAFFIC, policy: 'web', treatment: 'snat', rates: TRAFFIC },
      { ...TRAFFIC, policy: 'direct', treatment: 'forward' },
    ],
    ports: [
      { externalIP: '172.17.0.11', protocol: 'tcp', used: 321, of: 64_512, lacking: 0 },
      { externalIP: '172.17.0.11', protocol: 'udp', used: 60_000, of: 64_512, lacking: 9 },
    ],
    bfdEnabled: true,
    bfd: {
      sessions: [session],
      discards: { version: 3 },
      lateness: { bounds: [], buckets: [], count: 0, sum: 0 },
      draining: false,
    },
    draining: false,
  };
}

const schema = JSON.parse(readFileSync(new URL('../../../docs/status.schema.json', import.meta.url), 'utf8'));
const validate = new Ajv({ strict: false, formats: { 'date-time': true } }).compile(schema);

t.test('the document is what docs/status.schema.json says, full and empty', async (t) => {
  for (const view of [healthy(), fresh()]) {
    const ok = validate(JSON.parse(JSON.stringify(statusDocument(view, NOW))));
    t.ok(ok, JSON.stringify(validate.errors));
  }
});

/** An agent that has just started. */
function fresh(): AgentView {
  return {
    version: '1.2.3',
    startedAt: NOW,
    policy: { source: '/p', valid: false, generation: 0, errors: [], warnings: [] },
    kernel: { inSync: false, families: [], notes: [], failed: [], driftRepaired: {} },
    bfdEnabled: false,
    draining: false,
  };
}

t.test('ready: a valid policy in the kernel and a session Up', async (t) => {
  t.strictSame(notReady(healthy()), []);
  const down = healthy();
  down.bfd!.sessions = [{ ...session, state: 'Down' }];
  t.strictSame(notReady(down), ['BFD: no session is Up']);
  const problem = 'BFD packets cannot be received on 10.16.0.12 port 3784: in use';
  const deaf = { ...down, bfd: { ...down.bfd!, problems: [problem] } };
  t.strictSame(notReady(deaf), ['BFD: no session is Up', problem]);
  const unserved = 'metrics and probes are not served on 10.16.0.12 port 10669: in use';
  t.strictSame(statusDocument({ ...deaf, unserved: [unserved] }, NOW).kernel.notes, [problem, unserved]);
  t.strictSame(notReady({ ...down, bfdEnabled: false }), [], 'sessions count only when BFD is enabled');
  t.strictSame(notReady({ ...healthy(), draining: true }), ['draining']);
});

t.test('an invalid policy says every place, and what is in force', async (t) => {
  const view = healthy();
  view.policy.valid = false;
  view.policy.errors = [
    { file: 'a.yaml', line: 3, col: 5, path: 'spec.bfd.minTX', message: 'must be a number' },
  ];
  t.strictSame(notReady(view), [
    'policy invalid: 1 error; the last good policy stays in force: default/gateway1, since 2026-11-21T14:02:00.000Z',
    '  a.yaml:3:5: spec.bfd.minTX: must be a number',
  ]);
});

t.test('a blocked family and a failed reconcile say why', async (t) => {
  const view = healthy();
  view.kernel.families = [
    { family: 4, state: 'blocked', reason: 'the external interface net1 does not exist' },
  ];
  view.kernel.inSync = false;
  view.kernel.failed = [
    {
      ...{ object: 'listing', name: 'kernel', reason: 'not_installed', since: NOW },
      message: 'iptables-nft-save: not found',
    },
  ];
  t.strictSame(notReady(view), [
    'IPv4: the external interface net1 does not exist',
    'kernel not in sync: iptables-nft-save: not found',
  ]);
});

t.test('failed objects are listed one by one, with their age', async (t) => {
  const view = healthy();
  view.kernel.inSync = false;
  view.kernel.failed = Array.from({ length: 12 }, (_, i) => ({
    ...{ object: 'address', family: 4, name: `172.17.0.${i}`, reason: 'in_use', since: NOW - 61_000 },
    message: `ip addr add 172.17.0.${i}/32 dev net1: another one holds it`,
  }));
  const reasons = notReady(view);
  t.equal(reasons.length, 11);
  t.equal(reasons[0], 'kernel not in sync: ip addr add 172.17.0.0/32 dev net1: another one holds it');
  t.equal(reasons[10], 'kernel not in sync: 2 more objects have failed');
  const status = statusDocument(view, NOW);
  t.equal(status.kernel.failed.length, 12);
  t.match(status.kernel.failed[3], { object: 'address', family: 4, name: '172.17.0.3', reason: 'in_use' });
  t.equal(status.kernel.failed[3]!.since, new Date(NOW - 61_000).toISOString());
  t.ok(validate(JSON.parse(JSON.stringify(status))), JSON.stringify(validate.errors));
  t.match(statusText(status, NOW, false), /^ {2}address 172\.17\.0\.3: in_use, for 1m1s$/m);
});

t.test('the text counts one as one', async (t) => {
  const view = healthy();
  const traffic = view.traffic!.map((one) => ({ ...one, open: 1, connections: 1 }));
  const shown = (parts: Partial<AgentView>) =>
    statusText(statusDocument({ ...view, ...parts }, NOW), NOW, false);
  t.match(shown({ traffic }), /web \(translated\): 1 connection open, 1 altogether,/);
  t.match(shown({ traffic, translationLog: false }), /web \(translated\): 1 connection, /);
  t.match(shown({}), /^bfd {6}1 session$/m);
});

t.test('the text names what a person looks for', async (t) => {
  const text = statusText(statusDocument(healthy(), NOW), NOW, false);
  t.match(text, /^ready {2}veg-agent 1\.2\.3, default\/gateway1-abc on worker-1, up 1h1m$/m);
  t.match(text, /policy {3}default\/gateway1, generation 3, from \/etc\/veg-agent\/policy$/m);
  t.match(text, /^ {2}web: 64 ports for each source$/m);
  t.match(text, /kernel {3}in sync, IPv4 programmed, IPv6 unused, eth0 → net1, iptables nft$/m);
  t.match(text, /last reconcile 5s ago \(policy\): 2 changes in 31 ms/);
  t.match(text, /drift repaired: 2 rule/);
  t.match(text, /Up {8}10\.16\.0\.12 → 10\.255\.255\.255, for 3m10s, every 100 ms, detection 500 ms/);
  t.match(text, /^ {2}legacy \(forwarded\): nothing yet$/m);
  t.match(text, /web \(translated\): 12 connections open, 340 altogether, 1\.20 MB out, 90 B in/);
  t.match(text, /^ {2}the gateway itself \(translated\): /m);
  t.match(text, /^ {2}direct \(forwarded, removed from the policy\): /m);
  t.match(text, /^traffic {2}SNAT: 24 connections open, 680 altogether, 2\.40 MB out, 180 B in$/m);
  t.match(text, /^ {2}172\.17\.0\.11 tcp: 321 of 64512 ports in use$/m);
  t.match(
    text,
    /^ {2}172\.17\.0\.11 udp: 60000 of 64512 ports in use: they run out, 9 connections got none$/m,
  );
  const shown = (view: AgentView) => statusText(statusDocument(view, NOW), NOW, false);
  t.match(
    shown({ ...healthy(), translationLog: false }),
    /^traffic {2}SNAT: 680 connections, 2\.40 MB out, 180 B in$/m,
    'without a log',
  );
  t.match(
    shown({ ...healthy(), traffic: undefined }),
    /traffic {2}not counted yet, or not by this kernel: see the notes/,
  );
  t.notMatch(text, /\x1b/, 'without colours unless asked for');
});

t.test(
  'policies stand in their order, then what none names; of many blocks the first are named',
  async (t) => {
    const { policies } = statusDocument(healthy(), NOW);
    t.match(policies, [
      { name: 'legacy', snat: false, configured: true, blocks: 5, traffic: null },
      {
        name: 'web',
        snat: true,
        configured: true,
        blocks: 0,
        traffic: { open: 12, rates: { connections: 340 } },
      },
      { name: '', snat: true, configured: false, traffic: { connections: 340, rates: null } },
      { name: 'direct', snat: false, configured: false },
    ]);
    t.equal(policies[0]!.ipBlocks.length, 4);
  },
);

t.test('what no policy names is listed when it has carried something', async (t) => {
  const carried = (out: number): PolicyTraffic => ({
    ...{ policy: 'default', treatment: 'forward', open: 0, connections: 0 },
    ...{ packets: { out, in: 0 }, bytes: { out: 60 * out, in: 0 } },
  });
  const listed = (out: number) =>
    statusDocument({ ...healthy(), traffic: [carried(out)] }, NOW).policies.filter(
      ({ configured }) => !configured,
    );
  t.same(listed(0), []);
  t.match(listed(1), [{ name: 'default', snat: false, traffic: { packets: { out: 1 } } }]);
});

t.test('the text of a group has a line for each member and each shared address', async (t) => {
  const status = statusDocument({ ...healthy(), group: [groupView()] }, NOW);
  const lines = statusText(status, NOW, false).split('\n');
  const at = lines.findIndex((line) => line.startsWith('group'));
  t.strictSame(lines.slice(at, at + 8), [
    'group    IPv4 live as 10.16.0.12, ports 49408–53439, 1 flow, 1,234 of others',
    '  10.16.0.13 live, 7 flows',
    '  10.16.0.14 unreachable, 0 flows, BFD is not Up, not connected',
    '  10.16.0.15 joining, 2 flows, not in sync',
    '  172.17.0.50 is held by this gateway',
    '  172.17.0.51 is held by 10.16.0.13',
    '  172.17.0.52 has no holder',
    'traffic  SNAT: 24 connections open, 680 altogether, 2.40 MB out, 180 B in',
  ]);
  const coloured = statusText(status, NOW, true).split('\n');
  t.strictSame(
    coloured.filter((line) => line.includes('172.17.0.5')),
    [
      '  172.17.0.50 is held by this gateway',
      '  172.17.0.51 is held by 10.16.0.13',
      '  \x1b[31m172.17.0.52 has no holder\x1b[0m',
    ],
    'an address that nobody holds stands out',
  );
});

t.test(
  'what keeps a member from connections is a reason while it is not ready, and then a warning',
  async (t) => {
    const problem = 'cannot listen for group members on 10.16.0.12 port 10667: …';
    const shown = (pending?: string) => {
      const view = { ...healthy(), group: [groupView({ problem })] };
      view.kernel.families = [{ family: 4, state: 'programmed', ...(pending && { pending }) }];
      const document = statusDocument(view, NOW);
      t.ok(validate(JSON.parse(JSON.stringify(document))), JSON.stringify(validate.errors));
      return { reasons: document.reasons, text: statusText(document, NOW, false) };
    };
    const see = '  see docs/operations.md#key-and-port-of-a-group';
    const ready = shown();
    t.same(ready.reasons, []);
    t.match(ready.text, `  warning: IPv4: ${problem}\n${see}\n`);
    const joining = shown('taking over the flows of the group');
    t.same(joining.reasons, ['IPv4: taking over the flows of the group', `IPv4: ${problem}`]);
    t.match(
      joining.text,
      /^ {2}see docs\/operations.md#group-not-ready, docs\/operations.md#key-and-port-of-a-group$/m,
    );
    t.notMatch(joining.text, 'warning: IPv4');
  },
);

t.test(
  'when the conntrack table fills up, the text names the sources with the most connections',
  async (t) => {
    const text = (busiest: NonNullable<AgentView['conntrack']>['busiest']) =>
      statusText(
        statusDocument({ ...healthy(), conntrack: { entries: 990, limit: 1000, busiest } }, NOW),
        NOW,
        false,
      );
    const [first, second] = ['10.17.0.9', '10.17.0.10'].map(address);
    t.match(
      text([
        { source: first!, connections: 700 },
        { source: second!, connections: 80 },
      ]),
      /^crowded {2}most connections: 10\.17\.0\.9 700, 10\.17\.0\.10 80$/m,
    );
    t.notMatch(text([]), 'crowded');
  },
);

t.test('what is announced by BGP, with the sessions as far as FRR reports them', async (t) => {
  const text = (bgp: ReturnType<typeof bgpView>) =>
    statusText(statusDocument({ ...healthy(), bgp }, NOW), NOW, false)
      .split('\n')
      .filter((line) => /BGP|198\.51|fd00:1|AS 65000/.test(line));
  t.same(text(bgpView()), [
    'BGP      1 of 2 prefixes announced',
    '  198.51.100.50/32 (egressIPs, eips)',
    '  fd00:10:18::/64 (forwarded) withdrawn',
    '  172.17.0.1 AS 65000 Established for 1m1s, 1 prefix sent',
    '  fd00:172:17::1 AS 65000 Active for 3s, 0 prefixes sent',
  ]);
  t.equal(
    text(bgpView({ sessions: undefined }))[0],
    'BGP      1 of 2 prefixes announced, FRR does not answer',
  );
  t.equal(statusDocument(healthy(), NOW).bgp, null);
  for (const bgp of [bgpView(), bgpView({ sessions: undefined })]) {
    const document = JSON.parse(JSON.stringify(statusDocument({ ...healthy(), bgp }, NOW)));
    t.ok(validate(document), JSON.stringify(validate.errors));
  }
});

t.test('readiness depends on BGP only where the policy requires it', async (t) => {
  const reasons = (more: Parameters<typeof bgpView>[0]) => notReady({ ...healthy(), bgp: bgpView(more) });
  const down = bgpView().sessions!.slice(1);
  t.same(reasons({ sessions: undefined }), []);
  t.same(reasons({ sessions: down }), []);
  t.same(reasons({ required: true }), []);
  t.match(reasons({ required: true, sessions: down }), [/^BGP: no session is established/]);
  t.match(reasons({ required: true, sessions: undefined }), [/^BGP: FRR does not answer/]);
});
