import t from 'tap';
import type { Exec } from '../../lib/exec.ts';
import { type Family, prefix } from '../../lib/prefix.ts';
import type { NatStep } from '../../nat/diff.ts';
import { NatError } from '../../nat/errors.ts';
import type { GateStep } from '../../nat/gate.ts';
import { GateError, type GateKernel } from '../../nat/gate-kernel.ts';
import { createNatKernel } from '../../nat/kernel.ts';

interface Fake {
  /** What a command prints, or why it fails. */
  answers: Record<string, string | { stderr: string; exitCode: number }>;
  /** Contents of /proc/net/ip_tables_names and ip6_tables_names; an error code instead: why it cannot be read. */
  names?: { 4?: string; 6?: string };
}

/** A system of fake programs; those without an answer are not installed. */
function fake({ answers, names = {} }: Fake) {
  const calls: { command: string; input?: string }[] = [];
  const exec: Exec = async (file, args, options) => {
    const command = [file, ...args].join(' ');
    const answer = answers[command] ?? answers[file];
    if (args[0] !== '--version') calls.push({ command, ...(options?.input && { input: options.input }) });
    if (answer === undefined) return { stdout: '', stderr: `${file}: not found`, exitCode: -1 };
    if (typeof answer === 'string') return { stdout: answer, stderr: '', exitCode: 0 };
    return { stdout: '', ...answer };
  };
  const readFile = async (path: string): Promise<string> => {
    const text = names[path.includes('ip6') ? 6 : 4] ?? 'ENOENT';
    if (/^E[A-Z]+$/.test(text)) throw Object.assign(new Error(text), { code: text });
    return text;
  };
  const isInstalled = (program: string) =>
    Object.keys(answers).some((command) => command.split(' ')[0] === program);
  return { calls, exec, isInstalled, readFile, commands: () => calls.map((call) => call.command) };
}

const NFT = {
  'iptables-nft-save': '',
  'ip6tables-nft-save': '',
  'iptables-nft-restore': '',
  'ip6tables-nft-restore': '',
};
const LEGACY = {
  'iptables-legacy-save': '',
  'ip6tables-legacy-save': '',
  'iptables-legacy-restore': '',
  'ip6tables-legacy-restore': '',
};
const IPSET = { ipset: '' };
/** nf_tables without a gate. */
const NO_GATE: GateKernel = {
  ...{ observe: () => ({}), lack: () => undefined, apply() {}, refused: () => undefined },
};
const save = (...rules: string[]): string =>
  ['*nat', ':POSTROUTING ACCEPT [0:0]', ':VEG-MASQUERADE - [0:0]', ...rules, 'COMMIT', ''].join('\n');
const OURS = save('[1:60] -A POSTROUTING -j VEG-MASQUERADE');
const THEIRS = OURS.replaceAll('VEG', 'THEIR');

t.test('without legacy tables the backend is nf_tables, and legacy is not even asked', async (t) => {
  const system = fake({ answers: { ...NFT, ...LEGACY, ...IPSET }, names: { 4: '', 6: 'ENOENT' } });
  const state = await createNatKernel(system).observe({ families: [4, 6] });
  t.same(state.backend, { 4: 'nft', 6: 'nft' });
  t.ok(system.commands().every((command) => /^(?:ip6?tables-nft-save -c|ipset save)$/.test(command)));
});

t.test('a kernel without nf_tables leaves legacy', async (t) => {
  const stderr =
    'iptables-nft-save v1.8.9 (nf_tables): Could not fetch rule set generation id: Invalid argument';
  const without = { 'iptables-nft-save -c': { stderr, exitCode: 4 } };
  const system = fake({ answers: { ...NFT, ...without, ...LEGACY, ...IPSET }, names: { 4: '' } });
  t.equal((await createNatKernel(system).observe({ families: [4] })).backend[4], 'legacy');
  const neither = fake({ answers: { ...NFT, ...without, ...IPSET }, names: { 4: '' } });
  const { failed } = await createNatKernel(neither).observe({ families: [4] });
  t.match(failed[4], { name: 'NatError', kind: 'unsupported' });
});

