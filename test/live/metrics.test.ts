/**
 * What a scrape of a gateway with traffic holds, and the dashboard and alerts that live on it (docs/dashboards).
 * Needs root, and promtool.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { parse, parseAllDocuments, stringify } from 'yaml';
import {
  Agent,
  BFD,
  DIRECT,
  type GatewaySpec,
  gatewayPolicy,
  PolicyDirectory,
  WEB,
} from '../support/agent.ts';
import { must, NODE, ROOT, until } from '../support/netns.ts';
import { peerUp, startVegBfdd } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { answerEverything, type Sent, send } from './conntrack-load.ts';

/** Each metric with its labels: contract.md, and Kube-OVN's names where the meaning is the same. */
const METRICS = `
  veg_agent_build_info version node
  veg_agent_policy_valid
  veg_agent_policy_generation
  veg_agent_policy_last_change_timestamp_seconds
  veg_agent_reconcile_total result trigger
  veg_agent_reconcile_duration_seconds
  veg_agent_drift_repairs_total object
  veg_agent_kernel_in_sync
  veg_agent_uplink_up gateway
  veg_agent_uplink_round_trip_seconds family
  veg_agent_draining
  veg_bfd_session_state local remote
  veg_bfd_session_transitions_total local remote from to diag
  veg_bfd_session_uptime_seconds local remote
  veg_bfd_packets_total local remote direction
  veg_bfd_packets_discarded_total reason
  veg_bfd_detection_time_seconds local remote
  veg_bfd_transmit_interval_seconds local remote
  veg_bfd_transmit_lateness_seconds
  veg_snat_packets_total policy family direction
  veg_snat_bytes_total policy family direction
  veg_snat_connections_total policy family
  veg_snat_ports_in_use external_ip protocol
  veg_snat_port_exhaustion_total external_ip protocol
  veg_conntrack_entries
  veg_conntrack_limit
  veg_bandwidth_limit_bits policy direction
  veg_bandwidth_passed_packets_total policy direction
  veg_bandwidth_passed_bytes_total policy direction
  veg_bandwidth_dropped_packets_total policy direction
  veg_bandwidth_delays_total policy direction
  veg_translation_records_total event
  veg_translation_records_lost_total reason
  kube_ovn_bfdd_expected_sessions
  kube_ovn_bfdd_up_sessions
  kube_ovn_bfdd_recovery_attempts_total action result
  kube_ovn_bfdd_recovery_phase local remote phase
  kube_ovn_bfdd_session_zero_seconds
  kube_ovn_bfdd_child_restarts_total
  kube_ovn_bfdd_child_circuit_open
  kube_ovn_bfdd_circuit_open local remote
  GATEWAY_observability_collector_up collector
  GATEWAY_observability_conntrack_events_total event
  GATEWAY_observability_conntrack_cache_entries
  GATEWAY_observability_conntrack_cache_capacity
  GATEWAY_observability_conntrack_cache_evictions_total
  GATEWAY_observability_log_records_total event
  GATEWAY_observability_log_drops_total reason
  GATEWAY_observability_conntrack_accounting_available
  GATEWAY_interface_rx_bytes_total interface type
  GATEWAY_interface_rx_packets_total interface type
  GATEWAY_interface_tx_bytes_total interface type
  GATEWAY_interface_tx_packets_total interface type
  GATEWAY_interface_drops_total interface type direction
  GATEWAY_interface_errors_total interface type direction
  GATEWAY_conntrack_nat_flows_active address_family protocol nat_type
  GATEWAY_conntrack_nat_flows_started_total address_family protocol nat_type
  GATEWAY_conntrack_nat_flows_ended_total address_family protocol nat_type
  GATEWAY_conntrack_nat_packets_total address_family protocol nat_type direction
  GATEWAY_conntrack_nat_bytes_total address_family protocol nat_type direction`
  .trim()
  .split('\n')
  .map((line) => {
    const [name = '', ...labels] = line.trim().split(' ');
    if (!name.startsWith('GATEWAY')) return { name, labels };
    return {
      name: name.replace('GATEWAY', 'kube_ovn_vpc_egress_gateway'),
      labels: ['namespace', 'name', 'pod', 'node', ...labels],
    };
  });

/** Ports that NAT has for sources from 600 to 1023. */
const PRIVILEGED = 424;

