/** Failures of iptables and ipset, by cause and remedy. Pure. */
import type { Family } from '../lib/prefix.ts';

export type NatErrorKind =
  /** The program is not there. */
  | 'not-installed'
  /** CAP_NET_ADMIN is missing. */
  | 'not-permitted'
  /** Another process holds the xtables lock. */
  | 'locked'
  /** The file of the xtables lock cannot be opened. */
  | 'lock-file'
  /** The kernel lacks a module or a feature. */
  | 'unsupported'
  /** The table holds what only `nft` can list. */
  | 'incompatible'
  /** The rules or sets changed between reading and writing; reading again helps. */
  | 'changed'
  /** A set that is to go is used by another program, or by a removed rule that the kernel has not let go of yet. */
  | 'in-use'
  | 'timed-out'
  /** Anything else: the program's own words are in the message. */
  | 'failed';

/** What nf_tables answers when another program has changed a table since it was read. */
export const CHANGED: ReadonlySet<string> = new Set(['ENOENT', 'EEXIST', 'EBUSY']);

const HINTS: Record<NatErrorKind, string> = {
  'not-installed': 'install the packages iptables and ipset in the image, or put the program on PATH',
  'not-permitted':
    'add NET_ADMIN to the container (securityContext.capabilities.add); for a user other than root the ' +
    'program also needs the file capability cap_net_admin',
  locked:
    'another process holds /run/xtables.lock (fuser -v /run/xtables.lock names it); tried again until it is free',
  'lock-file': 'make /run/xtables.lock writable for this user, or set XTABLES_LOCKFILE to a file that is',
  unsupported:
    'load the modules on the node: nf_nat, xt_MASQUERADE, xt_mark, xt_CT, xt_addrtype, xt_set, ip_set_hash_net, ' +
    'and nft_compat (nf_tables) or iptable_nat and iptable_raw (legacy; ip6table_… for IPv6); ' +
    'port blocks need nf_tables with nft_chain_nat and nft_nat',
  incompatible: 'remove the rules of nft from that table, or put them in a table of another name',
  changed:
    'something else edits the same rules and it is tried again with what is there now; if it stays, ' +
    'the kernel lacks one of the modules xt_MASQUERADE, xt_mark, xt_CT, xt_addrtype, xt_set, ip_set_hash_net',
  'in-use':
    'a rule or a set of another program uses it: iptables-save, ip6tables-save and ipset list show which; ' +
    'remove it from there; the daemon tries again until the set can go',
  'timed-out': 'the machine is overloaded, or the program hangs',
  failed: 'see the message; `veg-agent plan` shows what was to be done',
};

/** A failed iptables or ipset command. `message` has what failed and why, `hint` what to do about it. */
export class NatError extends Error {
  override readonly name = 'NatError';
  readonly kind: NatErrorKind;
  readonly hint: string;
  /** What was refused, and its name where that is known. */
  readonly object: 'chain' | 'set' | 'port_blocks';
  readonly subject: string | undefined;

  constructor(kind: NatErrorKind, message: string, details: NatErrorDetails = {}) {
    super(message);
    this.kind = kind;
    this.hint = details.hint ?? HINTS[kind];
    this.object = details.object ?? 'chain';
    this.subject = details.subject;
  }
}

interface NatErrorDetails {
  hint?: string;
  object?: NatError['object'];
  subject?: string | undefined;
}

/** The error for a table that holds what only `nft` can list. */
export function incompatible(family: Family, table: string, message: string): NatError {
  const name = `${family === 4 ? 'ip' : 'ip6'} ${table}`;
  const hint =
    `a rule in table ${name} was made with nft and iptables cannot list it: \`nft -a list table ${name}\` shows it; ` +
    'remove it, or put it in a table of another name';
  return new NatError('incompatible', message, { hint });
}

/**
 * Patterns of a program's output, and their meaning; the first match decides. Without ip_set nfnetlink answers EINVAL, which
 * ipset prints as an invalid argument.
 */
const SIGNS: readonly [RegExp, NatErrorKind][] = [
  [/: not found$/m, 'not-installed'],
  [/: timed out after /, 'timed-out'],
  [/can't open lock file/, 'lock-file'],
  [/xtables lock/, 'locked'],
  [/Permission denied|Operation not permitted|\bEPERM\b|\bEACCES\b/, 'not-permitted'],
  [/is incompatible, use 'nft' tool/, 'incompatible'],
  [
    /missing kernel module|Couldn't load|can't initialize|unable to initialize table|Table does not exist|[Pp]rotocol not supported|Address family not supported|Cannot open session to kernel|Kernel (?:support|module)|Kernel error received: Invalid argument|Module \S+ not found|rule set generation id: (?!Permission)/,
    'unsupported',
  ],
  [/in use by a kernel component/, 'in-use'],
  // A line of a transaction found no object, because another program was faster.
  [
    /does a matching rule exist|Chain already exists|Index of insertion too big|No chain\/target\/match by that name|Set \S+ doesn't exist|The set with the given name does not exist|line \d+ failed$/m,
    'changed',
  ],
];

/** Lines without information about the failure. */
const NOISE = /^(?:#.*|Try `.*|Error occurred at line: \d+|)$/;

/** The error for a failed command, classified by its stderr. */
export function natError(
  command: string,
  stderr: string,
  exitCode: number,
  details: NatErrorDetails = {},
): NatError {
  const kind = SIGNS.find(([sign]) => sign.test(stderr))?.[1] ?? 'failed';
  const lines = stderr.split('\n').filter((line) => !NOISE.test(line));
  // ipset names the line of its input.
  const which = details.object === 'set' && details.subject ? `${details.subject}: ` : '';
  return new NatError(kind, `${command}: ${which}${lines.join('; ') || `exit ${exitCode}`}`, details);
}