t.test('legacy tables with rules make the backend legacy, by family', async (t) => {
  const system = fake({
    answers: { ...NFT, ...LEGACY, ...IPSET, 'iptables-legacy-save': THEIRS },
    names: { 4: 'nat\n', 6: '' },
  });
  t.same((await createNatKernel(system).observe({ families: [4, 6] })).backend, { 4: 'legacy', 6: 'nft' });
});

t.test('legacy tables that are empty, or rules of others beside ours in nf_tables, do not', async (t) => {
  const empty = fake({
    answers: {
      ...NFT,
      ...LEGACY,
      ...IPSET,
      'iptables-legacy-save': '*nat\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n',
    },
    names: { 4: 'nat\n' },
  });
  t.equal((await createNatKernel(empty).observe({ families: [4] })).backend[4], 'nft');
  const beside = fake({
    answers: { ...NFT, ...LEGACY, ...IPSET, 'iptables-legacy-save': THEIRS, 'iptables-nft-save': OURS },
    names: { 4: 'nat\n' },
  });
  t.equal((await createNatKernel(beside).observe({ families: [4] })).backend[4], 'nft');
});

t.test('a user that may not list legacy tables finds ours in either backend', async (t) => {
  const names = { 4: 'EACCES', 6: 'EACCES' };
  const nft = fake({ answers: { ...NFT, ...LEGACY, ...IPSET, 'iptables-nft-save': OURS }, names });
  t.equal((await createNatKernel(nft).observe({ families: [4] })).backend[4], 'nft');
  t.notOk(nft.commands().some((command) => command.startsWith('iptables-legacy')));
  const legacy = fake({
    answers: { ...NFT, ...LEGACY, ...IPSET, 'iptables-legacy-save -c -t nat': OURS },
    names,
  });
  const state = await createNatKernel(legacy).observe({ families: [4] });
  t.equal(state.backend[4], 'legacy');
  t.ok(state.tables[4].get('nat')!.has('VEG-MASQUERADE'));
});

t.test('the choice is made once', async (t) => {
  const names = { 4: '', 6: '' };
  const system = fake({ answers: { ...NFT, ...LEGACY, ...IPSET, 'iptables-legacy-save': THEIRS }, names });
  const kernel = createNatKernel(system);
  await kernel.observe({ families: [4] });
  names[4] = 'nat\n';
  t.equal((await kernel.observe({ families: [4] })).backend[4], 'nft');
});

t.test(
  'plain names do when the others are not installed, and tell their backend by their version',
  async (t) => {
    const version = (text: string) => ({
      'iptables-save --version': `iptables-save v1.8.9 (${text})\n`,
      'iptables-save': '',
      'iptables-restore': '',
    });
    const nft = fake({ answers: { ...version('nf_tables'), ...IPSET } });
    t.equal((await createNatKernel(nft).observe({ families: [4] })).backend[4], 'nft');
    const legacy = fake({ answers: { ...version('legacy'), ...IPSET }, names: { 4: 'nat\n' } });
    t.equal((await createNatKernel(legacy).observe({ families: [4] })).backend[4], 'legacy');
    t.same(legacy.commands().sort(), ['ipset save', 'iptables-save -c']);
  },
);

t.test('ipset is not run while the agent has no set', async (t) => {
  const system = fake({ answers: { ...NFT, ...IPSET } });
  const commands = async (exist: boolean | undefined) => {
    system.calls.length = 0;
    const kernel = createNatKernel({ ...system, setsExist: () => exist });
    t.equal((await kernel.observe({ families: [4], sets: [4] })).sets.size, 0);
    return system.commands().filter((command) => command.startsWith('ipset'));
  };
  t.same(await commands(false), []);
  t.same(await commands(true), ['ipset save']);
  t.same(await commands(undefined), ['ipset save']);
});

