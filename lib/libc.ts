/**
 * The few libc calls that Node does not offer, through koffi: sockets with options set before bind, sends with
 * their errno, locks and children. Shared by the BFD transport and the netlink transport.
 *
 * Functions that set something up throw a `SystemError`; `sendto` and `recv`, which run hot, return a negative
 * errno instead.
 */
import { getSystemErrorMap } from 'node:util';
import koffi from 'koffi';
import type { Bpf } from './bpf.ts';
import {
  AF_INET,
  AF_INET6,
  AF_PACKET,
  F_SETFL,
  F_SETOWN,
  F_SETSIG,
  MSG_DONTWAIT,
  O_ASYNC,
  O_NONBLOCK,
  SIGURG,
  SO_ATTACH_FILTER,
  SO_BINDTODEVICE,
  SO_RCVBUF,
  SO_RCVBUFFORCE,
  SO_SNDBUF,
  SO_SNDBUFFORCE,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOL_SOCKET,
} from './linux.ts';
import { macBytes } from './mac.ts';

// The running program: its own libc, glibc or musl.
export const libc = koffi.load(null);

const cSocket = libc.func('int socket(int domain, int type, int protocol)');
const cBind = libc.func('int bind(int fd, const void *address, uint32_t length)');
const cClose = libc.func('int close(int fd)');
const cSetsockopt = libc.func(
  'int setsockopt(int fd, int level, int name, const void *value, uint32_t length)',
);
const cGetsockopt = libc.func(
  'int getsockopt(int fd, int level, int name, void *value, _Inout_ uint32_t *length)',
);
const cGetsockname = libc.func('int getsockname(int fd, void *address, _Inout_ uint32_t *length)');
const cFcntl = libc.func('int fcntl(int fd, int command, intptr_t argument)');
const cSendto = libc.func(
  'intptr_t sendto(int fd, const void *data, size_t length, int flags, const void *address, uint32_t addressLength)',
);
const cRecv = libc.func('intptr_t recv(int fd, void *data, size_t length, int flags)');
const cRecvfrom = libc.func(
  'intptr_t recvfrom(int fd, void *data, size_t length, int flags, void *address, _Inout_ uint32_t *addressLength)',
);
const cInetPton = libc.func('int inet_pton(int family, const char *text, void *address)');
const cIfNametoindex = libc.func('uint32_t if_nametoindex(const char *name)');
const cFlock = libc.func('int flock(int fd, int operation)');
const cPrctl = libc.func('int prctl(int option, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d)');
const cPthreadSigmask = libc.func('int pthread_sigmask(int how, const void *set, void *old)');
const cWaitid = libc.func('int waitid(int type, uint32_t id, void *info, int options)');
const cPoll = libc.func('int poll(void *fds, unsigned long count, int timeout)');
const cWaitpid = libc.func('int waitpid(int pid, void *status, int options)');

/** A libc call that failed: `code` is the name (`EADDRNOTAVAIL`), `errno` the positive number. */
export class SystemError extends Error {
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;

  constructor(syscall: string, errno: number) {
    const [code, message] = errnoText(errno);
    super(`${syscall}: ${message} (${code})`);
    this.name = 'SystemError';
    this.code = code;
    this.errno = errno;
    this.syscall = syscall;
  }
}

/** Node makes a new map of 80 texts for every call. */
let texts: ReturnType<typeof getSystemErrorMap> | undefined;

/** The name and the message of a positive errno. */
export function errnoText(errno: number): [code: string, message: string] {
  texts ??= getSystemErrorMap();
  return texts.get(-errno) ?? [`E${errno}`, `error ${errno}`];
}

function check(syscall: string, result: number): number {
  if (result < 0) throw new SystemError(syscall, koffi.errno());
  return result;
}

/** socket(2), non-blocking and close-on-exec. Throws `SystemError`. */
export function socket(domain: number, type: number, protocol: number): number {
  return check('socket', cSocket(domain, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol));
}

/** bind(2) to a packed sockaddr. Throws `SystemError`. */
export function bind(fd: number, address: Uint8Array): void {
  check('bind', cBind(fd, address, address.length));
}

/** close(2). */
export function close(fd: number): void {
  cClose(fd);
}

