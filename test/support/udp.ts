/** UDP sockets for what counts packets. */
import { createSocket, type Socket } from 'node:dgram';
import * as libc from '../../lib/libc.ts';
import { addressFamily, SO_RCVBUFFORCE, SOCK_DGRAM, SOL_SOCKET } from '../../lib/linux.ts';

/** Ten thousand small packets. */
const ROOM = 8 << 20;

/**
 * A UDP socket on a port (0: any), of a family, whose queue is so long that it overflows in no pause that a busy
 * machine may make in this process: what is lost then is not lost here. It sends to addresses only, not to names.
 * Needs CAP_NET_ADMIN.
 */
export function roomySocket(family: 4 | 6, port = 0): Socket {
  const fd = libc.socket(addressFamily(family), SOCK_DGRAM, 0);
  libc.setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, ROOM);
  libc.bind(fd, libc.sockaddr(family === 4 ? '0.0.0.0' : '::', port));
  return createSocket({
    type: family === 4 ? 'udp4' : 'udp6',
    lookup: (address, _options, callback) => callback(null, address, family),
  }).bind({ fd });
}
