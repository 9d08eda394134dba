/** The unused fields of documents. Pure. */

/** All of a field; of its own fields these; or all of them but these. */
export type Unread = 'all' | { only: readonly string[] } | { except: readonly string[] };

/** Of a resource, by field. */
type Parts = Readonly<Record<string, Unread>>;

/** What Kubernetes and its tools write for themselves. */
const META: Unread = { only: ['annotations', 'managedFields', 'ownerReferences'] };
const ANY: Parts = { metadata: META };
const NAME: Unread = { except: ['name', 'namespace'] };

const PARTS: Readonly<Record<string, Parts>> = {
  'v1 Pod': {
    metadata: { except: ['name', 'namespace', 'labels'] },
    spec: { except: ['nodeName', 'hostNetwork'] },
    status: { except: ['phase', 'podIP', 'podIPs'] },
  },
  'v1 Namespace': { metadata: { except: ['name', 'labels'] }, spec: 'all', status: 'all' },
  'k8s.cni.cncf.io/v1 NetworkAttachmentDefinition': { metadata: NAME, spec: 'all' },
  'kubeovn.io/v1 Subnet': { metadata: META, status: 'all' },
  'kubeovn.io/v1 IPPool': { metadata: META, status: 'all' },
  'kubeovn.io/v1 VpcEgressGateway': { metadata: META, status: 'all' },
};

/** The unused fields of a resource; of an unknown kind those that all kinds have. */
export const unreadOf = (apiVersion: string, kind: string): Parts => PARTS[`${apiVersion} ${kind}`] ?? ANY;

/** Whether a field is among those. */
export function leavesOut(unread: Unread, field: string): boolean {
  if (unread === 'all') return true;
  return 'only' in unread ? unread.only.includes(field) : !unread.except.includes(field);
}
