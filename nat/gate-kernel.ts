/** Reads and writes the table VEG-GATE (gate.ts) over netlink. */
import { release as kernelRelease } from 'node:os';
import { generationOf, generationQuestion, NFT_GET, type NftMessage, transaction } from '../lib/nft-codec.ts';
import { FAMILIES, type Family } from '../lib/prefix.ts';
import { CHANGED, NatError, type NatErrorKind } from './errors.ts';
import { GATE, type GateStep, type GateTable, gateMessages, REFUSED } from './gate.ts';
import { chainQuestion, isHooked, type ObservedRule, parseRule, tableQuestion } from './own-table.ts';

export type Gates = Partial<Record<Family, GateTable>>;

export interface GateKernel {
  /** The tables by family; one without a table is absent. Throws `NatError`. */
  observe(): Gates;
  /** Why there can be no table, in an old kernel or one without nf_tables; undefined: there may be one. */
  lack(): string | undefined;
  /** Throws `GateError` when the kernel refuses what is to be written, `NatError` otherwise. */
  apply(steps: readonly GateStep[]): void;
  /** The packets that were not accepted from outside; undefined without such a table. Throws what the kernel answers. */
  refused(family: Family): number | undefined;
}

/** What is needed of a NETLINK_NETFILTER socket. The table is small, so it is read at once. Errors carry the errno's name as `code`. */
export interface GateSocket {
  ask(type: number, data: Uint8Array): Buffer;
  dump<T>(type: number, data: Uint8Array, parse: (answer: Buffer) => T): T[];
  sendAll(messages: readonly NftMessage[]): void;
}

/** The kernel refuses the table: the same can be done with iptables. */
export class GateError extends NatError {}

const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException).code;

/** What the kernel answers without the table, and without nf_tables. Node names EOPNOTSUPP ENOTSUP. */
const NO_TABLE: ReadonlySet<string> = new Set(['ENOENT', 'EINVAL', 'ENOTSUP']);
/** What it answers without nf_tables; the last two without netfilter's netlink at all. */
const NO_NFTABLES: ReadonlySet<string> = new Set(['EINVAL', 'ENOTSUP', 'EPROTONOSUPPORT', 'EAFNOSUPPORT']);

const messageOf = (error: unknown): string => `nf_tables: ${GATE.name}: ${(error as Error).message}`;

function errorOf(error: unknown, step: GateStep): NatError {
  const code = codeOf(error) ?? '';
  // A new table has nothing that could have changed: what is missing then is a module.
  const mayChange = step.type === 'delete-gate' || step.there !== undefined;
  const kind: NatErrorKind = code === 'EPERM' ? 'not-permitted' : 'unsupported';
  if (mayChange && CHANGED.has(code)) return new NatError('changed', messageOf(error));
  return step.type === 'delete-gate'
    ? new NatError('failed', messageOf(error))
    : new GateError(kind, messageOf(error));
}

/** POSTROUTING shows where a packet has come from since 5.7 (28f8bfd1ac94); this is the oldest kernel that was run. */
const FIRST_RELEASE = [5, 10] as const;

function isTooOld(release: string): boolean {
  const [major = 0, minor = 0] = release.split('.').map(Number);
  return major < FIRST_RELEASE[0] || (major === FIRST_RELEASE[0] && minor < FIRST_RELEASE[1]);
}

/**
 * Access to the table of this network namespace.
 * @param open returns the socket; it is called when first needed
 * @param release of the kernel
 */
export const createGateKernel = (open: () => GateSocket, release = kernelRelease()): GateKernel =>
  new NftablesGateKernel(open, release);

class NftablesGateKernel implements GateKernel {
  readonly #open: () => GateSocket;
  readonly #release: string;
  #opened: GateSocket | undefined;
  /** The last observation, and the generation of nf_tables that it is of. */
  #last: { generation: number; gates: Gates } | undefined;

  constructor(open: () => GateSocket, release: string) {
    this.#open = open;
    this.#release = release;
  }

  observe(): Gates {
    try {
      const generation = this.#generation();
      if (this.#last?.generation !== generation) {
        const gates: Gates = {};
        for (const family of FAMILIES) {
          const table = this.#observeFamily(family);
          if (table !== undefined) gates[family] = table;
        }
        this.#last = { generation, gates };
      }
      return this.#last.gates;
    } catch (error) {
      if (NO_TABLE.has(codeOf(error) ?? '')) return {};
      throw new NatError(codeOf(error) === 'EPERM' ? 'not-permitted' : 'failed', messageOf(error));
    }
  }

  lack(): string | undefined {
    if (isTooOld(this.#release)) {
      return `nf_tables: ${GATE.name}: Linux ${this.#release} is older than ${FIRST_RELEASE.join('.')}, which shows in POSTROUTING where a packet has come from`;
    }
    try {
      this.#generation();
      return undefined;
    } catch (error) {
      // Another error may pass, and says nothing of the kernel: `observe` reports it.
      return NO_NFTABLES.has(codeOf(error) ?? '') ? messageOf(error) : undefined;
    }
  }

  apply(steps: readonly GateStep[]): void {
    for (const step of steps) {
      try {
        this.#socket.sendAll(transaction(gateMessages(step)));
      } catch (error) {
        throw errorOf(error, step);
      }
    }
  }

  refused(family: Family): number | undefined {
    if (!this.#exists(family)) return undefined;
    return this.#dump(family).find(({ chain }) => chain === REFUSED)?.counter?.packets;
  }

  get #socket(): GateSocket {
    this.#opened ??= this.#open();
    return this.#opened;
  }

  #generation(): number {
    return generationOf(this.#socket.ask(NFT_GET.generation, generationQuestion()));
  }

  #exists(family: Family): boolean {
    try {
      this.#socket.ask(NFT_GET.table, tableQuestion(GATE, family));
      return true;
    } catch (error) {
      if (NO_TABLE.has(codeOf(error) ?? '')) return false;
      throw error;
    }
  }

  #observeFamily(family: Family): GateTable | undefined {
    if (!this.#exists(family)) return undefined;
    const rules = new Map<string, string[]>();
    for (const { chain, comment } of this.#dump(family)) {
      const list = rules.get(chain);
      if (list === undefined) rules.set(chain, [comment]);
      else list.push(comment);
    }
    const hooked = Object.keys(GATE.hooks).every((chain) => this.#isHooked(family, chain));
    return { hooked, rules };
  }

  #dump(family: Family): ObservedRule[] {
    return this.#socket.dump(NFT_GET.rule, tableQuestion(GATE, family), parseRule);
  }

  #isHooked(family: Family, chain: string): boolean {
    try {
      return isHooked(GATE, this.#socket.ask(NFT_GET.chain, chainQuestion(GATE, family, chain)), chain);
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return false;
      throw error;
    }
  }
}