const scope = scopeOf(t);
const { client, client2, gateway, router, server } = topology(scope);
const policy = new PolicyDirectory(scope);
const spec: GatewaySpec & { translationLog: object } = {
  policies: [DIRECT, { ...WEB, bandwidth: { egress: '100M', ingress: '100M' } }],
  bfd: BFD,
  translationLog: { enabled: true },
};
policy.write({ 'gateway.yaml': gatewayPolicy(spec) });
const agent = new Agent(gateway, {
  policyDir: policy.dir,
  stateDir: scope.directory('state'),
  args: ['--translation-log', join(scope.directory('log'), 'records.log')],
  env: { POD_NAME: 'gateway1-0', POD_NAMESPACE: 'default', NODE_NAME: 'worker-1' },
});
await answerEverything(server);
const peer = await startVegBfdd(scope, router, {
  sessions: [{ local: ADDRESS.bfdPort[4], remote: ADDRESS.gatewayInternal[4] }],
});
await agent.synced();
await peerUp(peer);
await until(() => /collector="conntrack"\} 1/.test(scrape()), { what: 'the translation log' });

function scrape(): string {
  return agent.http('/metrics').body;
}

/** The values of a metric, by its labels as they are printed. */
const values = (text: string, name: string): Map<string, number> =>
  new Map(
    [...text.matchAll(new RegExp(`^${name}(?:\\{(.*)\\})? (\\S+)$`, 'gm'))].map(([, labels = '', value]) => [
      labels,
      Number(value),
    ]),
  );

const sum = (text: string, name: string): number =>
  [...values(text, name).values()].reduce((all, value) => all + value, 0);

