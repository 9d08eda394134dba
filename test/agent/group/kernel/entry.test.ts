/** Entries of a group's flows as conntrack messages. */
import t from 'tap';
import {
  answersRequest,
  changeRequest,
  decodeGroupEntry,
  insertRequest,
  isOpen,
  isOpening,
  isStrict,
  liberal,
  liberalRequest,
  opened,
  timeoutRequest,
} from '../../../../agent/group/kernel/entry.ts';
import type { GroupFlow } from '../../../../agent/group/model.ts';
import { Attributes, attribute, nest, nfgenHeader, u8, u32Be } from '../../../../lib/netlink-codec.ts';
import { address, addressBytes, type Family } from '../../../../lib/prefix.ts';
import { CT_DELETE, CT_NEW, encodeTuple } from '../../../../nat/conntrack/wire.ts';

const bytes = (text: string): Buffer => Buffer.from(addressBytes(address(text)));
const SHARED = { 4: bytes('172.17.0.50'), 6: bytes('fd00:172::50') };

const flowOf = (family: Family): GroupFlow => ({
  protocol: 6,
  source: bytes(family === 4 ? '10.17.0.9' : 'fd00:17::9'),
  sourcePort: 40_000,
  destination: bytes(family === 4 ? '172.17.0.1' : 'fd00:172::1'),
  destinationPort: 443,
  shared: SHARED[family],
  sharedPort: 5056,
  icmpType: 0,
  icmpCode: 0,
  mark: 7,
  timeout: 300,
  tcp: { state: 3, originalScale: 7, replyScale: 8, originalFlags: 3, replyFlags: 1 },
});

/** A message of the kernel about a flow. */
function messageOf(
  family: Family,
  flow: GroupFlow,
  { mark = flow.mark, status = 0x1e, state = 3 } = {},
): Buffer {
  const { protocol, source, sourcePort, destination, destinationPort, shared, sharedPort } = flow;
  return Buffer.concat([
    nfgenHeader(family === 4 ? 2 : 10),
    encodeTuple(1, family, protocol, { source, sourcePort, destination, destinationPort }),
    encodeTuple(2, family, protocol, {
      ...{ source: destination, sourcePort: destinationPort },
      ...{ destination: shared, destinationPort: sharedPort },
    }),
    attribute(3, u32Be(status)),
    attribute(7, u32Be(flow.timeout)),
    attribute(8, u32Be(mark)),
    attribute(12, u32Be(1)),
    ...(flow.tcp === undefined
      ? []
      : [
          nest(
            4,
            nest(
              1,
              attribute(1, u8(state)),
              attribute(2, u8(flow.tcp.originalScale)),
              attribute(3, u8(flow.tcp.replyScale)),
              attribute(4, Buffer.of(flow.tcp.originalFlags, 0xff)),
              attribute(5, Buffer.of(flow.tcp.replyFlags, 0xff)),
            ),
          ),
        ]),
  ]);
}

/** The attributes of a payload by their types, those in attributes as `outer.inner`, in hexadecimal. */
function attributesOf(
  attributes: Attributes,
  nested: Record<string, true>,
  path = '',
): Record<string, string> {
  const found: Record<string, string> = {};
  while (attributes.next()) {
    const name = path + attributes.type;
    if (nested[name]) Object.assign(found, attributesOf(attributes.nested, nested, `${name}.`));
    else found[name] = attributes.content.toString('hex');
  }
  return found;
}
const NESTED = {
  1: true,
  '1.1': true,
  '1.2': true,
  2: true,
  '2.1': true,
  '2.2': true,
  4: true,
  '4.1': true,
  6: true,
  '6.3': true,
} as const;
const fieldsOf = (data: Uint8Array) => attributesOf(new Attributes(Buffer.from(data), 4), NESTED);

