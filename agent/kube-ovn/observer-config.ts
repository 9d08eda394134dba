/**
 * The configuration that Kube-OVN's controller writes for a gateway's observer: `config.json` with the gateway's name
 * and the `observability` of its spec. Pure.
 */

import { DEFAULT_TOKENS } from '../policy/bounds.ts';
import { readDocuments } from '../policy/documents.ts';
import { formatError } from '../policy/error-text.ts';
import { KUBE_OVN } from '../policy/kinds.ts';
import type { VpcEgressGatewayResource } from '../policy/kube-ovn/gateway.ts';
import type { Policy, PolicyError, PolicyFile } from '../policy/model.ts';
import { KUBE_OVN_BFD } from '../policy/resolve.ts';
import { translateTranslationLog } from '../policy/translation-log.ts';
import type { Unreadable } from '../policy/watch.ts';

export interface ObserverConfig {
  /** The gateway's name and its log; it programs nothing. */
  policy: Policy;
  /** Counters of the interfaces are wanted. */
  interfaces: boolean;
  /** The network attachment of the external interface, `namespace/name`. */
  externalNetwork: string;
}

interface Written {
  namespace?: unknown;
  name?: unknown;
  externalNetwork?: unknown;
  observability?: null | {
    interfaceMetrics?: { enabled?: boolean };
    conntrack?: { metrics?: { enabled?: boolean }; log?: object };
  };
}

/** Reads the configuration among the files of its directory. */
export function readObserverConfig(
  files: readonly PolicyFile[] | Unreadable,
): ObserverConfig | { problem: string } {
  if ('unreadable' in files) return { problem: `${files.path} ${files.unreadable}` };
  const file = files.find(({ name }) => name === 'config.json');
  if (file === undefined) return { problem: 'there is no config.json' };
  if (file.problem !== undefined) return { problem: `config.json ${file.problem}` };
  try {
    return readConfig(JSON.parse(file.text));
  } catch (error) {
    // Not JSON, or nested too deeply.
    return { problem: `config.json: ${(error as Error).message}` };
  }
}

function readConfig(written: unknown): ObserverConfig | { problem: string } {
  if (typeof written !== 'object' || written === null || Array.isArray(written)) {
    return { problem: 'config.json: must be an object' };
  }
  const { namespace, name, externalNetwork } = written as Written;
  // As for Kube-OVN's controller, null means absent.
  const observability = (written as Written).observability ?? {};
  if (typeof namespace !== 'string' || typeof name !== 'string' || typeof externalNetwork !== 'string') {
    return { problem: 'config.json: namespace, name and externalNetwork must be there' };
  }
  // The schema of the resource validates its part.
  const resource = {
    apiVersion: KUBE_OVN,
    kind: 'VpcEgressGateway',
    metadata: { namespace, name },
    spec: { externalSubnet: 'external', observability },
  };
  const errors: PolicyError[] = [];
  const text = JSON.stringify(resource);
  const [document] = readDocuments([{ name: 'config.json', text }], errors, {
    tokens: DEFAULT_TOKENS,
  }).documents;
  if (document === undefined || errors.length > 0) return { problem: errors.map(formatError).join('; ') };
  const path = ['spec', 'observability', 'conntrack', 'log'];
  const { spec } = document.value as VpcEgressGatewayResource;
  const log = translateTranslationLog(document, path, spec?.observability?.conntrack?.log);
  if (errors.length > 0) return { problem: errors.map(formatError).join('; ') };
  // Metrics without a log are a log without events.
  const metrics = observability.conntrack?.metrics?.enabled === true;
  const silent = {
    events: [],
    rateLimit: { recordsPerSecond: 1, burst: 1 },
    filters: { include: [], exclude: [] },
  };
  const translationLog = log ?? (metrics ? silent : undefined);
  return {
    policy: {
      name: `${namespace}/${name}`,
      origin: document.origin,
      internal: { gateways: [] },
      external: { gateways: [] },
      bfd: { enabled: false, peers: [], minTX: 1000, minRX: 1000, multiplier: 3, ...KUBE_OVN_BFD },
      rules: [],
      ...(translationLog && { translationLog }),
      warnings: [],
    },
    interfaces: observability.interfaceMetrics?.enabled === true,
    externalNetwork,
  };
}
