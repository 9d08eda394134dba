/** The kernel's tables of UDP sockets, /proc/net/udp and udp6, as text. Pure. */
import { type Address, addressBytes } from '../lib/prefix.ts';

const hex = (value: number, digits: number): string => value.toString(16).toUpperCase().padStart(digits, '0');

/** An address and port as the tables write them: words of four octets in the order of the machine, little-endian. */
export function tableText(address: Address, port: number): string {
  const octets = Buffer.from(addressBytes(address));
  const words = Array.from({ length: octets.length / 4 }, (_, i) => hex(octets.readUInt32LE(4 * i), 8));
  return `${words.join('')}:${hex(port, 4)}`;
}

/** How many sockets are bound to exactly this address and port. Those on the wildcard address do not count. */
export function countBound(table: string, address: Address, port: number): number {
  const text = tableText(address, port);
  return table.split('\n').filter((line) => line.trimStart().split(/\s+/)[1] === text).length;
}