for (const family of [4, 6] as const) {
  t.test(
    `IPv${family}: an entry that is translated to a shared address is a flow of the group`,
    async (t) => {
      const flow = flowOf(family);
      const shared = [SHARED[family]];
      t.same(decodeGroupEntry(messageOf(family, flow), shared), { flow, answered: true, dying: false });
      t.equal(decodeGroupEntry(messageOf(family, flow), []), undefined, 'to another address');
      t.equal(
        decodeGroupEntry(messageOf(family, flow, { status: 0x0e }), shared),
        undefined,
        'a connection to the address itself is not translated to it',
      );
      for (const [state, answered] of [
        [1, false],
        [2, true],
        [3, true],
        [6, true],
        [7, false],
        [8, false],
      ] as const) {
        t.equal(
          decodeGroupEntry(messageOf(family, flow, { state }), shared)!.answered,
          answered,
          `TCP ${state}`,
        );
      }
      const { tcp: _, ...udp } = { ...flow, protocol: 17 };
      t.equal(decodeGroupEntry(messageOf(family, udp), shared)!.answered, true);
      t.equal(
        decodeGroupEntry(messageOf(family, udp, { status: 0x1c }), shared)!.answered,
        false,
        'no answer yet',
      );
    },
  );

  t.test(
    `IPv${family}: the mark tells a replica and its generation, and is not part of the flow's`,
    async (t) => {
      const flow = flowOf(family);
      for (const [bits, replica] of [
        [0, undefined],
        [0xa600_0000, 0],
        [0xa700_0000, 1],
      ] as const) {
        const entry = decodeGroupEntry(messageOf(family, flow, { mark: (bits | 7) >>> 0 }), [
          SHARED[family],
        ])!;
        t.same([entry.replica, entry.flow.mark], [replica, 7]);
      }
    },
  );

  t.test(`IPv${family}: a replica is inserted with its translation, and liberal about windows`, async (t) => {
    const { data } = insertRequest(family, flowOf(family), 1, 90);
    const hex = (value: Uint8Array) => Buffer.from(value).toString('hex');
    const [source, destination] = [hex(flowOf(family).source), hex(flowOf(family).destination)];
    const ip = family === 4 ? { src: 1, dst: 2, min: 1, max: 2 } : { src: 3, dst: 4, min: 4, max: 5 };
    t.match(fieldsOf(data), {
      ...{ [`1.1.${ip.src}`]: source, [`1.1.${ip.dst}`]: destination, '1.2.2': '9c40', '1.2.3': '01bb' },
      ...{ [`2.1.${ip.src}`]: destination, [`2.1.${ip.dst}`]: source, '2.2.2': '01bb', '2.2.3': '9c40' },
      ...{ [`6.${ip.min}`]: hex(SHARED[family]), [`6.${ip.max}`]: hex(SHARED[family]) },
      ...{ '6.3.1': '13c0', '6.3.2': '13c0' },
      ...{ 3: '0000000e', 7: '0000005a', 8: 'a7000007' },
      ...{ '4.1.1': '03', '4.1.2': '07', '4.1.3': '08', '4.1.4': '0b0b', '4.1.5': '090b' },
    });
  });
}

t.test('an own flow is restored without the mark of a replica', async (t) => {
  t.match(fieldsOf(insertRequest(4, flowOf(4), undefined, 300).data), { 8: '00000007', 7: '0000012c' });
});

t.test('an entry is deleted by the direction that has its translation', async (t) => {
  const hex = (value: Uint8Array) => Buffer.from(value).toString('hex');
  const { destination } = flowOf(4);
  const { type, data } = answersRequest(CT_DELETE, 4, flowOf(4));
  t.equal(type, CT_DELETE);
  t.same(fieldsOf(data), {
    ...{ '2.1.1': hex(destination), '2.1.2': hex(SHARED[4]) },
    ...{ '2.2.1': '06', '2.2.2': '01bb', '2.2.3': '13c0' },
  });
  const ping = { ...flowOf(6), protocol: 58, icmpType: 128, sourcePort: 77, destinationPort: 77 };
  t.match(fieldsOf(answersRequest(CT_DELETE, 6, ping).data), { '2.2.7': '13c0', '2.2.8': '81' });
});

t.test('the answer to a replica of an echo request is an echo reply', async (t) => {
  const { tcp: _, ...flow } = { ...flowOf(4), protocol: 1, icmpType: 8, sourcePort: 77, destinationPort: 77 };
  const fields = fieldsOf(insertRequest(4, flow, 0, 90).data);
  t.match(fields, { '1.2.4': '004d', '1.2.5': '08', '2.2.4': '004d', '2.2.5': '00', 8: 'a6000007' });
});

t.test('a change says the mark of what the entry becomes, and a timeout nothing else', async (t) => {
  t.match(fieldsOf(changeRequest(4, flowOf(4), undefined, 300).data), { 8: '00000007', 7: '0000012c' });
  t.match(fieldsOf(changeRequest(4, flowOf(4), 0, 90).data), { 8: 'a6000007' });
  const fields = fieldsOf(timeoutRequest(4, flowOf(4), 90).data);
  t.same([fields[7], fields[8], fields['4.1.1']], ['0000005a', undefined, undefined]);
});

t.test(
  'an inserted handshake is under way, a changed one complete: its last packet may have come here',
  async (t) => {
    const syn = { ...flowOf(4), tcp: { ...flowOf(4).tcp!, state: 2 } };
    const { tcp: _, ...flow } = { ...flowOf(4), protocol: 132 };
    const cookie = { ...flow, sctp: { state: 2, originalTag: 6, replyTag: 7 } };
    const stateIn = (data: Uint8Array, name: string) =>
      attributesOf(new Attributes(Buffer.from(data), 4), { ...NESTED, '4.3': true })[name];
    for (const [opening, name, first, open] of [
      [syn, '4.1.1', '02', '03'],
      [cookie, '4.3.1', '02', '04'],
    ] as const) {
      t.equal(stateIn(insertRequest(4, opening, 0, 90).data, name), first);
      t.equal(stateIn(changeRequest(4, opening, 0, 90).data, name), open);
      t.same([isOpening(opening), isOpen(opening)], [true, false]);
      t.same([isOpening(opened(opening)), isOpen(opened(opening))], [false, true]);
    }
    const closing = { ...flowOf(4), tcp: { ...flowOf(4).tcp!, state: 5 } };
    t.same(opened(closing), closing, 'one that is past its handshake stays what it is');
    t.same([isOpening(closing), isOpen(closing)], [false, false]);
    const { tcp: __, ...udp } = { ...flowOf(4), protocol: 17 };
    t.same([opened(udp), isOpening(udp), isOpen(udp)], [udp, false, false], 'UDP has no handshake');
  },
);

