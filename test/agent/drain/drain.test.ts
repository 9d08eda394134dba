import { readFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { DrainWatch, flowsCounted, forwardedPackets } from '../../../agent/drain/drain.ts';
import type { EngineReport, SessionStateName } from '../../../bfd/intent.ts';

t.test('forwarded packets of both families are counted, by the names of their columns', async (t) => {
  const snmp = 'Ip: Forwarding InReceives ForwDatagrams InDiscards\nIp: 1 7 41 0\nIcmp: InMsgs\nIcmp: 3\n';
  t.equal(forwardedPackets(snmp, 'Ip6InReceives\t9\nIp6OutForwDatagrams             \t1\n'), 42);
  t.equal(forwardedPackets(snmp, ''), 41, 'no IPv6');
  t.equal(forwardedPackets('', ''), 0);
  const real = (name: string) => readFileSync(`/proc/self/net/${name}`, 'utf8');
  t.ok(forwardedPackets(real('snmp'), real('snmp6')) >= 0, 'as this kernel prints them');
});

const SAVE = (packets: number) => `*nat
:PREROUTING ACCEPT [1:60]
:POSTROUTING ACCEPT [0:0]
[3:180] -A PREROUTING -p tcp -j ACCEPT
[${packets}:2520] -A PREROUTING -i eth0 -j MARK --set-xmark 0x4000/0x4000
[9:540] -A POSTROUTING -j MASQUERADE
COMMIT
`;

t.test('new flows are what the mark rule of the nat table has counted', async (t) => {
  t.equal(flowsCounted(SAVE(42), 4, 'eth0'), 42);
  t.equal(flowsCounted(SAVE(42), 4, 'eth1'), 0, 'not there');
  t.equal(flowsCounted("# Table `nat' is incompatible, use 'nft' tool.\n", 4, 'eth0'), undefined);
});

/** A watch in this namespace, where nothing is forwarded, with peers that are in this state. */
function watch(t: Test, remoteState: () => SessionStateName) {
  const report = () =>
    ({ draining: true, sessions: [{ remoteState: remoteState() }] }) as unknown as EngineReport;
  const calls: string[] = [];
  const drain = new DrainWatch({
    logger: { error() {} },
    exec: async (file) => {
      calls.push(file);
      if (file.includes('nft')) return { stdout: '', stderr: 'not found', exitCode: -1 };
      return { stdout: SAVE(42), stderr: '', exitCode: 0 };
    },
    report,
    observation: () => ({ plan: { interfaces: { internal: 'eth0' } }, backend: { 4: 'nft' } }) as never,
  });
  t.teardown(() => drain.close());
  return { drain, calls };
}

t.test('it waits until the peers know, then for silence, and not again', async (t) => {
  let state: SessionStateName = 'Up';
  const { drain, calls } = watch(t, () => state);
  t.equal(await drain.moved(700), false, 'a peer that is Up still sends traffic here');
  setTimeout(() => {
    state = 'Down';
  }, 200);
  t.equal(await drain.moved(60_000), true);
  state = 'Up';
  t.equal(await drain.moved(0), true, 'it has moved already');
  drain.undrain();
  t.equal(await drain.moved(200), false, 'after an undrain it begins anew');
  t.ok(calls.includes('iptables-save'), 'the plain program is the way out when the named one is missing');
});

t.test('the time limit holds', async (t) => {
  const { drain } = watch(t, () => 'Up');
  t.equal(await drain.moved(100), false);
});

t.test('counters that cannot be read end nothing: it waits as long as it may', async (t) => {
  let readable = false;
  const report = () => ({ draining: true, sessions: [] }) as unknown as EngineReport;
  const drain = new DrainWatch({
    logger: { error: (...told: unknown[]) => t.fail(`${told}`) },
    exec: async () => ({ stdout: '', stderr: '', exitCode: 1 }),
    readCounters(name) {
      if (!readable) throw new Error(`${name}: too many open files`);
      return '';
    },
    report,
    observation: () => undefined,
  });
  t.teardown(() => drain.close());
  t.equal(await drain.moved(300), false);
  readable = true;
  t.equal(await drain.moved(10_000), true);
});
