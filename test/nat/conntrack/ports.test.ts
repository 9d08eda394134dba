import t from 'tap';
import { addressFromBytes } from '../../../lib/prefix.ts';
import { PORTS, PortCount, portStatus } from '../../../nat/conntrack/ports.ts';
import { Flow } from '../../../nat/conntrack/table.ts';
import { type EntrySpec, entry } from './entries.ts';

t.test(
  'a port counts once for each address and protocol, however many destinations it is used towards',
  async (t) => {
    const count = new PortCount();
    const add = (spec: EntrySpec) => {
      const flow = new Flow();
      flow.set(entry(spec));
      count.add(flow);
    };
    add({ flow: '10.17.0.9 1 1.1.1.1 443', snat: '172.17.0.11 2000' });
    add({ flow: '10.17.0.9 2 2.2.2.2 443', snat: '172.17.0.11 2000' });
    add({ flow: '10.17.0.9 3 1.1.1.1 443', snat: '172.17.0.11 2001' });
    add({ flow: '10.17.0.9 3 1.1.1.1 443', snat: '172.17.0.12 2001' });
    add({ flow: '10.17.0.9 3 1.1.1.1 443', snat: '172.17.0.11 2000', protocol: 17 });
    add({ flow: 'fd00::9 3 2001::1 443', snat: 'fd00::11 65535' });
    t.same(
      count.uses.map(({ address, protocol, used }) => `${addressFromBytes(address)} ${protocol} ${used}`),
      ['172.17.0.11 6 2', '172.17.0.12 6 1', '172.17.0.11 17 1', 'fd00::11 6 1'],
    );
  },
);

t.test('an address that has no flow any more has lacked ports all the same', async (t) => {
  const use = { address: Uint8Array.of(172, 17, 0, 11), protocol: 6, used: 7 };
  const gre = { ...use, protocol: 47, used: 1 };
  t.same(
    portStatus(
      [use, gre, { ...gre, protocol: 50 }],
      [
        { externalIP: '172.17.0.11', protocol: 'tcp', connections: 3 },
        { externalIP: 'fd00::11', protocol: 'udp', connections: 5 },
      ],
      (externalIP) => (externalIP === 'fd00::11' ? 4032 : PORTS),
    ),
    [
      { externalIP: '172.17.0.11', protocol: 'tcp', used: 7, of: 64_512, lacking: 3 },
      { externalIP: '172.17.0.11', protocol: 'other', used: 2, of: 64_512, lacking: 0 },
      { externalIP: 'fd00::11', protocol: 'udp', used: 0, of: 4032, lacking: 5 },
    ],
  );
});
