/**
 * The program of the observer container that Kube-OVN 1.16 puts beside a gateway (images/gateway): its configuration
 * in, flow records on stdout and metrics on port 10666, as Kube-OVN's own observer has them. It reads conntrack and
 * changes nothing.
 *
 *     kube-ovn-observer.js --config FILE --network-status FILE [--listen-address HOST:PORT]
 */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { Counter, Registry } from 'prom-client';
import { makeOwnDirectory, readMounted } from '../../lib/files.ts';
import { HttpServer } from '../../lib/http-server.ts';
import { unblockSignal } from '../../lib/libc.ts';
import { createLog } from '../../lib/log.ts';
import { LogOnChange } from '../../lib/log-on-change.ts';
import { reapOrphans } from '../../lib/reaper.ts';
import { onSignals } from '../../lib/signals.ts';
import { Translations } from '../flows/translations.ts';
import { EXIT, parseListen } from '../options.ts';
import { MAX_NETWORK_STATUS } from '../pod/facts.ts';
import { parseNetworkStatus } from '../pod/interfaces.ts';
import { type PolicySource, watchPolicy } from '../policy/watch.ts';
import { answerOf, HTTP_LIMITS, listenable, shareMetrics } from '../show/http.ts';
import { readObserverConfig } from './observer-config.ts';
import { ObserverCounts } from './observer-counts.ts';
import { addKubeOvnMetrics, interfaceCounters } from './observer-metrics.ts';

/** The only writable directory. It is the pod's: counters continue when the container restarts. */
const MEMORY = '/dev/shm';

/** Prints what is wrong with the command line, and exits. */
function refuse(problem: string): never {
  process.stderr.write(`kube-ovn-observer: ${problem}\n`);
  process.exit(EXIT.usage);
}

function flags() {
  try {
    return parseArgs({
      options: {
        config: { type: 'string', default: '/etc/kube-ovn-observer/config.json' },
        'network-status': { type: 'string', default: '/etc/podinfo/network-status' },
        'listen-address': { type: 'string', default: ':10666' },
      },
    }).values;
  } catch (error) {
    return refuse((error as Error).message);
  }
}

const values = flags();
const { host, port } =
  parseListen(values['listen-address']) ??
  refuse(
    `--listen-address must be ADDR:PORT, [ADDR]:PORT or :PORT, is ${JSON.stringify(values['listen-address'])}`,
  );
const { logger, flush } = await createLog({ level: 'info', format: 'json', component: 'observer' });

// One directory for each listening observer.
const stateDir = join(MEMORY, `veg-agent-observer-${port}`);
makeOwnDirectory(stateDir);
const translations = new Translations({
  stateDir,
  pod: process.env.POD_NAME ?? '',
  node: process.env.NODE_NAME ?? '',
  logger,
});
const INTERFACE_ERROR = 'interface collect';
const counts = new ObserverCounts(join(stateDir, 'counts.json'), ['success', 'error', INTERFACE_ERROR]);
let wanted = { interfaces: false, externalNetwork: '' };

/** The interfaces that Multus names. Throws when it names none, or they do not exist. */
function findInterfaces(): { internal: string; external: string } {
  const status = parseNetworkStatus(readMounted(values['network-status'], MAX_NETWORK_STATUS).toString());
  if ('problem' in status) throw new Error(`${values['network-status']}: ${status.problem}`);
  const primary = status.networks.find((network) => network.default);
  // With Kube-OVN as a secondary CNI the default network is another's, and a third is the internal one.
  const third = status.networks.find(
    (network) => !network.default && network.name !== wanted.externalNetwork,
  );
  const isKubeOvn = primary?.name === 'kube-ovn' || primary?.name === '';
  const internal = (isKubeOvn ? primary : (third ?? primary))?.interface;
  const external = status.networks.find(({ name }) => name === wanted.externalNetwork)?.interface;
  if (!internal || !external) {
    throw new Error(
      `${values['network-status']} does not name the interface of ${wanted.externalNetwork} and the internal one`,
    );
  }
  const counters = readFileSync('/proc/net/dev', 'utf8');
  for (const name of [internal, external]) {
    if (interfaceCounters(counters, name) === undefined) throw new Error(`${name} does not exist`);
  }
  return { internal, external };
}