/** The names of labels in `a="b",c="d"`. */
const namesIn = (labels: string): string[] => [...labels.matchAll(/(\w+)="[^"]*"/g)].map(([, name]) => name!);

// Traffic that all tests look at: flows of both policies, and two sources that want the same ports.
client.ip('addr add 10.17.0.10/16 dev eth0');
send(client, 'udp', ADDRESS.server[4], 10_000, 20, 2);
send(client2, 'udp', ADDRESS.server[4], 10_000, 20, 2);
const failedBefore = agent.metric('veg_conntrack_insert_failed_total');
const load = [join(ROOT, 'test/live/conntrack-load.ts'), 'bound', ADDRESS.server[4], 2049];
const sources = [600, PRIVILEGED, ADDRESS.client[4], '10.17.0.10'];
const { stdout } = client.run(NODE, [...load, ...sources].map(String));
const { sent, received } = JSON.parse(stdout) as Sent;
const exhausted = `veg_snat_port_exhaustion_total{external_ip="${ADDRESS.gatewayExternal[4]}",protocol="udp"}`;
await until(() => agent.metric(exhausted) === sent - received, { what: 'whose ports they were' });

/** Has the agent discard a packet of BFD and repair a rule. */
async function discardAndRepair(): Promise<void> {
  gateway.sh('ip rule del priority 1002');
  router.run(NODE, [
    join(ROOT, 'test/live/bfd-junk.ts'),
    ADDRESS.gatewayInternal[4],
    '50',
    '1',
    ADDRESS.router[4],
  ]);
  const discarded = () => sum(scrape(), 'veg_bfd_packets_discarded_total') > 0;
  const repaired = () => sum(scrape(), 'veg_agent_drift_repairs_total') > 0;
  await until(() => discarded() && repaired(), { what: 'a packet discarded and a rule put back' });
}

t.test('connections that get no port are counted, for the address that had none left', async (t) => {
  t.equal(failedBefore, 0);
  t.equal(sent, 2 * PRIVILEGED);
  t.equal(received, PRIVILEGED, 'the kernel has dropped the others');
  t.equal(agent.metric('veg_conntrack_insert_failed_total'), sent - received);
  const { snat } = await agent.status();
  t.match(snat?.ports, [{ externalIP: ADDRESS.gatewayExternal[4], protocol: 'udp', lacking: PRIVILEGED }]);
  t.match(
    agent.cli('status').stdout,
    /172\.17\.0\.11 udp: \d+ of 64512 ports in use, 424 connections got none/,
  );
  t.match(agent.daemon.log(), /"used":424,"of":424,"msg":"no port was left for new connections/);
});

t.test('a scrape with traffic has every metric that is promised, with its labels', async (t) => {
  await discardAndRepair();
  const text = scrape();
  for (const { name, labels } of METRICS) {
    t.match(text, new RegExp(`^# HELP ${name} .`, 'm'), name);
    const isHistogram = new RegExp(`^# TYPE ${name} histogram$`, 'm').test(text);
    const found = [...values(text, isHistogram ? `${name}_count` : name).keys()];
    t.not(found.length, 0, `${name} has a value`);
    for (const own of found) t.same(namesIn(own).sort(), labels.toSorted(), name);
  }
});

t.test('the status says of SNAT what the metrics say', async (t) => {
  await until(
    async () => {
      const text = scrape();
      const { snat } = await agent.status();
      return (
        snat?.packets.out ===
        values(text, 'veg_snat_packets_total').get('policy="web",family="ipv4",direction="out"')
      );
    },
    { what: 'the same packets' },
  );
  const text = scrape();
  const { snat, policies } = await agent.status();
  t.equal(snat?.connections, sum(text, 'veg_snat_connections_total'));
  t.equal((snat?.bytes.out ?? 0) + (snat?.bytes.in ?? 0), sum(text, 'veg_snat_bytes_total'));
  t.match(
    policies.find(({ name }) => name === 'web'),
    { traffic: { connections: snat?.connections, bytes: snat?.bytes } },
  );
});

t.test(
  'counters go on where they were after an edit, reconciles, and the death of the agent process',
  async (t) => {
    const SETTLED = ['veg_snat_connections_total', 'veg_snat_bytes_total', 'veg_snat_port_exhaustion_total'];
    const GROWING = [
      'veg_translation_records_total',
      'kube_ovn_vpc_egress_gateway_conntrack_nat_flows_started_total',
    ];
    const before = scrape();
    const goOn = (what: string) => {
      const after = scrape();
      for (const name of SETTLED) t.equal(sum(after, name), sum(before, name), `${name} after ${what}`);
      for (const name of GROWING) t.ok(sum(after, name) >= sum(before, name), `${name} after ${what}`);
    };
    const more = { name: 'more', snat: false, ipBlocks: ['10.19.0.0/16'] };
    const { generation } = (await agent.status()).policy;
    policy.write({ 'gateway.yaml': gatewayPolicy({ ...spec, policies: [...spec.policies!, more] }) });
    await agent.statusUntil('the edit', (s) => s.policy.generation > generation && s.kernel.inSync);
    await agent.ask('POST', '/v1/reconcile');
    goOn('an edit and reconciles');
    const [child = ''] = gateway.run('pgrep', ['-P', `${agent.daemon.pid}`]).stdout.split('\n');
    process.kill(Number(child), 'SIGKILL');
    await until(() => values(scrape(), 'veg_translation_records_total').size > 0, { what: 'the log again' });
    goOn('a kill');
  },
);

t.test('promtool has nothing to say against a scrape', async (t) => {
  // The contract names it in bits, as bandwidth is written in a policy.
  const input = scrape().replaceAll(/^.*veg_bandwidth_limit_bits.*\n/gm, '');
  const { code, stdout, stderr } = gateway.run('promtool', ['check', 'metrics'], { input });
  t.same({ code, stdout, stderr }, { code: 0, stdout: '', stderr: '' });
});

// Dashboard and alerts -----------------------------------------------------------------------------------

const doc = (name: string): string => readFileSync(join(ROOT, 'docs', name), 'utf8');

interface Rule {
  alert: string;
  expr: string;
  labels: { severity: string };
  annotations: Record<'summary' | 'description' | 'runbook_url', string>;
}

interface Panel {
  id: number;
  type: string;
  title: string;
  gridPos: { x: number; y: number; w: number; h: number };
  datasource?: { uid: string };
  targets?: { expr: string; datasource: { uid: string } }[];
}

interface Dashboard {
  panels: Panel[];
  annotations: { list: { expr: string }[] };
  templating: { list: { name: string; query: string | { query: string } }[] };
}

const { groups } = parse(doc('dashboards/prometheus-rule.yaml')).spec as { groups: { rules: Rule[] }[] };
const rules = groups.flatMap((group) => group.rules);
const dashboard = JSON.parse(doc('dashboards/grafana.json')) as Dashboard;
const queries = [
  ...dashboard.panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr)),
  ...dashboard.annotations.list.map(({ expr }) => expr),
];

/** The metrics of ours that an expression names. */
const metricsIn = (expression: string): string[] => expression.match(/\b(veg|kube_ovn)_[a-z0-9_]+/g) ?? [];

