import t from 'tap';
import { countBound, tableText } from '../../bfd/udp-table.ts';
import { address } from '../../lib/prefix.ts';

const UDP = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 4321: 00000000:0EC8 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 31415 2 0000000000000000 0
 4321: 0C00100A:0EC8 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31416 2 0000000000000000 0
 5321: 0C00100A:12B0 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31417 2 0000000000000000 0
12345: 0200100A:C001 0C00100A:0EC8 01 00000000:00000000 00:00000000 00000000     0        0 31418 2 0000000000000000 0
`;
const UDP6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 4321: 00000000000000000000000000000000:0EC8 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 31419 2 0000000000000000 0
 4321: 100000FD000016000000000012000000:0EC8 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31420 2 0000000000000000 0
`;

t.test('an address and port as the kernel writes them', async (t) => {
  t.equal(tableText(address('10.16.0.12'), 3784), '0C00100A:0EC8');
  t.equal(tableText(address('fd00:10:16::12'), 3784), '100000FD000016000000000012000000:0EC8');
});

t.test('only sockets on exactly this address and port count', async (t) => {
  t.equal(countBound(UDP, address('10.16.0.12'), 3784), 1);
  t.equal(countBound(UDP, address('10.16.0.12'), 4784), 1);
  t.equal(countBound(UDP, address('10.16.0.12'), 3785), 0);
  t.equal(countBound(UDP, address('10.16.0.2'), 3784), 0, 'a remote address is no bind');
  t.equal(countBound(UDP6, address('fd00:10:16::12'), 3784), 1);
  t.equal(countBound(UDP6, address('fd00:10:16::13'), 3784), 0);
  t.equal(countBound('', address('10.16.0.12'), 3784), 0);
  t.equal(countBound(UDP + UDP, address('10.16.0.12'), 3784), 2);
});
