/** Classic BPF without a kernel. */
import type { Bpf } from '../../lib/bpf.ts';

/** What the kernel does with the instructions that the filters use: whether it lets a packet through. */
export function accepts(program: Bpf, packet: Buffer): boolean {
  let a = 0;
  for (let pc = 0; ; pc++) {
    const [code, jt, jf, k] = program[pc]!;
    const width = { 32: 4, 40: 2, 48: 1 }[code];
    if (width !== undefined) {
      if (k + width > packet.length) return false;
      a = packet.readUIntBE(k, width);
    } else if (code === 0x15) pc += a === k >>> 0 ? jt : jf;
    else return k > 0;
  }
}
