/**
 * Says on a link what it is told to: `node link-speaker.ts INTERFACE EVERY_MS COUNT FRAME…`, whole Ethernet frames in
 * hex, one after the other, so many rounds (0: until it is ended).
 */

import { bind, ifNametoindex, linkAddress, sendto, socket } from '../../lib/libc.ts';
import { AF_PACKET, SOCK_RAW } from '../../lib/linux.ts';

const [name = '', every = '', count = '', ...frames] = process.argv.slice(2);
const fd = socket(AF_PACKET, SOCK_RAW, 0);
const to = linkAddress(0, ifNametoindex(name));
bind(fd, to);
let rounds = 0;
const say = (): void => {
  for (const frame of frames) sendto(fd, Buffer.from(frame, 'hex'), to);
  rounds++;
  if (rounds === Number(count)) clearInterval(timer);
};
const timer = setInterval(say, Number(every));
say();
