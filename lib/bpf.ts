/** Classic BPF (linux/filter.h, linux/bpf_common.h): the instructions that socket filters are made of. Pure. */

/** A program: one instruction after the other. Jumps count from the next instruction; operands are 32 bits. */
export type Bpf = readonly (readonly [code: number, ifTrue: number, ifFalse: number, operand: number])[];

/** Load a word, half a word or a byte at a fixed offset; big-endian. */
export const LD_W_ABS = 0x20;
export const LD_H_ABS = 0x28;
export const LD_B_ABS = 0x30;
/** Jump if equal, or if greater or equal, to the operand. */
export const JEQ_K = 0x15;
export const JGE_K = 0x35;
/** Keep the operand's number of octets of the packet. */
export const RET_K = 0x06;

/** Offsets from here are those of the network header, of the Ethernet header, and of data beside the packet. */
export const SKF_NET_OFF = -0x10_0000;
export const SKF_LL_OFF = -0x20_0000;
export const SKF_AD_OFF = -0x1000;
/** Beside the packet: the index of the interface. */
export const SKF_AD_IFINDEX = 8;

export const ACCEPT: Bpf[number] = [RET_K, 0, 0, 0x7fff_ffff];
export const DROP: Bpf[number] = [RET_K, 0, 0, 0];