t.test('no iptables at all is an error that says what to install', async (t) => {
  const { failed } = await createNatKernel(fake({ answers: IPSET })).observe({ families: [4] });
  t.match(failed, { 4: { name: 'NatError', kind: 'not-installed', hint: /install .*iptables/ } });
  t.notOk(6 in failed, 'where it is not needed none is no matter');
});

t.test('a family that is not required may be missing, but not forbidden', async (t) => {
  const four = { 'iptables-nft-save': OURS, ...IPSET };
  const state = await createNatKernel(fake({ answers: four })).observe({ families: [4] });
  t.same(state.backend, { 4: 'nft' });
  t.equal(state.tables[6].size, 0);
  const denied = { stderr: 'Could not fetch rule set generation id: Permission denied', exitCode: 4 };
  const forbidden = fake({ answers: { ...four, 'ip6tables-nft-save': '', 'ip6tables-nft-save -c': denied } });
  const one = await createNatKernel(forbidden).observe({ families: [4] });
  t.match(one.failed, { 6: { kind: 'not-permitted' } });
  t.ok(one.tables[4].has('nat'), 'and the other family is read all the same');
});

t.test(
  'tables that only nft can list are told, with the command that lists them; the others are read',
  async (t) => {
    const text = `# Table \`mangle' is incompatible, use 'nft' tool.\n# Table \`filter' is incompatible, use 'nft' tool.\n${OURS}`;
    const system = fake({
      answers: { ...NFT, ...IPSET, 'iptables-nft-save': text, 'ip6tables-nft-save': OURS },
    });
    const { tables, unreadable, failed } = await createNatKernel(system).observe({ families: [4, 6] });
    t.same([...tables[4].keys()], ['nat']);
    t.same([...unreadable[4].keys()], ['mangle', 'filter']);
    t.match(unreadable[4].get('mangle'), {
      kind: 'incompatible',
      hint: /`nft -a list table ip mangle` shows it/,
    });
    t.equal(unreadable[6].size, 0);
    t.same(failed, {});
  },
);

t.test(
  'to another user than root the legacy tables are listed by name: those that are needed, no other',
  async (t) => {
    const MANGLE = '*mangle\n:FORWARD ACCEPT [0:0]\n:VEG-MSS - [0:0]\n-A FORWARD -p tcp -j VEG-MSS\nCOMMIT\n';
    const nothing = { 'iptables-legacy-save': '' };
    const system = fake({
      answers: {
        ...{ ...NFT, ...LEGACY, ...IPSET, ...nothing },
        'iptables-legacy-save -c -t nat': OURS,
        'iptables-legacy-save -c -t mangle': MANGLE,
        'iptables-legacy-save -c -t raw': {
          stderr: "iptables-legacy-save: can't initialize iptables table `raw': Table does not exist",
          exitCode: 1,
        },
      },
      names: { 4: 'EACCES', 6: '' },
    });
    const kernel = createNatKernel(system);
    const state = await kernel.observe({ families: [4], tables: new Set(['raw', 'mangle', 'nat']) });
    t.same(state.backend[4], 'legacy');
    t.same([...state.tables[4].keys()].sort(), ['mangle', 'nat']);
    t.same(state.failed, {}, 'a table that the kernel has not is empty');
    system.calls.length = 0;
    await kernel.observe({ families: [4], tables: new Set(['nat']) });
    t.same(
      system.commands().filter((command) => command.startsWith('iptables')),
      ['iptables-legacy-save -c -t nat'],
    );
  },
);

t.test('ipset is not needed until a rule matches a set', async (t) => {
  t.equal((await createNatKernel(fake({ answers: NFT })).observe({ families: [4] })).sets.size, 0);
  const matched = save('[0:0] -A POSTROUTING -m set --match-set VEG-FORWARD-4 dst -j RETURN');
  const system = fake({ answers: { ...NFT, 'iptables-nft-save': matched } });
  const { failed } = await createNatKernel(system).observe({ families: [4, 6] });
  t.match(failed, { 4: { kind: 'not-installed', message: /^ipset/ } });
  t.notOk(6 in failed, 'a family without sets does not need it');
});

