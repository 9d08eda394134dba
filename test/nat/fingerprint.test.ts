import t from 'tap';
import { prefix } from '../../lib/prefix.ts';
import { desiredNat } from '../../nat/desired.ts';
import { createFingerprint, type FingerprintLibc } from '../../nat/fingerprint.ts';

/** A libc whose kernel has one legacy IPv4 table of two entries, and sets with a header each. */
function fake() {
  const entry = (target: number, packets: number): Buffer => {
    const bytes = Buffer.alloc(152);
    bytes.writeUInt16LE(152, 90);
    bytes.writeUInt32LE(packets, 96);
    bytes.writeUInt32LE(target, 120);
    return bytes;
  };
  const kernel = {
    entries: [entry(1, 5), entry(2, 6)],
    entry,
    sets: { 'VEG-FORWARD-4': 10, OTHER: 3 } as Record<string, number>,
    denied: false,
    opened: 0,
    requests: [] as string[],
  };
  let replies: Buffer[] = [];
  const message = (type: number, body: Buffer): Buffer => {
    const header = Buffer.alloc(16);
    header.writeUInt32LE(16 + body.length, 0);
    header.writeUInt16LE(type, 4);
    return Buffer.concat([header, body, Buffer.alloc((4 - (body.length % 4)) % 4)]);
  };
  const attribute = (type: number, body: Buffer): Buffer => {
    const header = Buffer.alloc(4);
    header.writeUInt16LE(4 + body.length, 0);
    header.writeUInt16LE(type, 2);
    return Buffer.concat([header, body, Buffer.alloc((4 - (body.length % 4)) % 4)]);
  };
  const libc: FingerprintLibc = {
    socket() {
      replies = [];
      return ++kernel.opened;
    },
    close: () => void kernel.opened--,
    sendto(_, data) {
      kernel.requests.push(Buffer.from(data).toString('hex'));
      const sets = Object.entries(kernel.sets).map(([name, elements]) =>
        message(
          0x607,
          Buffer.concat([
            Buffer.alloc(4),
            attribute(1, Buffer.from([6])),
            attribute(2, Buffer.from(`${name}\0`)),
            attribute(0x8007, Buffer.from([elements])),
          ]),
        ),
      );
      replies.push(Buffer.concat(sets), message(3, Buffer.alloc(4)));
      return data.length;
    },
    recv(_, data) {
      const next = replies.shift();
      if (next === undefined) return -11;
      data.set(next);
      return next.length;
    },
    getsockopt(_fd, _level, name, value) {
      if (kernel.denied) throw Object.assign(new Error('getsockopt'), { code: 'EPERM' });
      const blob = Buffer.concat(kernel.entries);
      const view = Buffer.from(value.buffer, value.byteOffset, value.length);
      if (name === 64) view.writeUInt32LE(blob.length, 80);
      else blob.copy(view, 40);
      return value.length;
    },
  };
  return { kernel, libc };
}

const applied = (blocks: number) =>
  desiredNat([
    {
      family: 4,
      internalInterface: 'eth0',
      forward: Array.from({ length: blocks }, (_, i) => prefix(`10.${i}.0.0/16`)),
      notrackBfd: false,
    },
  ]);

t.test('counters of a legacy table do not count, its rules do', (t) => {
  const { kernel, libc } = fake();
  const reader = createFingerprint(libc);
  const read = () => reader.read({ 4: 'legacy', 6: 'nft' }, applied(1));
  const before = read();
  kernel.entries = [kernel.entry(1, 500), kernel.entry(2, 700)];
  t.equal(read(), before);
  kernel.entries = [kernel.entry(2, 5), kernel.entry(1, 6)];
  t.not(read(), before);
  t.same(kernel.requests, [], 'no sets are held, none are asked for');
  reader.close();
  t.equal(kernel.opened, 0);
  t.end();
});

