/**
 * What bandwidth.test.ts runs inside a namespace with an interface net1: makes a limit while another program runs a shell
 * command (the argument, if any) between the request for the class and that for its queue, then once more without. Prints an
 * `Outcome`.
 */
import { execFileSync } from 'node:child_process';
import { NetlinkSocket, Protocol } from '../../lib/netlink.ts';
import { readIndexes } from '../../routing/kernel.ts';
import { BANDWIDTH_HANDLE } from '../../routing/numbers.ts';
import { desiredShaping } from '../../shaping/desired.ts';
import { diffShaping } from '../../shaping/diff.ts';
import { createShapingKernel } from '../../shaping/kernel.ts';
import { renderShapingStep } from '../../shaping/render.ts';
import { majorOf, TcMessage } from '../../shaping/tc-codec.ts';

export interface Outcome {
  /** What the kernel refused each time. */
  refused: string[][];
  /** The kinds of queues at the end, and what was still to do. */
  queues: string[];
  left: string[];
}

let damage = process.argv[2];
const netlink = new NetlinkSocket(Protocol.ROUTE);
const kernel = createShapingKernel({
  tc: {
    dump: (type, data, parse) => netlink.dump(type, data, parse),
    transact(requests) {
      const list = [...requests];
      const isLeaf = list.some(
        ({ type, data }) => type === TcMessage.NEWQDISC && !Buffer.from(data).includes('htb'),
      );
      if (damage !== undefined && isLeaf) {
        execFileSync('sh', ['-c', damage]);
        damage = undefined;
      }
      return netlink.transact(list);
    },
  },
  openFilter: () => new NetlinkSocket(Protocol.NETFILTER),
  indexes: () => readIndexes(netlink),
});
const desired = desiredShaping({
  devices: [{ direction: 'egress', name: 'net1', from: 'eth0', mtu: 1500 }],
  ...{ families: [4], markMask: 1 },
  limits: [{ name: 'web', rate: { egress: 1e7 }, perSource: false, applies: { mark: 1 } }],
});
const steps = () => diffShaping(kernel.observe(desired), desired);
const refused: string[][] = [];
for (let i = 0; i < 2; i++) refused.push((await kernel.apply(steps())).map(({ message }) => message));
const { qdiscs } = kernel.counts();
const outcome: Outcome = {
  refused,
  queues: qdiscs.flatMap(({ kind, parent }) => (majorOf(parent) === BANDWIDTH_HANDLE ? [kind] : [])),
  left: steps().map(renderShapingStep),
};
console.log(JSON.stringify(outcome));
