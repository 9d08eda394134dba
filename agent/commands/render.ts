/**
 * `veg-agent render`: from a VpcEgressGateway with its Subnets and Vpc to what runs it without Kube-OVN's controller
 * for it: Kubernetes resources, and the commands for OVN.
 */
import { createHash } from 'node:crypto';
import { type Address, parseAddress } from '../../lib/prefix.ts';
import { VERSION } from '../../lib/version.ts';
import { EXIT, UsageError } from '../options.ts';
import { readDocuments } from '../policy/documents.ts';
import { formatError } from '../policy/error-text.ts';
import { loadPolicy } from '../policy/load.ts';
import type { PolicyFile } from '../policy/model.ts';
import { affordableTokens, COMMAND_HEAP, readPolicy } from '../policy/watch.ts';
import { chooseGateway, withoutOthers } from '../render/choose.ts';
import { type Gateway, RenderError, readGateway } from '../render/gateway.ts';
import { withGroup } from '../render/group.ts';
import { renderKubernetes } from '../render/kubernetes.ts';
import { renderOvn } from '../render/ovn.ts';

export const RENDERED = ['kubernetes', 'ovn'] as const;

export interface RenderOptions {
  what: (typeof RENDERED)[number];
  /** Files and directories with documents; `-` is standard input. */
  paths: readonly string[];
  /** `NAMESPACE/NAME`, of several. */
  gateway?: string;
  /** Over `spec.image`. */
  image?: string;
  serviceMonitor: boolean;
  /** What the replicas share as a group (kubernetes). */
  sharedAddresses: readonly string[];
}

const complain = (text: string): void => void process.stderr.write(`veg-agent: ${text}\n`);
const hash = (text: string): string => createHash('sha256').update(text).digest('hex');

/**
 * 0 rendered; 1 cannot be read or rendered; 3 the documents are invalid. Throws `UsageError` without an
 * image: a default name without a registry would be pulled from a public one.
 */
export function render({
  what,
  paths,
  gateway: chosen,
  image,
  serviceMonitor,
  sharedAddresses,
}: RenderOptions): number {
  const shared = sharedAddresses.map(sharedAddress);
  if (what === 'ovn' && shared.length > 0) throw new UsageError('--shared-address goes with kubernetes');
  const files: PolicyFile[] = [];
  for (const path of paths) {
    const source = readPolicy(path);
    if ('unreadable' in source) {
      complain(source.unreadable);
      return EXIT.failed;
    }
    files.push(...source);
  }
  try {
    const single = gatewayOf(files, chosen);
    if (single === undefined) return EXIT.policyInvalid;
    const gateway = shared.length > 0 ? withGroup(single, shared) : single;
    for (const warning of [...gateway.policy.warnings.map(({ message }) => message), ...gateway.warnings]) {
      complain(`warning: ${warning}`);
    }
    process.stdout.write(
      what === 'ovn'
        ? renderOvn(gateway, hash)
        : renderKubernetes(gateway, {
            image: imageOf(image ?? gateway.image),
            ...{ serviceMonitor, hash, isGroup: shared.length > 0 },
          }),
    );
    return EXIT.ok;
  } catch (error) {
    if (!(error instanceof RenderError)) throw error;
    complain(error.message);
    return EXIT.failed;
  }
}

/**
 * The gateway that documents describe; undefined if they are invalid: what is wrong is on stderr. Throws `RenderError`. The
 * documents as objects end with this function: there is no room for them beside what is rendered.
 */
function gatewayOf(files: readonly PolicyFile[], chosen: string | undefined): Gateway | undefined {
  const tokens = affordableTokens(COMMAND_HEAP);
  const set = readDocuments(files, [], { tokens });
  const name = chooseGateway(set, chosen);
  const result = loadPolicy(files, tokens, name);
  if (!result.ok) {
    for (const error of result.errors) process.stderr.write(`${formatError(error)}\n`);
    return undefined;
  }
  const read = files.filter(({ ignored }) => !ignored);
  return readGateway(result.policy, set, name === undefined ? read : withoutOthers(read, name));
}

function sharedAddress(text: string): Address {
  const address = parseAddress(text);
  if (address !== undefined) return address;
  throw new UsageError(`--shared-address takes an IP address, not ${JSON.stringify(text)}`);
}

function imageOf(named: string | undefined): string {
  if (named) return named;
  throw new UsageError(
    `give the image as the nodes can pull it: --image registry.example/veg-agent:${VERSION}, or spec.image`,
  );
}
