/**
 * From the text of the policy files to the policy, or to everything that is wrong with them at once. Pure.
 *
 * Files → documents (parse.ts, validate.ts) → the one gateway among them → its translator → `Policy`.
 */
import { bandwidthWarnings, checkLimits } from './bandwidth.ts';
import { bgpWarnings, checkForeign } from './bgp.ts';
import { DEFAULT_TOKENS } from './bounds.ts';
import { addDeckhouse } from './deckhouse/policy.ts';
import { type PolicyDocument, readDocuments } from './documents.ts';
import { evpnWarnings } from './evpn.ts';
import { checkFastPath, fastPathWarnings } from './fast-path.ts';
import { translateGatewayPolicy } from './gateway-policy/policy.ts';
import { checkNotShared } from './gateway-policy/port-blocks.ts';
import { Inbound } from './inbound.ts';
import { failNeighbour, readBgpConfs, readEvpnConfs } from './kube-ovn/bgp.ts';
import { readNetwork, translateVpcEgressGateway } from './kube-ovn/gateway.ts';
import { addKubeOvnNat } from './kube-ovn/nat.ts';
import { Pods } from './kubernetes/selectors.ts';
import type { Policy, PolicyError, PolicyFile, PolicyResult, PolicyWarning } from './model.ts';
import type { Path } from './parse.ts';
import { quote } from './quote.ts';
import { policyWarnings, programmedFamilies } from './resolve.ts';
import { addSpidernet } from './spidernet/policy.ts';
import { warningPlace } from './warning-place.ts';

/** The kinds that define the two sides; a directory holds one of them. */
const GATEWAYS = ['GatewayPolicy', 'VpcEgressGateway'];

/** Errors that are reported at most. */
const MAX_ERRORS = 500;

export interface LoadOptions {
  /** `NAMESPACE/NAME`: other gateways are ignored. */
  chosen?: string | undefined;
  /** Checks the files that a policy names. */
  inspect?(policy: Policy): { path: Path; message: string }[];
  /** Warnings have their places. A large document is parsed again for it. */
  places?: boolean;
}

/**
 * Reads all policy files. The errors of all of them come in the order of the files and, in a file, of its
 * lines. `maxTokens` bounds the memory that reading takes, see `Budget`. Never throws.
 */
export function loadPolicy(
  files: readonly PolicyFile[],
  maxTokens = DEFAULT_TOKENS,
  { chosen, inspect = () => [], places = false }: LoadOptions = {},
): PolicyResult {
  const errors: PolicyError[] = [];
  const ignored = ignoredFiles(files);
  const failDirectory = (message: string) => {
    const hint = ignored === undefined ? '' : `; ${ignored}`;
    errors.push({ file: '.', line: 0, col: 0, path: '', message: `${message}${hint}` });
  };
  const isEmpty = files.every((file) => file.ignored);
  if (isEmpty) failDirectory('no policy: the directory holds no .yaml, .yml or .json file');
  const set = readDocuments(files, errors, { tokens: maxTokens });
  const network = readNetwork(set);
  const pods = new Pods(set);
  const confs = { bgp: readBgpConfs(set), evpn: readEvpnConfs(set) };
  const [gateway, ...more] = set.documents.filter(
    ({ kind, name }) => GATEWAYS.includes(kind) && (chosen === undefined || name === chosen),
  );
  let policy: Policy | undefined;
  if (gateway !== undefined) {
    const inbound = new Inbound();
    policy =
      gateway.kind === 'GatewayPolicy'
        ? translateGatewayPolicy(gateway as PolicyDocument<object>, inbound)
        : translateVpcEgressGateway(gateway as PolicyDocument<object>, network, pods, confs);
    const own = policy.rules.length;
    addDeckhouse(policy, set, pods);
    addSpidernet(policy, set, pods);
    addKubeOvnNat(policy, set, network, gateway as PolicyDocument<object>, inbound);
    // They are about single pods, the gateway's own about whole networks: at equal priority they come first.
    policy.rules.unshift(...policy.rules.splice(own));
    inbound.finish(policy);
    checkNotShared(gateway, policy, policy.rules.length - own);
    checkForeign(policy, (i, message) => failNeighbour(gateway, confs.bgp, i, message));
    checkLimits(gateway, policy);
    checkFastPath(gateway, policy);
    if (errors.length === 0) for (const { path, message } of inspect(policy)) gateway.fail(path, message);
  } else if (!isEmpty && !set.incomplete) {
    failDirectory(`no gateway: one ${GATEWAYS.join(' or ')} document is needed`);
  }
  for (const other of more) {
    const first = `${gateway!.kind} ${quote(gateway!.name)} in ${gateway!.origin.file}`;
    other.fail(['kind'], `a second gateway; ${first} is the first, and a pod is one gateway`);
  }
  if (policy !== undefined && errors.length === 0 && programmedFamilies(policy).length === 0) {
    gateway!.fail(['spec'], 'no address family has a gateway on both sides, internal and external', 'key');
  }
  if (policy === undefined || errors.length > 0) return { ok: false, errors: inOrder(files, errors) };
  const warnings: PolicyWarning[] = [
    ...policy.warnings,
    ...(ignored === undefined ? [] : [{ message: ignored }]),
    ...bandwidthWarnings(policy),
    ...fastPathWarnings(policy),
    ...policyWarnings(policy),
    ...bgpWarnings(policy),
    ...evpnWarnings(policy),
  ];
  policy.warnings = warnings.map(({ message, about }) => {
    const place = places && about ? warningPlace(about, gateway!, set) : undefined;
    return { message, ...(place && { place }) };
  });
  return { ok: true, policy };
}

/** Ignored files that a message names; of the others the number. */
const MAX_NAMED = 5;

/** The message about ignored files of the directory; undefined when there are none. */
function ignoredFiles(files: readonly PolicyFile[]): string | undefined {
  const names = files.filter(({ ignored }) => ignored).map(({ name }) => quote(name));
  if (names.length === 0) return undefined;
  const endings = 'in .yaml, .yml or .json';
  if (names.length === 1) return `ignoring file ${names[0]}: its name does not end ${endings}`;
  const more = names.length > MAX_NAMED ? ` and ${names.length - MAX_NAMED} more` : '';
  const some = names.slice(0, MAX_NAMED).join(', ');
  return `ignoring files ${some}${more}: their names do not end ${endings}`;
}

function inOrder(files: readonly PolicyFile[], errors: PolicyError[]): PolicyError[] {
  const places = new Map(files.map(({ name }, i) => [name, i]));
  const place = ({ file }: PolicyError): number => places.get(file) ?? files.length;
  const sorted = errors.toSorted((a, b) => place(a) - place(b) || a.line - b.line || a.col - b.col);
  if (sorted.length <= MAX_ERRORS) return sorted;
  const { file, line, col } = sorted[MAX_ERRORS]!;
  const more = { file, line, col, path: '', message: 'more errors follow' };
  return [...sorted.slice(0, MAX_ERRORS), more];
}
