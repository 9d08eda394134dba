/**
 * `veg-agent render`: from a VpcEgressGateway with its Subnets and Vpc to what runs it without Kube-OVN's controller
 * for it: Kubernetes resources, the commands for OVN, and FRR's configuration (also of a GatewayPolicy).
 */
import { createHash } from 'node:crypto';
import { type Address, mappedIPv4, parseAddress } from '../../lib/prefix.ts';
import { VERSION } from '../../lib/version.ts';
import { readPassword } from '../bgp/password-file.ts';
import { EXIT, UsageError } from '../options.ts';
import { readDocuments } from '../policy/documents.ts';
import { formatError } from '../policy/error-text.ts';
import { loadPolicy } from '../policy/load.ts';
import type { Policy, PolicyFile } from '../policy/model.ts';
import { affordableTokens, COMMAND_HEAP, readPolicy } from '../policy/watch.ts';
import { chooseGateway, withoutOthers } from '../render/choose.ts';
import { renderFrr } from '../render/frr.ts';
import { type Gateway, RenderError, readGateway } from '../render/gateway.ts';
import { withGroup } from '../render/group.ts';
import { renderKubernetes } from '../render/kubernetes.ts';
import { renderOvn } from '../render/ovn.ts';

export const RENDERED = ['kubernetes', 'ovn', 'frr'] as const;

export interface RenderOptions {
  what: (typeof RENDERED)[number];
  /** Files and directories with documents; `-` is standard input. */
  paths: readonly string[];
  /** `NAMESPACE/NAME`, of several. */
  gateway?: string;
  /** Over `spec.image`. */
  image?: string;
  /** Of FRR's container (kubernetes). */
  frrImage?: string;
  serviceMonitor: boolean;
  /** What the replicas share as a group (kubernetes). */
  sharedAddresses: readonly string[];
  /** Of frr: what is accepted, and whether passwords are left to whoever starts FRR. */
  frr: { acceptDefault: boolean; placeholders: boolean };
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
  frrImage,
  serviceMonitor,
  sharedAddresses,
  frr,
}: RenderOptions): number {
  const shared = sharedAddresses.map(sharedAddress);
  if (what !== 'kubernetes' && shared.length > 0)
    throw new UsageError('--shared-address goes with kubernetes');
  if (what !== 'kubernetes' && frrImage !== undefined)
    throw new UsageError('--frr-image goes with kubernetes');
  const files: PolicyFile[] = [];
  for (const path of paths) {
    const source = readPolicy(path);
    if ('unreadable' in source) {
      complain(`${source.path} ${source.unreadable}`);
      return EXIT.failed;
    }
    files.push(...source);
  }
  try {
    if (what === 'frr') return printFrr(files, chosen, frr);
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
            ...frrImageOf(gateway, frrImage),
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

/** FRR's configuration needs the policy alone. Throws `RenderError`. */
function printFrr(
  files: readonly PolicyFile[],
  chosen: string | undefined,
  { acceptDefault, placeholders }: RenderOptions['frr'],
): number {
  const tokens = affordableTokens(COMMAND_HEAP);
  const policy = validPolicy(files, tokens, chooseGateway(readDocuments(files, [], { tokens }), chosen));
  if (policy === undefined) return EXIT.policyInvalid;
  const text = renderFrr(policy, {
    acceptDefault,
    passwordOf: ({ address, password }) => {
      if (password === undefined || 'text' in password) return password?.text;
      return placeholders ? `@${password.file}@` : passwordIn(password.file, address);
    },
  });
  for (const { message } of policy.warnings) complain(`warning: ${message}`);
  if (acceptDefault && policy.evpn !== undefined) {
    complain(
      'warning: --accept-default-route has no effect with EVPN: the route targets decide what is accepted',
    );
  }
  process.stdout.write(text);
  return EXIT.ok;
}

/** Throws `RenderError`. */
function passwordIn(path: string, neighbour: Address): string {
  try {
    return readPassword(path);
  } catch (error) {
    throw new RenderError(
      `the password of neighbour ${neighbour}: ${(error as Error).message}; render where the file is, or with --password-placeholders`,
    );
  }
}

/** The policy of the documents; undefined if they are invalid: what is wrong is on stderr. */
function validPolicy(
  files: readonly PolicyFile[],
  tokens: number,
  name: string | undefined,
): Policy | undefined {
  const result = loadPolicy(files, tokens, { chosen: name });
  if (result.ok) return result.policy;
  for (const error of result.errors) process.stderr.write(`${formatError(error)}\n`);
  return undefined;
}

/**
 * The gateway that documents describe; undefined if they are invalid: what is wrong is on stderr. Throws `RenderError`. The
 * documents as objects end with this function: there is no room for them beside what is rendered.
 */
function gatewayOf(files: readonly PolicyFile[], chosen: string | undefined): Gateway | undefined {
  const tokens = affordableTokens(COMMAND_HEAP);
  const set = readDocuments(files, [], { tokens });
  const name = chooseGateway(set, chosen);
  const policy = validPolicy(files, tokens, name);
  if (policy === undefined) return undefined;
  const read = files.filter(({ ignored }) => !ignored);
  return readGateway(policy, set, name === undefined ? read : withoutOthers(read, name));
}

function sharedAddress(text: string): Address {
  const address = parseAddress(text);
  const mapped = address && mappedIPv4(address);
  if (address !== undefined && mapped === undefined) return address;
  const hint = mapped === undefined ? '' : `: it is IPv4-mapped, write ${mapped}`;
  throw new UsageError(`--shared-address takes an IP address, not ${JSON.stringify(text)}${hint}`);
}

function imageOf(named: string | undefined): string {
  if (named) return named;
  throw new UsageError(
    `give the image as the nodes can pull it: --image registry.example/veg-agent:${VERSION}, or spec.image`,
  );
}

/** FRR's image where the gateway has BGP. Throws `UsageError`. */
function frrImageOf({ policy }: Gateway, named: string | undefined): { frrImage?: string } {
  if (policy.bgp === undefined) {
    if (named !== undefined) complain('warning: --frr-image has no effect: the gateway has no bgpConf');
    return {};
  }
  if (named) return { frrImage: named };
  throw new UsageError(
    "the gateway has BGP: give FRR's image as the nodes can pull it, such as --frr-image registry.example/veg-frr:10.3 (images/frr builds it)",
  );
}
