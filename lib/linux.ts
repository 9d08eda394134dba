/**
 * Numbers of the Linux programming interface that more than one file needs, each under the header that defines it.
 * They are those of x86_64 and arm64. Pure.
 */

// linux/socket.h
export const AF_UNSPEC = 0;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const AF_NETLINK = 16;
export const AF_PACKET = 17;

// linux/net.h
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_RAW = 3;
export const SOCK_NONBLOCK = 0x800;
export const SOCK_CLOEXEC = 0x8_0000;

// linux/socket.h: levels of setsockopt(2), flags of send(2) and recv(2)
export const SOL_IP = 0;
export const SOL_SOCKET = 1;
export const SOL_IPV6 = 41;
export const SOL_RAW = 255;
export const SOL_NETLINK = 270;
export const MSG_DONTWAIT = 0x40;

// asm-generic/socket.h
export const SO_REUSEADDR = 2;
export const SO_SNDBUF = 7;
export const SO_RCVBUF = 8;
export const SO_PRIORITY = 12;
export const SO_BINDTODEVICE = 25;
export const SO_ATTACH_FILTER = 26;
export const SO_SNDBUFFORCE = 32;
export const SO_RCVBUFFORCE = 33;
export const SO_MEMINFO = 55;

// linux/in.h, linux/in6.h
export const IPPROTO_ICMP = 1;
export const IPPROTO_TCP = 6;
export const IPPROTO_UDP = 17;
export const IPPROTO_ICMPV6 = 58;
export const IPPROTO_SCTP = 132;
export const IP_TOS = 1;
export const IP_TTL = 2;
export const IPV6_UNICAST_HOPS = 16;
export const IPV6_MULTICAST_HOPS = 18;
export const IPV6_ADD_MEMBERSHIP = 20;
export const IPV6_V6ONLY = 26;
export const IPV6_TCLASS = 67;

// linux/icmp.h, linux/icmpv6.h: socket options in which a set bit blocks a type
export const ICMP_FILTER = 1;
export const ICMPV6_FILTER = 1;

// linux/if_ether.h
export const ETH_P_IP = 0x0800;
export const ETH_P_ARP = 0x0806;
export const ETH_P_IPV6 = 0x86dd;

// linux/netlink.h
export const NETLINK_NETFILTER = 12;
export const NETLINK_ADD_MEMBERSHIP = 1;
export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;
/** Lower types are those of control messages. */
export const NLMSG_MIN_TYPE = 16;
export const NLM_F_REQUEST = 0x1;
export const NLM_F_ACK = 0x4;
export const NLM_F_DUMP_INTR = 0x10;
export const NLM_F_DUMP = 0x300;
export const NLM_F_REPLACE = 0x100;
export const NLM_F_EXCL = 0x200;
export const NLM_F_CREATE = 0x400;
export const NLM_F_APPEND = 0x800;
/** In an acknowledgement: attributes follow the error. */
export const NLM_F_ACK_TLVS = 0x200;
export const NLA_F_NESTED = 0x8000;
export const NLA_F_NET_BYTEORDER = 0x4000;
export const NLA_TYPE_MASK = 0x3fff;
/** Octets of struct nlmsghdr, and of struct nlattr. */
export const NLMSG_HEADER = 16;
export const NLA_HEADER = 4;
/** Octets of struct nfgenmsg (linux/netfilter/nfnetlink.h). */
export const NFGEN_HEADER = 4;

// linux/rtnetlink.h
export const RTN_UNICAST = 1;
export const RTN_UNREACHABLE = 7;
export const RT_SCOPE_UNIVERSE = 0;
export const RT_SCOPE_LINK = 253;

// asm-generic/errno-base.h, asm-generic/errno.h
export const EINTR = 4;
export const EAGAIN = 11;
export const EMSGSIZE = 90;
export const ENOBUFS = 105;

// asm-generic/fcntl.h
export const F_SETFL = 4;
export const F_SETOWN = 8;
export const F_SETSIG = 10;
export const O_NONBLOCK = 0x800;
export const O_ASYNC = 0x2000;

// asm-generic/signal.h
export const SIGURG = 23;

/** The address family of IPv4 or IPv6. */
export const addressFamily = (family: 4 | 6): number => (family === 4 ? AF_INET : AF_INET6);
