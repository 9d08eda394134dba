import { readFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { type DrainParts, DrainWatch, flowsCounted, forwardedPackets } from '../../../agent/drain/drain.ts';
import type { EngineReport, SessionStateName } from '../../../bfd/intent.ts';
import { ManualClock } from '../../support/clock.ts';

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

t.test('idle is when no packet is forwarded any more, and not longer than the limit', async (t) => {
  const { drain, clock, state } = watch(t);
  const idle = async (timeoutMs: number, meanwhile: (after: number) => void = () => {}) => {
    const began = clock.now();
    let done = false;
    void drain.idle(timeoutMs).then(() => {
      done = true;
    });
    for (; !done; await clock.advance(10)) meanwhile(clock.now() - began);
    return clock.now() - began;
  };
  t.equal(await idle(3000), 300);
  state.rate = 1000;
  t.equal(await idle(3000), 3000, 'packets come all the time');
  const after = await idle(3000, (ms) => {
    if (ms >= 1000) state.rate = 0;
  });
  t.ok(after > 1200 && after < 1500, `${after} ms`);
  state.readable = false;
  t.equal(await idle(1000), 1000, 'unknown is not idle');
});

t.test('new flows are what the mark rule of the nat table has counted', async (t) => {
  t.equal(flowsCounted(SAVE(42), 4, 'eth0'), 42);
  t.equal(flowsCounted(SAVE(42), 4, 'eth1'), 0, 'not there');
  t.equal(flowsCounted("# Table `nat' is incompatible, use 'nft' tool.\n", 4, 'eth0'), undefined);
});

/** A watch over counters that grow by `rate` packets a second, on a clock of its own. */
function watch(
  t: Test,
  { exec, fast }: { exec?: DrainParts['exec']; fast?: { inForce: boolean; rate: number } } = {},
) {
  const clock = new ManualClock();
  const state = { peer: 'Up' as SessionStateName, rate: 0, readable: true };
  const calls: string[] = [];
  let packets = 0;
  let countedAt = clock.now();
  const count = () => {
    packets += ((clock.now() - countedAt) / 1000) * state.rate;
    countedAt = clock.now();
    return Math.floor(packets);
  };
  const drain = new DrainWatch({
    logger: { error: (_fields, message) => t.fail(message) },
    exec:
      exec ??
      (async (file) => {
        calls.push(file);
        if (file.includes('nft')) return { stdout: '', stderr: 'not found', exitCode: -1 };
        return { stdout: SAVE(42), stderr: '', exitCode: 0 };
      }),
    readCounters(name) {
      if (!state.readable) throw new Error(`${name}: too many open files`);
      return name === 'snmp' ? `Ip: Forwarding ForwDatagrams\nIp: 1 ${count()}\n` : '';
    },
    report: () => ({ draining: true, sessions: [{ remoteState: state.peer }] }) as unknown as EngineReport,
    observation: () =>
      ({
        plan: { interfaces: { internal: 'eth0' } },
        backend: { 4: 'nft' },
        fastPath: fast?.inForce ?? false,
      }) as never,
    clock,
    ...(fast && { carried: () => Math.floor((clock.now() / 1000) * fast.rate) }),
  });
  t.teardown(() => drain.close());
  /** The result of a drain, and how long it took. */
  const drained = async (timeoutMs: number) => {
    const began = clock.now();
    let result: boolean | undefined;
    void drain.drained(timeoutMs).then((value) => {
      result = value;
    });
    for (let i = 0; result === undefined && i < 10_000; i++) await clock.advance(10);
    return { result, after: clock.now() - began };
  };
  return { drain, drained, calls, clock, state };
}

t.test('a drain waits until the peers know, then until nothing is forwarded, and not again', async (t) => {
  const { drain, drained, calls, clock, state } = watch(t);
  state.rate = 1000;
  await clock.advance(60_000);
  state.rate = 0;
  t.match(await drained(700), { result: false }, 'a peer that is Up still sends traffic here');
  clock.after(200, () => {
    state.peer = 'Down';
  });
  const { result, after } = await drained(10_000);
  t.equal(result, true);
  t.ok(after >= 500, 'quiet time counts from when the peers knew');
  state.peer = 'Up';
  t.match(await drained(1), { result: true, after: 10 }, 'a complete drain stays complete');
  drain.undrain();
  t.match(await drained(200), { result: false }, 'after an undrain it starts over');
  t.ok(calls.includes('iptables-save'), 'the plain program is used where the one of the backend is missing');
});

t.test(
  'before a drain new flows are counted every thirty seconds, until they are known every ten',
  async (t) => {
    let works = false;
    let calls = 0;
    const exec = async () => {
      calls++;
      return { stdout: works ? SAVE(42) : '', stderr: '', exitCode: works ? 0 : 1 };
    };
    const { clock } = watch(t, { exec });
    await clock.advance(20_000);
    t.equal(calls, 3);
    works = true;
    await clock.advance(60_000);
    t.equal(calls, 5, 'at 30 and 60 s');
  },
);

t.test(
  'a drain begins to judge when the fast path is out of force, by what it usually carried',
  async (t) => {
    const fast = { inForce: true, rate: 4 };
    const { drained, clock, state } = watch(t, { fast });
    await clock.advance(60_000);
    state.peer = 'Down';
    t.match(await drained(3000), { result: false, after: 3000 }, 'nothing forwarded is counted');
    fast.inForce = false;
    const { result, after } = await drained(10_000);
    t.equal(result, true);
    t.ok(after >= 2000, 'the next packet of a slow stream is waited for');
  },
);

t.test('packets that go on coming hold a drain until its timeout', async (t) => {
  const { drained, clock, state } = watch(t);
  state.rate = 1000;
  await clock.advance(60_000);
  state.peer = 'Down';
  t.match(await drained(3000), { result: false, after: 3000 });
});

t.test('counters that cannot be read end no drain', async (t) => {
  const { drained, state } = watch(t, { exec: async () => ({ stdout: '', stderr: '', exitCode: 1 }) });
  state.peer = 'Down';
  state.readable = false;
  t.match(await drained(300), { result: false, after: 300 });
  state.readable = true;
  t.match(await drained(10_000), { result: true });
});

t.test('a clock that jumps past the timeout ends a drain as not complete', async (t) => {
  const { drained, clock, state } = watch(t);
  state.rate = 1000;
  await clock.advance(60_000);
  clock.after(100, () => clock.jump(60_000));
  t.match(await drained(5000), { result: false });
});