/** As of the last scrape. */
let interfaces: ReturnType<typeof findInterfaces> | undefined;
const interfaceFailures = new LogOnChange();

/** Finds the interfaces before each scrape: Multus' annotation may come late. */
function updateInterfaces(): void {
  interfaces = undefined;
  if (!wanted.interfaces) return;
  try {
    interfaces = findInterfaces();
    interfaceFailures.ended();
  } catch (error) {
    counts.add(INTERFACE_ERROR);
    const { message: reason } = error as Error;
    if (interfaceFailures.isNew(reason)) logger.error({ reason }, 'cannot read the interface counters');
  }
}

const registry = new Registry();
new Counter({
  name: 'kube_ovn_vpc_egress_gateway_observability_config_reload_total',
  help: 'How often the configuration was read, by result.',
  labelNames: ['namespace', 'name', 'pod', 'node', 'result'],
  registers: [registry],
  collect() {
    this.reset();
    for (const result of ['success', 'error'] as const) {
      if (counts.of(result) > 0) this.inc({ ...translations.identity, result }, counts.of(result));
    }
  },
});
new Counter({
  name: 'kube_ovn_vpc_egress_gateway_observability_errors_total',
  help: 'What a collector could not do.',
  labelNames: ['namespace', 'name', 'pod', 'node', 'collector', 'operation'],
  registers: [registry],
  collect() {
    this.reset();
    const labels = { ...translations.identity, collector: 'interface', operation: 'collect' };
    if (counts.of(INTERFACE_ERROR) > 0) this.inc(labels, counts.of(INTERFACE_ERROR));
  },
});
addKubeOvnMetrics(registry, {
  snapshot: () => translations.snapshot,
  identity: () => translations.identity,
  interfaces: () => interfaces,
});

/** Applies a configuration; an invalid one changes nothing. */
function configure(files: PolicySource): void {
  const config = readObserverConfig(files);
  if ('problem' in config) {
    counts.add('error');
    logger.error({ reason: config.problem }, 'invalid configuration; the last one stays in force');
    return;
  }
  wanted = { interfaces: config.interfaces, externalNetwork: config.externalNetwork };
  translations.onPolicy(config.policy);
  counts.add('success');
  logger.info({ config: config.policy.name, log: config.policy.translationLog ?? null }, 'configured');
}

const watch = watchPolicy(dirname(values.config), configure);
configure(watch.read());

const TEXT = 'text/plain; charset=utf-8';
const metrics = shareMetrics(async () => {
  updateInterfaces();
  return { type: registry.contentType, body: await registry.metrics() };
});
const http = new HttpServer({
  limits: HTTP_LIMITS,
  log: logger,
  async handle({ method, url }) {
    if (method !== 'GET') return answerOf(405, TEXT, 'method not allowed\n', { Allow: 'GET' });
    if (url === '/healthz') return answerOf(200, TEXT, 'ok\n');
    if (url !== '/metrics') return answerOf(404, TEXT, 'not found\n');
    const { type, body } = await metrics();
    return answerOf(200, type, body);
  },
});
await http.listen(listenable(host), port).catch((error: Error) => {
  logger.fatal({ err: error }, 'cannot listen');
  flush();
  process.exit(EXIT.failed);
});

async function stop(): Promise<void> {
  watch.close();
  await http.close();
  await translations.stop();
}
/** Stops and exits, whether or not all records were written. */
function end(): void {
  stop()
    .catch((error: unknown) => logger.error({ err: error }, 'stopping failed'))
    .finally(() => {
      flush();
      process.exit(0);
    });
}
// SIGHUP and SIGUSR1 are ignored.
onSignals({ SIGTERM: end, SIGINT: end }, unblockSignal);
reapOrphans();
