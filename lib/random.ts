/**
 * Random numbers from the kernel (random(7)). Not from node:crypto: loading it takes an interpreter as long as everything
 * else that the BFD process does before its first packet.
 */
import fs from 'node:fs';

/** So many random octets, as unpredictable as a key. Throws when /dev/urandom cannot be read. */
export function randomOctets(count: number): Buffer {
  const bytes = Buffer.alloc(count);
  const fd = fs.openSync('/dev/urandom', 'r');
  try {
    if (fs.readSync(fd, bytes) < count) throw new Error('/dev/urandom gave less than was asked for');
  } finally {
    fs.closeSync(fd);
  }
  return bytes;
}

/** An integer from 0 to 2^32 − 1. Throws likewise. */
export const randomUint32 = (): number => randomOctets(4).readUInt32LE(0);