/** close(2) on another thread, for sockets whose end the kernel takes its time for. */
export function closeLater(fd: number): void {
  cClose.async(fd, () => {});
}

/** setsockopt(2); a number is passed as an int. Throws `SystemError`. */
export function setsockopt(fd: number, level: number, name: number, value: number | Uint8Array): void {
  const bytes = typeof value === 'number' ? new Uint8Array(Int32Array.of(value).buffer) : value;
  check('setsockopt', cSetsockopt(fd, level, name, bytes, bytes.length));
}

/** getsockopt(2) into `value`; returns the octets that were filled in. Throws `SystemError`. */
export function getsockopt(fd: number, level: number, name: number, value: Uint8Array): number {
  const length: [number] = [value.length];
  check('getsockopt', cGetsockopt(fd, level, name, value, length));
  return length[0];
}

/** getsockname(2) into `address`. Throws `SystemError`. */
export function getsockname(fd: number, address: Uint8Array): void {
  check('getsockname', cGetsockname(fd, address, [address.length]));
}

/** Gives a socket a receive buffer of `octets`; without CAP_NET_ADMIN at most net.core.rmem_max. Throws `SystemError`. */
export function setReceiveBuffer(fd: number, octets: number): void {
  try {
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, octets);
  } catch {
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, octets);
  }
}

/** Gives a socket a send buffer of `octets`; without CAP_NET_ADMIN at most net.core.wmem_max. Throws `SystemError`. */
export function setSendBuffer(fd: number, octets: number): void {
  try {
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, octets);
  } catch {
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, octets);
  }
}

/** Limits a socket to one interface. Throws `SystemError`. */
export function bindToDevice(fd: number, device: string): void {
  setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, Buffer.from(`${device}\0`));
}

/**
 * Makes the kernel raise SIGURG when a socket has something to read: the one signal that does nothing without a
 * handler. Throws `SystemError`.
 */
export function signalReadable(fd: number): void {
  check('fcntl', cFcntl(fd, F_SETOWN, process.pid));
  check('fcntl', cFcntl(fd, F_SETSIG, SIGURG));
  check('fcntl', cFcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC));
}

/** sendto(2) without waiting; a missing address means a connected socket. Octets sent, or a negative errno. */
export function sendto(fd: number, data: Uint8Array, address?: Uint8Array): number {
  const sent: number = cSendto(fd, data, data.length, MSG_DONTWAIT, address ?? null, address?.length ?? 0);
  return sent < 0 ? -koffi.errno() : sent;
}

/** recv(2) without waiting. Octets received, or a negative errno. */
export function recv(fd: number, data: Uint8Array): number {
  const received: number = cRecv(fd, data, data.length, MSG_DONTWAIT);
  return received < 0 ? -koffi.errno() : received;
}

/** recvfrom(2) without waiting; the packed sockaddr of the sender goes into `address`. Octets, or a negative errno. */
export function recvfrom(fd: number, data: Uint8Array, address: Uint8Array): number {
  const received: number = cRecvfrom(fd, data, data.length, MSG_DONTWAIT, address, [address.length]);
  return received < 0 ? -koffi.errno() : received;
}

/** Octets of struct sock_fprog. */
const SOCK_FPROG = 16;

/** Lets a socket receive what a filter accepts only. Throws `SystemError`. */
export function attachFilter(fd: number, program: Bpf): void {
  // struct sock_fprog (the number of instructions, a pointer to them) and behind it the instructions.
  const bytes = Buffer.alloc(SOCK_FPROG + 8 * program.length);
  bytes.writeUInt16LE(program.length, 0);
  bytes.writeBigUInt64LE(koffi.address(bytes) + BigInt(SOCK_FPROG), 8);
  program.forEach(([code, jt, jf, k], i) => {
    const at = SOCK_FPROG + 8 * i;
    bytes.writeUInt16LE(code, at);
    bytes[at + 2] = jt;
    bytes[at + 3] = jf;
    // An operand is 32 bits, offsets below zero included.
    bytes.writeUInt32LE(k >>> 0, at + 4);
  });
  setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, bytes.subarray(0, SOCK_FPROG));
}

// sys/file.h
const LOCK_EX = 2;
const LOCK_NB = 4;