const insert = (family: 4 | 6, table: string): NatStep => ({
  type: 'insert-rule',
  family,
  table,
  chain: 'POSTROUTING',
  rule: { text: '-j VEG-MASQUERADE', packets: 3, bytes: 180 },
});

t.test('a family changes in one transaction, between what comes before and after for its sets', async (t) => {
  const system = fake({ answers: { ...NFT, ...IPSET } });
  const kernel = createNatKernel({ ...system, backend: 'nft' });
  await kernel.apply([
    { type: 'create-set', family: 4, set: 'VEG-FORWARD-4', hashsize: 1024, maxelem: 65536, marked: false },
    { type: 'add-elements', family: 4, set: 'VEG-FORWARD-4', elements: [prefix('10.0.0.0/8')] },
    insert(4, 'raw'),
    insert(4, 'nat'),
    { type: 'destroy-set', family: 4, set: 'VEG-OLD' },
    insert(6, 'nat'),
  ]);
  t.same(system.calls, [
    {
      command: 'ipset -exist restore',
      input:
        'create VEG-FORWARD-4 hash:net family inet hashsize 1024 maxelem 65536\nadd VEG-FORWARD-4 10.0.0.0/8\n',
    },
    {
      command: 'iptables-nft-restore --noflush -w 5',
      input:
        '*raw\n-A POSTROUTING -j VEG-MASQUERADE -c 3 180\nCOMMIT\n*nat\n-A POSTROUTING -j VEG-MASQUERADE -c 3 180\nCOMMIT\n',
    },
    { command: 'ipset -exist restore', input: 'destroy VEG-OLD\n' },
    {
      command: 'ip6tables-nft-restore --noflush -w 5',
      input: '*nat\n-A POSTROUTING -j VEG-MASQUERADE -c 3 180\nCOMMIT\n',
    },
  ]);
});

t.test('a set that is in use is destroyed again after pauses, and left over if it stays so', async (t) => {
  const system = fake({ answers: NFT });
  /** How often the kernel still refuses to destroy a set. */
  const busy = new Map([
    ['VEG-FORWARD-4', 2],
    ['VEG-USED', Number.POSITIVE_INFINITY],
  ]);
  let done: string[] = [];
  let pauses: number[] = [];
  const kernel = createNatKernel({
    ...system,
    isInstalled: () => true,
    backend: 'nft',
    async exec(file, args, options) {
      if (file !== 'ipset') return system.exec(file, args, options);
      for (const [i, line] of options!.input!.trim().split('\n').entries()) {
        const [command, set = ''] = line.split(' ');
        const left = (command === 'destroy' && busy.get(set)) || 0;
        if (left > 0) {
          busy.set(set, left - 1);
          const stderr = `ipset v7.17: Error in line ${i + 1}: Set cannot be destroyed: it is in use by a kernel component\n`;
          return { stdout: '', stderr, exitCode: 1 };
        }
        done.push(line);
      }
      return { stdout: '', stderr: '', exitCode: 0 };
    },
    pause: async (ms) => void pauses.push(ms),
  });
  const destroy = (set: string): NatStep => ({ type: 'destroy-set', family: 4, set });
  const steps: NatStep[] = [
    { type: 'delete-elements', family: 4, set: 'VEG-OTHER', elements: [prefix('10.0.0.0/8')] },
    ...['VEG-FORWARD-4', 'VEG-USED', 'VEG-OLD'].map(destroy),
    insert(4, 'nat'),
  ];
  const left = { kind: 'in-use', object: 'set', message: /: VEG-USED: .* in use by a kernel component/ };
  const isLeft = async () =>
    t.match(await kernel.apply(steps).then(undefined, (error: unknown) => error), left);
  await isLeft();
  t.same(done, ['del VEG-OTHER 10.0.0.0/8', 'destroy VEG-FORWARD-4', 'destroy VEG-OLD'], 'each once');
  t.same(system.commands(), ['iptables-nft-restore --noflush -w 5'], 'and what follows');
  t.same(pauses, [10, 30, 100, 300, 600], 'for all sets together');

  [done, pauses] = [[], []];
  await isLeft();
  t.same(done, ['del VEG-OTHER 10.0.0.0/8', 'destroy VEG-FORWARD-4', 'destroy VEG-OLD']);
  t.same(pauses, [], 'it is not waited for again');
  busy.clear();
  await kernel.apply(steps);
  busy.set('VEG-USED', 1);
  await kernel.apply(steps);
  t.same(pauses, [10], 'until it was gone');

  const swap: NatStep = { type: 'swap-sets', family: 4, set: 'VEG-A', other: 'VEG-B' };
  const refused = createNatKernel({
    ...fake({
      answers: { ...NFT, ipset: { stderr: 'Error in line 1: in use by a kernel component', exitCode: 1 } },
    }),
    backend: 'nft',
  });
  await t.rejects(refused.apply([swap]), /in use by a kernel component/);
});

