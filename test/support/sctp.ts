/**
 * SCTP without the kernel's: Debian's kernels may lack the module, and conntrack translates it all the same. Perl's
 * raw sockets send and receive it (perl is in every Debian).
 */
import { type Namespace, until } from './netns.ts';

/** Prints `source destination-port` of the first packet for one of the ports, and stops. */
const LISTEN = (family: 4 | 6, ports: string): string => `
  use Socket qw(:all);
  $SIG{ALRM} = sub { exit 1 }; alarm 5;
  socket(my $s, ${family === 4 ? 'AF_INET' : 'AF_INET6'}, SOCK_RAW, 132) or die $!;
  $| = 1; print "ready\\n";
  while (1) {
    my $from = recv($s, my $packet, 2048, 0);
    ${family === 4 ? '$packet = substr($packet, (ord($packet) & 15) * 4);' : ''}
    my ($source, $port) = unpack('nn', $packet);
    my (undef, $address) = ${family === 4 ? 'unpack_sockaddr_in' : 'unpack_sockaddr_in6'}($from);
    next unless grep { $_ == $port } (${ports});
    print inet_ntop(${family === 4 ? 'AF_INET' : 'AF_INET6'}, $address), " $port\\n"; exit 0;
  }`;

/** Sends an INIT chunk (RFC 9260 3.3.2) with its CRC32c. */
const SEND = (family: 4 | 6, host: string, port: number): string => `
  use Socket qw(:all);
  my $init = pack('CCnNNnnN', 1, 0, 20, 0x12345678, 65536, 10, 10, 1);
  my $packet = pack('nnNV', 40000 + int(rand(9999)), ${port}, 0, 0) . $init;
  my $crc = 0xffffffff;
  for (unpack('C*', $packet)) {
    $crc ^= $_; $crc = $crc & 1 ? ($crc >> 1) ^ 0x82f63b78 : $crc >> 1 for 1..8;
  }
  substr($packet, 8, 4) = pack('V', $crc ^ 0xffffffff);
  socket(my $s, ${family === 4 ? 'AF_INET' : 'AF_INET6'}, SOCK_RAW, 132) or die $!;
  my $to = ${family === 4 ? 'pack_sockaddr_in' : 'pack_sockaddr_in6'}(0, inet_pton(${family === 4 ? 'AF_INET' : 'AF_INET6'}, '${host}'));
  send($s, $packet, 0, $to) or die $!;`;

/**
 * Begins an association from a namespace to an address and port.
 * @returns the source address and the port that a listener on `ports` sees, `address port`
 */
export async function associate(
  from: Namespace,
  to: { host: string; port: number },
  listener: { ns: Namespace; ports: number[] },
): Promise<string> {
  const family = to.host.includes(':') ? 6 : 4;
  const daemon = listener.ns.spawn('perl', ['-e', LISTEN(family, listener.ports.join())], { name: 'sctp' });
  await until(() => daemon.log().includes('ready'), { what: 'the SCTP listener listens' });
  from.run('perl', ['-e', SEND(family, to.host, to.port)]);
  const heard = () => daemon.log().match(/^\S+ \d+$/m)?.[0];
  await until(() => heard() !== undefined, { what: `an SCTP packet for ${to.host} port ${to.port}` });
  return heard()!;
}