t.test('the dashboard and the alerts name metrics and labels that a scrape has', async (t) => {
  await discardAndRepair();
  const text = scrape();
  const known = new Set(
    [...text.matchAll(/^# TYPE (\S+) (\w+)$/gm)].flatMap(([, name, type]) =>
      type === 'histogram' ? ['_bucket', '_sum', '_count'].map((suffix) => name + suffix) : [name!],
    ),
  );
  const variables = dashboard.templating.list.map(({ query }) =>
    typeof query === 'string' ? query : query.query,
  );
  const named = [...rules.map(({ expr }) => expr), ...queries, ...variables].flatMap(metricsIn);
  t.ok(named.length > 50);
  t.same(
    named.filter((name) => !known.has(name)),
    [],
  );
  const labels = new Set([...text.matchAll(/^\w+\{(.*)\} /gm)].flatMap(([, pairs]) => namesIn(pairs!)));
  // What the PodMonitor adds, and the label of a group's holder: there is none here.
  for (const label of ['namespace', 'pod', 'job', 'egress_gateway', 'le', 'address']) labels.add(label);
  const grouped = [...rules, ...queries.map((expr) => ({ expr }))].flatMap(({ expr }) =>
    [...expr.matchAll(/\b(?:by|on) \(([^)]*)\)/g)].flatMap(([, list]) => list!.split(', ')),
  );
  const matched = [...rules, ...queries.map((expr) => ({ expr }))].flatMap(({ expr }) =>
    namesIn(expr.replaceAll(/[=!]~|!=/g, '=')),
  );
  t.same(
    [...grouped, ...matched].filter((label) => !labels.has(label)),
    [],
  );
});