t.test('a family that fails stops its own later steps, not the other family', async (t) => {
  const stderr = 'Another app is currently holding the xtables lock. Stopped waiting after 5s.';
  const system = fake({ answers: { ...NFT, ...IPSET, 'iptables-nft-restore': { stderr, exitCode: 4 } } });
  const steps: NatStep[] = [
    insert(4, 'nat'),
    { type: 'destroy-set', family: 4, set: 'VEG-OLD' },
    insert(6, 'nat'),
  ];
  await t.rejects(createNatKernel({ ...system, backend: 'nft' }).apply(steps), {
    kind: 'locked',
    message: /xtables lock/,
    hint: /\/run\/xtables.lock/,
  });
  t.same(system.commands(), ['iptables-nft-restore --noflush -w 5', 'ip6tables-nft-restore --noflush -w 5']);
  const both = fake({
    answers: {
      ...NFT,
      ...IPSET,
      'iptables-nft-restore': { stderr, exitCode: 4 },
      'ip6tables-nft-restore': { stderr: 'x', exitCode: 1 },
    },
  });
  await t.rejects(createNatKernel({ ...both, backend: 'nft' }).apply(steps), {
    message: /^iptables.*; ip6tables/,
  });
});

t.test(
  'counters are those of our chains in mangle, of families whose backend is known and can be read',
  async (t) => {
    const mangle = `*mangle
:FORWARD ACCEPT [0:0]
:VEG-REFUSED - [0:0]
:VEG-LIMIT - [0:0]
[9:600] -A FORWARD -j VEG-REFUSED
[7:420] -A VEG-REFUSED -j DROP
COMMIT
`;
    const answers = { ...NFT, ...IPSET, 'iptables-nft-save -c -t mangle': mangle };
    const system = fake({
      answers: { ...answers, 'ip6tables-nft-save -c -t mangle': { stderr: 'no', exitCode: 1 } },
    });
    const kernel = createNatKernel(system);
    const chains = ['VEG-REFUSED', 'VEG-LIMIT'];
    t.strictSame(await kernel.counts([4, 6], chains), [], 'nothing was observed yet');
    await kernel.observe({ families: [4, 6] });
    t.strictSame(await kernel.counts([4, 6], chains), [
      { family: 4, table: 'mangle', chain: 'VEG-REFUSED', packets: 7 },
    ]);
    t.strictSame(await kernel.counts([6], chains), []);
    const gate = { ...NO_GATE, refused: (family: Family) => (family === 4 ? 5 : undefined) };
    const gated = createNatKernel({ ...system, gate });
    await gated.observe({ families: [4, 6] });
    t.strictSame(await gated.counts([4, 6], chains), [
      { family: 4, table: 'gate', chain: 'VEG-REFUSED', packets: 5 },
    ]);
    t.strictSame(await gated.counts([4], ['VEG-LIMIT']), [], 'the gate counts nothing else');
  },
);

