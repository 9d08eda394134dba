/**
 * Pretends to be a BFD peer that is administratively down: `node bfd-spoof.ts SECONDS TARGET SOURCE …`, pairs of the
 * gateway's address and the peer's, which must be one of this namespace. Prints how many packets it sent to each.
 */

import { encode } from '../../bfd/packet.ts';
import { bind, sendto, setsockopt, sockaddr, socket } from '../../lib/libc.ts';
import { AF_INET, AF_INET6, SOCK_DGRAM } from '../../lib/linux.ts';

const [seconds = '', ...addresses] = process.argv.slice(2);

const adminDown = encode({
  diagnostic: 7,
  state: 'AdminDown',
  poll: false,
  final: false,
  controlPlaneIndependent: false,
  authenticationPresent: false,
  demand: false,
  detectMult: 5,
  length: 24,
  myDiscriminator: 0xbad,
  yourDiscriminator: 0,
  desiredMinTx: 1_000_000,
  requiredMinRx: 100_000,
  requiredMinEchoRx: 0,
});

const pairs: { fd: number; target: Uint8Array }[] = [];
for (let i = 0; i + 1 < addresses.length; i += 2) {
  const v6 = addresses[i]!.includes(':');
  const fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM, 0);
  if (v6) setsockopt(fd, 41, 16, 255);
  else setsockopt(fd, 0, 2, 255);
  bind(fd, sockaddr(addresses[i + 1]!, 49_152));
  pairs.push({ fd, target: sockaddr(addresses[i]!, 3784) });
}

let sent = 0;
const timer = setInterval(() => {
  for (const { fd, target } of pairs) sendto(fd, adminDown, target);
  sent++;
}, 10);
setTimeout(() => {
  clearInterval(timer);
  console.log(sent);
}, Number(seconds) * 1000);
