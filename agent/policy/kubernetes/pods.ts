/** What is known of a pod from its `Pod` document. Pure. */
import { hostPrefix, type Prefix, parseAddress } from '../../../lib/prefix.ts';

export type Labels = Readonly<Record<string, string>>;

export interface Pod {
  namespace: string;
  labels: Labels;
  addresses: readonly Prefix[];
}

interface PodResource {
  metadata?: { namespace?: string; labels?: Labels };
  spec?: { hostNetwork?: boolean };
  status?: { phase?: string; podIP?: string; podIPs?: ({ ip?: string } | undefined)[] };
}

/** Pods that ended have no address any more, and those of the host network have that of their node. */
export function podOf({ metadata, spec, status }: PodResource): Pod {
  const over = status?.phase === 'Succeeded' || status?.phase === 'Failed';
  const texts = status?.podIPs?.map((one) => one?.ip) ?? [status?.podIP];
  const addresses = texts.flatMap((text) => (text ? [hostPrefix(parseAddress(text)!)] : []));
  return {
    namespace: metadata?.namespace ?? 'default',
    labels: metadata?.labels ?? {},
    addresses: over || spec?.hostNetwork ? [] : addresses,
  };
}