/** flock(2): takes the exclusive lock of an open file without waiting. Throws `SystemError`: EAGAIN where it is held. */
export function flock(fd: number): void {
  check('flock', cFlock(fd, LOCK_EX | LOCK_NB));
}

// linux/prctl.h
const PR_SET_PDEATHSIG = 1;

/** prctl(2): lets the kernel send this process a signal when the parent ends. Throws `SystemError`. */
export function signalAtParentsDeath(signal: number): void {
  check('prctl', cPrctl(PR_SET_PDEATHSIG, signal, 0, 0, 0));
}

// asm-generic/signal-defs.h
const SIG_UNBLOCK = 1;

/** pthread_sigmask(2): lets the main thread have a signal, one that has come before too. */
export function unblockSignal(signal: number): void {
  const set = Buffer.alloc(128);
  set.writeBigUInt64LE(1n << BigInt(signal - 1));
  cPthreadSigmask(SIG_UNBLOCK, set, null);
}

// linux/wait.h
const P_ALL = 0;
const WNOHANG = 1;
const WEXITED = 4;
const WNOWAIT = 0x0100_0000;
/** Octets of siginfo_t, and where si_pid is on 64-bit machines. */
const SIGINFO = 128;
const SI_PID_AT = 16;

/** waitid(2): a child that has exited and was not reaped yet; 0 for none. Reaps nothing. */
export function endedChild(): number {
  const info = Buffer.alloc(SIGINFO);
  return cWaitid(P_ALL, 0, info, WEXITED | WNOHANG | WNOWAIT) < 0 ? 0 : info.readInt32LE(SI_PID_AT);
}

/** waitpid(2) without waiting: takes the status of a child that has ended, and throws it away. */
export function reap(pid: number): void {
  cWaitpid(pid, null, WNOHANG);
}

// asm-generic/poll.h
const POLLIN = 1;

/**
 * poll(2) on another thread: resolves to true when a descriptor is readable, to false after `timeoutMs` or a signal. It
 * occupies a thread of libuv's pool, so it is for threads that have one thing to wait for.
 */
export function readable(fd: number, timeoutMs: number): Promise<boolean> {
  const pollfd = Buffer.alloc(8);
  pollfd.writeInt32LE(fd);
  pollfd.writeInt16LE(POLLIN, 4);
  return new Promise((resolve) => {
    cPoll.async(pollfd, 1, timeoutMs, (_error: unknown, ready: number) => resolve(ready > 0));
  });
}

/** The index of an interface, 0 when there is none of that name, or no socket to ask with. */
export function ifNametoindex(name: string): number {
  return cIfNametoindex(name);
}

/** A packed sockaddr_in or sockaddr_in6. A zone (`fe80::1%eth0`) becomes the scope id. Throws `TypeError`. */
export function sockaddr(address: string, port: number): Uint8Array {
  const [text, zone] = address.split('%') as [string, string?];
  const v6 = text.includes(':');
  const bytes = Buffer.alloc(v6 ? 28 : 16);
  bytes.writeUInt16LE(v6 ? AF_INET6 : AF_INET, 0);
  bytes.writeUInt16BE(port, 2);
  if (cInetPton(v6 ? AF_INET6 : AF_INET, text, bytes.subarray(v6 ? 8 : 4)) !== 1) {
    throw new TypeError(`not an IPv4 or IPv6 address: ${JSON.stringify(address)}`);
  }
  if (v6 && zone !== undefined) bytes.writeUInt32LE(ifNametoindex(zone), 24);
  return bytes;
}

/** A packed sockaddr_ll (linux/if_packet.h): an ethertype on an interface, with the Ethernet address to send to. */
export function linkAddress(protocol: number, ifindex: number, mac?: string): Uint8Array {
  const bytes = Buffer.alloc(20);
  bytes.writeUInt16LE(AF_PACKET, 0);
  bytes.writeUInt16BE(protocol, 2);
  bytes.writeInt32LE(ifindex, 4);
  if (mac !== undefined) {
    bytes.writeUInt8(6, 11);
    bytes.set(macBytes(mac), LINK_ADDRESS_MAC);
  }
  return bytes;
}

/** Where the Ethernet address is in a packed sockaddr_ll. */
export const LINK_ADDRESS_MAC = 12;
