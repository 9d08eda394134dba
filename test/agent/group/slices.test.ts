import t from 'tap';
import {
  portSlice,
  SLICE_PORTS,
  SLICES,
  slotConflicts,
  slotOf,
  slotOfPort,
} from '../../../agent/group/slices.ts';
import { address } from '../../../lib/prefix.ts';

t.test('the slices of all members together are the ports 1024 to 65535, each once', async (t) => {
  let next = 1024;
  for (let slot = 0; slot < SLICES; slot++) {
    const { firstPort, lastPort } = portSlice(slot);
    t.equal(firstPort, next);
    t.equal(lastPort - firstPort + 1, SLICE_PORTS);
    t.equal(slotOfPort(firstPort), slot);
    t.equal(slotOfPort(lastPort), slot);
    next = lastPort + 1;
  }
  t.equal(next, 65_536);
  t.equal(slotOfPort(1023), undefined);
});

t.test('a slice follows from the last four bits of the address, in both families', async (t) => {
  t.equal(slotOf(address('10.16.0.12')), 12);
  t.equal(slotOf(address('10.16.0.28')), 12);
  t.equal(slotOf(address('10.16.1.240')), 0);
  t.equal(slotOf(address('fd00:10:16::12')), 2);
  t.equal(slotOf(address('fd00:10:16::abcd')), 13);
});

t.test('members that would share a slice are found, each with the first that has it', async (t) => {
  const members = ['10.16.0.12', '10.16.0.13', '10.16.0.28', '10.16.0.44'].map(address);
  t.same(slotConflicts(members), [
    { member: '10.16.0.28', other: '10.16.0.12' },
    { member: '10.16.0.44', other: '10.16.0.12' },
  ]);
  t.same(slotConflicts(members.slice(0, 2)), []);
});
