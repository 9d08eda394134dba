/**
 * Segments that are not within the window of the connection that they are part of: conntrack finds them invalid,
 * and whoever does not know the connection answers them with a reset. Perl's raw sockets send them, as in sctp.ts.
 */
import { type Daemon, type Namespace, until } from './netns.ts';

/**
 * Waits for the first segment with data that comes in from or to one of the ports, and sends its sender three
 * whose acknowledgement number is right and whose sequence number is far off.
 */
const SEND = (family: 4 | 6, local: string, ports: string): string => `
  use Socket qw(:all);
  my $v4 = ${family === 4 ? 1 : 0};
  my $domain = $v4 ? AF_INET : AF_INET6;
  my $local = inet_pton($domain, '${local}');
  my %ports = map { $_ => 1 } (${ports});
  socket(my $s, $domain, SOCK_RAW, 6) or die $!;
  $| = 1; print "ready\\n";
  while (%ports) {
    my $from = recv($s, my $packet, 65536, 0);
    next unless defined $from;
    my (undef, $remote) = $v4 ? unpack_sockaddr_in($from) : unpack_sockaddr_in6($from);
    $packet = substr($packet, (ord($packet) & 15) * 4) if $v4;
    my ($source, $destination, $seq, $ack, $offset) = unpack('nnNNC', $packet);
    my ($port) = grep { $ports{$_} } ($source, $destination);
    my $length = length($packet) - ($offset >> 4) * 4;
    next unless $port && $length > 0;
    my $segment = pack('nnNNCCnnna', $destination, $source, ($ack + 0x40000000) & 0xffffffff,
      ($seq + $length) & 0xffffffff, 5 << 4, 0x18, 1000, 0, 0, 'x');
    my $sum = unpack('%32n*', $local . $remote . pack('NN', length($segment), 6) . $segment . "\\0");
    $sum = ($sum >> 16) + ($sum & 0xffff) while $sum >> 16;
    substr($segment, 16, 2) = pack('n', ~$sum & 0xffff);
    my $to = $v4 ? pack_sockaddr_in(0, $remote) : pack_sockaddr_in6(0, $remote);
    for (1..3) { send($s, $segment, 0, $to) or die $!; }
    delete $ports{$port}; print "sent $port\\n";
  }`;

/**
 * Puts stray segments into connections of a namespace, one for each of the ports, as soon as something is said
 * in them; resolves when it listens.
 */
export async function sendStraySegments(ns: Namespace, local: string, ports: number[]): Promise<Daemon> {
  const family = local.includes(':') ? 6 : 4;
  const daemon = ns.spawn('perl', ['-e', SEND(family, local, ports.join())], { name: 'stray' });
  await until(() => daemon.log().includes('ready'), { what: 'stray segments can be sent' });
  return daemon;
}
