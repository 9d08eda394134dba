import { execFileSync } from 'node:child_process';
import { truncateSync } from 'node:fs';
import t from 'tap';
import { hasIPv6, readFacts } from '../../../agent/pod/facts.ts';

const observed = { links: [], addresses: [], routes: [] };
const found = { links: [], addresses: [], connected: [] };

t.test('a network-status file is optional, and a bad one is noted and left aside', async (t) => {
  const dir = t.testdir({
    good: '[{"name": "a", "interface": "net1", "ips": ["172.17.0.11"]}]',
    bad: '[{"name": "a", ',
    directory: {},
  });
  t.strictSame(await readFacts(observed, `${dir}/missing`), {
    ...found,
    networks: [],
    names: [],
    missing: [],
    notes: [],
  });
  t.strictSame(await readFacts(observed, `${dir}/good`), {
    ...found,
    networks: [{ name: 'a', interface: 'net1', default: false }],
    names: [],
    missing: [],
    notes: [],
  });
  const bad = await readFacts(observed, `${dir}/bad`);
  t.strictSame(bad.networks, []);
  t.match(bad.notes, [/^network-status file .*\/bad is left aside: not JSON: /]);
  t.match((await readFacts(observed, `${dir}/directory`)).notes, [/is a directory, not a regular file/]);
  execFileSync('mkfifo', [`${dir}/fifo`]);
  t.match((await readFacts(observed, `${dir}/fifo`)).notes, [/is a FIFO, not a regular file/]);
  t.match((await readFacts(observed, '/dev/zero')).notes, [/is a device, not a regular file/]);
  truncateSync(`${dir}/good`, 2 ** 40);
  t.match((await readFacts(observed, `${dir}/good`)).notes, [/is larger than/]);
});

t.test('a kernel without IPv6 is known by what /proc/net lacks', async (t) => {
  t.equal(hasIPv6(), true, 'this one has it');
  t.equal(hasIPv6('/proc/self/net/nothing'), false);
  t.strictSame((await readFacts(observed, '/nonexistent', false)).missing, [6]);
});
