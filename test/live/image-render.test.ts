/** The script of `veg-agent render ovn`, run against a northbound database of OVN. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { must, NODE, ROOT, run, until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';

const SCHEMA = '/usr/share/ovn/ovn-nb.ovsschema';

t.test('the script makes what the gateway is, again and again, and takes away what it was', async (t) => {
  const scope = scopeOf(t);
  const dir = scope.directory('ovn');
  const socket = `unix:${join(dir, 'nb.sock')}`;
  must('ovsdb-tool', ['create', join(dir, 'nb.db'), SCHEMA]);
  scope.spawn('ovsdb-server', [`--remote=p${socket}`, `--unixctl=${join(dir, 'ctl')}`, join(dir, 'nb.db')], {
    name: 'nb',
  });
  const nbctl = (...args: string[]): string => must('ovn-nbctl', [`--db=${socket}`, '--timeout=5', ...args]);
  await until(() => run('ovn-nbctl', [`--db=${socket}`, '--timeout=1', 'lr-add', 'ovn-cluster']).code === 0, {
    what: 'the northbound database',
  });
  // What is somebody else's stays.
  nbctl('lr-policy-add', 'ovn-cluster', '31000', 'ip4.dst == 10.17.0.0/16', 'allow');
  const foreign = 'logical_port=bfd@ovn-cluster dst_ip="10.16.0.99"';
  nbctl('create', 'BFD', ...foreign.split(' '));

  const example = must('cat', [join(ROOT, 'images/kubernetes/veg.yaml')]);
  /** Renders the example, changed, and runs the script. */
  const apply = (change: (text: string) => string = (text) => text): void => {
    const file = join(dir, 'veg.yaml');
    writeFileSync(file, change(example));
    const script = must(NODE, [join(ROOT, 'dist/agent/main.js'), 'render', 'ovn', '-f', file]);
    // Debian's ovn-nbctl 23.03 does not know the column, which newer ones do.
    t.match(script, / bfd_sessions="\[\$sessions\]"/);
    const known = script.replace(/ bfd_sessions="[^"]*"/, '');
    must('sh', ['-c', known], { env: { NBCTL: `ovn-nbctl --db=${socket} --timeout=5` } });
  };
  const table = (name: string, columns: string): string[] =>
    nbctl('--no-headings', '--format=csv', '--data=bare', `--columns=${columns}`, 'list', name)
      .trim()
      .split('\n')
      .sort();
  const policies = () =>
    nbctl('lr-policy-list', 'ovn-cluster').replace(/ +/g, ' ').trim().split('\n').slice(1);
  const set = '$VEG.8ca38ae7da18.ipv4';

  apply();
  t.same(table('Address_Set', 'name,addresses'), ['VEG.8ca38ae7da18.ipv4,10.17.0.0/16 10.18.0.0/16']);
  const expected = [
    ' 31000 ip4.dst == 10.17.0.0/16 allow',
    ` 29100 ip4.src == ${set} reroute 10.16.0.102, 10.16.0.103`,
    ` 29090 ip4.src == ${set} drop`,
  ];
  t.same(policies(), expected);
  const sessions = () => table('BFD', 'dst_ip,min_tx,min_rx,detect_mult');
  t.same(sessions(), ['10.16.0.102,100,100,5', '10.16.0.103,100,100,5', '10.16.0.99,,,']);

  const ids = table('BFD', '_uuid,dst_ip');
  apply();
  t.same(policies(), expected, 'again');
  t.same(table('BFD', '_uuid,dst_ip'), ids, 'sessions that stay are not made anew');

  apply((text) => text.replace('minTX: 100', 'minTX: 300').replace('10.16.0.103]', '10.16.0.104]'));
  t.same(sessions(), ['10.16.0.102,100,300,5', '10.16.0.104,100,300,5', '10.16.0.99,,,']);
  t.equal(policies()[1], ` 29100 ip4.src == ${set} reroute 10.16.0.102, 10.16.0.104`);
  t.equal(
    table('BFD', '_uuid,dst_ip').filter((row) => ids.includes(row)).length,
    2,
    'one stayed, and the foreign one',
  );

  apply((text) => text.replace('replicas: 2', 'replicas: 1').replace('[10.18.0.0/16]', '[10.19.0.0/16]'));
  t.same(sessions(), ['10.16.0.102,100,100,5', '10.16.0.99,,,']);
  t.same(table('Address_Set', 'addresses'), ['10.17.0.0/16 10.19.0.0/16']);
});
