// From limits to the kernel and back: what is applied is what was desired, whatever came before.
import t from 'tap';
import { address } from '../../lib/prefix.ts';
import { desiredShaping } from '../../shaping/desired.ts';
import { diffShaping, foreignRoots } from '../../shaping/diff.ts';
import { createShapingKernel } from '../../shaping/kernel.ts';
import { renderShapingStep } from '../../shaping/render.ts';
import { isShortQueue, type Limit, type ShapingIntent } from '../../shaping/state.ts';
import { classId, formatRoot, TC_H_ROOT } from '../../shaping/tc-codec.ts';
import { OWN_ROOT, ShapingModel } from './model.ts';

const limit = (name: string, rate: Limit['rate'], more: Partial<Limit> = {}): Limit => ({
  ...{ name, rate, perSource: false, applies: { mark: 7 } },
  ...more,
});
const WEB = limit('web', { egress: 10e6, ingress: 20e6 });
const GUESTS = limit('guests', { egress: 5e6, ingress: 5e6 }, { perSource: true, applies: { mark: 9 } });
const EIP = limit(
  'eip',
  { egress: 3e6 },
  { applies: { addresses: [address('172.17.0.60'), address('fd00::60')] } },
);
const WHOLE = limit('(gateway)', { egress: 1e9, ingress: 1e9 }, { applies: 'rest' });
const SOURCES = limit('(gateway)', { egress: 2e6 }, { applies: 'rest', perSource: true });

const intent = (...limits: Limit[]): ShapingIntent => ({
  devices: [
    { direction: 'egress', name: 'net1', from: 'eth0', mtu: 1500 },
    { direction: 'ingress', name: 'eth0', from: 'net1', mtu: 1400 },
  ],
  ...{ families: [4, 6], markMask: 0x3f_ffff, limits },
});

function setUp() {
  const model = new ShapingModel();
  const open = () =>
    createShapingKernel({ tc: model, openFilter: () => model, indexes: () => model.indexes });
  let kernel = open();
  const plan = (limits: readonly Limit[]) => {
    const desired = desiredShaping(intent(...limits));
    return diffShaping(kernel.observe(desired), desired);
  };
  return {
    ...{ model, plan },
    lines: (...limits: Limit[]) => plan(limits).map(renderShapingStep),
    /** Applies, and returns what the kernel refused. */
    apply: async (...limits: Limit[]) => (await kernel.apply(plan(limits))).map(({ message }) => message),
    restart: () => {
      kernel = open();
    },
    observe: () => kernel.observe(desiredShaping(intent())),
  };
}

const SETS: Limit[][] = [
  [],
  [WEB],
  [WEB, WHOLE],
  [WEB, GUESTS, EIP, WHOLE],
  [EIP],
  [SOURCES, WEB],
  [{ ...WEB, perSource: true }],
];

t.test(
  'from each set of limits to each other, one run is enough, and another process finds nothing to do',
  async (t) => {
    for (const from of SETS) {
      for (const to of SETS) {
        const { model, apply, lines, restart } = setUp();
        t.same(await apply(...from), []);
        t.same(await apply(...to), []);
        restart();
        t.same(lines(...to), []);
        if (to.length === 0) {
          t.same([model.qdiscs, model.classes.size, model.hasTable], [[], 0, false], 'nothing is left');
        }
      }
    }
  },
);

t.test('a rate is changed in place, and nothing else is touched', async (t) => {
  const { lines, apply, model } = setUp();
  await apply(WEB, EIP);
  const next = { ...WEB, rate: { egress: 20e6, ingress: 20e6 } };
  t.match(lines(next, EIP), [/^tc class replace dev net1 parent 178:1 classid 178:\w+ htb rate 20\.187Mbit/]);
  model.log = [];
  await apply(next, EIP);
  t.notOk(
    model.log.some((line) => line.startsWith('delete') || line === 'filter'),
    model.log.join(),
  );
});

