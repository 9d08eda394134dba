/** The pod of the seeds, dual stack, as the plan has its facts; and links and addresses to change it with. */
import type { Facts } from '../../../agent/pod/interfaces.ts';
import { address, prefix } from '../../../lib/prefix.ts';

export const link = (index: number, name: string, up = true) => ({
  index,
  name,
  up,
  carrier: up,
  mtu: 1500,
  mac: '',
});
export const on = (ifindex: number, text: string, flags = 0) => {
  const [host, length] = text.split('/') as [string, string];
  const value = address(host);
  return {
    family: (value.includes(':') ? 6 : 4) as 4 | 6,
    ifindex,
    address: value,
    prefixLength: Number(length),
    scope: 0,
    flags,
  };
};

export const POD: Facts = {
  links: [link(1, 'lo'), link(2, 'eth0'), link(3, 'net1')],
  addresses: [
    on(2, '10.16.0.12/16'),
    on(2, 'fd00:10:16::12/64'),
    on(3, '172.17.0.11/16'),
    on(3, 'fd00:172:17::11/64'),
  ],
  connected: [
    { dev: 'eth0', network: prefix('10.16.0.0/16') },
    { dev: 'eth0', network: prefix('fd00:10:16::/64') },
    { dev: 'net1', network: prefix('172.17.0.0/16') },
    { dev: 'net1', network: prefix('fd00:172:17::/64') },
  ],
  routes: [],
  podIPs: [],
  services: [],
  networks: [],
  missing: [],
  names: ['gateway1-0', 'node1'],
  notes: [],
};
