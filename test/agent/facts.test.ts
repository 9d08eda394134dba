import t from 'tap';
import { readFacts } from '../../agent/facts.ts';

const observed = { links: [], addresses: [] };

t.test('a network-status file is optional, and a bad one is noted and left aside', async (t) => {
  const dir = t.testdir({
    good: '[{"name": "a", "interface": "net1", "ips": ["172.17.0.11"]}]',
    bad: '[{"name": "a", ',
    directory: {},
  });
  t.strictSame(await readFacts(observed, `${dir}/missing`), {
    ...observed,
    networks: [],
    names: [],
    notes: [],
  });
  t.strictSame(await readFacts(observed, `${dir}/good`), {
    ...observed,
    networks: [{ name: 'a', interface: 'net1', default: false }],
    names: [],
    notes: [],
  });
  const bad = await readFacts(observed, `${dir}/bad`);
  t.strictSame(bad.networks, []);
  t.match(bad.notes, [/^network-status file .*\/bad is left aside: not JSON: /]);
  t.match((await readFacts(observed, `${dir}/directory`)).notes, [/is left aside: EISDIR/]);
});
