import t from 'tap';
import { NFT_NEW } from '../../lib/nft-codec.ts';
import { FAMILIES, type Family, prefix } from '../../lib/prefix.ts';
import type { NatError } from '../../nat/errors.ts';
import { accept } from '../../nat/expressions.ts';
import { editGate, GATE, type Gate, type GateStep, gateTable } from '../../nat/gate.ts';
import { createGateKernel, GateError } from '../../nat/gate-kernel.ts';
import { addRule } from '../../nat/own-table.ts';
import { FakeNft } from './fake-nft.ts';

const gateOf = (family: Family, ...open: string[]): Gate => ({
  ...{ family, internalInterface: 'eth0', closed: true, open: open.map(prefix) },
});
const made = (release = '6.1.0-56-cloud-amd64') => {
  const nft = new FakeNft();
  return { nft, kernel: createGateKernel(() => nft, release) };
};
const write = (gate: Gate, there?: Extract<GateStep, { gate: Gate }>['there']): GateStep => ({
  ...{ type: 'write-gate', family: gate.family, gate, there },
});

for (const family of FAMILIES) {
  t.test(`IPv${family}: what is written is observed as it is wanted, one transaction each`, (t) => {
    const { nft, kernel } = made();
    t.strictSame(kernel.observe(), {});
    const blocks = family === 4 ? ['10.18.0.0/16', '10.19.0.9/32'] : ['fd00:18::/64', 'fd00:19::9/128'];
    const wanted = [
      gateOf(family),
      gateOf(family, ...blocks),
      gateOf(family, blocks[1]!),
      { ...gateOf(family), closed: false },
      { ...gateOf(family, blocks[0]!), internalInterface: 'net7' },
    ];
    for (const [i, gate] of wanted.entries()) {
      const there = kernel.observe()[family];
      kernel.apply([write(gate, there)]);
      const table = kernel.observe()[family]!;
      t.strictSame(new Map([...table.rules].sort()), new Map([...gateTable(gate).rules].sort()));
      t.ok(table.hooked);
      t.equal(nft.transactions, i + 1);
      const same = { ...gateTable(gate), source: { gate, instead: new Map() } };
      t.strictSame(editGate(table, same, undefined, family), { before: [], after: [] }, 'nothing to do');
    }
    const dumps = nft.dumps;
    kernel.observe();
    t.equal(nft.dumps, dumps, 'nothing is read again without a transaction');
    kernel.apply([{ type: 'delete-gate', family }]);
    t.strictSame(kernel.observe(), {});
    t.end();
  });
}

t.test('what was damaged is made anew in the same transaction, the chain that counts only if it was', (t) => {
  const { nft, kernel } = made();
  const gate = gateOf(4, '10.18.0.0/16');
  kernel.apply([write(gate)]);
  const table = nft.tables.get(2)!;
  const refused = () => table.rules.find(({ chain }) => chain === 'refused');
  const counting = refused();
  table.rules = table.rules.filter(({ chain }) => chain !== 'fresh' && chain !== 'ingress');
  table.rules.push({ chain: 'theirs', data: Buffer.from(addRule(GATE, 4, 'theirs', [accept]).data) });
  table.chains.set('theirs', Buffer.alloc(4));
  nft.transactions++;
  kernel.apply([write(gate, kernel.observe()[4])]);
  t.equal(refused(), counting, 'the counter stays');
  t.strictSame(new Map([...kernel.observe()[4]!.rules].sort()), new Map([...gateTable(gate).rules].sort()));
  table.chains.delete('postrouting');
  nft.transactions++;
  const unhooked = kernel.observe()[4]!;
  t.equal(unhooked.hooked, false);
  const { handle } = table;
  kernel.apply([write(gate, unhooked)]);
  t.not(nft.tables.get(2)!.handle, handle, 'a table that is not hooked is replaced');
  t.equal(kernel.observe()[4]!.hooked, true);
  t.end();
});

t.test(
  'a refusal says that iptables can do it; another program, or a missing permission, says what it is',
  (t) => {
    const { nft, kernel } = made();
    const gate = gateOf(4);
    nft.refuse = NFT_NEW.rule;
    const thrown = (step: GateStep): NatError => {
      try {
        kernel.apply([step]);
      } catch (error) {
        return error as NatError;
      }
      throw new Error('applied');
    };
    t.match(thrown(write(gate)), { kind: 'unsupported', message: /^nf_tables: VEG-GATE: not supported/ });
    t.type(thrown(write(gate)), GateError);
    nft.code = 'ENOENT';
    t.type(thrown(write(gate)), GateError, 'a module is missing: there was nothing that could have changed');
    const changed = thrown(write(gate, { hooked: true, rules: new Map() }));
    t.notOk(changed instanceof GateError);
    t.equal(changed.kind, 'changed');
    nft.code = 'EPERM';
    t.equal(thrown(write(gate)).kind, 'not-permitted');
    nft.sendAll = () => {
      throw Object.assign(new Error('no'), { code: 'EIO' });
    };
    t.notOk(thrown({ type: 'delete-gate', family: 4 }) instanceof GateError);
    t.end();
  },
);

t.test('without nf_tables there is no gate, which is said; what cannot be read is an error', (t) => {
  const { nft, kernel } = made();
  t.equal(kernel.lack(), undefined);
  for (const [release, lacks] of [
    ['4.18.0-553.el8_10.x86_64', true],
    ['5.9.16', true],
    ['5.10.0-32-cloud-amd64', false],
    ['6.0.0', false],
  ] as const) {
    t.match(made(release).kernel.lack(), lacks ? /is older than 5\.10/ : undefined, release);
  }
  t.equal(kernel.refused(4), undefined);
  nft.missing = true;
  t.match(kernel.lack(), /^nf_tables: VEG-GATE: invalid argument$/);
  t.strictSame(kernel.observe(), {});
  t.equal(kernel.refused(4), undefined);
  for (const [code, kind] of [
    ['EPERM', 'not-permitted'],
    ['EIO', 'failed'],
  ] as const) {
    nft.ask = () => {
      throw Object.assign(new Error(code), { code } as object);
    };
    t.throws(() => kernel.observe(), { name: 'NatError', kind });
    t.throws(() => kernel.refused(4), { name: 'Error', code });
    t.equal(kernel.lack(), undefined, 'it may pass');
  }
  t.end();
});

t.test('what is refused is counted by one chain', (t) => {
  const { nft, kernel } = made();
  kernel.apply([write(gateOf(4))]);
  t.equal(kernel.refused(4), 0);
  kernel.apply([write({ ...gateOf(4), closed: false }, kernel.observe()[4])]);
  t.equal(kernel.refused(4), undefined, 'nothing is refused');
  t.equal(kernel.refused(6), undefined);
  t.equal(nft.tables.size, 1);
  t.end();
});
