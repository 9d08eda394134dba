/** conntrackd with two nodes, FTFW over UDP and without external cache: it puts what it hears into the kernel at once. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Daemon, type Namespace, type Scope, until } from '../support/netns.ts';

const PORT = 3780;

const configuration = (directory: string, device: string, local: string, remote: string): string => `
Sync {
  Mode FTFW {
    DisableExternalCache On
  }
  UDP {
    IPv4_address ${local}
    IPv4_Destination_Address ${remote}
    Port ${PORT}
    Interface ${device}
    SndSocketBuffer 8388608
    RcvSocketBuffer 8388608
    Checksum on
  }
}
General {
  HashSize 65536
  HashLimit 262144
  LogFile ${directory}/log
  LockFile ${directory}/lock
  UNIX {
    Path ${directory}/control
  }
  NetlinkBufferSize 8388608
  NetlinkBufferSizeMaxGrowth 16777216
}
`;

/** Starts it in a namespace, with the other node at `remote`. */
export async function startConntrackd(
  scope: Scope,
  ns: Namespace,
  { device, local, remote }: Record<'device' | 'local' | 'remote', string>,
): Promise<Daemon> {
  const directory = scope.directory('conntrackd');
  const file = join(directory, 'conntrackd.conf');
  writeFileSync(file, configuration(directory, device, local, remote));
  const daemon = ns.spawn('conntrackd', ['-C', file], { name: 'conntrackd' });
  await until(() => ns.run('conntrackd', ['-C', file, '-s']).code === 0, { what: 'conntrackd answers' });
  return daemon;
}