t.test('an edit of the limit of the whole gateway, or of the MTU, is done after one run', async (t) => {
  const at = (mbit: number): Limit => ({ ...WHOLE, rate: { egress: mbit * 1e6, ingress: mbit * 1e6 } });
  const { lines, apply } = setUp();
  for (const limits of [[WEB], [WEB, at(100)], [at(100)], [at(200)], [at(3)], [WEB, at(200)], [WEB]]) {
    t.same(await apply(...limits), []);
    t.same(lines(...limits), []);
  }
  const model = new ShapingModel();
  const kernel = createShapingKernel({ tc: model, openFilter: () => model, indexes: () => model.indexes });
  for (const mtu of [1500, 9000]) {
    const { devices, ...rest } = intent(at(3));
    const desired = desiredShaping({ ...rest, devices: devices.map((one) => ({ ...one, mtu })) });
    const steps = () => diffShaping(kernel.observe(desired), desired);
    t.not(steps().length, 0);
    t.same(await kernel.apply(steps()), []);
    t.same(steps(), [], `MTU ${mtu}`);
  }
});

t.test('classes come before the rules that lead to them, and go after these', async (t) => {
  const { model, apply } = setUp();
  await apply(WEB);
  model.log = [];
  await apply(EIP);
  const at = (text: string) => model.log.findIndex((line) => line.startsWith(text));
  t.ok(at('class') < at('filter') && at('filter') < at('delete class'), model.log.join('\n'));
});

t.test('what others take away or change comes back', async (t) => {
  const all = [WEB, GUESTS, EIP, WHOLE];
  const damage: [string, (model: ShapingModel) => void][] = [
    ['the root qdisc', (model) => model.removeRoot(3)],
    ['the table', (model) => model.removeTable()],
    ['a class', (model) => void model.classes.delete([...model.classes.keys()][2]!)],
    ['a class of a ring', (model) => void model.classes.delete([...model.classes.keys()].at(-9)!)],
    ['a queue', (model) => void model.qdiscs.splice(4, 1)],
    ['a rule', (model) => void model.rules.splice(1, 1)],
    ['the order of rules', (model) => void model.rules.push(model.rules.splice(-2, 1)[0]!)],
    ['a chain', (model) => void model.chains.splice(1, 1)],
    ['an element', (model) => void model.elements.splice(0, 1)],
  ];
  for (const [what, damages] of damage) {
    const { model, lines, apply } = setUp();
    await apply(...all);
    damages(model);
    model.touch();
    t.not(lines(...all).length, 0, `${what} is missed`);
    t.same(await apply(...all), []);
    t.same(lines(...all), [], `${what} is back`);
  }
});

t.test('a root qdisc of another program stays, and only its direction is without limits', async (t) => {
  const { model, apply, lines, observe } = setUp();
  const data = Buffer.from(formatRoot(3, 0x8001));
  model.qdiscs.push({ ifindex: 3, handle: classId(0x8001, 0), parent: TC_H_ROOT, data });
  t.same(await apply(WEB, WHOLE), []);
  t.same(
    model.qdiscs.filter(({ ifindex }) => ifindex === 3).map(({ handle }) => handle),
    [classId(0x8001, 0)],
  );
  t.ok(model.qdiscs.some(({ ifindex, handle }) => ifindex === 2 && handle === OWN_ROOT));
  t.same(lines(WEB, WHOLE), [], 'no attempt is made again');
  t.same(foreignRoots(observe(), desiredShaping(intent(WEB))), [
    { dev: 'net1', direction: 'egress', qdisc: 'htb 8001:' },
  ]);
  await apply();
  t.equal(model.qdiscs.length, 1, 'it outlives the clean-up too');
  model.removeRoot(3);
  await apply(WEB);
  t.ok(
    model.qdiscs.some(({ ifindex, handle }) => ifindex === 3 && handle === OWN_ROOT),
    'then it is free',
  );
});

