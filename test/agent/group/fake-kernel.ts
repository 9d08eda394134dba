/** A `FlowKernel` without a kernel: a map of flows, own ones and replicas. */
import type { FlowChange, FlowEvent, FlowKernel, GroupFlow } from '../../../agent/group/model.ts';
import { encodeFlow } from '../../../agent/group/records.ts';

export class FakeKernel implements FlowKernel {
  readonly flows = new Map<string, { kind: 'own' | 'replica'; flow: GroupFlow }>();
  readonly applied: FlowChange['type'][] = [];
  #report: (events: readonly FlowEvent[]) => void = () => {};

  start(report: (events: readonly FlowEvent[]) => void): void {
    this.#report = report;
    report([{ type: 'listing' }, { type: 'listed', deleted: false }]);
  }

  settle(): void {}

  configure(): void {}

  apply(changes: readonly FlowChange[]): Record<string, number> {
    for (const { type, flow } of changes) {
      this.applied.push(type);
      const key = keyOf(flow);
      if (type === 'remove') this.flows.delete(key);
      else if (type === 'insert' || type === 'release') this.flows.set(key, { kind: 'replica', flow });
      else if (type === 'adopt' || type === 'restore') this.flows.set(key, { kind: 'own', flow });
    }
    return {};
  }

  close(): void {}

  /** Clients open flows. */
  open(flows: readonly GroupFlow[]): void {
    for (const flow of flows) this.flows.set(keyOf(flow), { kind: 'own', flow });
    this.#report(flows.map((flow) => ({ type: 'update', flow })));
  }

  /** All own flows end; `lost`: without an event. */
  endAll(lost: boolean): void {
    const own = [...this.flows].filter(([, { kind }]) => kind === 'own');
    for (const [key] of own) this.flows.delete(key);
    if (!lost) this.#report(own.map(([, { flow }]) => ({ type: 'end', flow })));
  }

  /** The table is read again, as after an overrun. */
  list(): void {
    const own = [...this.flows.values()].filter(({ kind }) => kind === 'own');
    const updates = own.map(({ flow }) => ({ type: 'update' as const, flow }));
    this.#report([{ type: 'listing' }, ...updates, { type: 'listed', deleted: false }]);
  }

  /** Packets of all replicas are seen. */
  see(): void {
    const replicas = [...this.flows.values()].filter(({ kind }) => kind === 'replica');
    this.#report(replicas.map(({ flow }) => ({ type: 'active', flow })));
  }

  count(kind: 'own' | 'replica'): number {
    return [...this.flows.values()].filter((one) => one.kind === kind).length;
  }
}

const keyOf = (flow: GroupFlow): string => encodeFlow(flow).toString('latin1', 0, 9 + 3 * flow.source.length);
