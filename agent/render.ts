/**
 * `veg-agent render`: from a VpcEgressGateway with its Subnets and Vpc to what runs it without Kube-OVN's controller
 * for it: Kubernetes resources, and the commands for OVN.
 */
import { createHash } from 'node:crypto';
import { VERSION } from '../bfd/version.ts';
import { EXIT } from './options.ts';
import { readDocuments } from './policy/documents.ts';
import { formatError, loadPolicy } from './policy/load.ts';
import type { PolicyFile } from './policy/model.ts';
import { DEFAULT_TOKENS } from './policy/parse.ts';
import { RenderError, readGateway } from './render/gateway.ts';
import { renderKubernetes } from './render/kubernetes.ts';
import { renderOvn } from './render/ovn.ts';
import { readPolicy } from './watch.ts';

export const RENDERED = ['kubernetes', 'ovn'] as const;

export interface RenderOptions {
  what: (typeof RENDERED)[number];
  /** Files and directories with documents. */
  paths: readonly string[];
  /** Over `spec.image`. */
  image?: string;
  serviceMonitor: boolean;
}

const complain = (text: string): void => void process.stderr.write(`veg-agent: ${text}\n`);

/** 0 rendered; 1 cannot be read or rendered; 3 the documents are invalid. */
export function render({ what, paths, image, serviceMonitor }: RenderOptions): number {
  const files: PolicyFile[] = [];
  for (const path of paths) {
    const source = readPolicy(path);
    if ('unreadable' in source) {
      complain(source.unreadable);
      return EXIT.failed;
    }
    files.push(...source);
  }
  const result = loadPolicy(files);
  if (!result.ok) {
    for (const error of result.errors) process.stderr.write(`${formatError(error)}\n`);
    return EXIT.policyInvalid;
  }
  try {
    const set = readDocuments(files, [], { tokens: DEFAULT_TOKENS });
    const gateway = readGateway(result.policy, set, files);
    for (const warning of [...gateway.policy.warnings.map(({ message }) => message), ...gateway.warnings]) {
      complain(`warning: ${warning}`);
    }
    const text =
      what === 'ovn'
        ? renderOvn(gateway, (key) => createHash('sha256').update(key).digest('hex'))
        : renderKubernetes(gateway, {
            image: image ?? gateway.image ?? `veg-agent:${VERSION}`,
            serviceMonitor,
          });
    process.stdout.write(text);
    return EXIT.ok;
  } catch (error) {
    if (!(error instanceof RenderError)) throw error;
    complain(error.message);
    return EXIT.failed;
  }
}
