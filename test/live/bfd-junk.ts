/**
 * Throws junk at a BFD port: `node bfd-junk.ts TARGET RATE SECONDS SOURCE…`. Random octets, truncated and oversized
 * packets, good packets with every field wrong in turn and with spoofed discriminators, from all sources in turn.
 * Prints how many were sent.
 */

import { randomBytes } from 'node:crypto';
import { encode, type Packet } from '../../bfd/packet.ts';
import { bind, sendto, setsockopt, sockaddr, socket } from '../../lib/libc.ts';
import { AF_INET, AF_INET6, SOCK_DGRAM } from '../../lib/linux.ts';

const [target = '', rateText = '', secondsText = '', ...sources] = process.argv.slice(2);
const rate = Number(rateText);
const seconds = Number(secondsText);
const v6 = target.includes(':');
const destination = sockaddr(target, 3784);

const fds = sources.flatMap((source) =>
  [255, 200].map((ttl) => {
    const fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM, 0);
    if (v6) setsockopt(fd, 41, 16, ttl);
    else setsockopt(fd, 0, 2, ttl);
    bind(fd, sockaddr(source, 0));
    return fd;
  }),
);

const GOOD: Packet = {
  diagnostic: 0,
  state: 'Up',
  poll: true,
  final: false,
  controlPlaneIndependent: false,
  authenticationPresent: false,
  demand: false,
  detectMult: 3,
  length: 24,
  myDiscriminator: 1,
  yourDiscriminator: 1,
  desiredMinTx: 10_000,
  requiredMinRx: 10_000,
  requiredMinEchoRx: 0,
};
const bytes = (length: number) => randomBytes(length);
const junk: (() => Buffer)[] = [
  () => bytes(24),
  () => bytes(1),
  () => bytes(1400),
  () => encode(GOOD).subarray(0, 12),
  () => encode({ ...GOOD, detectMult: 0 }),
  () => encode({ ...GOOD, myDiscriminator: 0 }),
  () => encode({ ...GOOD, yourDiscriminator: Math.floor(Math.random() * 2 ** 32) }),
  () => encode({ ...GOOD, yourDiscriminator: 0 }),
  () => encode({ ...GOOD, state: 'AdminDown', yourDiscriminator: Math.floor(Math.random() * 2 ** 32) }),
  () =>
    Buffer.concat([encode({ ...GOOD, authenticationPresent: true, length: 48 }).subarray(0, 24), bytes(24)]),
];
// Made beforehand: sending alone is to cost time.
const packets = Array.from({ length: 1000 }, (_, i) => junk[i % junk.length]!());

let sent = 0;
const start = performance.now();
function burst(): void {
  const elapsed = performance.now() - start;
  const due = Math.min((elapsed / 1000) * rate, rate * seconds);
  for (; sent < due; sent++)
    sendto(fds[Math.floor(sent / junk.length) % fds.length]!, packets[sent % packets.length]!, destination);
  if (elapsed < seconds * 1000) setTimeout(burst, 1);
  else console.log(sent);
}
burst();