t.test('each alert says how bad it is, what it means, and where to read what to do', async (t) => {
  const headings = [...doc('operations.md').matchAll(/^#+ (.*)$/gm)].map(([, title]) => title!.toLowerCase());
  for (const { alert, labels, annotations } of rules) {
    t.match(labels.severity, /^(critical|warning|info)$/, alert);
    t.match(
      annotations,
      { summary: /\w/, description: /\w/, runbook_url: /^docs\/operations\.md#\w+$/ },
      alert,
    );
    t.ok(headings.includes(annotations.runbook_url.split('#')[1]!), annotations.runbook_url);
  }
});

t.test('promtool runs the alerts over what goes wrong and what does not', async (t) => {
  const directory = scope.directory('rules');
  writeFileSync(join(directory, 'rules.yaml'), stringify({ groups }));
  writeFileSync(join(directory, 'alerts.yaml'), readFileSync(join(ROOT, 'test/fixtures/alerts.yaml')));
  t.match(must('promtool', ['check', 'rules', '--lint-fatal', join(directory, 'rules.yaml')]), /SUCCESS/);
  t.match(must('promtool', ['test', 'rules', join(directory, 'alerts.yaml')]), /SUCCESS/);
  const fired = [...doc('../test/fixtures/alerts.yaml').matchAll(/\{alertname="(\w+)"\}/g)].map(
    ([, name]) => name!,
  );
  t.same(
    rules.map(({ alert }) => alert).filter((alert) => !fired.includes(alert)),
    [],
    'each of them is made to fire',
  );
});

t.test(
  'the dashboard can be imported: its queries parse, its panels have places and the chosen source',
  async (t) => {
    const recorded = queries.map((expr, i) => ({
      record: `query:${i}`,
      expr: expr.replaceAll('$__rate_interval', '5m').replaceAll(/\$\w+/g, '.*'),
    }));
    const file = join(scope.directory('queries'), 'queries.yaml');
    writeFileSync(file, stringify({ groups: [{ name: 'dashboard', rules: recorded }] }));
    t.match(must('promtool', ['check', 'rules', file]), /SUCCESS/);
    t.same(
      dashboard.templating.list.map(({ name }) => name),
      ['datasource', 'namespace', 'gateway', 'pod'],
    );
    const overlaps = ({ gridPos: a }: Panel, { gridPos: b }: Panel): boolean =>
      a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
    const { panels } = dashboard;
    t.same(
      panels.filter((panel) => panels.some((other) => other !== panel && overlaps(panel, other))),
      [],
    );
    for (const { type, title, datasource, targets = [] } of panels) {
      if (type === 'row') continue;
      t.not(targets.length, 0, title);
      for (const source of [datasource, ...targets.map((target) => target.datasource)]) {
        t.equal(source?.uid, '$' + '{datasource}', title);
      }
    }
    const ids = panels.map(({ id }) => id);
    t.equal(new Set(ids).size, ids.length);
  },
);

/** The labels that the PodMonitor gives to what it scrapes. */
const TARGET = { namespace: 'default', pod: 'gateway1-0', egress_gateway: 'gateway1' };

/** Prometheus beside the agent, which scrapes it every second and evaluates the alerts. */
async function startPrometheus() {
  const directory = scope.directory('prometheus');
  const files = { config: join(directory, 'prometheus.yaml'), rules: join(directory, 'rules.yaml') };
  writeFileSync(files.rules, stringify({ groups }));
  writeFileSync(
    files.config,
    stringify({
      global: { scrape_interval: '1s', evaluation_interval: '1s' },
      rule_files: [files.rules],
      scrape_configs: [
        {
          job_name: 'veg-agent',
          static_configs: [{ targets: ['127.0.0.1:10669'], labels: TARGET }],
        },
      ],
    }),
  );
  gateway.spawn(
    'prometheus',
    [
      `--config.file=${files.config}`,
      `--storage.tsdb.path=${join(directory, 'data')}`,
      '--web.listen-address=127.0.0.1:19090',
    ],
    { name: 'prometheus' },
  );
  /** The `data` of an answer of its API; undefined while it does not answer. */
  return (path: string, parameters: Record<string, string> = {}): unknown => {
    const encoded = Object.entries(parameters).flatMap(([name, value]) => [
      '--data-urlencode',
      `${name}=${value}`,
    ]);
    const url = `http://127.0.0.1:19090/api/v1/${path}`;
    const { stdout } = gateway.run('curl', ['-s', '-m', '5', '-G', ...encoded, url]);
    if (!stdout.startsWith('{')) return undefined;
    const { status, data, error } = JSON.parse(stdout);
    if (status !== 'success') throw new Error(`${JSON.stringify(parameters)}: ${error}`);
    return data;
  };
}

t.test('Prometheus runs the queries of the dashboard and the alerts over scrapes of the agent', async (t) => {
  const ask = await startPrometheus();
  const query = (expr: string) => ask('query', { query: expr }) as { result: unknown[] } | undefined;
  await until(() => query('count_over_time(veg_agent_build_info[1m]) > 5')?.result.length === 1, {
    what: 'scrapes',
  });
  await discardAndRepair();
  send(client, 'udp', ADDRESS.server[4], 10_000, 20, 2);
  await until(() => (query('increase(veg_agent_drift_repairs_total[1m]) > 0')?.result.length ?? 0) > 0, {
    what: 'the repair in a scrape',
  });
  const text = scrape();
  const hasSamples = (name: string) => values(text, name).size > 0;
  // Without a value in this gateway: a group, and what happens rarely.
  const maybeEmpty = (expr: string) => /[<>]|==/.test(expr) || !metricsIn(expr).every(hasSamples);
  let answered = 0;
  for (const expr of queries) {
    const asked = expr.replaceAll('$__rate_interval', '1m').replaceAll(/\$\w+/g, '.*');
    const { result } = query(asked)!;
    if (result.length > 0) answered++;
    else t.ok(maybeEmpty(expr), `no data: ${expr}`);
  }
  t.ok(answered > 40, `${answered} of ${queries.length} queries have data`);
  for (const { name, query: text } of dashboard.templating.list.slice(1)) {
    const [, metric = '', label = ''] =
      /^label_values\((.*), (\w+)\)$/.exec(typeof text === 'string' ? text : text.query) ?? [];
    const found = ask(`label/${label}/values`, { 'match[]': metric.replaceAll(/\$\w+/g, '.*') });
    t.same(found, [TARGET[label as keyof typeof TARGET]], name);
  }
  const { groups: evaluated } = ask('rules') as { groups: { rules: { name: string; health: string }[] }[] };
  const health = evaluated.flatMap((group) => group.rules);
  t.same(
    health.filter((rule) => rule.health !== 'ok'),
    [],
  );
  t.equal(health.length, rules.length);
});

t.test('the PodMonitor scrapes the port that rendered pods name', async (t) => {
  const [own, kubeOvn] = parseAllDocuments(doc('dashboards/pod-monitor.yaml')).map((document) =>
    document.toJS(),
  );
  const [, deployment] = parseAllDocuments(
    readFileSync(join(ROOT, 'images/kubernetes/gateway.yaml'), 'utf8'),
  ).map((document) => document.toJS());
  const { template } = deployment.spec;
  const { matchLabels } = own.spec.selector;
  t.match(template.metadata.labels, matchLabels);
  t.match(template.spec.containers[0].ports, [
    { name: own.spec.podMetricsEndpoints[0].port, containerPort: 10669 },
  ]);
  t.match(kubeOvn.kind, 'PodMonitor');
});
