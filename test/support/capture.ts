/** The BFD packets on an interface, recorded by tcpdump with the kernel's timestamps. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { decode, type Packet } from '../../bfd/packet.ts';
import { type Daemon, type Namespace, type Scope, until } from './netns.ts';

export interface CapturedPacket extends Packet {
  /** Unix milliseconds. */
  at: number;
  from: string;
  to: string;
  /** TTL or Hop Limit. */
  ttl: number;
  sourcePort: number;
}

const PCAP_HEADER = 24;
const RECORD_HEADER = 16;
const ETHERNET_HEADER = 14;
const UDP_HEADER = 8;

export class BfdCapture {
  readonly #daemon: Daemon;
  readonly #file: string;

  private constructor(daemon: Daemon, file: string) {
    this.#daemon = daemon;
    this.#file = file;
  }

  /** Starts recording on an interface, and returns when it does. */
  static async start(scope: Scope, ns: Namespace, device: string): Promise<BfdCapture> {
    const file = join(scope.directory('capture'), 'pcap');
    const args = [
      '-n',
      '-U',
      '--immediate-mode',
      // Room for thousands of packets a second while tcpdump is kept from running: many slots, each for one of BFD.
      '-s',
      '192',
      '-B',
      '16384',
      '-Z',
      'root',
      '-i',
      device,
      '-w',
      file,
      'udp dst port 3784',
    ];
    const daemon = ns.spawn('tcpdump', args, { name: 'tcpdump' });
    await until(() => daemon.log().includes('listening on'), { what: 'tcpdump listens' });
    return new BfdCapture(daemon, file);
  }

  /** What was recorded until now. Knocks (empty datagrams) and other junk are left out. */
  packets(): CapturedPacket[] {
    const bytes = readFileSync(this.#file);
    const packets: CapturedPacket[] = [];
    for (let at = PCAP_HEADER; at + RECORD_HEADER <= bytes.length; ) {
      const length = bytes.readUInt32LE(at + 8);
      const end = at + RECORD_HEADER + length;
      if (end > bytes.length) break;
      const time = bytes.readUInt32LE(at) * 1000 + bytes.readUInt32LE(at + 4) / 1000;
      const packet = read(bytes.subarray(at + RECORD_HEADER, end));
      if (packet !== undefined) packets.push({ at: time, ...packet });
      at = end;
    }
    return packets;
  }

  async stop(): Promise<void> {
    await this.#daemon.stop('SIGTERM');
  }
}

function read(frame: Buffer): Omit<CapturedPacket, 'at'> | undefined {
  const ip = frame.subarray(ETHERNET_HEADER);
  const v6 = ip[0]! >> 4 === 6;
  const udp = ip.subarray(v6 ? 40 : (ip[0]! & 0xf) * 4);
  const packet = decode(udp.subarray(UDP_HEADER));
  if (typeof packet === 'string') return undefined;
  return {
    ...packet,
    from: v6 ? address6(ip.subarray(8, 24)) : [...ip.subarray(12, 16)].join('.'),
    to: v6 ? address6(ip.subarray(24, 40)) : [...ip.subarray(16, 20)].join('.'),
    ttl: v6 ? ip[7]! : ip[8]!,
    sourcePort: udp.readUInt16BE(0),
  };
}

/** An IPv6 address in its canonical text. */
function address6(bytes: Buffer): string {
  const groups = Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(2 * i).toString(16)).join(':');
  return new URL(`http://[${groups}]`).hostname.slice(1, -1);
}
