import t from 'tap';
import type { Policy } from '../../../agent/policy/model.ts';
import { targetAt, targetNat } from '../../../agent/reconcile/targets.ts';
import { address } from '../../../lib/prefix.ts';
import { desiredNat, type FamilyNat, OPTIONAL_PARTS } from '../../../nat/desired.ts';

const NAT: FamilyNat = {
  ...{ family: 4, internalInterface: 'eth0', forward: [], policies: [], dropInvalid: true },
  ...{ mssClamp: true, connectionsPerSource: 1000, notrackBfd: true, groupIcmp: true },
  group: { self: address('10.16.0.12'), shared: [], externalInterface: 'net1', forward: [] },
};

t.test('a target without an optional part has neither its chain nor a rule that leads there', async (t) => {
  const text = (nat: FamilyNat): string =>
    [...desiredNat([nat]).tables[4]]
      .flatMap(([table, chains]) =>
        [...chains].flatMap(([name, { rules }]) => [
          `${table} ${name}`,
          ...rules.map((rule) => `${table} ${rule.text}`),
        ]),
      )
      .join('\n');
  for (const { part, table, chain } of OPTIONAL_PARTS) {
    const isThere = new RegExp(`^${table} .*${chain}`, 'm');
    t.match(text(NAT), isThere);
    const without = text(targetNat(NAT, targetAt({} as Policy, [part])));
    t.notMatch(without, isThere);
    for (const other of OPTIONAL_PARTS.filter((one) => one.part !== part)) {
      t.match(without, new RegExp(`^${other.table} .*${other.chain}`, 'm'), `without ${part}`);
    }
  }
});
