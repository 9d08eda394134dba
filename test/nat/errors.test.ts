import t from 'tap';
import { type NatErrorKind, natError } from '../../nat/errors.ts';

// What the programs (iptables 1.8.9, ipset 7.17) print, word for word.
const SAID: [string, NatErrorKind][] = [
  ['iptables-nft-save: not found', 'not-installed'],
  [
    'iptables-nft-save v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)\n',
    'not-permitted',
  ],
  [
    'iptables-save v1.8.9 (legacy): Cannot initialize: Permission denied (you must be root)\n',
    'not-permitted',
  ],
  ['ipset v7.17: Kernel error received: Operation not permitted\n', 'not-permitted'],
  ['spawn iptables-nft-save EPERM', 'not-permitted'],
  ["Fatal: can't open lock file /run/xtables.lock: Permission denied\n", 'lock-file'],
  [
    "Can't lock /run/xtables.lock: Resource temporarily unavailable\nAnother app is currently holding the xtables lock. Stopped waiting after 5s.\n",
    'locked',
  ],
  ["# Table `nat' is incompatible, use 'nft' tool.\n", 'incompatible'],
  [
    'Warning: Extension MASQUERADE revision 0 not supported, missing kernel module?\niptables-nft-restore: line 2 failed: No chain/target/match by that name.\n',
    'unsupported',
  ],
  [
    "iptables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'nat'\nError occurred at line: 1\nTry `iptables-restore -h' or 'iptables-restore --help' for more information.\n",
    'unsupported',
  ],
  [
    'iptables-nft-save v1.8.9 (nf_tables): Could not fetch rule set generation id: Invalid argument\n',
    'unsupported',
  ],
  ['ipset v7.17: Cannot open session to kernel.\n', 'unsupported'],
  // A kernel without ip_set.
  ['ipset v7.17: Kernel error received: Invalid argument\n', 'unsupported'],
  ['iptables-restore: line 2 failed\n', 'changed'],
  ['iptables-nft-restore: line 2 failed: Chain already exists.\n', 'changed'],
  ['iptables-nft-restore: line 2 failed: Bad rule (does a matching rule exist in that chain?).\n', 'changed'],
  ['iptables-nft-restore: line 2 failed: Index of insertion too big.\n', 'changed'],
  ['ipset v7.17: The set with the given name does not exist\n', 'changed'],
  ['ipset v7.17: Set cannot be destroyed: it is in use by a kernel component\n', 'in-use'],
  ['ipset: timed out after 60 s', 'timed-out'],
  ['ipset v7.17: Error in line 4: Hash is full, cannot add more elements\n', 'failed'],
];

t.test('a failure is classified by its cause', (t) => {
  for (const [stderr, kind] of SAID) {
    const error = natError('iptables-nft-save -c', stderr, 4);
    t.equal(error.kind, kind, stderr);
    t.not(error.hint, '');
  }
  t.end();
});

t.test('the message holds the command and what it said, without the noise', (t) => {
  t.equal(
    natError('iptables-legacy-restore --noflush', SAID[9]![0], 2).message,
    "iptables-legacy-restore --noflush: iptables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'nat'",
  );
  t.equal(natError('ipset list -n', '', 7).message, 'ipset list -n: exit 7');
  t.equal(
    natError('x', '# Warning: iptables-legacy tables present, use iptables-legacy to see them\nreason\n', 1)
      .message,
    'x: reason',
  );
  t.end();
});