t.test('the gate is part of the state, and its steps are carried out among the others', async (t) => {
  const system = fake({ answers: { ...NFT, ...IPSET } });
  const there = { hooked: true, rules: new Map([['forward', ['']]]) };
  const applied: string[] = [];
  const gate: GateKernel = {
    ...NO_GATE,
    observe: () => ({ 4: there }),
    lack: () => 'no nf_tables',
    apply: (steps) => void applied.push(...steps.map(({ type }) => type)),
  };
  const kernel = createNatKernel({ ...system, gate });
  t.strictSame((await kernel.observe({ families: [4] })).gates, { 4: there });
  t.equal(kernel.gateLack(), 'no nf_tables');
  t.equal(createNatKernel(system).gateLack(), undefined);
  const open: GateStep = {
    ...{ type: 'write-gate', family: 4, there: undefined },
    gate: { family: 4, internalInterface: 'eth0', closed: true, open: [] },
  };
  const rule: NatStep = { type: 'new-chain', family: 4, table: 'nat', chain: 'VEG-X' };
  const before = system.calls.length;
  await kernel.apply([open, rule, { type: 'delete-gate', family: 4 }]);
  t.strictSame(applied, ['write-gate', 'delete-gate']);
  t.equal(system.calls.length, before + 1, 'the rule between them');

  const refusing = (error: Error) =>
    createNatKernel({
      ...system,
      gate: {
        ...gate,
        observe() {
          throw error;
        },
        apply() {
          throw error;
        },
      },
    });
  const refused = new GateError('unsupported', 'no');
  t.equal(
    await refusing(refused)
      .apply([open, rule])
      .catch((error: unknown) => error),
    refused,
  );
  t.equal(system.calls.length, before + 1, 'nothing comes behind a refusal');
  const denied = new NatError('not-permitted', 'no');
  t.equal((await refusing(denied).observe({ families: [4] })).failed[4], denied);
  await t.rejects(refusing(new TypeError('a mistake')).observe({ families: [4] }), TypeError);
});

t.test('whether a table that only nft can list still leads to our chains', async (t) => {
  const listed = (...exprs: object[][]) =>
    JSON.stringify({
      nftables: [{ metainfo: {} }, { chain: {} }, ...exprs.map((expr) => ({ rule: { expr } }))],
    });
  const hooks = [{ chain: 'POSTROUTING', target: 'VEG-MASQUERADE' }];
  const list = 'nft -j list chain ip nat';
  const leads = listed([{ accept: null }], [{ xt: null }, { jump: { target: 'VEG-MASQUERADE' } }]);
  const rules = listed([{ masquerade: null }]);
  const gone = { stderr: 'Error: No such file or directory\nlist chain ip nat POSTROUTING\n', exitCode: 1 };
  const cases: [what: string, from: string | typeof gone, to: string | typeof gone, missing: boolean][] = [
    ['all is there', leads, rules, false],
    ['the jump is gone', listed([{ accept: null }]), rules, true],
    ['both chains are gone', gone, gone, true],
    ['our chain is empty', leads, listed(), true],
    ['nft may not', { stderr: 'Error: Operation not permitted', exitCode: 1 }, rules, false],
    ['nft says what nobody knows', 'what', '{}', false],
  ];
  for (const [what, from, to, missing] of cases) {
    const system = fake({ answers: { [`${list} POSTROUTING`]: from, [`${list} VEG-MASQUERADE`]: to } });
    const found = await createNatKernel(system).missingHook(4, 'nat', hooks);
    t.same(found, missing ? hooks[0] : undefined, what);
  }
  t.equal(
    await createNatKernel(fake({ answers: {} })).missingHook(4, 'nat', hooks),
    undefined,
    'without nft',
  );
});
