import t from 'tap';
import {
  type Changes,
  changeLines,
  cleanupLines,
  countChanges,
  countObjects,
  routingFamily,
} from '../../../agent/reconcile/changes.ts';
import { address } from '../../../lib/prefix.ts';
import type { RoutingStep } from '../../../routing/diff.ts';

const ADDRESS: RoutingStep = {
  kind: 'addAddress',
  address: { family: 6, address: address('fd00:172:17::50'), dev: 'net1' },
};
const PROXY: RoutingStep = {
  kind: 'addProxy',
  proxy: { family: 4, address: address('172.17.0.50'), dev: 'net1' },
};
const SETTING = { line: 'sysctl -w net.ipv4.ip_forward=1' } as Changes['sysctl'][number];
const NEIGHBOUR = {
  line: 'ip neigh del 172.17.0.1 dev net1',
} as NonNullable<Changes['neighbours']>[number];
const changes: Changes = {
  nat: [],
  counters: [],
  fastPath: [],
  routing: [ADDRESS, PROXY],
  sysctl: [SETTING],
  shaping: [],
};

t.test('lines come in the order in which they are applied; a clean-up goes the other way', async (t) => {
  const lines = changeLines(changes);
  t.equal(lines.length, 3);
  t.equal(lines[2], SETTING.line);
  t.strictSame(cleanupLines({ ...changes, neighbours: [NEIGHBOUR] }), [
    SETTING.line,
    lines[0],
    lines[1],
    NEIGHBOUR.line,
  ]);
  t.equal(countChanges(changes), 3);
  t.equal(countChanges({ ...changes, neighbours: [NEIGHBOUR] }), 4);
});

t.test('each step counts for an object, a proxied address as an address', async (t) => {
  t.strictSame(countObjects(changes), { address: 2, sysctl: 1 });
});

t.test('each step has a family', async (t) => {
  t.strictSame([ADDRESS, PROXY].map(routingFamily), [6, 4]);
});
