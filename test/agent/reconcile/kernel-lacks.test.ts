// What the log says of a kernel that lacks something: one line for each thing, whichever families miss it.
import t from 'tap';
import { kernelLacks } from '../../../agent/reconcile/kernel-lacks.ts';
import { OPTIONAL_PARTS } from '../../../nat/desired.ts';

const unsupported = (object: Parameters<typeof kernelLacks>[0][number]['object'], name: string) =>
  ({ object, name, reason: 'unsupported' }) as const;
const said = (...failures: Parameters<typeof kernelLacks>[0]) =>
  kernelLacks(failures).map(({ lacks, without }) => `${lacks}: ${without}`);

t.test('every optional part by its module, and the rest is in force', async (t) => {
  for (const { chain, module } of OPTIONAL_PARTS) {
    const [lack, ...more] = kernelLacks([unsupported('chain', chain)]);
    t.same(more, []);
    for (const name of module.split(' and ')) t.match(lack!.lacks, name);
    t.match(lack!.without, /; the rest is in force$/, chain);
    t.match(lack!.action, /modprobe/);
  }
});

t.test('what the policy cannot do without', async (t) => {
  t.match(said(unsupported('chain', 'nat')), [/^nf_nat, xt_MASQUERADE.*: the newest policy as a whole$/]);
  t.match(said(unsupported('set', 'VEG-FORWARD-4')), [
    /^ip_set, ip_set_hash_net, xt_set: more than 32 forwarded/,
  ]);
  t.match(said(unsupported('port_blocks', 'VEG-PORT-BLOCKS')), [/^nf_tables, nft_nat, nft_chain_nat: /]);
  t.match(said(unsupported('link', 'vrf-vpn')), [/^vrf: evpn, and so the newest policy/]);
  t.match(said(unsupported('link', 'vxlan-vpn')), [/^vxlan: /]);
});

t.test(
  'one line for both families and both interfaces; none for what is no lack of the kernel',
  async (t) => {
    t.equal(
      said(unsupported('qdisc', 'eth0'), unsupported('qdisc', 'net1'), unsupported('class', 'net1')).length,
      1,
    );
    t.same(
      said({ object: 'link', name: 'vrf-vpn', reason: 'in_use' }, unsupported('route', '10.0.0.0/8')),
      [],
    );
  },
);