t.test('an entry that is deleted and still in the table is dying', async (t) => {
  const isDying = (status: number): boolean =>
    decodeGroupEntry(messageOf(4, flowOf(4), { status }), [SHARED[4]])!.dying;
  t.same([isDying(0x1e), isDying(0x21e)], [false, true]);
});

t.test('an entry of TCP is strict until both directions are liberal about windows', async (t) => {
  const strictWith = (originalFlags: number, replyFlags: number): boolean => {
    const flow = { ...flowOf(4), tcp: { ...flowOf(4).tcp!, originalFlags, replyFlags } };
    return isStrict(decodeGroupEntry(messageOf(4, flow), [SHARED[4]])!.flow);
  };
  t.same(
    [strictWith(3, 3), strictWith(0x0b, 3), strictWith(3, 0x0b), strictWith(0x0b, 0x0b)],
    [true, true, true, false],
  );
  const { tcp: _, ...udp } = { ...flowOf(4), protocol: 17 };
  t.notOk(isStrict(udp), 'UDP has no windows');
  t.same(liberal(udp), udp);
  t.notOk(isStrict(liberal(flowOf(4))), 'what is reported of a flow that has become liberal');
});

for (const family of [4, 6] as const) {
  t.test(`IPv${family}: a request that makes an entry liberal changes that flag alone`, async (t) => {
    const { type, data } = liberalRequest(family, flowOf(family));
    const { 7: _, ...key } = fieldsOf(timeoutRequest(family, flowOf(family), 90).data);
    const fields = fieldsOf(data);
    t.same([type, fields], [CT_NEW, { ...key, '4.1.4': '0808', '4.1.5': '0808' }]);
    /** What the kernel makes of flags: the octets are those to set, and which of them it takes. */
    const changed = (before: number, octets: string): number => {
      const [flags, mask] = Buffer.from(octets, 'hex') as unknown as [number, number];
      return (before & ~mask) | (flags & mask);
    };
    const before = flowOf(family);
    const tcp = {
      ...before.tcp!,
      originalFlags: changed(before.tcp!.originalFlags, fields['4.1.4']!),
      replyFlags: changed(before.tcp!.replyFlags, fields['4.1.5']!),
    };
    t.same([isStrict(before), isStrict({ ...before, tcp })], [true, false]);
    t.same([tcp.originalFlags, tcp.replyFlags], [0x0b, 0x09]);
  });
}

t.test('an association of SCTP has its state and its tags', async (t) => {
  const { tcp: _, ...flow } = { ...flowOf(4), protocol: 132 };
  for (const [state, status, answered] of [
    [2, 0x10, false],
    [2, 0x12, true],
    [3, 0x12, true],
    [4, 0x1e, true],
    [7, 0x1e, true],
    [8, 0x1e, false],
  ] as const) {
    const tags = [attribute(2, u32Be(0xffff_fffe)), attribute(3, u32Be(7))];
    const message = Buffer.concat([
      messageOf(4, flow, { status }),
      nest(4, nest(3, attribute(1, u8(state)), ...tags)),
    ]);
    const sctp = { state, originalTag: 0xffff_fffe, replyTag: 7 };
    t.same(decodeGroupEntry(message, [SHARED[4]]), { flow: { ...flow, sctp }, answered, dying: false });
    const fields = attributesOf(
      new Attributes(Buffer.from(insertRequest(4, { ...flow, sctp }, 0, 90).data), 4),
      { ...NESTED, '4.3': true },
    );
    t.match(fields, { '4.3.1': `0${state}`, '4.3.2': 'fffffffe', '4.3.3': '00000007' });
  }
});

t.test('GRE is not replicated', async (t) => {
  const { tcp: _, ...gre } = { ...flowOf(4), protocol: 47 };
  t.equal(decodeGroupEntry(messageOf(4, gre), [SHARED[4]]), undefined);
});

t.test('an entry of another protocol has no state', async (t) => {
  const { tcp: _, ...dccp } = { ...flowOf(4), protocol: 33 };
  const message = Buffer.concat([messageOf(4, dccp), nest(4, nest(2, attribute(1, u8(3))))]);
  t.same(decodeGroupEntry(message, [SHARED[4]]), { flow: dccp, answered: true, dying: false });
});