t.test("the kernel's default qdisc is nobody's", async (t) => {
  const { model, apply } = setUp();
  model.qdiscs.push({ ifindex: 3, handle: 0, parent: TC_H_ROOT, data: Buffer.from(formatRoot(3, 0)) });
  t.same(await apply(WEB), []);
  t.equal(model.qdiscs.filter(({ ifindex, handle }) => ifindex === 3 && handle === OWN_ROOT).length, 1);
});

t.test('without fq_codel a short queue takes its place, also after a restart', async (t) => {
  const { model, apply, lines, restart, observe } = setUp();
  model.unknownKinds.add('fq_codel');
  t.same(await apply(WEB, GUESTS), []);
  t.ok(observe().qdiscs.some(isShortQueue));
  restart();
  t.same(lines(WEB, GUESTS), []);
  const { model: whole, apply: applyWhole, observe: seen } = setUp();
  await applyWhole(WEB);
  t.notOk(seen().qdiscs.some(isShortQueue));
  t.ok(whole.log.includes('qdisc fq_codel 3'));
});

t.test(
  'a class or qdisc that another program deletes before it has a queue says nothing about fq_codel',
  async (t) => {
    for (const damage of [
      (model: ShapingModel) => model.removeRoot(3),
      (model: ShapingModel) => void model.classes.delete([...model.classes.keys()].at(-1)!),
    ]) {
      const { model, apply, observe, lines } = setUp();
      model.beforeLeaf = () => damage(model);
      t.match(await apply(EIP), [/^tc class replace dev net1 .*ENOENT/]);
      t.same(await apply(EIP), []);
      t.same(lines(EIP), []);
      t.notOk(observe().qdiscs.some(isShortQueue));
      t.ok(model.log.includes('qdisc fq_codel 3'));
    }
  },
);

t.test(
  'without HTB every step that needs it is refused with the reason, and the others are applied',
  async (t) => {
    const { model, apply } = setUp();
    model.unknownKinds.add('htb');
    const refused = await apply(WEB);
    t.match(
      refused[0],
      /^tc qdisc add dev net1 root handle 178: htb: ENOENT; the node needs the module sch_htb/,
    );
    t.ok(model.hasTable);
  },
);

t.test('a kernel without traffic control has no qdiscs, and refuses limits with the reason', async (t) => {
  const { model, apply, lines, observe } = setUp();
  model.lacksTc = true;
  t.match(observe(), { qdiscs: [], classes: new Map() });
  t.same(lines(), [], 'without a limit there is nothing to do');
  const [refused, ...others] = await apply(WEB);
  t.match(
    refused,
    /^tc qdisc add dev net1 root handle 178: htb: ENOTSUP; .* needs a kernel with CONFIG_NET_SCHED and sch_htb/,
  );
  t.ok(others.length > 0);
  t.ok(model.hasTable, 'the rest is applied');
  t.same(await apply(), [], 'and removed');
  t.notOk(model.hasTable);
});

t.test('what nf_tables refuses is said to be of nf_tables', async (t) => {
  const { model, apply } = setUp();
  model.sendAll = () => {
    throw Object.assign(new Error('no such file or directory'), { code: 'ENOENT' });
  };
  t.match(await apply(WEB), [/^nft add table inet VEG-BANDWIDTH: .*the node needs the module nf_tables/]);
});

t.test('another error of a qdisc dump is thrown', async (t) => {
  const { model, observe } = setUp();
  model.dump = () => {
    throw Object.assign(new Error('no buffer space'), { code: 'ENOBUFS' });
  };
  t.throws(observe, { code: 'ENOBUFS' });
});

t.test('a queue that waits is emptied before its class goes, at no rate', async (t) => {
  const { model, apply } = setUp();
  await apply(WEB);
  model.log = [];
  model.backlog = { octets: 3000, looks: 4 };
  t.same(await apply(), []);
  const first = model.log.findIndex((line) => line.startsWith('delete'));
  t.ok(
    model.log.slice(0, first).some((line) => line.startsWith('class')),
    model.log.join('\n'),
  );
  t.same(model.qdiscs, []);
});