t.test('headers of our sets count, those of others do not', (t) => {
  const { kernel, libc } = fake();
  const reader = createFingerprint(libc);
  const read = () => reader.read({ 4: 'nft', 6: 'nft' }, applied(40));
  const before = read();
  kernel.sets.OTHER = 99;
  t.equal(read(), before);
  kernel.sets['VEG-FORWARD-4'] = 11;
  t.not(read(), before);
  delete kernel.sets['VEG-FORWARD-4'];
  t.not(read(), before);
  t.equal(kernel.opened, 1, 'one socket for all reads');
  t.equal(
    kernel.requests[0],
    // nlmsghdr: 36 octets, LIST of ipset, REQUEST|DUMP; nfgenmsg: inet; protocol 6; flags: header only
    '24000000070601030000000000000000' + '02000000' + '0500010006000000' + '0800064000000004',
  );
  t.end();
});

t.test('a table that needs a capability is left out', (t) => {
  const { kernel, libc } = fake();
  kernel.denied = true;
  const reader = createFingerprint(libc);
  t.equal(reader.read({ 4: 'legacy' }, applied(1)), reader.read({ 4: 'nft' }, applied(1)));
  t.end();
});

const BOTH = { 4: 'legacy', 6: 'nft' } as const;

t.test('a dump of sets that breaks off leaves nothing for the next one', (t) => {
  const { kernel, libc } = fake();
  let fails = 0;
  const reader = createFingerprint({
    ...libc,
    // ENOBUFS in place of the second reply, which stays queued.
    recv: (fd, data) => (fails > 0 && --fails === 0 ? -105 : libc.recv(fd, data)),
  });
  const read = () => reader.read({ 4: 'nft', 6: 'nft' }, applied(40));
  const before = read();
  fails = 2;
  read();
  t.equal(kernel.opened, 0, 'the socket is closed');
  t.equal(read(), before);
  kernel.sets['VEG-FORWARD-4'] = 11;
  t.not(read(), before, 'the first read after a change finds it');
  reader.close();
  t.equal(kernel.opened, 0);
  t.end();
});

t.test('a request that cannot be sent, and a socket that cannot be opened, do not throw', (t) => {
  const { libc } = fake();
  const unsent = createFingerprint({ ...libc, sendto: () => -11 });
  t.equal(unsent.read(BOTH, applied(40)), unsent.read(BOTH, applied(40)));
  const errors = ['EMFILE', 'EAFNOSUPPORT'].map((code) => {
    const closed = createFingerprint({
      ...libc,
      socket() {
        throw Object.assign(new Error(`socket: ${code}`), { code });
      },
    });
    t.equal(closed.read(BOTH, applied(40)), closed.read(BOTH, applied(40)), code);
    const text = closed.read(BOTH, applied(40));
    closed.close();
    return text;
  });
  t.not(errors[0], errors[1]);
  t.end();
});

t.test('a legacy table that another process resizes while it is read is drift', (t) => {
  const { libc } = fake();
  let code = '';
  const reader = createFingerprint({
    ...libc,
    getsockopt(fd, level, name, value) {
      if (name === 65 && code !== '') throw Object.assign(new Error(`getsockopt: ${code}`), { code });
      return libc.getsockopt(fd, level, name, value);
    },
  });
  const before = reader.read(BOTH, applied(1));
  code = 'EAGAIN';
  t.not(reader.read(BOTH, applied(1)), before);
  code = '';
  t.equal(reader.read(BOTH, applied(1)), before);
  t.end();
});

t.test('a legacy table with an entry of length 0 is read to its end', (t) => {
  const { kernel, libc } = fake();
  kernel.entries = [Buffer.alloc(152), kernel.entry(2, 6)];
  const reader = createFingerprint(libc);
  const before = reader.read(BOTH, applied(1));
  kernel.entries = [kernel.entry(1, 5), kernel.entry(2, 6)];
  t.not(reader.read(BOTH, applied(1)), before);
  t.end();
});
