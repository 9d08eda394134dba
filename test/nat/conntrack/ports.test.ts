import t from 'tap';
import { PortCount } from '../../../nat/conntrack/ports.ts';
import { Flow } from '../../../nat/conntrack/table.ts';
import { addressFromBytes } from '../../../routing/prefix.ts';
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
