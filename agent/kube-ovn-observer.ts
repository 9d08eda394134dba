/**
 * The program of the observer container that Kube-OVN 1.16 puts beside a gateway (images/gateway): its configuration
 * in, flow records on stdout and metrics on port 10666, as Kube-OVN's own observer has them. It reads conntrack and
 * changes nothing.
 *
 *     kube-ovn-observer.js --config FILE --network-status FILE [--listen-address HOST:PORT]
 */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { Counter, Registry } from 'prom-client';
import { listenable } from './http.ts';
import { parseNetworkStatus } from './interfaces.ts';
import { addKubeOvnMetrics, interfaceCounters } from './kube-ovn-metrics.ts';
import { createLog } from './log.ts';
import { readObserverConfig } from './observer-config.ts';
import { parseListen } from './options.ts';
import type { PolicyFile } from './policy/model.ts';
import { Translations } from './translations.ts';
import { watchPolicy } from './watch.ts';

/** Its file system is read-only but for this directory, and what it keeps need not outlive it. */
const MEMORY = '/dev/shm';
const LIMITS = { maxHeaderSize: 8192, headersTimeout: 5000, requestTimeout: 10_000, keepAliveTimeout: 5000 };

const { values } = parseArgs({
  options: {
    config: { type: 'string', default: '/etc/kube-ovn-observer/config.json' },
    'network-status': { type: 'string', default: '/etc/podinfo/network-status' },
    'listen-address': { type: 'string', default: ':10666' },
  },
});
const { host, port } = parseListen(values['listen-address']) ?? { host: '::', port: 10_666 };
const { logger, flush } = await createLog({ level: 'info', format: 'json', component: 'observer' });

const translations = new Translations({
  // Two of them at once are two that listen.
  stateDir: join(MEMORY, `veg-agent-observer-${port}`),
  pod: process.env.POD_NAME ?? '',
  node: process.env.NODE_NAME ?? '',
  logger,
});
let wanted = { interfaces: false, externalNetwork: '' };

/** The interfaces, as Multus names them. Throws when it does not, or they are not there. */
function findInterfaces(): { internal: string; external: string } {
  const status = parseNetworkStatus(readFileSync(values['network-status'], 'utf8'));
  if ('problem' in status) throw new Error(`${values['network-status']}: ${status.problem}`);
  const internal = status.networks.find((network) => network.default)?.interface;
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
let trouble = '';

/** Looks for the interfaces before each scrape: Multus' annotation may come late. */
function lookForInterfaces(): void {
  interfaces = undefined;
  if (!wanted.interfaces) return;
  try {
    interfaces = findInterfaces();
    trouble = '';
  } catch (error) {
    errors.inc({ ...translations.identity, collector: 'interface', operation: 'collect' });
    const { message } = error as Error;
    if (message !== trouble) logger.error({ problem: message }, 'the interfaces cannot be counted');
    trouble = message;
  }
}

const registry = new Registry();
const reloads = new Counter({
  name: 'kube_ovn_vpc_egress_gateway_observability_config_reload_total',
  help: 'How often the configuration was read, by result.',
  labelNames: ['namespace', 'name', 'pod', 'node', 'result'],
  registers: [registry],
});
const errors = new Counter({
  name: 'kube_ovn_vpc_egress_gateway_observability_errors_total',
  help: 'What a collector could not do.',
  labelNames: ['namespace', 'name', 'pod', 'node', 'collector', 'operation'],
  registers: [registry],
});
addKubeOvnMetrics(registry, {
  snapshot: () => translations.snapshot,
  identity: () => translations.identity,
  interfaces: () => interfaces,
});

/** Puts a configuration in force; one that cannot be used changes nothing. */
function take(files: PolicyFile[] | { unreadable: string }): void {
  const config = readObserverConfig(files);
  if ('problem' in config) {
    reloads.inc({ ...translations.identity, result: 'error' });
    logger.error(
      { problem: config.problem },
      'the configuration cannot be used; the last one stays in force',
    );
    return;
  }
  wanted = { interfaces: config.interfaces, externalNetwork: config.externalNetwork };
  translations.onPolicy(config.policy);
  reloads.inc({ ...translations.identity, result: 'success' });
  logger.info({ config: config.policy.name, log: config.policy.translationLog ?? null }, 'configured');
}

const watch = watchPolicy(dirname(values.config), take);
take(watch.read());

const server = createServer(LIMITS, (request, response) => {
  const reply = (status: number, body: string, type = 'text/plain; charset=utf-8') => {
    response.writeHead(status, { 'Content-Type': type });
    response.end(body);
  };
  request.resume();
  if (request.method !== 'GET') reply(405, 'method not allowed\n');
  else if (request.url === '/healthz') reply(200, 'ok\n');
  else if (request.url !== '/metrics') reply(404, 'not found\n');
  else {
    lookForInterfaces();
    registry
      .metrics()
      .then((body) => reply(200, body, registry.contentType))
      .catch((error: unknown) => {
        logger.error({ err: error }, 'cannot answer an HTTP request');
        response.destroy();
      });
  }
});
server.maxConnections = 64;
server.on('error', (error) => {
  logger.fatal({ err: error }, 'cannot listen');
  flush();
  process.exit(1);
});
server.listen({ host: listenable(host), port });

async function stop(): Promise<void> {
  watch.close();
  server.close();
  await translations.stop();
}
/** Ends, whether or not all was handed on. */
function end(): void {
  stop()
    .catch((error: unknown) => logger.error({ err: error }, 'the end did not go as it should'))
    .finally(() => {
      flush();
      process.exit(0);
    });
}
process.on('SIGTERM', end);
process.on('SIGINT', end);
